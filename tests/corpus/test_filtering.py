from __future__ import annotations

from dataclasses import replace

import pytest

from corpus.config import FilterConfig
from corpus.filtering import accept
from corpus.records import Inspection, SourceClip

CLIP = SourceClip(clip_id="a", source="made", video="/a.mp4", recording="a")


def inspection(*, frames: float, area: float, seen: bool = True) -> Inspection:
    return Inspection(
        clip_id="a",
        sha256="0",
        num_frames=4,
        fps=25.0,
        width=64,
        height=48,
        face=(seen, False, False, seen),
        face_share_of_frames=frames,
        face_share_of_area=area,
        shots=(0,),
        num_people=1,
    )


@pytest.mark.parametrize(
    ("share_of", "frames", "area", "kept"),
    [
        ("frames", 0.61, 0.05, True),
        ("frames", 0.6, 0.9, False),  # equal is not more
        ("frames", 0.59, 0.9, False),
        ("area", 0.1, 0.61, True),
        ("area", 1.0, 0.6, False),
        ("area", 1.0, 0.59, False),
    ],
)
def test_both_readings_of_sixty_percent(share_of, frames, area, kept: bool) -> None:
    config = FilterConfig(share_of=share_of, min_share=0.6)
    rejection = accept(inspection(frames=frames, area=area), CLIP, config)
    assert (rejection is None) == kept


def test_the_reason_names_what_was_found_and_what_is_needed() -> None:
    found = inspection(frames=0.426, area=0.13)
    rejection = accept(found, CLIP, FilterConfig())
    assert rejection is not None
    assert (rejection.clip_id, rejection.stage) == ("a", "filter")
    assert rejection.reason == "a face in 42.6% of its frames, more than 60.0% needed"
    rejection = accept(found, CLIP, FilterConfig(share_of="area"))
    assert rejection is not None
    assert rejection.reason == ("a face that covers 13.0% of the picture, more than 60.0% needed")


@pytest.mark.parametrize("share_of", ["frames", "area"])
def test_a_threshold_of_zero_keeps_every_clip_with_a_face(share_of: str) -> None:
    config = FilterConfig(share_of=share_of, min_share=0.0)
    assert accept(inspection(frames=0.5, area=0.0), CLIP, config) is None
    rejection = accept(inspection(frames=0.0, area=0.0, seen=False), CLIP, config)
    assert rejection is not None
    assert rejection.reason == "no face"


def test_whole_clips_pass_by() -> None:
    found = inspection(frames=0.0, area=0.0, seen=False)
    assert accept(found, replace(CLIP, whole=True), FilterConfig()) is None
