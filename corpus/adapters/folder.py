"""A folder of your own clips, with a table that says what is seen in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from corpus.adapters.base import Listing
from corpus.adapters.dataset import VIDEOS, Dataset, Entry, Option
from corpus.adapters.files import (
    Media,
    Place,
    key_of,
    nearest,
    parse_json,
    read_json,
    read_lines,
    read_table,
)
from corpus.attributes import VOCABULARY, Group
from corpus.labels import TRACKS, Interval
from corpus.records import Pair
from corpus.schema import FacialTargets, Level, QuestionKind

TRACK_OF = {
    Group.APPEARANCE: "attributes",
    Group.EMOTION: "emotion",
    Group.ACTION: "action",
}
CLIP_COLUMNS = (
    *TRACKS, "absent", "summary", "caption", "identity", "recording", "split", "start", "end",
    "box", "subject",
)  # fmt: skip
PAIR_COLUMNS = ("question", "answer", "kind", "level", "options")
COLUMNS = ("video", *CLIP_COLUMNS, *PAIR_COLUMNS)
SUBJECTS = ("person", "man", "woman")
HELD_OUT = ("test", "val", "valid", "validation", "dev", "eval", "held_out")
"""Words of the column split that keep a clip out of training; the only other one is train."""

LAST_FRAME = 10**9
"""End of a timeline that holds throughout: frames are counted only when the clip is opened."""

ASKED = {
    QuestionKind.APPEARANCE: ("attributes",),
    QuestionKind.EMOTION: ("emotion",),
    QuestionKind.ACTION: ("action",),
}
"""The tracks that a question of a kind asks for; all of them for the other kinds."""


class Folder(Dataset):
    """One row per clip, or one per question: rows of one clip are put together."""

    name = "folder"
    title = "Your own clips"
    url = "docs/datasets.md"
    licence = "yours: say it with option licence"
    download = (
        "Nothing. Put clips (video files or folders of frames) below the root, and beside them one "
        "table (CSV, TSV, JSON or JSON Lines; option annotations names it if there are several) "
        f"with a column video and any of {', '.join(COLUMNS[1:])}. Several values in a cell: "
        "separated by ';' or '|', a list in JSON."
    )
    purpose = "training"
    OPTIONS = (
        Option(name="annotations", default="", help="the table, below the root or absolute"),
        Option(
            name="free_phrases",
            default=False,
            help="allow phrases that are none of the 103 attributes; they hold over the whole clip",
        ),
        Option(name="whole", default=False, help="keep clips whole: neither filtered nor cut"),
        Option(name="licence", default="", help="terms of the clips, for the data card"),
        Option(name="name", default="", help="short name of the set, part of the clip ids"),
        VIDEOS,
    )

    def list(self) -> Listing:
        media = self.media(".")
        path = self._table()
        clips: dict[tuple[str, str, str], _Clip] = {}
        for place, row in _rows(path):
            _check_columns(place, row)
            start, end = (_cell(row, name) for name in ("start", "end"))
            key = (_cell(row, "video"), start, end)
            clips.setdefault(key, _Clip(place, row)).add(place, row)
        entries = [self._entry(key, clip, media) for key, clip in clips.items()]
        return self.compare(entries, media)

    def _table(self) -> Path:
        self.require_root()
        if given := self.options["annotations"]:
            return self.annotation(given)
        suffixes = (".csv", ".tsv", ".json", ".jsonl")
        tables = sorted(path for path in self.root.iterdir() if path.suffix.lower() in suffixes)
        if len(tables) != 1:
            names = ", ".join(path.name for path in tables) or "none"
            raise ConfigError(
                f"tables in {self.root}: {names}",
                "one CSV, TSV, JSON or JSON Lines file says what is seen in the clips",
                "set option annotations" if tables else self.download,
            )
        return tables[0]

    def _entry(self, key: tuple[str, str, str], clip: _Clip, media: Media) -> Entry:
        video, start, end = key
        place, row = clip.place, clip.row
        part = f"@{start or 0}-{end}" if start or end else ""
        name = self.options["name"]
        file = key_of(_below(video, media.folder))
        split = _split(place, _cell(row, "split"))
        fields = {
            **self._labels(place, row),
            "recording": f"{name or 'folder'}/{_cell(row, 'recording') or file}",
            "summary": _cell(row, "summary") or _cell(row, "caption") or None,
            "official_split": split or None,
            "held_out": split in HELD_OUT,
            "start_seconds": _number(place, "start", start),
            "end_seconds": _number(place, "end", end),
            "crop": _box(place, _words(row.get("box"))),
            "whole": self.options["whole"],
            "subject": _one_of(place, "subject", _cell(row, "subject") or "person", SUBJECTS),
        }
        first, last = fields["start_seconds"] or 0.0, fields["end_seconds"]
        if last is not None and last <= first:
            raise place.error(f"start {start}, end {end}", "a part ends after its start", "correct")
        if identity := _cell(row, "identity"):
            fields["identity"] = f"{name or 'folder'}/{identity}"
        if licence := self.options["licence"]:
            fields["licence"] = licence
        targets = _targets(fields)
        fields["pairs"] = tuple(_pair(at, cells, targets) for at, cells in clip.pairs)
        path = f"{name}/{file}{part}" if name else f"{file}{part}"
        return Entry(place=place, path=path, files=(file,), fields=fields)

    def _labels(self, place: Place, row: Mapping[str, Any]) -> dict[str, Any]:
        """present and absent, or a timeline where a phrase is free. A known name may stand in any
        of the three columns: its group is known too."""
        words = [(track, word) for track in TRACKS for word in _words(row.get(track))]
        absent = tuple(self._known(place, word) for word in _words(row.get("absent")))
        if self.options["free_phrases"] and any(not VOCABULARY.find(word) for _, word in words):
            return {"timeline": _throughout(words)}
        present = tuple(dict.fromkeys(self._known(place, word) for _, word in words))
        if both := [name for name in present if name in absent]:
            raise place.error(f"{both[0]} present and absent", "it is one of them", "correct it")
        return {"present": present, "absent": absent}

    def _known(self, place: Place, word: str) -> str:
        name = VOCABULARY.find(word)
        if name is None:
            raise place.error(
                repr(word),
                "it is none of the 103 attributes, nor an alias",
                f"{nearest(word.lower(), VOCABULARY.names())} (or set option free_phrases: true)",
            )
        return name


@dataclass(slots=True)
class _Clip:
    """Rows of one clip, put together."""

    place: Place
    row: Mapping[str, Any]
    pairs: list[tuple[Place, Mapping[str, Any]]] = field(default_factory=list)

    def add(self, place: Place, row: Mapping[str, Any]) -> None:
        """Take a row's question; its other cells are empty or as in the rows before."""
        merged = dict(self.row)
        for name in CLIP_COLUMNS:
            if _words(row.get(name)) and _words(row[name]) != _words(merged.get(name)):
                if _words(merged.get(name)):
                    raise place.error(
                        f"{name} {row[name]!r}",
                        f"{self.place.spot} says {merged[name]!r} of the same clip",
                        "make them equal, or leave the later one empty",
                    )
                merged[name] = row[name]
        self.row = merged
        if _cell(row, "question") or _cell(row, "answer"):
            self.pairs.append((place, row))


