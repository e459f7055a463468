from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.segments import Segment, segment


def track(text: str) -> list[bool]:
    """'5+3-' is five frames with a face, then three without."""
    frames: list[bool] = []
    for part in text.split():
        frames += [part[-1] == "+"] * int(part[:-1])
    return frames


def spans(items) -> list[tuple[int, int]]:
    return [(item.first, item.last) for item in items]


@pytest.mark.parametrize(
    ("frames", "kept", "rejected"),
    [
        ("72+", [(0, 35), (36, 71)], []),
        ("110+", [(0, 35), (36, 72), (73, 109)], []),  # 3 parts; edges 0, 36.7, 73.3, 110
        ("71+", [(0, 70)], []),
        ("10+", [(0, 9)], []),  # a short source is kept whole
        ("10+ 20-", [], [(0, 9), (10, 29)]),
        ("20- 36+", [(20, 55)], [(0, 19)]),
        ("20+ 5- 20+", [(0, 44)], []),  # five missed frames: a gap in the detector
        ("20+ 6- 20+", [], [(0, 19), (20, 25), (26, 45)]),  # six: the face was gone
        ("3- 40+", [(3, 42)], [(0, 2)]),  # at the edges a gap is no gap
        ("40-", [], [(0, 39)]),
    ],
)
def test_segments_by_hand(frames: str, kept: list, rejected: list) -> None:
    segments, rejections = segment("a.mp4", track(frames), min_frames=36)
    assert spans(segments) == kept
    assert spans(rejections) == rejected


def test_reasons_say_what_is_wrong() -> None:
    _, rejections = segment("a.mp4", track("10+ 20-"), min_frames=36)
    assert [item.reason for item in rejections] == [
        "a face for 10 frames only, a segment needs 36",
        "no face",
    ]


def test_face_share_counts_the_missed_frames() -> None:
    (only,), _ = segment("a.mp4", track("20+ 5- 25+"), min_frames=36)
    assert only.face_share == pytest.approx(45 / 50)
    assert only.flags == ["face_missing_in_some_frames"]


def test_clip_id_and_length() -> None:
    part = Segment(source="some.clip.mov", first=7, last=1041, face_share=1.0)
    assert (part.clip_id, len(part), part.flags) == ("some.clip-0007-1041", 1035, [])


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.integers(2, 40))
def test_every_frame_is_kept_or_rejected_once(frames: list[bool], min_frames: int) -> None:
    segments, rejections = segment("a.mp4", frames, min_frames=min_frames)
    covered = sorted(spans(segments) + spans(rejections))
    assert [first for first, _ in covered] == [0, *(last + 1 for _, last in covered[:-1])]
    assert covered[-1][1] == len(frames) - 1
    assert all(len(part) >= min(min_frames, len(frames)) for part in segments)
    assert all(len(part) < 2 * min_frames for part in segments)
