"""Questions about clips in the JSON layout of FaVChat's authors, their own or an export of ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from corpus.adapters.base import Listing
from corpus.adapters.dataset import Dataset, Entry, Option, names_of
from corpus.adapters.files import Media, Place, key_of, read_json
from corpus.records import Pair
from corpus.schema import FacialTargets, QuestionKind

_ANSWER = re.compile(r"<answer>(.*)</answer>\s*\Z", re.DOTALL)
_KINDS = {kind.value: kind for kind in QuestionKind}
_TARGETS = {
    "attributes": "facial_attributes",
    "emotion": "facial_emotion",
    "action": "facial_action",
}


class FaVChatJson(Dataset):
    """One clip per ``path``, with every question asked about it. Clips are kept whole.

    A row needs ``problem``, ``solution`` and ``path`` (relative to the JSON file, or absolute; it
    leads into the root, or into the folder that option ``videos`` names);
    ``options``, ``problem_type``, ``facial_attributes``, ``facial_emotion``, ``facial_action`` and
    ``problem_id`` are read where they are there, the other keys are not used.

    - ``solution`` is the answer, with or without ``<answer>…</answer>``; with reasoning before
      it, only what the tags hold.
    - Targets are lists of phrases, or one text with commas.
    - A ``problem_type`` that is no kind of ours (such as "multiple choice", a form of answer) is
      replaced by the kind that the targets tell.
    """

    name = "favchat_json"
    title = "FaVChat JSON"
    url = "https://arxiv.org/abs/2503.09158"
    licence = "the terms of the clips' own datasets; the layout does not carry them"
    download = (
        "A JSON list with problem, solution and path in each row, and the clips where path says. "
        "The file lies in the root; clips are looked for from the file's folder, within the root "
        "or the folder of option videos."
    )
    purpose = "training"
    OPTIONS = (
        Option(name="file", default="", help="the JSON file, when there are several in the root"),
        Option(
            name="videos",
            default="",
            help="folder, absolute or from the root, in which paths may lie beside the root itself",
        ),
        Option(name="held_out", default=False, help="put all of its clips into the test set"),
        Option(name="licence", default="", help="terms of the clips, for the data card"),
        Option(
            name="recording",
            default="",
            help="regular expression whose first group, found in path, names the recording; "
            "without it every clip is a recording of its own",
        ),
    )

    def list(self) -> Listing:
        file = self._file()
        pairs: dict[str, Sequence[Pair]] = {}
        places: dict[str, Place] = {}
        for number, row in enumerate(_rows(file), start=1):
            place = Place(file, f"item {number}")
            path, pair = _read_row(place, row)
            path = os.path.normpath(path)
            self._check_path(place, path, file.parent)
            pairs[path] = [*pairs.get(path, ()), pair]
            places.setdefault(path, place)
        videos = {path: (file.parent / path).resolve() for path in pairs}
        ids: dict[str, str] = {}
        clips = [
            self.clip(self._entry(places[path], path, tuple(pairs[path])), video, ids)
            for path, video in sorted(videos.items())
            if video.exists()
        ]
        media, named = Media(self.root), {key_of(str(video)) for video in videos.values()}
        used = [key for key in media.clips if str(media.folder / key) in named]
        return Listing(
            clips=tuple(clips),
            missing=tuple(sorted(path for path, video in videos.items() if not video.exists())),
            surplus=media.surplus(used),
        )

    def _file(self) -> Path:
        if name := self.options["file"]:
            return self.annotation(name)
        self.require_root()
        found = sorted(self.root.glob("*.json"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise ConfigError(
                f"JSON files in {self.root}: {names}",
                "one of them holds the questions",
                "set option file" if found else self.download,
            )
        return found[0]

    def _check_path(self, place: Place, path: str, folder: Path) -> None:
        """Raise :class:`ConfigError` for a path that leads where no clip of ours was put: a file
        from elsewhere must not choose which files of this machine are read. Links are followed:
        who sets one in the root means it."""
        allowed = [self.root, folder]
        if videos := self.options["videos"]:
            allowed.append(self.root / videos)
        video = Path(os.path.normpath(folder / path))
        bounds = [bound for item in allowed for bound in (item.absolute(), item.resolve())]
        if not any(video.is_relative_to(os.path.normpath(bound)) for bound in bounds):
            raise place.error(
                path,
                f"clips lie in {self.root}" + (f" or {self.root / videos}" if videos else ""),
                "set option videos to the folder of the clips, if you trust this file with it",
            )

    def _entry(self, place: Place, path: str, pairs: tuple[Pair, ...]) -> Entry:
        phrases = (
            phrase
            for track in _TARGETS
            for pair in pairs
            for phrase in getattr(pair.targets, track)
        )
        fields = {
            "pairs": pairs,
            "present": names_of(phrases),
            "whole": True,
            "held_out": self.options["held_out"],
            "extra": {"path": path},
        }
        if pattern := self.options["recording"]:
            fields["recording"] = f"{self.name}/{_recording(place, pattern, path)}"
        if licence := self.options["licence"]:
            fields["licence"] = licence
        return Entry(place=place, path=path, fields=fields)


def _recording(place: Place, pattern: str, path: str) -> str:
    try:
        found = re.search(pattern, path)
        name = found.group(1) if found else None
    except (re.error, IndexError) as error:
        raise ConfigError(
            f"option recording={pattern!r} of source favchat_json",
            f"it is a regular expression with one group ({error})",
            r"set it to something like '([^/]+)-\d+-\d+\.mp4$'",
        ) from error
    if not name:
        raise place.error(
            path,
            f"option recording={pattern!r} finds nothing in it",
            "correct the expression: parts of one recording must not be on two sides of a split",
        )
    return name


def _rows(file: Path) -> Sequence[Any]:
    rows = read_json(file)
    if not isinstance(rows, list):
        raise Place(file, "line 1").error("no list", "it is a list of questions", "wrap it in [ ]")
    return rows


def _read_row(place: Place, row: Any) -> tuple[str, Pair]:
    """The path of a row's clip, and its question."""
    try:
        targets = FacialTargets(
            **{part: tuple(_phrases(row.get(key))) for part, key in _TARGETS.items()}
        )
        path, question, solution = (_text(row, key) for key in ("path", "problem", "solution"))
        options = tuple(str(option) for option in row.get("options") or ())
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise place.error(
            str(row)[:80],
            f"it is no question in the authors' layout ({error!r})",
            "give problem, solution and path as texts, targets as lists of texts",
        ) from error
    found = _ANSWER.search(solution)
    return path, Pair(
        question=question,
        answer=found.group(1) if found else solution,
        targets=targets,
        kind=_KINDS.get(str(row.get("problem_type"))) or _kind(targets),
        options=options,
        extra={"problem_id": row["problem_id"]} if "problem_id" in row else {},
    )


def _text(row: Mapping[str, Any], key: str) -> str:
    if not isinstance(row[key], str) or not row[key]:
        raise ValueError(f"{key} is not a text")
    return row[key]


def _phrases(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (phrase.strip() for phrase in value.split(",") if phrase.strip())
        return
    for phrase in value or ():
        if not isinstance(phrase, str):
            raise TypeError(f"{phrase!r} is not a phrase")
        yield phrase


def _kind(targets: FacialTargets) -> QuestionKind:
    """What a question with these targets asks for; several parts make a description."""
    parts = {
        QuestionKind.APPEARANCE: targets.attributes,
        QuestionKind.EMOTION: targets.emotion,
        QuestionKind.ACTION: targets.action,
    }
    asked = [kind for kind, phrases in parts.items() if phrases]
    return asked[0] if len(asked) == 1 else QuestionKind.DESCRIPTION
