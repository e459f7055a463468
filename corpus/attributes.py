"""The 103 facial attributes of FaVChat-170K: 48 of appearance, 45 actions, 10 emotions.

Names, counts and membership are the paper's (v4, Table 5); phrases, aliases and exclusions are
ours. ``corpus/attributes.json`` holds the list, this file reads it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from common.errors import ConfigError
from corpus.schema import FacialTargets, Level

ATTRIBUTES_FILE = Path(__file__).with_name("attributes.json")


class Group(StrEnum):
    """The three parts of Table 5; also the three parts of the facial reward (Eq. 7)."""

    APPEARANCE = "appearance"
    ACTION = "action"
    EMOTION = "emotion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One of the 103.

    Example:
        >>> VOCABULARY["wearing_hat"].phrase
        'a hat'
    """

    name: str  # such as "wearing_hat"
    group: Group
    count: int  # videos that show it, of 61,007 (Table 5)
    extractor: str  # "celebvhq_83", "others_42" or "micro_12": whose classifier adds the name
    phrase: str  # how targets and texts say it: noun phrase, participle or adjective
    level: Level  # the lowest test level that asks for it
    aliases: tuple[str, ...] = ()  # other names, in datasets and in prose
    excludes: tuple[str, ...] = ()  # names that cannot hold at the same time; symmetric once loaded


class Vocabulary:
    """All attributes, by name and by alias."""

    def __init__(self, attributes: Iterable[Attribute]) -> None:
        self._by_name = {attribute.name: attribute for attribute in attributes}
        self._names: dict[str, str] = {}
        for attribute in self._by_name.values():
            for word in (attribute.name, attribute.phrase, *attribute.aliases):
                self._names.setdefault(_key(word), attribute.name)

    def __getitem__(self, name: str) -> Attribute:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def names(self, group: Group | None = None) -> tuple[str, ...]:
        """Names in the table's order; of one group, or all."""
        return tuple(item.name for item in self if group is None or item.group == group)

    def find(self, word: str) -> str | None:
        """The name that a dataset's or a person's word stands for, or None.

        Example:
            >>> VOCABULARY.find("Happiness"), VOCABULARY.find("blonde_hair"), VOCABULARY.find("x")
            ('happy', 'blond_hair', None)
        """
        return self._names.get(_key(word))

    def require(self, word: str) -> str:
        """As :meth:`find`.

        Raises:
            ConfigError: for a word that names no attribute.
        """
        name = self.find(word)
        if name is None:
            raise ConfigError(
                f"attribute {word!r}",
                "names are those of FaVChat's Table 5 or their aliases",
                "see corpus/attributes.json for all 103",
            )
        return name

    def contradictions(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Pairs of ``names`` that exclude each other, each pair once, in the given order."""
        held = list(dict.fromkeys(names))
        return [
            (first, second)
            for index, first in enumerate(held)
            for second in held[index + 1 :]
            if second in self[first].excludes
        ]

    def targets(self, names: Iterable[str]) -> FacialTargets:
        """Phrases of ``names`` in the given order, sorted into the three parts of Eq. 7."""
        parts: dict[Group, list[str]] = {group: [] for group in Group}
        for name in names:
            parts[self[name].group].append(self[name].phrase)
        return FacialTargets(
            attributes=tuple(parts[Group.APPEARANCE]),
            emotion=tuple(parts[Group.EMOTION]),
            action=tuple(parts[Group.ACTION]),
        )


@functools.cache
def _load() -> Vocabulary:
    rows = json.loads(ATTRIBUTES_FILE.read_text(encoding="utf-8"))["attributes"]
    excluded: dict[str, set[str]] = {row["name"]: set(row["excludes"]) for row in rows}
    for name, others in list(excluded.items()):
        for other in others:
            excluded[other].add(name)
    order = [row["name"] for row in rows]
    return Vocabulary(
        Attribute(
            name=row["name"],
            group=Group(row["group"]),
            count=row["count"],
            extractor=row["extractor"],
            phrase=row["phrase"],
            level=Level(row["level"]),
            aliases=tuple(row["aliases"]),
            excludes=tuple(name for name in order if name in excluded[row["name"]]),
        )
        for row in rows
    )


def _key(word: str) -> str:
    words = word.lower().replace("_", " ").replace("-", " ").replace("'", " ").split()
    while words and words[0] in ("a", "an", "the", "wearing"):
        words = words[1:]
    return " ".join(words)


VOCABULARY = _load()
