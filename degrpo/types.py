"""What passes between the loop, the learner and the scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policy.mixed_prompt import MixedPrompt
from rollouts.types import Response


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainGroup:
    """One sample's visit as the learner receives it.

    ``rewards`` are without KL; ``weight`` is delta(x), read from the sample's state before this
    visit (Eq. 12; docs/algorithm.md says why before).
    """

    sample_id: str
    prompt: MixedPrompt
    responses: tuple[Response, ...]  # G
    rewards: tuple[float, ...]  # G
    weight: float = 1.0
    generate_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleStatistics:
    """What the learner measured on one visit of one sample.

    Example:
        >>> SampleStatistics(sample_id="3f9c2b7a10de44c1", rewards=(0.61, 0.35, 0.70, 0.55),
        ...     separability=0.19, sensitivity=2.3, value=0.5, weight=1.0,
        ...     advantage_abs_mean=0.11, response_tokens=88,
        ...     generate_seconds=1.9, learn_seconds=2.4)
    """

    sample_id: str
    rewards: tuple[float, ...]  # G, without KL
    separability: float  # S_sep, Eq. 8
    sensitivity: float  # S_grad, Eq. 9
    value: float  # V(x) before it trained on this group
    weight: float  # delta(x) that the update used
    advantage_abs_mean: float
    response_tokens: int
    generate_seconds: float
    learn_seconds: float  # this sample's share of the update


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """One optimiser step: statistics per sample, metrics for the step, and what it left out."""

    statistics: tuple[SampleStatistics, ...]
    metrics: Mapping[str, float]
    policy_version: int
    failed: Mapping[str, str] = field(default_factory=dict)  # sample_id -> reason (non-finite, say)
