"""What a recipe says about the three progressive pre-training stages."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from common.errors import ConfigError
from policy.freezing import FREEZE_TABLES, Phase, check_parts, default_rank, trainable_parts
from sft.evaluation.records import Ablation

SCHEDULES = ("cosine", "linear", "constant")
LOSSES = ("tokens", "samples")
ABLATIONS = tuple(ablation.value for ablation in Ablation)
LARGEST_SEED = 2**31 - 1
"""NumPy takes seeds of 32 bits, and each epoch adds its number to the seed."""


@dataclass(kw_only=True)
class StageConfig:
    """One stage: its data, what it trains, and how."""

    split: str = "qa"
    """Corpus split that the stage reads."""

    trainable: list[str] = field(default_factory=list)
    """Parts of the policy that get gradients (policy.freezing.PARTS); empty: as the freeze table
    says."""

    epochs: float = 3.0
    """Passes over the split."""

    batch_size: int = 8
    """Conversations per optimiser step, over all ranks."""

    lr: float = 2e-4
    """Peak learning rate, reached linearly."""

    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises."""

    schedule: str = "cosine"
    """The learning rate after that: `cosine` or `linear` down to zero, or `constant`."""

    weight_decay: float = 0.0
    """Of AdamW."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""

    loss: str = "tokens"
    """What weighs the same in a batch: `tokens` of answers, or `samples`, however long they are."""

    turns: int = 1
    """Questions about one clip in one conversation, at most. The clip is seen in the light of the
    first; every answer counts."""

    group_by_length: bool = False
    """Batch texts of about the same length, so that less is padding."""

    lora_rank: int | None = None
    """Rank of the language model's adapters, merged when the stage ends; 0 trains it in full, null
    does what the freeze table's paper does."""

    def check(self) -> None:
        check_parts(self.trainable)
        if self.split == "held_out":
            raise ConfigError(
                "split=held_out", "a stage does not train on held-out clips", "name another split"
            )
        self._check_numbers()
        for name, choices in (("schedule", SCHEDULES), ("loss", LOSSES)):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name}={getattr(self, name)}",
                    f"it is one of {', '.join(choices)}",
                    f"set {name}={choices[0]}",
                )
        if self.lora_rank is not None and self.lora_rank < 0:
            raise ConfigError(
                f"lora_rank={self.lora_rank}",
                "adapters have a positive rank; 0 trains the language model in full",
                "set lora_rank=0",
            )

    def _check_numbers(self) -> None:
        for name in ("lr", "epochs", "batch_size", "turns"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"{name}={value}", "it is positive and finite", _default_of(name))
        for name in ("weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(
                    f"{name}={value}", "it is finite and not negative", _default_of(name)
                )
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(
                f"warmup_fraction={self.warmup_fraction}",
                "a fraction of the steps lies in [0, 1)",
                _default_of("warmup_fraction"),
            )


def _default_of(name: str) -> str:
    """A fix for a field of a stage: its default."""
    return f"set, say, {name}={getattr(StageConfig, name)}"


