"""Advantages whose baseline trusts the critic as far as it has earned (FaVChat v4, Eq. 13)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import ConfigError
from degrpo.algorithm.checks import check_choice, check_shape, finite, group_rewards

SCALES = ("none", "batch_std", "group_std")
LEAST_DEVIATION = 1e-6


def shrinkage_kappa(within_variance: float, squared_error: float, group_size: int) -> float:
    """kappa, the share of the critic in the baseline that makes its squared error least.

    The mean of the other G-1 rewards errs by sigma^2 = m(s^2) / (G-1). The critic errs by
    MSE_V = max(0, m((Rbar - V)^2) - m(s^2) / G): the observed error less the part that is Rbar's
    own noise. The two errors are independent, so kappa = sigma^2 / (sigma^2 + MSE_V).

    Args:
        within_variance: m(s^2), mean over *earlier* groups of the unbiased variance of their
            rewards.
        squared_error: m((Rbar - V)^2) over the same groups.
        group_size: G.

    Returns:
        A number in [0, 1]; 0 when both errors are 0.

    Raises:
        ConfigError: when G < 2 or a mean of squares is negative or not finite.
    """
    if group_size < 2:
        raise ConfigError(
            f"group_size={group_size}", "G is at least 2", "set rollouts.group_size to at least 2"
        )
    if not (0 <= within_variance < float("inf") and 0 <= squared_error < float("inf")):
        raise ConfigError(
            f"within_variance={within_variance}, squared_error={squared_error}",
            "means of squares are finite and not negative",
            "leave groups with NaN rewards or values out of the running means",
        )
    leave_one_out = within_variance / (group_size - 1)
    critic = max(0.0, squared_error - within_variance / group_size)
    return leave_one_out / (leave_one_out + critic) if leave_one_out > 0 else 0.0


def shrinkage_advantage(
    rewards: Float[Tensor, "P G"],
    values: Float[Tensor, " P"],
    weights: Float[Tensor, " P"],
    kappa: float,
    *,
    scale: str = "none",
) -> Float[Tensor, "P G"]:
    """A_k = delta (R_k - b_k), b_k = (1 - kappa) mean_{j != k} R_j + kappa V(x), after Eq. 13.

    At kappa = 0 this is Eq. 13 for each response: mean_{j != k}(R_k - R_j) is the average pairwise
    reward difference of y_k. With kappa > 0 a group of equal rewards has A = kappa (Rbar - V),
    not 0. The gradient is unbiased when V, delta and kappa saw none of this group's responses and
    ``scale`` is ``none``.

    Args:
        rewards: R, KL included where it goes into the reward.
        values: V(x), before the critic trained on these groups.
        weights: delta(x), from the state before this visit.
        kappa: in [0, 1]; see :class:`BaselineStatistics`.
        scale: ``none``, or divide by the unbiased deviation of the rewards of the whole batch
            (``batch_std``) or of each group (``group_std``); 0 where that is under 1e-6.

    Raises:
        ConfigError: for another ``scale``, other shapes, G < 2 or kappa outside [0, 1].
        SampleError: for NaN or infinite numbers.
    """
    check_choice("scale", scale, SCALES)
    if not 0 <= kappa <= 1:
        raise ConfigError(
            f"kappa={kappa}", "kappa lies in [0, 1]", "take it from BaselineStatistics.kappa"
        )
    rewards = group_rewards(rewards)
    num_samples, group_size = rewards.shape
    check_shape("values", values, (num_samples,))
    check_shape("weights", weights, (num_samples,))
    values, weights = finite("values", values).to(rewards), finite("weights", weights).to(rewards)

    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (group_size - 1)
    baseline = (1 - kappa) * others + kappa * values[:, None]
    advantages = weights[:, None] * (rewards - baseline)
    if scale == "none":
        return advantages
    deviation = rewards.std(dim=1, keepdim=True) if scale == "group_std" else rewards.std()
    told_apart = deviation >= LEAST_DEVIATION
    return torch.where(told_apart, advantages / torch.where(told_apart, deviation, 1.0), 0.0)


def effective_sample_size(advantages: Tensor) -> float:
    """(sum |A|)^2 / sum A^2: how many equal contributions the step is worth; 0 when every A is 0.

    Raises:
        SampleError: for NaN or infinite advantages.
    """
    sizes = finite("advantages", advantages).abs()
    greatest = sizes.max() if sizes.numel() else sizes.sum()
    if greatest == 0:
        return 0.0
    sizes = sizes / greatest  # so that no square underflows
    return float(sizes.sum() ** 2 / (sizes**2).sum())


@dataclass(slots=True, kw_only=True)
class BaselineStatistics:
    """Running means over earlier groups from which kappa is read. Read first, update after.

    The mean is plain for the first ``horizon`` groups and exponential with that time constant
    after, since the critic improves while the run goes on.

    Example:
        >>> statistics = BaselineStatistics()
        >>> statistics.update(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([0.5, 0.5]))
        >>> statistics.within_variance, statistics.squared_error, statistics.count
        (0.25, 0.125, 2)
        >>> statistics.kappa(2, warmup=2)  # .25 / (.25 + 0): all of the error is noise of the mean
        0.9
    """

    within_variance: float = 0.0  # m(s^2)
    squared_error: float = 0.0  # m((Rbar - V)^2)
    count: int = 0
    horizon: int = 512

    def kappa(self, group_size: int, *, warmup: int = 64, maximum: float = 0.9) -> float:
        """:func:`shrinkage_kappa` of the means, at most ``maximum``; 0 before ``warmup`` groups."""
        if self.count < warmup:
            return 0.0
        return min(maximum, shrinkage_kappa(self.within_variance, self.squared_error, group_size))

    def update(self, rewards: Float[Tensor, "P G"], values: Float[Tensor, " P"]) -> None:
        """Take in the groups of a step: rewards, and V(x) from before it trained on them.

        Raises:
            ConfigError: for other shapes or G < 2.
            SampleError: for NaN or infinite numbers; the means are then unchanged.
        """
        rewards = group_rewards(rewards).double()
        check_shape("values", values, (rewards.shape[0],))
        errors = (rewards.mean(dim=1) - finite("values", values).to(rewards)) ** 2
        for variance, error in zip(rewards.var(dim=1).tolist(), errors.tolist(), strict=True):
            self.count += 1
            step = 1 / min(self.count, self.horizon)
            self.within_variance += step * (variance - self.within_variance)
            self.squared_error += step * (error - self.squared_error)

    def state_dict(self) -> dict[str, float]:
        """The means and the count, JSON-able."""
        return {
            "within_variance": self.within_variance,
            "squared_error": self.squared_error,
            "count": self.count,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from :meth:`state_dict`."""
        self.within_variance = float(state["within_variance"])
        self.squared_error = float(state["squared_error"])
        self.count = int(state["count"])
