"""What the adapters of published datasets share: options, label names, and the comparison of
annotations with files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from common.errors import ConfigError
from corpus.adapters.base import Adapter, Listing
from corpus.adapters.files import Line, Media, Place, key_of, nearest
from corpus.attributes import VOCABULARY
from corpus.records import SourceClip

MAX_ID_LENGTH = 120
"""Longer clip ids are cut: they become file names, and file systems allow 255 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One key of a source's ``options`` in a recipe.

    Example:
        >>> Option(name="fold", default=1, help="fold of the cross-validation", choices=(1, 2, 3))
    """

    name: str
    default: Any  # a given value has the same type
    help: str
    choices: tuple[Any, ...] = ()

    def check(self, source: str, value: Any) -> None:
        """Raise :class:`ConfigError` for a value that the option cannot have."""
        received = f"option {self.name}={value!r} of source {source}"
        if isinstance(self.default, list) and isinstance(value, Sequence):
            value = value if isinstance(value, str) else [*value]  # OmegaConf's lists are no list
        if type(value) is not type(self.default):
            rule = f"its type is {type(self.default).__name__}"
            raise ConfigError(received, rule, f"set it like {self.name}={self.default!r}")
        if self.choices and value not in self.choices:
            rule = f"it is one of {', '.join(map(repr, self.choices))}"
            raise ConfigError(received, rule, nearest(repr(value), map(repr, self.choices)))


VIDEOS = Option(name="videos", default="", help="folder of the clips, when it has another name")
LIST = Option(name="list", default="", help="another annotation list, instead of the official one")


def split_option(default: str) -> Option:
    """Option ``split``: which part of the official division is taken."""
    return Option(
        name="split", default=default, help="part that is taken", choices=("train", "test", "all")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One clip as an annotation names it."""

    place: Place  # of the annotation
    path: str  # the dataset's own name, with "/": names the clip
    files: tuple[str, ...] = ()  # keys under which its file may lie; the path's own when empty
    wanted: bool = True  # False: annotated, but of another split than the one asked for
    fields: Mapping[str, Any] = field(default_factory=dict)  # of SourceClip

    @property
    def keys(self) -> tuple[str, ...]:
        return self.files or (key_of(self.path),)