def _rows(path: Path) -> Iterable[tuple[Place, Mapping[str, Any]]]:
    if path.suffix.lower() == ".jsonl":
        for line in read_lines(path):
            yield line.place, parse_json(line.text, path, int(line.place.spot.split()[1]))
    elif path.suffix.lower() == ".json":
        content = read_json(path)
        if not isinstance(content, list):
            raise Place(path, "line 1").error(
                type(content).__name__, "it is a list of records", "put [ and ] around them"
            )
        for number, item in enumerate(content, start=1):
            yield Place(path, f"item {number}"), item
    else:
        for row in read_table(path, required=("video",)):
            yield row.place, row.cells


def _check_columns(place: Place, row: Any) -> None:
    if not isinstance(row, Mapping):
        raise place.error(repr(row)[:80], "a record has names and values", 'write {"video": …}')
    for name in row:
        if name not in COLUMNS:
            raise place.error(
                f"column {name!r}", f"columns are {', '.join(COLUMNS)}", nearest(name, COLUMNS)
            )
    if not _cell(row, "video"):
        raise place.error("no video", "every row names its clip", "fill in the column video")


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value).strip()


def _words(value: Any) -> Sequence[str]:
    """The values in a cell."""
    if value is None:
        return ()
    parts = value if isinstance(value, list) else str(value).replace("|", ";").split(";")
    return tuple(text for part in parts if (text := str(part).strip()))


