"""What a recipe may say about the stages."""

import pytest

from common.config import load_config
from common.errors import ConfigError
from sft.config import TRAINABLE_GROUPS, SftConfig, StageConfig
from sft.stages import check_stages


def test_the_default_stages_train_what_the_paper_says_on_the_three_splits():
    config = load_config(SftConfig)
    assert [stage.split for stage in (config.stage_1, config.stage_2, config.stage_3)] == [
        "summary",
        "qa",
        "emotion_qa",
    ]
    assert "language_model" not in config.stage_1.trainable + config.stage_2.trainable
    assert "language_model" in config.stage_3.trainable


def test_the_parts_are_the_policys():
    from policy.modeling import PARTS

    assert set(TRAINABLE_GROUPS) == set(PARTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainable": ["projektor"]}, "known parts: general_encoder"),
        ({"trainable": []}, "at least one part"),
        ({"split": "held_out"}, "does not train on held-out"),
        ({"lr": 0.0}, "all are positive"),
        ({"epochs": -1.0}, "all are positive"),
        ({"batch_size": 0}, "all are positive"),
        ({"warmup_fraction": 1.0}, r"lies in \[0, 1\)"),
        ({"lora_rank": 8}, "add language_model"),
        ({"lora_rank": -1, "trainable": ["language_model"]}, "positive rank"),
    ],
)
def test_a_stage_that_cannot_be_meant_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        StageConfig(**{"trainable": ["projector"], **settings}).check()


def test_a_stage_is_overridden_on_the_command_line():
    config = load_config(SftConfig, overrides=["stage_3.lora_rank=16", "stage_1.epochs=8"])
    assert (config.stage_3.lora_rank, config.stage_1.epochs, config.stage_2.epochs) == (
        16,
        8.0,
        3.0,
    )


def test_stages_are_put_in_order():
    assert check_stages([3, 2]) == (2, 3)


@pytest.mark.parametrize("stages", [[], [0], [4], [1, 3]])
def test_stages_with_a_gap_or_outside_1_to_3_are_refused(stages):
    with pytest.raises(ConfigError, match="consecutive numbers from 1 to 3"):
        check_stages(stages)
