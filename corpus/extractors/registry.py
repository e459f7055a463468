"""The paper's three classifiers as name lists (``classifiers.json``), and how they become one.

83 + 42 + 12 features; 34 of the 42 repeat names of the 83, so that 103 remain.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import ConfigError
from corpus.attributes import VOCABULARY, Group

CLASSIFIERS_FILE = Path(__file__).with_name("classifiers.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """What one of the paper's classifiers knows."""

    name: str
    title: str
    names: tuple[str, ...]  # in the vocabulary's order
    repeats: tuple[str, ...]  # of them, those that another classifier adds
    training_clips: int  # in the paper
    sources: tuple[str, ...]  # adapters whose clips it is for


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one extractor says about one clip.

    Example:
        >>> Reading(extractor="celebvhq_83", scores={"smile": 0.97, "bald": 0.02},
        ...         present=("smile",))
    """

    extractor: str
    scores: Mapping[str, float]  # calibrated probability by name of corpus.attributes
    present: tuple[str, ...]  # names above their thresholds
    emotion_order: tuple[str, ...] = ()  # emotions in order of time, where the extractor sees it


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """One answer per name."""

    scores: Mapping[str, float] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)  # name -> extractor
    present: tuple[str, ...] = ()  # in the vocabulary's order, without contradictions


@functools.cache
def classifiers() -> Mapping[str, Classifier]:
    """The three, by name."""
    rows = json.loads(CLASSIFIERS_FILE.read_text(encoding="utf-8"))["classifiers"]
    return {row["name"]: _classifier(row) for row in rows}


def find_names(word: str) -> tuple[str, ...]:
    """Names of a classifier, of a group (``appearance``, ``action``, ``emotion``), of ``all``, or
    those listed with commas; aliases are understood.

    Raises:
        ConfigError: for a word that is none of these.
    """
    if word == "all":
        return VOCABULARY.names()
    if word in classifiers():
        return classifiers()[word].names
    if word in set(Group):
        return VOCABULARY.names(Group(word))
    try:
        return tuple(VOCABULARY.require(part.strip()) for part in word.split(","))
    except ConfigError as error:
        raise ConfigError(
            f"names {word!r}",
            f"names are {', '.join(classifiers())}, {', '.join(Group)}, all, or a list of "
            f"attributes with commas ({error.received} is none)",
            "see corpus/attributes.json",
        ) from error


def merge(
    readings: Sequence[Reading], *, present: Iterable[str] = (), absent: Iterable[str] = ()
) -> Merged:
    """One answer per name out of several extractors' answers.

    1. Labels (``present``, ``absent``) are settled: no extractor adds, repeats or removes them.
    2. Of several extractors that know a name the most certain one answers: the one whose calibrated
       probability is furthest from one half; the first of equals.
    3. Of names that exclude each other (``Attribute.excludes``) the more probable one stays, the
       earlier in the vocabulary of equals; none stays beside a label that excludes it.

    Returns:
        What the extractors add to the labels.
    """
    labelled = tuple(present)
    settled = {*labelled, *absent}
    answers: dict[str, Reading] = {}
    for reading in readings:
        for name, score in reading.scores.items():
            before = answers.get(name)
            if before is None or _certainty(score) > _certainty(before.scores[name]):
                answers[name] = reading
    order = [name for name in VOCABULARY.names() if name in answers and name not in settled]
    scores = {name: answers[name].scores[name] for name in order}
    kept: set[str] = set()
    for name in sorted(order, key=lambda name: -scores[name]):  # stable: vocabulary order of equals
        excluded = VOCABULARY[name].excludes
        if name in answers[name].present and not (kept | set(labelled)) & set(excluded):
            kept.add(name)
    return Merged(
        scores=scores,
        origins={name: answers[name].extractor for name in order},
        present=tuple(name for name in order if name in kept),
    )


def _certainty(probability: float) -> float:
    return abs(probability - 0.5)


def _classifier(row: Mapping) -> Classifier:
    repeats = {name for part in row["repeats"] for name in part["names"]}
    own = {item.name for item in VOCABULARY if item.extractor == row["name"]}
    return Classifier(
        name=row["name"],
        title=row["title"],
        names=tuple(name for name in VOCABULARY.names() if name in own | repeats),
        repeats=tuple(name for name in VOCABULARY.names() if name in repeats),
        training_clips=row["training_clips"],
        sources=tuple(row["sources"]),
    )
