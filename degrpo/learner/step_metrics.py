"""What one update reports about itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from degrpo.algorithm import effective_sample_size, policy_loss
from degrpo.config import AlgorithmConfig
from degrpo.learner.visits import GroupVisit, StepTotals, padded

REPORTED_LOSS_METRICS = (  # at ratio 1 the others are constant
    "loss/policy",
    "rollout/importance/mean",
    "rollout/importance/max",
    "rollout/importance/truncated_fraction",
)


def visit_metrics(
    visits: Sequence[GroupVisit], totals: StepTotals, algorithm: AlgorithmConfig
) -> dict[str, float]:
    """Losses, rewards and sampler agreement over the finished groups of a step."""
    members = [(visit, k) for visit in visits for k in range(len(visit.group.responses))]
    log_probs = padded([visit.log_probs[k].cpu() for visit, k in members])
    sampler = padded([visit.sampler_log_probs(k) for visit, k in members]).to(log_probs)
    lengths = torch.tensor([length for visit in visits for length in visit.lengths])
    mask = torch.arange(log_probs.shape[1]) < lengths[:, None]
    advantages = torch.cat([visit.advantages for visit in visits if visit.advantages is not None])
    _, loss_metrics = policy_loss(
        log_probs,
        log_probs,
        advantages,
        mask,
        clip=algorithm.clip,
        denominator="constant",
        max_length=totals.max_length,
        num_responses=totals.num_responses,
        sampler_log_probs=sampler,
        tis_cap=algorithm.tis_cap,
    )
    differences = (log_probs - sampler)[mask].abs()
    shaped = torch.cat(
        [visit.shaped_rewards for visit in visits if visit.shaped_rewards is not None]
    )
    rewards = torch.tensor([reward for visit in visits for reward in visit.group.rewards])
    sizes = torch.stack(
        [visit.advantages.abs().mean() for visit in visits if visit.advantages is not None]
    )
    return {
        **{name: loss_metrics[name].item() for name in REPORTED_LOSS_METRICS},
        "reward/mean": rewards.mean().item(),
        "reward/with_kl/mean": shaped.mean().item(),
        "reward/kl/mean": torch.cat([visit.kl() for visit in visits]).mean().item(),
        "reward/separability/mean": _mean([visit.separability for visit in visits]),
        "optim/sensitivity/mean": _mean([visit.sensitivity for visit in visits]),
        "optim/value/mean": _mean([visit.value for visit in visits]),
        "optim/advantage_abs/mean": sizes.mean().item(),
        "optim/effective_samples": effective_sample_size(sizes),
        "rollout/log_prob_diff/mean": differences.mean().item(),
        "rollout/log_prob_diff/max": differences.max().item(),
        "rollout/response_tokens/mean": lengths.double().mean().item(),
    }


def explained_variance(pairs: Sequence[tuple[float, float]]) -> float:
    """1 - mean (R - V)^2 / var R over pairs of a group's mean reward R and V(x) from before.

    1 for a perfect critic, 0 for one that knows only the mean, negative for a worse one; 0 where R
    does not vary.
    """
    if len(pairs) < 2:
        return 0.0
    rewards, values = torch.tensor(pairs, dtype=torch.float64).T
    variance = rewards.var(correction=0)
    if variance < 1e-12:
        return 0.0
    return (1 - (rewards - values).square().mean() / variance).item()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
