from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.config import TrimConfig
from corpus.records import Inspection, SourceClip
from corpus.segments import Stretch, segments

CLIP = SourceClip(clip_id="a", source="made", video="/a.mp4", recording="a")


def track(text: str) -> list[bool]:
    """'5+ 3-' is five frames with a face, then three without."""
    frames: list[bool] = []
    for part in text.split():
        frames += [part[-1] == "+"] * int(part[:-1])
    return frames


def inspection(face: list[bool], shots: tuple[int, ...] = (0,)) -> Inspection:
    return Inspection(
        clip_id="a",
        sha256="0",
        num_frames=len(face),
        fps=25.0,
        width=64,
        height=48,
        face=tuple(face),
        face_share_of_frames=sum(face) / len(face),
        face_share_of_area=0.1,
        shots=shots,
        num_people=1,
    )


def spans(items) -> list[tuple[int, int]]:
    return [(item.first, item.last) for item in items]


def divide(frames: str, shots: tuple[int, ...] = (0,), clip: SourceClip = CLIP, **config):
    kept, rejected = segments(inspection(track(frames), shots), clip, TrimConfig(**config))
    return spans(kept), spans(rejected)


@pytest.mark.parametrize(
    ("frames", "kept", "rejected"),
    [
        ("72+", [(0, 35), (36, 71)], []),
        ("110+", [(0, 35), (36, 72), (73, 109)], []),  # 3 parts; edges 0, 36.7, 73.3, 110
        ("71+", [(0, 70)], []),
        ("36+", [(0, 35)], []),
        ("35+", [], [(0, 34)]),  # also where it is the whole source clip
        ("10+ 20-", [], [(0, 9), (10, 29)]),
        ("20- 36+", [(20, 55)], [(0, 19)]),
        ("20+ 5- 20+", [(0, 44)], []),  # five missed frames: a gap in the detector
        ("20+ 6- 20+", [], [(0, 19), (20, 25), (26, 45)]),  # six: the face was gone
        ("3- 40+", [(3, 42)], [(0, 2)]),  # at the edges a gap is no gap
        ("40-", [], [(0, 39)]),
    ],
)
def test_by_hand(frames: str, kept: list, rejected: list) -> None:
    assert divide(frames) == (kept, rejected)


class TestShots:
    def test_a_stretch_never_crosses_one(self) -> None:
        kept = [(0, 39), (40, 79)]
        assert divide("80+", (0, 40)) == (kept, [])
        assert divide("110+", (0, 40)) == ([(0, 39), (40, 109)], [])

    def test_unless_that_is_not_wanted(self) -> None:
        assert divide("110+", (0, 40), split_shots=False) == ([(0, 35), (36, 72), (73, 109)], [])

    def test_too_short_a_shot_is_rejected(self) -> None:
        assert divide("60+", (0, 20)) == ([(20, 59)], [(0, 19)])

    def test_a_gap_is_not_closed_across_one(self) -> None:
        assert divide("40+ 3- 40+", (0, 41)) == ([(0, 39), (43, 82)], [(40, 42)])
        assert divide("40+ 3- 40+", (0, 20)) == ([(20, 82)], [(0, 19)])

    def test_frames_without_a_face_are_one_rejection_over_several_shots(self) -> None:
        assert divide("40+ 60-", (0, 40, 41, 70)) == ([(0, 39)], [(40, 99)])


