"""Gradient sensitivity: how differently responses pull at the policy (FaVChat v4, Eq. 9)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import ConfigError
from degrpo.algorithm.checks import check_choice, check_shape, finite
from degrpo.algorithm.separability import reward_pairs

METRICS = ("euclidean", "cosine")
LENGTH_POWERS = {"mean": 0.0, "sqrt": 0.5, "sum": 1.0}  # g_k is multiplied by |y_k| to this power


def gradient_sensitivity(
    gram: Float[Tensor, "P G G"],
    rewards: Float[Tensor, "P G"],
    *,
    metric: str = "euclidean",
    pairs: str = "all",
    lengths: Tensor | None = None,
    length: str = "mean",
) -> Float[Tensor, " P"]:
    """S_grad(x) = mean over the pairs i < j of ||g_i - g_j|| (FaVChat v4, Eq. 9).

    g_k is the gradient of y_k's mean token log-probability. Only the Gram matrix K = (<g_i, g_j>)
    is needed: ||g_i - g_j||^2 = K_ii + K_jj - 2 K_ij, clamped at 0 against rounding.

    Args:
        gram: K per sample, accumulated in float32 or better.
        rewards: says which pairs are ties; read by ``pairs="strict"`` only.
        metric: ``euclidean``, or ``cosine`` sqrt(2 - 2 cos(g_i, g_j)), 0 where a gradient vanishes.
        pairs: ``all``, or ``strict`` to drop pairs of equal reward.
        lengths: ``[P, G]`` response tokens |y_k|; needed unless ``length`` is ``mean``.
        length: ``mean`` takes g_k as it is; its norm falls roughly as |y|^-.46, so that short
            answers look sensitive. ``sqrt`` multiplies by |y_k|^.5, which levels that; ``sum`` by
            |y_k|.

    Returns:
        One number per sample, >= 0; 0 where no pair counts.

    Raises:
        ConfigError: for another option, another shape, G < 2, or lengths that are missing or not
            positive.
        SampleError: for NaN or infinite numbers.
    """
    check_choice("metric", metric, METRICS)
    check_choice("length", length, LENGTH_POWERS)
    paired = reward_pairs(rewards, pairs)
    num_samples, group_size = rewards.shape
    check_shape("gram", gram, (num_samples, group_size, group_size))
    gram = finite("gram", gram)
    if length != "mean":
        factors = _length_factors(lengths, (num_samples, group_size), LENGTH_POWERS[length]).to(
            gram
        )
        gram = gram * factors[:, :, None] * factors[:, None, :]

    squared_norms = torch.diagonal(gram, dim1=1, dim2=2)
    norm_i, norm_j = squared_norms[:, paired.first], squared_norms[:, paired.second]
    inner = gram[:, paired.first, paired.second]
    if metric == "euclidean":
        return paired.mean((norm_i + norm_j - 2 * inner).clamp(min=0).sqrt())
    # Roots before the product: the product of two small squared norms would underflow.
    scale = norm_i.clamp(min=0).sqrt() * norm_j.clamp(min=0).sqrt()
    cosine = (inner / torch.where(scale > 0, scale, 1.0)).clamp(-1, 1)
    return paired.mean(torch.where(scale > 0, (2 - 2 * cosine).sqrt(), 0.0))


def _length_factors(lengths: Tensor | None, shape: tuple[int, int], power: float) -> Tensor:
    if lengths is None:
        raise ConfigError(
            "lengths=None", "`sqrt` and `sum` need the response lengths", "pass lengths [P, G]"
        )
    check_shape("lengths", lengths, shape)
    lengths = finite("lengths", lengths)
    if bool((lengths <= 0).any()):
        raise ConfigError(
            f"a response of {int(lengths.min())} tokens",
            "every response has at least one token",
            "leave empty responses out of the step",
        )
    return lengths**power
