"""What a policy earns that has not looked at the video: the score to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rewards.types import RewardBreakdown, RewardRequest

Scorer = Callable[[Sequence[RewardRequest]], Sequence[Sequence[RewardBreakdown]]]

MAX_CANDIDATES = 64
REQUESTS_PER_CALL = 8  # times MAX_CANDIDATES answers: well under a reward service's time limit


def best_constant(
    score: Scorer,
    requests: Sequence[RewardRequest],
    candidates: Sequence[str],
) -> tuple[str, float]:
    """The one answer that earns most when it is given to every question.

    An answer that cannot be scored on a request earns 0 there, as a policy's answer does.

    Args:
        score: ``RewardClient.score``, or ``functools.partial(rewards.scoring.score, functions)``.
            It is called with ``REQUESTS_PER_CALL`` requests at a time.
        requests: the pool; whatever completions they carry are ignored.
        candidates: answers to try, such as the gold answers of the pool. To bound the cost, only
            the first ``MAX_CANDIDATES`` different ones are tried.

    Returns:
        The best candidate (the first of equals) and its mean total over the pool.

    Raises:
        ValueError: without requests or candidates.
    """
    texts = tuple(dict.fromkeys(candidates))[:MAX_CANDIDATES]
    if not texts or not requests:
        raise ValueError(f"needs candidates and requests, got {len(texts)} and {len(requests)}")
    sums = [0.0] * len(texts)
    for start in range(0, len(requests), REQUESTS_PER_CALL):
        chunk = requests[start : start + REQUESTS_PER_CALL]
        for row in score([replace(request, completions=texts) for request in chunk]):
            sums = [
                total + (breakdown.total or 0.0) for total, breakdown in zip(sums, row, strict=True)
            ]
    best = max(range(len(texts)), key=sums.__getitem__)
    return texts[best], sums[best] / len(requests)
