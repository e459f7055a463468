"""What a recipe says about the three progressive pre-training stages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from common.errors import ConfigError
from policy.freezing import FREEZE_TABLES, Phase, check_parts, default_rank, trainable_parts


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
    """Samples per optimiser step."""

    lr: float = 2e-4
    """Peak learning rate; linear warm-up, then cosine."""

    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises."""

    lora_rank: int | None = None
    """Rank of the language model's adapters, merged when the stage ends; 0 trains it in full, null
    does what the freeze table's paper does."""

    def check(self) -> None:
        check_parts(self.trainable)
        if self.split == "held_out":
            raise ConfigError(
                "split=held_out", "a stage does not train on held-out clips", "name another split"
            )
        if self.lr <= 0 or self.epochs <= 0 or self.batch_size < 1:
            raise ConfigError(
                f"lr={self.lr}, epochs={self.epochs}, batch_size={self.batch_size}",
                "all are positive",
                "correct the stage",
            )
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(
                f"warmup_fraction={self.warmup_fraction}",
                "a fraction of the steps lies in [0, 1)",
                "set warmup_fraction=0.1",
            )
        if self.lora_rank is not None and self.lora_rank < 0:
            raise ConfigError(
                f"lora_rank={self.lora_rank}",
                "adapters have a positive rank; 0 trains the language model in full",
                "set lora_rank=0",
            )


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

    checkpoint_every: int = 100
    """Optimiser steps from one checkpoint of a stage in training to the next, of which the last two
    are kept; 0 keeps none. An interrupted stage goes on from there."""

    evaluate: bool = True
    """After each stage, answer the held-out questions, read the answers, and measure what the loss
    owes to clips, order of frames and prompt: stage-N/evaluation.json."""

    max_answer_tokens: int = 32
    """Answers of that evaluation are cut here."""

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
        if self.max_answer_tokens < 1:
            raise ConfigError(
                f"sft.max_answer_tokens={self.max_answer_tokens}",
                "an answer has at least one token",
                "set sft.max_answer_tokens=32",
            )
        if not 0 <= self.max_skipped_fraction <= 1:
            raise ConfigError(
                f"sft.max_skipped_fraction={self.max_skipped_fraction}",
                "a fraction lies in [0, 1]",
                "set sft.max_skipped_fraction=0.2",
            )
        if self.checkpoint_every < 0:
            raise ConfigError(
                f"sft.checkpoint_every={self.checkpoint_every}",
                "steps between checkpoints are counted from 1; 0 keeps no checkpoints",
                "set sft.checkpoint_every=100",
            )
