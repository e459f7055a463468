"""Reward separability: how far apart the rewards of a group lie (FaVChat v4, Eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.errors import ConfigError
from degrpo.algorithm.checks import check_choice, group_rewards

PAIRS = ("all", "strict")
GEOMETRIC_FLOOR = (
    1e-6  # the authors' trainer adds it under the logarithm, so that one tie does not zero the mean
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardPairs:
    """The N = G(G-1)/2 unordered pairs of a group and which of them count."""

    first: Int[Tensor, " N"]
    second: Int[Tensor, " N"]
    gaps: Float[Tensor, "P N"]  # |R_i - R_j|
    counted: Bool[Tensor, "P N"]

    def mean(self, values: Float[Tensor, "P N"]) -> Float[Tensor, " P"]:
        """Mean of ``values`` over the pairs that count; 0 where none does."""
        total = torch.where(self.counted, values, 0.0).sum(dim=1)
        return total / self.counted.sum(dim=1).clamp(min=1)


def reward_pairs(rewards: Float[Tensor, "P G"], pairs: str = "all") -> RewardPairs:
    """Pair each group's responses: ``all``, or (``strict``) those whose rewards differ."""
    check_choice("pairs", pairs, PAIRS)
    rewards = group_rewards(rewards)
    group_size = rewards.shape[1]
    first, second = torch.triu_indices(group_size, group_size, offset=1, device=rewards.device)
    gaps = (rewards[:, first] - rewards[:, second]).abs()
    counted = gaps > 0 if pairs == "strict" else torch.ones_like(gaps, dtype=torch.bool)
    return RewardPairs(first=first, second=second, gaps=gaps, counted=counted)


def reward_separability(
    rewards: Float[Tensor, "P G"], *, power: float = 1.0, pairs: str = "all"
) -> Float[Tensor, " P"]:
    """S_sep(x) = M_p over the pairs i < j of |R_i - R_j| (FaVChat v4, Eq. 8).

    M_p is the power mean: 1 the arithmetic mean, 0 the geometric mean exp mean log(|R_i - R_j| +
    1e-6). It scales with the rewards (but for the 1e-6) and does not see a shift. For binary
    rewards with k successes the default is 2k(G-k)/(G(G-1)), twice the unbiased variance.

    Args:
        rewards: without KL.
        power: p, 0 or in [.25, 4]. The greatest gap is factored out, so that no power over- or
            underflows.
        pairs: ``all``, or ``strict`` to drop ties. Strict pairs of binary rewards are all 1 apart,
            which says nothing.

    Returns:
        One number per sample, >= 0; 0 where no pair counts.

    Raises:
        ConfigError: for another ``power`` or ``pairs``, another shape, or G < 2.
        SampleError: for NaN or infinite rewards.
    """
    if power != 0 and not 0.25 <= power <= 4:
        raise ConfigError(
            f"power={power}",
            "the power mean takes p = 0 (geometric) or p in [.25, 4]",
            "set algorithm.separability_power=1.0",
        )
    paired = reward_pairs(rewards, pairs)
    if power == 0:
        mean = torch.exp(paired.mean(torch.log(paired.gaps + GEOMETRIC_FLOOR)))
        return torch.where(paired.counted.any(dim=1), mean, 0.0)
    greatest = paired.gaps.amax(dim=1)
    scaled = paired.gaps / torch.where(greatest > 0, greatest, 1.0)[:, None]
    return greatest * paired.mean(scaled**power) ** (1 / power)
