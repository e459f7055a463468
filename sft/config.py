"""What a recipe says about the three progressive pre-training stages."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.errors import ConfigError

TRAINABLE_GROUPS = (
    "general_encoder",
    "facial_encoder",
    "low_level",
    "middle_level",
    "high_level",
    "projector",
    "language_model",
)


@dataclass(kw_only=True)
class StageConfig:
    """One stage: its data, what it trains, and how."""

    split: str = "qa"
    """Corpus split that the stage reads."""

    trainable: list[str] = field(default_factory=list)
    """Parts of the policy that get gradients (sft.config.TRAINABLE_GROUPS)."""

    epochs: float = 3.0
    """Passes over the split."""

    batch_size: int = 8
    """Samples per optimiser step."""

    lr: float = 2e-4
    """Peak learning rate; linear warm-up, then cosine."""

    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises."""

    lora_rank: int = 0
    """Rank of the language model's adapters, merged when the stage ends; 0 trains it in full."""

    def check(self) -> None:
        unknown = [name for name in self.trainable if name not in TRAINABLE_GROUPS]
        if unknown:
            raise ConfigError(
                f"trainable={unknown}",
                f"known parts: {', '.join(TRAINABLE_GROUPS)}",
                "correct the stage's `trainable`",
            )
        if not self.trainable:
            raise ConfigError(
                "trainable=[]",
                "a stage trains at least one part",
                f"choose from {', '.join(TRAINABLE_GROUPS)}",
            )
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
        if self.lora_rank < 0 or (self.lora_rank and "language_model" not in self.trainable):
            raise ConfigError(
                f"lora_rank={self.lora_rank}, trainable={self.trainable}",
                "adapters have a positive rank and belong to a language model that is trained",
                "set lora_rank=0, or add language_model to `trainable`",
            )


def _stage(split: str, *trainable: str) -> StageConfig:
    return StageConfig(split=split, trainable=list(trainable))


@dataclass(kw_only=True)
class SftConfig:
    """Three stages of growing difficulty (FaVChat v4 §2.3); each starts from the one before."""

    output_dir: str = "outputs/sft"
    """One folder per stage: stage-1, stage-2, stage-3."""

    stage_1: StageConfig = field(
        default_factory=lambda: _stage(
            "summary", "facial_encoder", "low_level", "high_level", "projector"
        )
    )
    """Video-summary pairs."""

    stage_2: StageConfig = field(
        default_factory=lambda: _stage("qa", "low_level", "middle_level", "projector")
    )
    """Question-answer pairs."""

    stage_3: StageConfig = field(
        default_factory=lambda: _stage(
            "emotion_qa", "middle_level", "high_level", "projector", "language_model"
        )
    )
    """Emotion-intensive question-answer pairs."""

    seed: int = 0
    """Order of the data and dropout."""

    max_skipped_fraction: float = 0.2
    """A stage stops when more of its samples than this have a clip that cannot be decoded."""

    tensorboard: bool = True
    """Write the curves of each stage to stage-N/tensorboard."""

    def check(self) -> None:
        if not 0 <= self.max_skipped_fraction <= 1:
            raise ConfigError(
                f"sft.max_skipped_fraction={self.max_skipped_fraction}",
                "a fraction lies in [0, 1]",
                "set sft.max_skipped_fraction=0.2",
            )
