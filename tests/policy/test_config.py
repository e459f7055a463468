"""What a recipe may say about the policy."""

from __future__ import annotations

import pytest

from common.config import load_config
from common.errors import ConfigError
from policy.config import CHOICES, PolicyConfig


def test_defaults_hold_and_are_the_first_choices():
    config = load_config(PolicyConfig)
    assert {key: getattr(config, key) for key in CHOICES} == {
        key: allowed[0] for key, allowed in CHOICES.items()
    }


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["gate=learned"], "one of text, feature, static"),
        (["dtype=float16"], "one of float32, bfloat16"),
        (["num_frames=0"], "at least 1"),
        (["num_frames=129"], "at most 128"),
        (["num_frames=4", "min_frames=5"], "at most num_frames"),
        (["frames_per_clip=-1"], "not negative"),
        (["fps=0"], "it is positive"),
        (["feature_cache_gib=-1"], "not negative"),
        (["low_level=visual_query", "facial_source=general"], "without a facial encoder"),
        (["face_required=true", "face_crop=none"], "where one is looked for"),
        (["face_required=true", "facial_source=general"], "where one is looked for"),
        (["published.facexformr=x"], r"did you mean published\.facexformer"),
    ],
)
def test_what_cannot_be_meant_is_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_config(PolicyConfig, overrides=overrides)


def test_long_clips_and_encoder_options_are_read():
    config = load_config(
        PolicyConfig,
        overrides=[
            *("num_frames=128", "frames_per_clip=16"),
            "general_encoder_options.normalisation=clip",
        ],
    )
    assert (config.num_frames, config.frames_per_clip) == (128, 16)
    assert config.general_encoder_options == {"normalisation": "clip"}