class TestLengths:
    @pytest.mark.parametrize(
        ("length", "target", "lengths"),
        [
            (300, 150, [150, 150]),
            (330, 150, [165, 165]),  # 2.2 parts
            (380, 150, [126, 127, 127]),  # 2.53 parts
            (225, 150, [112, 113]),  # half a part counts up
            (100, 150, [100]),
            (71, 36, [71]),  # two would have 35 and 36
            (72, 36, [36, 36]),
        ],
    )
    def test_near_the_target(self, length: int, target: int, lengths: list[int]) -> None:
        kept, rejected = divide(f"{length}+", target_frames=target)
        assert [last - first + 1 for first, last in kept] == lengths
        assert not rejected

    def test_never_above_the_most(self) -> None:
        kept, rejected = divide("1000+", target_frames=600, max_frames=600)
        assert (kept, rejected) == ([(0, 499), (500, 999)], [])
        kept, rejected = divide("130+", target_frames=60, max_frames=60)
        assert [last - first + 1 for first, last in kept] == [43, 43, 44]

    def test_where_no_equal_parts_fit_the_rest_is_rejected(self) -> None:
        # 71 frames in parts of 36 to 40: one part would be too long, two too short.
        found = segments(inspection(track("71+")), CLIP, TrimConfig(max_frames=40))
        assert (spans(found[0]), spans(found[1])) == ([(0, 39)], [(40, 70)])
        assert found[1][0].reason == ("31 frames left over by segments of 40, a segment needs 36")


class TestWhole:
    clip = replace(CLIP, whole=True)

    @pytest.mark.parametrize("frames", ["80+", "30+ 50-", "80-"])
    def test_stays_whole_whatever_it_shows(self, frames: str) -> None:
        assert divide(frames, (0, 40), self.clip) == ([(0, 79)], [])

    def test_however_short(self) -> None:
        assert divide("5+", clip=self.clip) == ([(0, 4)], [])

    def test_up_to_the_most_frames(self) -> None:
        assert divide("600+", clip=self.clip) == ([(0, 599)], [])
        assert divide("601+", clip=self.clip) == ([(0, 299), (300, 600)], [])
        assert divide("1300-", clip=self.clip) == ([(0, 432), (433, 865), (866, 1299)], [])


def test_reasons_say_what_is_wrong() -> None:
    _, rejections = segments(inspection(track("10+ 20-")), CLIP, TrimConfig())
    assert [(item.clip_id, item.stage, item.reason) for item in rejections] == [
        ("a", "trim", "a face for 10 frames only, a segment needs 36"),
        ("a", "trim", "no face"),
    ]


def test_a_short_source_is_rejected_with_its_reason() -> None:
    kept, (rejection,) = segments(inspection(track("10+")), CLIP, TrimConfig())
    assert not kept
    assert rejection.reason == "a face for 10 frames only, a segment needs 36"


def test_face_share_counts_the_missed_frames() -> None:
    (only,), _ = segments(inspection(track("20+ 5- 25+")), CLIP, TrimConfig())
    assert only.face_share == pytest.approx(45 / 50)
    assert only.flags == ("face_missing_in_some_frames",)


def test_cut_id_and_length() -> None:
    part = Stretch(clip_id="some.clip", first=7, last=1041, face_share=1.0)
    assert (part.cut_id, len(part), part.flags) == ("some.clip-0007-1041", 1035, ())


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 60)), min_size=1, max_size=12),
    st.sets(st.integers(1, 300), max_size=4),
    st.integers(2, 40),
    st.integers(0, 60),
    st.integers(0, 80),
    st.booleans(),
    st.booleans(),
)
def test_every_frame_is_kept_or_rejected_once(
    runs, cuts, min_frames: int, more: int, target: int, split_shots: bool, whole: bool
) -> None:
    face = [seen for seen, length in runs for _ in range(length)]
    shots = (0, *sorted(cut for cut in cuts if cut < len(face)))
    config = TrimConfig(
        min_frames=min_frames,
        max_frames=min_frames + more,
        target_frames=max(target, min_frames) if target else 0,
        split_shots=split_shots,
    )
    config.check()
    kept, rejected = segments(inspection(face, shots), replace(CLIP, whole=whole), config)
    covered = sorted(spans(kept) + spans(rejected))
    assert [first for first, _ in covered] == [0, *(last + 1 for _, last in covered[:-1])]
    assert covered[-1][1] == len(face) - 1
    assert all(len(part) <= config.max_frames for part in kept)
    if whole:
        assert not rejected
        return
    assert all(len(part) >= min_frames for part in kept)
    assert all(any(face[part.first : part.last + 1]) for part in kept)
    if split_shots:
        crossed = [shot for part in kept for shot in shots if part.first < shot <= part.last]
        assert not crossed