@dataclass(kw_only=True)
class SftConfig:
    """Three stages of growing difficulty (FaVChat v4 §2.3); each starts from the one before."""

    output_dir: str = "outputs/sft"
    """One folder per stage: stage-1, stage-2, stage-3."""

    freeze_table: str = "v4"
    """Which parts each stage trains unless it says so itself: `v4` or `v1` (policy.freezing)."""

    stage_1: StageConfig = field(default_factory=lambda: StageConfig(split="summary"))
    """Video-summary pairs."""

    stage_2: StageConfig = field(default_factory=lambda: StageConfig(split="qa"))
    """Question-answer pairs."""

    stage_3: StageConfig = field(default_factory=lambda: StageConfig(split="emotion_qa"))
    """Emotion-intensive question-answer pairs."""

    seed: int = 0
    """Order of the data and dropout."""

    max_skipped_fraction: float = 0.2
    """A stage stops when more of its samples than this have a clip that cannot be decoded."""

    micro_batch_size: int = 0
    """Conversations that a rank takes at a time, their gradients summed up; 0: its share of a batch
    at once. Fewer need less memory."""

    gradient_checkpointing: bool = False
    """Compute the language model's activations again for the backward pass: slower, less memory."""

    deepspeed: str = ""
    """DeepSpeed's JSON config, such as configs/deepspeed/zero3.json, for runs of several ranks."""

    num_readers: int = 2
    """Threads of a rank that decode clips before training; features are computed beside them."""

    checkpoint_every: int = 100
    """Optimiser steps from one checkpoint of a stage in training to the next, of which the last two
    are kept; 0 keeps none. An interrupted stage goes on from there."""

    evaluate: bool = True
    """After each stage, answer the held-out questions, read the answers, and measure what the loss
    owes to clips, order of frames and prompt: stage-N/evaluation.json."""

    max_answer_tokens: int = 32
    """Answers of that evaluation are cut here."""

    ablations: list[str] = field(default_factory=lambda: list(ABLATIONS))
    """What that evaluation takes from the policy to see what it is worth, one pass over the
    questions each."""

    max_evaluated: int = 512
    """Samples of a stage's split, and held-out ones, that are looked at after it; they are spread
    evenly over all. 0: all."""

    evaluation_batch_size: int = 16
    """Questions that are answered at a time; one rank does it."""

    tensorboard: bool = True
    """Write the curves of each stage to stage-N/tensorboard."""

    def stage(self, number: int) -> StageConfig:
        """Stage 1, 2 or 3 with what it leaves open filled in from the freeze table.

        Raises:
            ConfigError: for adapters on a language model that the stage does not train.
        """
        stage: StageConfig = getattr(self, f"stage_{number}")
        phase = Phase(f"stage_{number}")
        parts = stage.trainable or list(trainable_parts(self.freeze_table, phase))
        rank = stage.lora_rank
        if rank is None:
            trained = "language_model" in parts
            rank = default_rank(self.freeze_table, phase) if trained else 0
        if rank and "language_model" not in parts:
            raise ConfigError(
                f"sft.stage_{number}.lora_rank={rank}, trainable={parts}",
                "adapters belong to a language model that is trained",
                f"set sft.stage_{number}.lora_rank=0, or add language_model to its `trainable`",
            )
        return replace(stage, trainable=list(parts), lora_rank=rank)

    def check(self) -> None:
        if self.freeze_table not in FREEZE_TABLES:
            raise ConfigError(
                f"sft.freeze_table={self.freeze_table}",
                f"it is one of {', '.join(FREEZE_TABLES)}",
                "set sft.freeze_table=v4",
            )
        for number in (1, 2, 3):
            self.stage(number)
        if unknown := [name for name in self.ablations if name not in ABLATIONS]:
            raise ConfigError(
                f"sft.ablations={unknown}",
                f"known are {', '.join(ABLATIONS)}",
                "name some of these",
            )
        if self.max_answer_tokens < 1 or self.evaluation_batch_size < 1 or self.max_evaluated < 0:
            raise ConfigError(
                f"sft.max_answer_tokens={self.max_answer_tokens}, "
                f"sft.evaluation_batch_size={self.evaluation_batch_size}, "
                f"sft.max_evaluated={self.max_evaluated}",
                "the first two are positive, the last is not negative",
                "set sft.max_answer_tokens=32, sft.evaluation_batch_size=16, sft.max_evaluated=512",
            )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ConfigError(
                f"sft.seed={self.seed}", f"a seed lies in [0, {LARGEST_SEED}]", "set sft.seed=0"
            )
        if not 0 <= self.max_skipped_fraction <= 1:
            raise ConfigError(
                f"sft.max_skipped_fraction={self.max_skipped_fraction}",
                "a fraction lies in [0, 1]",
                "set sft.max_skipped_fraction=0.2",
            )
        if self.micro_batch_size < 0 or self.num_readers < 0:
            raise ConfigError(
                f"sft.micro_batch_size={self.micro_batch_size}, sft.num_readers={self.num_readers}",
                "neither is negative",
                "set sft.micro_batch_size=0 for a whole share at once, sft.num_readers=2",
            )
        if self.checkpoint_every < 0:
            raise ConfigError(
                f"sft.checkpoint_every={self.checkpoint_every}",
                "steps between checkpoints are counted from 1; 0 keeps no checkpoints",
                "set sft.checkpoint_every=100",
            )
