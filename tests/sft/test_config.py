"""What a recipe may say about the stages."""

import math

import pytest

from common.config import load_config
from common.errors import ConfigError
from sft.config import SftConfig, StageConfig
from sft.stages import check_stages


def test_the_default_stages_train_what_the_paper_says_on_the_three_splits():
    config = load_config(SftConfig)
    assert [stage.split for stage in (config.stage_1, config.stage_2, config.stage_3)] == [
        "summary",
        "qa",
        "emotion_qa",
    ]
    assert [config.stage(number).trainable for number in (1, 2, 3)] == [
        ["general_encoder", "facial_encoder", "low_level", "high_level", "projector"],
        ["middle_level"],
        ["middle_level", "high_level", "language_model"],
    ]


def test_adapters_are_those_of_the_table_unless_the_recipe_says_otherwise():
    config = load_config(SftConfig, overrides=["freeze_table=v1"])
    assert [config.stage(number).lora_rank for number in (1, 2, 3)] == [0, 64, 64]
    config = load_config(SftConfig, overrides=["freeze_table=v1", "stage_3.lora_rank=0"])
    assert config.stage(3).lora_rank == 0
    config = load_config(SftConfig, overrides=["freeze_table=v1", "stage_2.trainable=[projector]"])
    assert config.stage(2).lora_rank == 0
    assert [load_config(SftConfig).stage(number).lora_rank for number in (1, 2, 3)] == [0, 0, 0]


def test_a_stage_may_say_itself_what_it_trains():
    config = load_config(SftConfig, overrides=["freeze_table=v1", "stage_3.trainable=[projector]"])
    assert "language_model" in config.stage(2).trainable
    assert config.stage(3).trainable == ["projector"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainable": ["projektor"]}, "known parts: general_encoder"),
        ({"split": "held_out"}, "does not train on held-out"),
        ({"lr": 0.0}, "got lr=0.0; it is positive and finite; set, say, lr=0.0002"),
        ({"lr": math.nan}, "got lr=nan; it is positive"),
        ({"lr": math.inf}, "got lr=inf; it is positive and finite"),
        ({"epochs": -1.0}, "got epochs=-1.0; it is positive"),
        ({"epochs": math.nan}, "got epochs=nan; it is positive"),
        ({"epochs": math.inf}, "got epochs=inf; it is positive and finite"),
        ({"batch_size": 0}, "got batch_size=0; it is positive"),
        ({"warmup_fraction": 1.0}, r"got warmup_fraction=1.0; .*lies in \[0, 1\)"),
        ({"warmup_fraction": math.nan}, r"got warmup_fraction=nan; .*lies in \[0, 1\)"),
        ({"lora_rank": -1}, "positive rank"),
        ({"weight_decay": -0.1}, "got weight_decay=-0.1; it is finite and not negative"),
        ({"weight_decay": math.nan}, "got weight_decay=nan; it is finite"),
        ({"weight_decay": math.inf}, "got weight_decay=inf; it is finite"),
        ({"max_grad_norm": -1.0}, "got max_grad_norm=-1.0; it is finite and not negative"),
        ({"max_grad_norm": math.nan}, "got max_grad_norm=nan; it is finite"),
        ({"max_grad_norm": math.inf}, "got max_grad_norm=inf; it is finite"),
        ({"turns": 0}, "got turns=0; it is positive"),
        ({"schedule": "cos"}, "one of cosine, linear, constant"),
        ({"loss": "answers"}, "one of tokens, samples"),
    ],
)
def test_a_stage_that_cannot_be_meant_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        StageConfig(**{"trainable": ["projector"], **settings}).check()


def test_the_bounds_themselves_are_fine():
    StageConfig(warmup_fraction=0.0, weight_decay=0.0, max_grad_norm=0.0, turns=1).check()
    for seed in (0, 2**31 - 1):
        SftConfig(seed=seed).check()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", r"got sft.seed=-1; a seed lies in \[0, 2147483647\]"),
        ("seed=2147483648", "got sft.seed=2147483648;"),
        ("max_skipped_fraction=.nan", "got sft.max_skipped_fraction=nan"),
        ("stage_2.lr=.nan", "got lr=nan"),
        ("stage_1.lora_rank=8", "add language_model"),  # v4's stage 1 leaves it frozen
        ("freeze_table=v5", "one of v4, v1"),
        ("checkpoint_every=-1", "0 keeps no checkpoints"),
        ("micro_batch_size=-1", "neither is negative"),
        ("num_readers=-1", "neither is negative"),
        ("max_evaluated=-1", "the last is not negative"),
        ("evaluation_batch_size=0", "the first two are positive"),
        ("ablations=[no_clips]", "known are swapped_clips"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(SftConfig, overrides=[override])


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
