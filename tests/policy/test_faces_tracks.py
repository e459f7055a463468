"""Following several faces at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.faces import (
    MAX_MISSES,
    FaceBox,
    FaceDetector,
    FaceTracker,
    track_faces,
    track_largest_face,
)
from policy.video import read_clip


def box(x: float, size: float = 40.0, y: float = 10.0) -> FaceBox:
    return FaceBox(x=x, y=y, width=size, height=size, confidence=0.9)


def follow(*frames: list[FaceBox], **options) -> list[tuple[int, list[FaceBox | None]]]:
    tracker = FaceTracker(**options)
    for boxes in frames:
        tracker.update(boxes)
    return [(track.first, track.boxes) for track in tracker.tracks]


def test_two_people_keep_their_own_tracks() -> None:
    a, b = [box(10), box(14), box(18)], [box(200, 80), box(205, 80), box(210, 80)]
    # Largest first, as the detector gives them.
    assert follow([b[0], a[0]], [b[1], a[1]], [b[2], a[2]]) == [(0, b), (0, a)]


def test_the_best_overlap_is_joined_first() -> None:
    # Shifted by 4 of 40: 36/44 = .82; by 12: 28/52 = .54. The new face at 22 overlaps the track at
    # 10 too, but the track goes on with the nearer box, whatever their order.
    assert follow([box(10)], [box(22), box(14)]) == [(0, [box(10), box(14)]), (1, [box(22)])]


def test_overlap_must_exceed_the_limit() -> None:
    # Shifted by 20 of 40: 20/60 = 1/3.
    assert len(follow([box(0)], [box(20)], min_overlap=0.33)) == 1
    assert len(follow([box(0)], [box(20)], min_overlap=1 / 3)) == 2


def test_short_gaps_are_bridged_and_long_ones_end_a_track() -> None:
    gap = [[]] * MAX_MISSES
    (only,) = follow([box(10)], *gap, [box(12)])
    assert only == (0, [box(10), *[None] * MAX_MISSES, box(12)])
    first, second = follow([box(10)], *gap, [], [box(12)])
    assert first == (0, [box(10)])
    assert second == (MAX_MISSES + 2, [box(12)])


def test_measures_of_a_track() -> None:
    tracker = FaceTracker()
    for boxes in ([], [box(0, 40)], [], [box(0, 50)]):
        tracker.update(boxes)
    (track,) = tracker.tracks
    assert (track.first, track.last, track.sightings) == (1, 3, 2)
    assert track.summed_area == 40 * 40 + 50 * 50


class Scripted(FaceDetector):
    def __init__(self, *boxes: list[FaceBox]) -> None:
        self.boxes = list(boxes)

    def detect(self, frame: np.ndarray) -> list[FaceBox]:
        return self.boxes[int(frame[0, 0, 0])]


def test_the_main_person_covers_most_over_time() -> None:
    near_for_a_moment, far_for_long = box(200, 90), box(10, 40)
    detector = Scripted(*[[near_for_a_moment, far_for_long]], *[[far_for_long]] * 9)
    frames = (np.full((2, 2, 3), index, np.uint8) for index in range(10))
    main, other = track_faces(frames, detector)  # 10 · 1600 against 8100
    assert (main.first, main.last, other.first, other.last) == (0, 9, 0, 0)


@pytest.mark.parametrize("name", ["single_face.mp4", "face_noface.mov"])
def test_one_person_is_one_track_like_the_largest_face(real_clip, name: str) -> None:
    frames, detector = read_clip(real_clip(name)).frames, FaceDetector()
    (only,) = track_faces(frames, detector)
    boxes = [None] * only.first + only.boxes + [None] * (len(frames) - only.last - 1)
    assert boxes == track_largest_face(frames, detector)


@given(st.lists(st.lists(st.integers(0, 8), max_size=3, unique=True), max_size=25))
def test_every_detection_is_in_exactly_one_track(places: list[list[int]]) -> None:
    frames = [[box(15.0 * place, 40 - place) for place in row] for row in places]
    tracks = follow(*frames)
    found = [(first + index, b) for first, bs in tracks for index, b in enumerate(bs) if b]
    expected = [(index, b) for index, row in enumerate(frames) for b in row]
    key = lambda item: (item[0], item[1].x)  # noqa: E731
    assert sorted(found, key=key) == sorted(expected, key=key)
    for _, boxes in tracks:
        assert boxes[0] is not None
        assert boxes[-1] is not None