class Dataset(Adapter):
    """A dataset of annotation files and a folder of clips. Subclasses set ``OPTIONS``.

    Clips of evaluation sets are held out, unless they belong to the official training part.
    """

    OPTIONS: ClassVar[tuple[Option, ...]] = ()

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        super().__init__(Path(root), options)
        known = {option.name: option for option in self.OPTIONS}
        for name, value in self.options.items():
            if name not in known:
                rule = f"its options are {', '.join(known) or 'none'}"
                fix = nearest(name, known) if known else "leave it out"
                raise ConfigError(f"option {name} of source {self.name}", rule, fix)
            known[name].check(self.name, value)
        self.options = {name: option.default for name, option in known.items()} | self.options

    def media(self, *candidates: str) -> Media:
        """The clips in the folder that option ``videos`` names, or in the first of ``candidates``
        that is there."""
        self.require_root()
        if chosen := self.options.get("videos"):
            return Media(self.root / chosen)
        return Media(self._first("a folder of clips", candidates, folder=True))

    def annotation(self, *candidates: str) -> Path:
        """The first of ``candidates`` (below the root) that is a file."""
        self.require_root()
        return self._first("an annotation file", candidates, folder=False)

    def given_list(self) -> Path | None:
        """The file that option ``list`` names: absolute, or below the root."""
        chosen = self.options.get("list")
        return self.annotation(chosen) if chosen else None

    def require_root(self) -> None:
        """Raise :class:`ConfigError` unless the dataset's folder is there."""
        if not self.root.is_dir():
            raise ConfigError(
                f"root={self.root} of source {self.name}", "there is no such folder", self.download
            )

    def _first(self, what: str, candidates: Sequence[str], *, folder: bool) -> Path:
        for name in candidates:
            path = self.root / name
            if path.is_dir() if folder else path.is_file():
                return path
        raise ConfigError(
            f"{self.root} without {what}",
            f"{self.title} has {' or '.join(candidates)}",
            self.download,
        )

    def compare(self, entries: Iterable[Entry], media: Media) -> Listing:
        """Annotations against files, in the annotations' order.

        Raises:
            ConfigError: for a clip that is annotated twice, differently.
        """
        seen: dict[str, Entry] = {}
        used, missing, clips = set(), [], []
        ids: dict[str, str] = {}
        for entry in entries:
            before = seen.setdefault(entry.path, entry)
            if before is not entry:
                if (before.fields, before.wanted) != (entry.fields, entry.wanted):
                    raise entry.place.error(
                        entry.path,
                        f"it is annotated differently at {before.place.path} {before.place.spot}",
                        "keep one of the two",
                    )
                continue
            found = media.find(*entry.keys)
            if found:
                used.add(found[0])
            if found and entry.wanted:
                clips.append(self.clip(entry, found[1], ids))
            elif entry.wanted:
                missing.append(entry.keys[0])
        return Listing(
            clips=tuple(clips), missing=tuple(dict.fromkeys(missing)), surplus=media.surplus(used)
        )

    def clip(self, entry: Entry, video: Path, ids: dict[str, str]) -> SourceClip:
        """The record of an entry; ``ids`` are those given so far, by clip id."""
        fields = dict(entry.fields)
        extra = {"path": entry.path, **fields.pop("extra", {})}
        clip_id = safe_id(f"{self.name}-{key_of(entry.path)}")
        if ids.setdefault(clip_id, entry.path) != entry.path:  # a/b-c and a-b/c
            clip_id = f"{clip_id}-{_digest(entry.path)}"
        split = fields.get("official_split") or ""
        return SourceClip(
            clip_id=clip_id,
            source=self.name,
            video=str(video),
            **{
                "licence": f"{self.title}: {self.licence}",
                "recording": item_of(self.name, entry.path),
                "held_out": self.purpose == "evaluation" and not split.startswith("train"),
                "extra": extra,
                **fields,
            },
        )


def safe_id(text: str) -> str:
    """``text`` as a file name of letters, digits, "-", "_" and "."; different texts stay different.

    Example:
        >>> safe_id("hmdb51-smile/a.avi"), safe_id("folder-Ann's clip")
        ('hmdb51-smile-a.avi', 'folder-Ann_s_clip-49eecb')
    """
    plain = text.replace("/", "-")
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", plain)
    if safe == plain and len(safe) <= MAX_ID_LENGTH:
        return safe
    return f"{safe[:MAX_ID_LENGTH]}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def item_of(dataset: str, path: str) -> str:
    """The name of a recording wherever it lies: equal in the dataset itself and in collections.

    Example:
        >>> item_of("dfew", "DFEW/videos/2961.mp4"), item_of("dfew", "Clip/clip_224x224/02961")
        ('dfew/2961', 'dfew/2961')
        >>> item_of("ferv39k", "2_ClipsforFaceCrop/Action/Happy/0015")
        'ferv39k/Action/Happy/0015'
    """
    parts = key_of(path).strip("/").split("/")
    if dataset in ("dfew", "mafw"):
        return f"{dataset}/{parts[-1].lstrip('0') or '0'}"
    if dataset == "ferv39k":
        return f"{dataset}/{'/'.join(parts[-3:])}"
    if dataset == "ravdess":  # one take as sound and picture, and as picture alone
        return f"{dataset}/{parts[-1].partition('-')[2]}"
    return f"{dataset}/{'/'.join(parts)}"


def one_class(label: str, classes: Sequence[str]) -> dict[str, Any]:
    """Fields of a clip that was given one (or, joined by "_", some) of ``classes``.

    The other classes were there to choose from and were not chosen: they are absent. The label
    stays in ``extra`` as it is; one that is no attribute (MAFW's anxiety) stays there alone.
    """
    chosen = label.split("_")
    present = names_of(chosen)
    others = names_of(name for name in classes if name not in chosen)
    return {
        "present": present,
        "absent": tuple(name for name in others if name not in present),
        "extra": {"label": label},
    }


