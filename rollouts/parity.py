"""Do sampler and learner compute the same distribution?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import ParityError


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """How far two sets of log-probs lie apart.

    Example:
        >>> ParityReport(max=3e-5, mean=5e-6, num_tokens=32, worst_sample_id="3f9c2b7a10de44c1",
        ...     policy_version=3)
    """

    max: float  # largest |sampler - learner| over all tokens
    mean: float  # mean of the same
    num_tokens: int
    worst_sample_id: str
    policy_version: int


def compare(
    sampler_log_probs: Sequence[Sequence[float]],
    learner_log_probs: Sequence[Sequence[float]],
    *,
    sample_ids: Sequence[str],
    sampler_version: int,
    learner_version: int,
    max_allowed: float,
    mean_allowed: float,
) -> ParityReport:
    """Compare log-probs of the same tokens, response by response.

    Args:
        sampler_log_probs, learner_log_probs: one list per response, one number per token.
        sample_ids: the sample of each response.
        max_allowed, mean_allowed: bounds on |difference|, both inclusive.

    Raises:
        ParityError: when the versions differ, the two sides do not have the same tokens or none, a
            number is not finite, or a bound is broken. Names the amount, the prompts, the versions.
    """
    versions = f"sampler at policy version {sampler_version}, learner at {learner_version}"
    if sampler_version != learner_version:
        raise ParityError(
            versions, "both sides speak of one policy", "sync the sampler before the probe"
        )
    lengths = [[len(row) for row in side] for side in (sampler_log_probs, learner_log_probs)]
    if lengths[0] != lengths[1] or len(sample_ids) != len(lengths[0]) or not sum(lengths[0]):
        raise ParityError(
            f"{lengths[0]} against {lengths[1]} log-probs for {len(sample_ids)} samples",
            "both sides score the same tokens, at least one",
            "give the learner the token ids that the sampler returned",
        )
    differences = [
        [abs(ours - theirs) for ours, theirs in zip(*rows, strict=True)]
        for rows in zip(sampler_log_probs, learner_log_probs, strict=True)
    ]
    _refuse_non_finite(differences, sample_ids, versions)
    worst = [max(row, default=0.0) for row in differences]
    flat = [value for row in differences for value in row]
    report = ParityReport(
        max=max(worst),
        mean=math.fsum(flat) / len(flat),
        num_tokens=len(flat),
        worst_sample_id=sample_ids[worst.index(max(worst))],
        policy_version=sampler_version,
    )
    if report.max > max_allowed or report.mean > mean_allowed:
        # Sorted by damage, so that a reader sees whether one prompt or all of them are off.
        order = sorted(range(len(worst)), key=lambda i: -worst[i])[:5]
        named = ", ".join(f"{sample_ids[i]} by {worst[i]:.2g}" for i in order)
        raise ParityError(
            f"log-probs {report.max:.3g} apart at most and {report.mean:.3g} on average over "
            f"{report.num_tokens} tokens ({versions}; {named})",
            f"rollouts.parity_max={max_allowed:g}, rollouts.parity_mean={mean_allowed:g}",
            "look for a stale weight sync, a stale prefix cache, other banned tokens or another "
            "temperature; raise the bounds only for a lower-precision dtype",
        )
    return report


def _refuse_non_finite(
    differences: Sequence[Sequence[float]], sample_ids: Sequence[str], versions: str
) -> None:
    broken = [
        sample_id
        for sample_id, row in zip(sample_ids, differences, strict=True)
        if not all(map(math.isfinite, row))
    ]
    if broken:
        raise ParityError(
            f"log-probs that are not finite for {', '.join(dict.fromkeys(broken))} ({versions})",
            "every sampled token has a finite log-prob on both sides",
            "check that both sides ban the same tokens, and the last update for NaN",
        )
