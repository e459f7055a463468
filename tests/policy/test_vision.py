"""The vision side as a whole: windows, padding and time, for both kinds of encoders."""

from __future__ import annotations

import pytest
import torch

from common.errors import ConfigError
from tests.policy.small_policies import NUM_FRAMES, PAPER, UMT, small_clips, small_policy

SIDES = {
    "frame encoders": {},
    "paper": PAPER,
    "joint time, other width": {**PAPER, "general_encoder_options": {**UMT, "width": 16}},
    "joint time alone": {**PAPER, "facial_source": "general"},
    "v1": {**PAPER, "low_level": "visual_query", "gate": "feature", "fusion": "concat"},
    "last stage": {**PAPER, "low_level": "final_cross_attention"},
    "no levels": {**PAPER, "low_level": "none", "middle_level": "unguided", "gate": "static"},
}


def rows(model, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model.visual_prefix(**inputs).rows


def one_clip(clips: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """A clip of a batch without its padding."""
    frames = int(clips["frame_mask"][index].sum())
    words = int(clips["query_mask"][index].sum())
    alone = {}
    for name, value in clips.items():
        length = words if name.startswith("query") else frames
        alone[name] = value[index, None, :length]
    return alone


@pytest.mark.parametrize("side", SIDES)
def test_a_clip_gives_the_same_rows_alone_and_padded_beside_a_longer_one(side):
    model = small_policy(**SIDES[side]).double()
    clips = small_clips(model.config)
    together = rows(model, **clips)
    for index in range(2):
        alone = one_clip(clips, index)
        torch.testing.assert_close(rows(model, **alone)[0], together[index], atol=1e-10, rtol=1e-9)
        alone.pop("frame_mask")  # None: no padding
        torch.testing.assert_close(rows(model, **alone)[0], together[index], atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("side", SIDES)
def test_padding_that_no_clip_needs_changes_nothing(side):
    """All clips of the batch shorter than its tensors, with rubbish in the padding."""
    model = small_policy(**SIDES[side]).double()
    clips = small_clips(model.config)
    clips["frame_mask"][:, -2:] = False
    expected = rows(model, **clips)
    for name in ("general_pixels", "facial_pixels"):
        if name in clips:
            clips[name][:, -2:] = 1e3
    clips["query_ids"][1, -2:] = 7
    torch.testing.assert_close(rows(model, **clips), expected, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("side", SIDES)
def test_the_order_of_frames_shows_in_every_stream(side):
    model = small_policy(**SIDES[side]).double()
    clips = small_clips(model.config, clips=1)
    forwards = rows(model, **clips)
    for name in [name for name in clips if name.endswith("pixels")]:
        turned = rows(model, **{**clips, name: clips[name].flip(1)})
        assert (turned - forwards).abs().max() > 1e-4, name


@pytest.mark.parametrize("window", [1, 3, NUM_FRAMES, 9])
def test_windows_of_frame_encoders_are_the_whole(window):
    whole = small_policy().double()
    clips = small_clips(whole.config)
    expected = rows(whole, **clips)
    whole.config.frames_per_clip = window
    torch.testing.assert_close(rows(whole, **clips), expected, atol=1e-10, rtol=1e-9)


def test_windows_of_joint_time_encoders_are_clips_of_their_own():
    model = small_policy(**PAPER, frames_per_clip=3).double()
    pixels = small_clips(model.config)["general_pixels"]
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    with torch.no_grad():
        (maps,) = model.encode_frames("general", pixels, mask)
        encoder = model.general_encoder
        first = torch.cat([encoder(pixels[:1, :3])[-1], encoder(pixels[:1, 3:])[-1]], dim=1)
        second = encoder(pixels[1:, :2])[-1]
    torch.testing.assert_close(maps[:1], first, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(maps[1:, :2], second, atol=1e-12, rtol=1e-12)
    assert not maps[1, 2:].any()
    assert maps.shape[1] == NUM_FRAMES


def test_windows_whose_order_nothing_shows_are_refused():
    """Tokens of a published encoder tell windows apart only when the policy is built for it."""
    model = small_policy(**PAPER)
    clips = small_clips(model.config)
    model.config.frames_per_clip = NUM_FRAMES
    rows(model, **clips)  # one window
    with torch.no_grad():
        features = model.encode_frames("general", clips["general_pixels"])[-1]
    model.config.frames_per_clip = NUM_FRAMES - 1
    named = "frames_per_clip=3 for a clip of 4 frames"
    with pytest.raises(ConfigError, match=named):
        model.encode_frames("general", clips["general_pixels"])
    with pytest.raises(ConfigError, match=named):
        rows(model, **clips)
    clips.pop("general_pixels")
    with pytest.raises(ConfigError, match=named):
        rows(model, **clips, general_features=features)
    built = small_policy(**PAPER, frames_per_clip=NUM_FRAMES - 1)
    rows(built, **clips, general_features=features)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", SIDES)
def test_what_is_not_finite_in_padding_reaches_neither_rows_nor_gradients(side, bad):
    model = small_policy(**SIDES[side]).double()
    model.requires_grad_(True)
    clips = small_clips(model.config)
    streams = [name for name in clips if name.endswith("pixels")]

    def result() -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        model.zero_grad()
        given = model.visual_prefix(**clips).rows
        (given**2).sum().backward()
        return given.detach(), [p.grad for p in model.parameters()]

    for name in streams:
        clips[name][1, -1] = 0
    expected, gradients = result()
    for name in streams:
        clips[name][1, -1] = bad
    got, poisoned = result()
    assert torch.equal(got, expected)
    for ours, theirs in zip(poisoned, gradients, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


def test_features_that_are_not_finite_in_padding_are_as_good_as_zeros():
    model = small_policy(**PAPER)
    clips = small_clips(model.config)
    mask = clips["frame_mask"]
    with torch.no_grad():
        general = model.encode_frames("general", clips.pop("general_pixels"), mask)[-1]
        facial = model.encode_frames("facial", clips.pop("facial_pixels"), mask)
    features = {"general_features": general, "facial_features": facial}
    expected = rows(model, **clips, **features)
    for stage in (general, *facial):
        stage[1, -1] = float("nan")
    assert torch.equal(rows(model, **clips, **features), expected)
    assert general[1, -1].isnan().all()  # what was given stays as it was


def test_facial_maps_are_averaged_down_to_the_grid():
    model = small_policy(**PAPER, facial_grid=4)
    pixels = small_clips(model.config)["facial_pixels"]
    with torch.no_grad():
        maps = model.encode_frames("facial", pixels)
        whole = model.facial_encoder(pixels)
    assert [m.shape[-1] for m in whole] == [16, 8, 4, 2]
    assert [m.shape[-1] for m in maps] == [4, 4, 4, 2]
    expected = whole[0].unflatten(-1, (4, 4)).mean(-1).unflatten(-2, (4, 4)).mean(-2)
    torch.testing.assert_close(maps[0], expected)


def test_features_of_another_dtype_are_taken():
    """A cache keeps bfloat16."""
    model = small_policy(**PAPER)
    clips = small_clips(model.config)
    expected = rows(model, **clips)
    with torch.no_grad():
        general = model.encode_frames("general", clips.pop("general_pixels"), clips["frame_mask"])
        facial = model.encode_frames("facial", clips.pop("facial_pixels"), clips["frame_mask"])
    rounded = rows(
        model,
        **clips,
        general_features=general[-1].bfloat16(),
        facial_features=[stage.bfloat16() for stage in facial],
    )
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - expected).std() < 0.02 * expected.std()
