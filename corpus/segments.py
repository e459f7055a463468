"""The trim: which frames of a clip become clips of the corpus, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from corpus.config import TrimConfig
from corpus.records import Inspection, Rejection, SourceClip

MAX_GAP = 5
"""A detector that misses a face for at most so many frames has blinked; the face has not left."""

NO_FACE = "no face"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Frames of one source clip that are to become a clip of their own.

    Example: the first half of a 72-frame clip with a face in each frame:
        >>> part = Stretch(clip_id="single_face", first=0, last=35, face_share=1.0)
        >>> part.cut_id, len(part)
        ('single_face-0000-0035', 36)
    """

    clip_id: str  # of the source clip
    first: int  # frame index, inclusive
    last: int  # frame index, inclusive
    face_share: float  # share of its frames in which the face was found, 0..1

    @property
    def cut_id(self) -> str:
        return f"{self.clip_id}-{self.first:04d}-{self.last:04d}"

    @property
    def flags(self) -> tuple[str, ...]:
        return ("face_missing_in_some_frames",) if self.face_share < 1.0 else ()

    def __len__(self) -> int:
        return self.last - self.first + 1


def segments(
    inspection: Inspection, clip: SourceClip, config: TrimConfig
) -> tuple[list[Stretch], list[Rejection]]:
    """Divide a clip by where a face is seen; every frame ends in exactly one stretch or rejection.

    - A run of frames with a face (gaps of up to ``MAX_GAP`` frames closed) never crosses a change
      of shot, unless ``config.split_shots`` is off.
    - A run is divided into equal parts of at least ``min_frames`` and at most ``max_frames``; how
      many: as near ``target_frames`` as that allows, or with no target as many as fit. Where no
      equal parts obey both bounds, parts of ``max_frames`` are taken and the rest is rejected.
    - A shorter run is rejected, also where it is the whole source clip.
    - A clip that its source wants ``whole`` stays whole, with or without faces, changes of shot and
      however short; only one longer than ``max_frames`` is divided, into the fewest equal parts
      that are not. None of its frames is lost.

    Example: a face in frames 0-71 and none after, 36 frames a segment at least:
        >>> kept, rejected = segments(inspection, clip, TrimConfig(min_frames=36))
        >>> [(s.first, s.last) for s in kept], [(r.first, r.last) for r in rejected]
        ([(0, 35), (36, 71)], [(72, 91)])
    """
    if clip.whole:
        parts = -(-inspection.num_frames // config.max_frames)
        spans = _equal_parts(0, inspection.num_frames, parts)
        return [_stretch(inspection, *span) for span in spans], []
    kept: list[Stretch] = []
    rejected: list[Rejection] = []
    for seen, first, last in _runs_with_face(inspection, config):
        length = last - first + 1
        if not seen:
            rejected.append(_rejection(clip, first, last, NO_FACE))
        elif length < config.min_frames:
            reason = f"a face for {length} frames only, a segment needs {config.min_frames}"
            rejected.append(_rejection(clip, first, last, reason))
        else:
            parts, used = _num_parts(length, config)
            kept += [_stretch(inspection, *span) for span in _equal_parts(first, used, parts)]
            if used < length:
                reason = (
                    f"{length - used} frames left over by segments of {config.max_frames}, "
                    f"a segment needs {config.min_frames}"
                )
                rejected.append(_rejection(clip, first + used, last, reason))
    return kept, rejected


def _num_parts(length: int, config: TrimConfig) -> tuple[int, int]:
    """Into how many parts a run of ``length`` frames is divided, and how many frames they take."""
    most = length // config.min_frames
    fewest = -(-length // config.max_frames)
    if fewest > most:  # such as 71 frames in parts of 36 to 40
        return most, most * config.max_frames
    # Half up: Python's round would take 1.5 parts up and 2.5 down.
    wanted = int(length / config.target_frames + 0.5) if config.target_frames else most
    return min(max(wanted, fewest), most), length


def _equal_parts(first: int, length: int, parts: int) -> list[tuple[int, int]]:
    """First and last frame of each of ``parts`` parts, which differ by at most one frame."""
    edges = [first + index * length // parts for index in range(parts + 1)]
    return [(start, stop - 1) for start, stop in pairwise(edges)]


def _stretch(inspection: Inspection, first: int, last: int) -> Stretch:
    share = sum(inspection.face[first : last + 1]) / (last - first + 1)
    return Stretch(clip_id=inspection.clip_id, first=first, last=last, face_share=share)


def _rejection(clip: SourceClip, first: int, last: int, reason: str) -> Rejection:
    return Rejection(clip_id=clip.clip_id, stage="trim", reason=reason, first=first, last=last)


def _runs_with_face(inspection: Inspection, config: TrimConfig) -> Iterator[tuple[bool, int, int]]:
    """Runs of frames with a face, none across two shots, and the runs without one between them."""
    edges = [*inspection.shots, inspection.num_frames]
    if not config.split_shots:
        edges = [0, inspection.num_frames]
    pending: tuple[int, int] | None = None  # frames without a face, which may span shots
    for start, stop in pairwise(edges):
        for seen, first, last in _runs(_close_gaps(inspection.face[start:stop])):
            if not seen:
                pending = (pending[0] if pending else start + first, start + last)
                continue
            if pending:
                yield False, *pending
                pending = None
            yield True, start + first, start + last
    if pending:
        yield False, *pending


def _close_gaps(has_face: Sequence[bool]) -> list[bool]:
    """The track with short misses between two sightings counted as seen."""
    closed = list(has_face)
    for seen, first, last in _runs(has_face):
        inside = first > 0 and last < len(has_face) - 1
        if not seen and inside and last - first + 1 <= MAX_GAP:
            closed[first : last + 1] = [True] * (last - first + 1)
    return closed


def _runs(track: Sequence[bool]) -> list[tuple[bool, int, int]]:
    """Maximal stretches of equal value as (value, first, last)."""
    runs, start = [], 0
    for value, members in groupby(track):
        stop = start + sum(1 for _ in members)
        runs.append((bool(value), start, stop - 1))
        start = stop
    return runs