def class_of(place: Place, word: str, classes: Sequence[str]) -> str:
    """The class that a label names: by its own name or by an alias (happy, happiness).

    Raises:
        ConfigError: for a label that names none of ``classes``.
    """
    by_word = {name.lower(): name for name in classes}
    by_attribute = {VOCABULARY.find(name): name for name in reversed(classes)}
    by_attribute.pop(None, None)
    found = by_word.get(word.lower()) or by_attribute.get(VOCABULARY.find(word))
    if found is None:
        raise place.error(
            f"label {word!r}", f"labels are {', '.join(classes)}", nearest(word.lower(), by_word)
        )
    return found


def names_of(words: Iterable[str]) -> tuple[str, ...]:
    """Attribute names of the words that have one, each once, in order."""
    found = (VOCABULARY.find(word) for word in words)
    return tuple(dict.fromkeys(name for name in found if name is not None))


@dataclass(frozen=True, slots=True)
class ListRow:
    """One line of a list: ``path label`` or ``path frames label``."""

    place: Place
    path: str
    label: str


AnyRow = TypeVar("AnyRow", bound=ListRow)


def list_row(line: Line) -> ListRow:
    """Split a list's line; the path may contain spaces.

    Raises:
        ConfigError: for a line of another form.
    """
    parts = line.text.replace("\t", " ").rsplit(maxsplit=2)
    if len(parts) == 3 and not parts[1].isdigit():
        parts = line.text.replace("\t", " ").rsplit(maxsplit=1)
    if len(parts) < 2:
        raise line.place.error(
            repr(line.text), "a line is `path label` or `path frames label`", "correct the line"
        )
    return ListRow(line.place, parts[0].replace("\\", "/"), parts[-1])


def named_labels(
    rows: Sequence[AnyRow], order: Sequence[str], first_label: int
) -> Sequence[tuple[AnyRow, str]]:
    """Rows with integer labels, and the names that ``order`` gives them.

    Args:
        order: class names, in the order of the integers.
        first_label: the integer of the first class, 0 or 1; -1 takes it from the list itself: one
            that has a 0 counts from 0, one that has ``len(order)`` counts from 1.

    Raises:
        ConfigError: for a label that is no integer or out of range, and for a list that does not
            show where it starts.
    """
    numbers = [int(row.label) if row.label.isdigit() else -1 for row in rows]
    if first_label < 0 and rows:
        if (0 in numbers) == (len(order) in numbers):
            raise ConfigError(
                f"{rows[0].place.path} with labels {min(numbers)} to {max(numbers)}",
                f"{len(order)} classes are counted 0 to {len(order) - 1} or 1 to {len(order)}",
                "set option first_label to 0 or 1",
            )
        first_label = 0 if 0 in numbers else 1
    for row, number in zip(rows, numbers, strict=True):
        if not first_label <= number < first_label + len(order):
            raise row.place.error(
                f"label {row.label!r}",
                f"labels are integers {first_label} to {first_label + len(order) - 1}",
                "correct the line, or set option first_label",
            )
    return [(row, order[number - first_label]) for row, number in zip(rows, numbers, strict=True)]


FIRST_LABEL = Option(
    name="first_label",
    default=-1,
    help="integer of the first class in `list`; -1: read it off the list",
    choices=(-1, 0, 1),
)
FOLD = Option(name="fold", default=1, help="fold of the cross-validation", choices=(1, 2, 3, 4, 5))


def split_of_list(path: Path) -> str | None:
    """What a list's name says about its split: ``MAFW_set_1_test.txt`` is "test/fold-1"."""
    name = path.stem.lower()
    part = next((part for part in ("train", "test") if part in name), None)
    fold = re.search(r"set_?(\d+)", name)
    return f"{part}/fold-{fold[1]}" if part and fold else part
