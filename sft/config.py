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

    def check(self) -> None:
        unknown = [name for name in self.trainable if name not in TRAINABLE_GROUPS]
        if unknown:
            raise ConfigError(f"trainable={unknown}", f"known parts: {', '.join(TRAINABLE_GROUPS)}", "correct the stage's `trainable`")
        if not self.trainable:
            raise ConfigError("trainable=[]", "a stage trains at least one part", f"choose from {', '.join(TRAINABLE_GROUPS)}")
        if self.lr <= 0 or self.epochs <= 0 or self.batch_size < 1:
            raise ConfigError(f"lr={self.lr}, epochs={self.epochs}, batch_size={self.batch_size}", "all are positive", "correct the stage")


def _stage(split: str, *trainable: str) -> StageConfig:
    return StageConfig(split=split, trainable=list(trainable))


@dataclass(kw_only=True)
class SftConfig:
    """Three stages of growing difficulty (FaVChat v4 §2.3); each starts from the one before."""

    output_dir: str = "outputs/sft"
    """One folder per stage: stage-1, stage-2, stage-3."""

    stage_1: StageConfig = field(default_factory=lambda: _stage("summary", "facial_encoder", "low_level", "high_level", "projector"))
    """Video-summary pairs."""

    stage_2: StageConfig = field(default_factory=lambda: _stage("qa", "low_level", "middle_level", "projector"))
    """Question-answer pairs."""

    stage_3: StageConfig = field(default_factory=lambda: _stage("emotion_qa", "middle_level", "high_level", "projector", "language_model"))
    """Emotion-intensive question-answer pairs."""

    seed: int = 0
    """Order of the data and dropout."""

    max_skipped_fraction: float = 0.2
    """A stage stops when more of its clips than this cannot be decoded."""
