"""The clipped policy objective and its three denominators (FaVChat v4, Eq. 14–16)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import ConfigError, SampleError
from degrpo.algorithm.checks import check_choice, check_shape, finite

DENOMINATORS = ("sequence", "token", "constant")
LOG_RATIO_LIMIT = 20.0  # far outside any clip range; exp(89) is infinite in float32


def response_coefficients(
    lengths: Float[Tensor, " N"],
    *,
    denominator: str = "constant",
    max_length: int | None = None,
    num_tokens: int | None = None,
    num_responses: int | None = None,
) -> Float[Tensor, " N"]:
    """c_k, the weight of y_k's *mean* token objective in the loss of a step with P*G responses.

    - ``sequence``: 1 / (P G). Every response counts alike, so that a token of a long one counts
      less.
    - ``token``: |y_k| / N with N the response tokens of the whole optimiser step.
    - ``constant``: |y_k| / (P G L_max). With unscaled advantages this alone leaves the gradient
      unbiased.

    The gradient of the loss at ratio 1 is therefore -sum_k c_k A_k g_k with g_k the gradient of
    y_k's mean token log-probability.

    Args:
        lengths: |y_k|, response tokens.
        max_length: L_max, the longest response that generation allows; needed by ``constant``.
        num_tokens: N; defaults to the sum of ``lengths``. Give the step's where this is a
            micro-batch.
        num_responses: P*G; defaults to how many ``lengths`` there are. Likewise.

    Raises:
        ConfigError: for another ``denominator``, or ``constant`` without a positive ``max_length``.
    """
    check_choice("denominator", denominator, DENOMINATORS)
    lengths = finite("lengths", lengths)
    responses = lengths.numel() if num_responses is None else num_responses
    if denominator == "sequence":
        return torch.full_like(lengths, 1 / responses)
    if denominator == "token":
        tokens = lengths.sum() if num_tokens is None else torch.as_tensor(num_tokens).to(lengths)
        return lengths / tokens.clamp(min=1)
    if max_length is None or max_length < 1:
        raise ConfigError(
            f"max_length={max_length}",
            "the `constant` denominator divides by the longest response that generation allows",
            "pass max_length=rollouts.max_response_tokens",
        )
    return lengths / (responses * max_length)


def importance_weights(
    log_probs: Float[Tensor, "N T"], sampler_log_probs: Float[Tensor, "N T"], *, cap: float = 2.0
) -> Float[Tensor, "N T"]:
    """Truncated importance weights min(pi_old / pi_sampler, cap) per token, detached.

    The sampler computes the policy in other kernels (and perhaps another version) than the learner
    does; ``log_probs`` are the learner's, under the version that the sampler was to have.
    """
    if cap < 1:
        raise ConfigError(f"tis_cap={cap}", "the cap is at least 1", "set algorithm.tis_cap=2.0")
    log_ratio = (log_probs.detach() - sampler_log_probs.detach()).clamp(
        -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT
    )
    return log_ratio.exp().clamp(max=cap)


def policy_loss(
    log_probs: Float[Tensor, "N T"],
    old_log_probs: Float[Tensor, "N T"],
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float = 0.2,
    denominator: str = "constant",
    max_length: int | None = None,
    num_tokens: int | None = None,
    num_responses: int | None = None,
    sampler_log_probs: Float[Tensor, "N T"] | None = None,
    tis_cap: float = 2.0,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """-sum_k c_k mean_t w_kt min(r_kt A_k, clip(r_kt, 1 ± clip) A_k) (FaVChat v4, Eq. 14–16).

    r_kt = pi_theta / pi_old per token, w_kt the truncated weight between learner and sampler (1
    where ``sampler_log_probs`` is None), c_k from :func:`response_coefficients`. The KL term is
    not here: it is part of the reward.

    Args:
        log_probs: ``[P*G, T]``, with gradient.
        old_log_probs: the learner's, of the policy that generated; no gradient is taken.
        advantages: ``[P, G]`` or ``[P*G]``.
        mask: ``[P*G, T]``, true at response tokens. What stands elsewhere is not read.
        clip: half-width of the clipped ratio.
        denominator, max_length, num_tokens, num_responses: see :func:`response_coefficients`.
        sampler_log_probs: the sampler's, of the same tokens.
        tis_cap: cap of w.

    Returns:
        The scalar loss and detached scalar metrics over response tokens (``loss/…``,
        ``rollout/…``).

    Raises:
        ConfigError: for another ``denominator``, other shapes, or a clip that is not positive.
        SampleError: for NaN or infinite advantages or log-probabilities of response tokens.
    """
    if clip <= 0:
        raise ConfigError(f"clip={clip}", "the clip range is positive", "set algorithm.clip=0.2")
    sampler = old_log_probs if sampler_log_probs is None else sampler_log_probs
    shape = tuple(log_probs.shape)
    for name, tensor in (
        ("old_log_probs", old_log_probs),
        ("mask", mask),
        ("sampler_log_probs", sampler),
    ):
        check_shape(name, tensor, shape)
    check_shape("advantages", advantages.flatten(), shape[:1])
    mask = mask.bool()
    current, old, sampler = (
        _response_log_probs(tensor, mask)
        for tensor in (log_probs, old_log_probs.detach(), sampler.detach())
    )
    advantage = finite("advantages", advantages).flatten()[:, None].to(current)

    ratio = (current - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    weight = importance_weights(old, sampler, cap=tis_cap)
    surrogate = weight * torch.minimum(
        ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    )
    lengths = mask.sum(dim=1).to(current)
    coefficients = response_coefficients(
        lengths,
        denominator=denominator,
        max_length=max_length,
        num_tokens=num_tokens,
        num_responses=num_responses,
    )
    per_response = torch.where(mask, surrogate, 0.0).sum(dim=1) / lengths.clamp(min=1)
    loss = -(coefficients * per_response).sum()
    return loss, _metrics(loss, ratio, advantage, weight, mask, clip, tis_cap)


def _response_log_probs(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities with 0 at padding, which may hold anything: -inf times 0 would be NaN."""
    chosen = torch.where(mask, log_probs, 0.0)
    if not bool(torch.isfinite(chosen.detach()).all()):
        rows = (~torch.isfinite(chosen.detach())).any(dim=1).nonzero().flatten().tolist()
        raise SampleError(
            f"NaN or infinite log-probabilities in responses {rows[:8]}",
            "every sampled token has a finite log-probability",
            "leave the sample out of the step; check that sampler and learner ban the same tokens",
        )
    return chosen if chosen.dtype == torch.float64 else chosen.float()


def _metrics(
    loss: Tensor,
    ratio: Tensor,
    advantage: Tensor,
    weight: Tensor,
    mask: Tensor,
    clip: float,
    cap: float,
) -> dict[str, Tensor]:
    ratio, tokens = ratio.detach(), mask.sum().clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return torch.where(mask, values.to(ratio), 0.0).sum() / tokens

    return {
        "loss/policy": loss.detach(),
        "loss/ratio/mean": mean(ratio),
        "loss/clip_fraction/high": mean((ratio > 1 + clip) & (advantage > 0)),
        "loss/clip_fraction/low": mean((ratio < 1 - clip) & (advantage < 0)),
        "rollout/importance/mean": mean(weight),
        "rollout/importance/max": torch.where(mask, weight, 0.0).max(),
        "rollout/importance/truncated_fraction": mean(weight >= cap),
    }
