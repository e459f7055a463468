"""From a face track to segments: which frames become a clip, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

MAX_GAP = 5
"""A detector that misses a face for at most so many frames has blinked; the face has not left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of one source clip in which a face is seen.

    Example: the first half of a 72-frame clip with a face in each frame:
        >>> Segment(source="single_face.mp4", first=0, last=35, face_share=1.0)
    """

    source: str  # file name of the source clip
    first: int  # frame index, inclusive
    last: int  # frame index, inclusive
    face_share: float  # share of its frames in which the face was found, 0..1

    @property
    def clip_id(self) -> str:
        """Such as ``single_face-0000-0035``."""
        return f"{self.source.rpartition('.')[0]}-{self.first:04d}-{self.last:04d}"

    @property
    def flags(self) -> list[str]:
        return ["face_missing_in_some_frames"] if self.face_share < 1.0 else []

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A stretch of a source clip that is left out, and why."""

    source: str
    first: int
    last: int
    reason: str


def segment(
    source: str, has_face: Sequence[bool], *, min_frames: int
) -> tuple[list[Segment], list[Rejection]]:
    """Divide a source clip by its face track ``has_face`` [T].

    Every frame ends in exactly one segment or rejection. A stretch with a face (gaps of up to
    ``MAX_GAP`` frames closed) is divided into as many equal segments of at least ``min_frames`` as
    it holds; a shorter one is rejected, unless it is the whole source clip.

    Example: a face in frames 0-71 and none after, 36 frames a segment at least:
        >>> kept, rejected = segment("a.mp4", [True] * 72 + [False] * 20, min_frames=36)
        >>> [(s.first, s.last) for s in kept], [(r.first, r.last) for r in rejected]
        ([(0, 35), (36, 71)], [(72, 91)])
    """
    kept: list[Segment] = []
    rejected: list[Rejection] = []
    for seen, first, last in _runs(_close_gaps(has_face)):
        length = last - first + 1
        if not seen:
            reason = "no face"
        elif length < min_frames and length < len(has_face):
            reason = f"a face for {length} frames only, a segment needs {min_frames}"
        else:
            kept += _divide(source, has_face, first, length, max(1, length // min_frames))
            continue
        rejected.append(Rejection(source=source, first=first, last=last, reason=reason))
    return kept, rejected


def _divide(
    source: str, has_face: Sequence[bool], first: int, length: int, parts: int
) -> list[Segment]:
    edges = [first + index * length // parts for index in range(parts + 1)]
    return [
        Segment(
            source=source,
            first=start,
            last=stop - 1,
            face_share=sum(has_face[start:stop]) / (stop - start),
        )
        for start, stop in pairwise(edges)
    ]


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
