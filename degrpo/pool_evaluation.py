"""Does it learn, and from the clip? Greedy answers of the RL pool and of the held-out clip.

Four figures before and after RL: the mean reward of the pool, the same with the clips shuffled
among the samples, the mean reward of the held-out clip, and the best constant answer
(one text for every sample, chosen with hindsight among the gold answers), which a policy that does
not look cannot beat.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from corpus.schema import Sample
from rewards.types import RewardBreakdown, RewardRequest

Answer = tuple[str, RewardBreakdown]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolScores:
    """Mean rewards of greedy answers; None where there is nothing to average.

    Example:
        >>> PoolScores(pool=0.61, pool_shuffled=0.34, held_out=0.40)
    """

    pool: float | None
    pool_shuffled: float | None
    held_out: float | None


def shuffle_clips(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The same questions, the pool's clips dealt out anew; each is used as often as before.

    Among the rotations of a seeded order that groups recordings, the one is taken in which the
    fewest samples keep their own clip, then the fewest keep their recording. The ids are marked, so
    that logs never confuse a shuffled sample with the real one.
    """
    order = sorted(range(len(samples)), key=lambda i: _recording(samples[i]))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda i: _recording(samples[i]))  # stable: shuffled within a recording

    def kept(shift: int) -> tuple[int, int]:
        pairs = [(samples[i], samples[j]) for i, j in _rotated(order, shift)]
        same_clip = sum(one.video == other.video for one, other in pairs)
        return same_clip, sum(_recording(one) == _recording(other) for one, other in pairs)

    if len(samples) < 2:
        return [_with_clip_of(sample, sample) for sample in samples]
    giver = dict(_rotated(order, min(range(1, len(samples)), key=kept)))
    return [_with_clip_of(sample, samples[giver[i]]) for i, sample in enumerate(samples)]


def _rotated(order: Sequence[int], shift: int) -> list[tuple[int, int]]:
    return [(one, order[(place + shift) % len(order)]) for place, one in enumerate(order)]


def _with_clip_of(sample: Sample, other: Sample) -> Sample:
    return replace(sample, sample_id=f"{sample.sample_id}-shuffled", video=other.video)


def evaluate_pool(
    answer: Callable[[str, Sequence[Sample]], list[Answer]],
    *,
    phase: str,
    pool: Sequence[Sample],
    held_out: Sequence[Sample],
    seed: int,
) -> tuple[PoolScores, dict[str, str]]:
    """Score greedy answers; also return the answers by sample id.

    Args:
        answer: takes a phase label and samples, returns each one's greedy answer and its reward.
        phase: ``before`` or ``after``.
    """
    own = answer(phase, [*pool, *held_out])
    shuffled = answer(f"{phase}_shuffled", shuffle_clips(pool, seed))
    scores = PoolScores(
        pool=_mean(own[: len(pool)]),
        pool_shuffled=_mean(shuffled),
        held_out=_mean(own[len(pool) :]),
    )
    texts = {
        sample.sample_id: text for sample, (text, _) in zip([*pool, *held_out], own, strict=True)
    }
    return scores, texts


def request_for(sample: Sample, completions: Sequence[str]) -> RewardRequest:
    """The reward service's view of a sample and its responses."""
    return RewardRequest(
        sample_id=sample.sample_id,
        prompt=sample.question,
        completions=tuple(completions),
        columns=sample.reward_columns(),
    )


def _recording(sample: Sample) -> str:
    """Several source files can hold one recording."""
    return sample.extra.get("recording", sample.source)


def _mean(answers: Sequence[Answer]) -> float | None:
    """An answer that could not be scored counts as 0: it earned nothing."""
    return fmean(breakdown.total or 0.0 for _, breakdown in answers) if answers else None