def _throughout(words: Iterable[tuple[str, str]]) -> Mapping[str, tuple[Interval, ...]]:
    """A timeline on which every phrase holds from the first frame to the last."""
    timeline: dict[str, list[Interval]] = {}
    for column, word in words:
        name = VOCABULARY.find(word)
        track = TRACK_OF[VOCABULARY[name].group] if name else column
        phrase = VOCABULARY[name].phrase if name else word
        interval = Interval(first=0, last=LAST_FRAME, phrases=(phrase,))
        timeline.setdefault(track, []).append(interval)
    return {track: tuple(intervals) for track, intervals in timeline.items()}


def _below(video: str, folder: Path) -> str:
    path = Path(video.replace("\\", "/"))
    if not path.is_absolute():
        return path.as_posix()
    resolved = path.resolve()
    return resolved.relative_to(folder).as_posix() if resolved.is_relative_to(folder) else video


def _number(place: Place, name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError as error:
        raise place.error(f"{name} {text!r}", "it is a number of seconds", "correct it") from error
    if not 0 <= number < float("inf"):
        raise place.error(f"{name} {text!r}", "seconds are counted from 0", "correct it")
    return number


def _box(place: Place, words: Sequence[str]) -> tuple[float, float, float, float] | None:
    if not words:
        return None
    try:
        left, top, right, bottom = (float(word) for word in words)
        good = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    except ValueError:
        good = False
    if not good:
        raise place.error(
            f"box {'; '.join(words)}",
            "it is left; top; right; bottom as fractions of the picture",
            "write it like 0.1;0;0.6;0.9",
        )
    return (left, top, right, bottom)


def _one_of(place: Place, column: str, word: str, allowed: Iterable[str]) -> str:
    names = [*allowed]
    if word.lower() not in names:
        raise place.error(
            f"{column} {word!r}", f"it is one of {', '.join(names)}", nearest(word.lower(), names)
        )
    return word.lower()


def _split(place: Place, word: str) -> str:
    names = ("", "train", *HELD_OUT)
    if word.lower() not in names:
        raise place.error(
            f"split {word!r}",
            f"it is one of {', '.join(names[1:])} (all but train are held out), or empty",
            f"{nearest(word.lower(), names[1:])} Or leave the column out",
        )
    return word.lower()


def _targets(fields: Mapping[str, Any]) -> FacialTargets:
    if "timeline" not in fields:
        return VOCABULARY.targets(fields["present"])
    held = fields["timeline"]
    return FacialTargets(
        **{
            track: tuple(phrase for interval in held.get(track, ()) for phrase in interval.phrases)
            for track in TRACKS
        }
    )


def _pair(place: Place, row: Mapping[str, Any], targets: FacialTargets) -> Pair:
    question, answer = _cell(row, "question"), _cell(row, "answer")
    if not (question and answer):
        raise place.error("half a pair", "a question has an answer", "fill in both, or none")
    kind = _one_of(place, "kind", _cell(row, "kind") or "description", list(QuestionKind))
    level = _one_of(place, "level", _cell(row, "level") or "high", list(Level))
    asked = ASKED.get(QuestionKind(kind), TRACKS)
    return Pair(
        question=question,
        answer=answer,
        targets=FacialTargets(**{track: getattr(targets, track) for track in asked}),
        kind=QuestionKind(kind),
        level=Level(level),
        options=tuple(_words(row.get("options"))),
    )
