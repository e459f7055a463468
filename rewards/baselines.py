"""What a policy earns that has not looked at the video: the score to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rewards.types import RewardBreakdown, RewardRequest

Scorer = Callable[[Sequence[RewardRequest]], Sequence[Sequence[RewardBreakdown]]]


def best_constant(
    score: Scorer,
    requests: Sequence[RewardRequest],
    candidates: Sequence[str],
) -> tuple[str, float]:
    """The one answer that earns most when it is given to every question.

    Args:
        score: ``RewardClient.score``, or ``functools.partial(rewards.scoring.score, functions)``.
        requests: the pool; whatever completions they carry are ignored.
        candidates: answers to try, such as the gold answers of the pool.

    Returns:
        The best candidate (the first of equals) and its mean total over the pool.

    Raises:
        ValueError: without requests or candidates, or when no candidate can be scored on every
            request (means over different samples would not compare).
    """
    texts = tuple(dict.fromkeys(candidates))
    if not texts or not requests:
        raise ValueError(f"needs candidates and requests, got {len(texts)} and {len(requests)}")
    scored = score([replace(request, completions=texts) for request in requests])
    means: dict[str, float] = {}
    for index, text in enumerate(texts):
        totals = [row[index].total for row in scored]
        known = [total for total in totals if total is not None]
        if len(known) == len(totals):
            means[text] = sum(known) / len(known)
    if not means:
        errors = {row[0].error for row in scored if row[0].error}
        raise ValueError(f"no candidate could be scored on every request: {sorted(errors)[:3]}")
    best = max(means, key=lambda text: means[text])
    return best, means[best]
