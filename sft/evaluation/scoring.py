"""From answers to scores: every one is a ratio of two sums over answers, so one bootstrap fits all.

Clips are drawn, not answers: questions about one clip succeed and fail together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from corpus.schema import Level, QuestionKind
from sft.evaluation.records import (
    AblationScores,
    AnswerRecord,
    Estimate,
    Part,
    PartReading,
    PartScores,
    Scores,
)

FACTS = "facts"
"""Key of ``Scores.parts`` for attributes, emotions and actions together."""

NUM_RESAMPLES = 1000
_CONFIDENCE = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """How well a policy predicts one gold answer, summed over its tokens."""

    loss: float  # nats
    num_correct: int
    num_tokens: int


def ratio(
    numerators: Sequence[float], denominators: Sequence[float], clips: Sequence[str]
) -> Estimate | None:
    """Sum of numerators over sum of denominators, with a 95% percentile bootstrap over clips.

    One entry per answer; the same draws for equal clips, whatever the entries. Draws in which the
    denominators sum to 0 are left out.

    Returns:
        None when all denominators are 0.

    Example: two of three tokens right on the first clip, one of one on the second:
        >>> ratio([2, 1], [3, 1], ["a.mp4", "b.mp4"]).value
        0.75
    """
    places = {clip: place for place, clip in enumerate(dict.fromkeys(clips))}
    index = [places[clip] for clip in clips]
    above = np.bincount(index, weights=numerators, minlength=len(places))
    below = np.bincount(index, weights=denominators, minlength=len(places))
    if not below.sum():
        return None
    low = high = None
    if len(places) > 1:
        generator = np.random.default_rng(0)
        draws = [generator.integers(len(places), size=len(places)) for _ in range(NUM_RESAMPLES)]
        sums = np.array([(above[draw].sum(), below[draw].sum()) for draw in draws])
        drawn = sums[sums[:, 1] > 0]
        low, high = np.percentile(drawn[:, 0] / drawn[:, 1], _CONFIDENCE).round(6).tolist()
    value = round(float(above.sum() / below.sum()), 6)
    return Estimate(value=value, low=low, high=high, count=int(below.sum()))


def score(answers: Sequence[AnswerRecord]) -> Scores | None:
    """The scores of a set of answers; None for none."""
    if not answers:
        return None
    clips = [answer.video for answer in answers]
    tokens = [answer.num_tokens for answer in answers]
    parts = {}
    for name, chosen in ((FACTS, tuple(Part)), *((part, (part,)) for part in Part)):
        asked = [answer for answer in answers if any(part in answer.readings for part in chosen)]
        if asked:
            parts[str(name)] = _score_part(asked, chosen)
    return Scores(
        num_answers=len(answers),
        num_clips=len(set(clips)),
        num_truncated=sum(answer.truncated for answer in answers),
        loss=_sure(ratio([answer.loss for answer in answers], tokens, clips)),
        token_accuracy=_sure(ratio([answer.num_correct for answer in answers], tokens, clips)),
        parts=parts,
    )


def score_by(
    answers: Sequence[AnswerRecord], key: Callable[[AnswerRecord], str | None], names: Iterable[str]
) -> dict[str, Scores]:
    """The scores of the answers of each name, in the order of ``names``; none for no answers."""
    scored = {name: score([answer for answer in answers if key(answer) == name]) for name in names}
    return {name: scores for name, scores in scored.items() if scores is not None}


def score_levels(answers: Sequence[AnswerRecord]) -> dict[str, Scores]:
    """One test set per level, as in FaVChat v4's Table 8."""
    return score_by(answers, lambda answer: answer.level, [level.value for level in Level])


def score_kinds(answers: Sequence[AnswerRecord]) -> dict[str, Scores]:
    return score_by(answers, lambda answer: answer.kind, [kind.value for kind in QuestionKind])


def score_strata(answers: Sequence[AnswerRecord]) -> dict[str, Scores]:
    strata = sorted({answer.stratum for answer in answers if answer.stratum is not None})
    return score_by(answers, lambda answer: answer.stratum, strata)


def score_ablation(
    without: Mapping[str, AnswerLoss], intact: Mapping[str, AnswerLoss], videos: Mapping[str, str]
) -> AblationScores:
    """What an ablation costs on the answers of ``without``, which ``intact`` has too.

    Args:
        videos: the clip that each answer is about, by sample_id; clips are drawn by it.
    """
    names = list(without)
    clips = [videos[name] for name in names]
    tokens = [without[name].num_tokens for name in names]
    increases = [without[name].loss - intact[name].loss for name in names]
    correct = [without[name].num_correct for name in names]
    return AblationScores(
        num_answers=len(names),
        loss=_sure(ratio([without[name].loss for name in names], tokens, clips)),
        loss_increase=_sure(ratio(increases, tokens, clips)),
        token_accuracy=_sure(ratio(correct, tokens, clips)),
    )


def _score_part(answers: Sequence[AnswerRecord], parts: Sequence[Part]) -> PartScores:
    """The scores of ``parts`` together, over answers of which each is asked for one of them."""
    clips = [answer.video for answer in answers]
    readings = [_together(answer.readings, parts) for answer in answers]
    right = [len(reading.right) for reading in readings]
    named = [len(reading.right) + len(reading.wrong) for reading in readings]
    asked = [len(reading.right) + len(reading.missed) for reading in readings]
    exact = [reading.exact for reading in readings]
    targets = Counter(frozenset((*reading.right, *reading.missed)) for reading in readings)
    return PartScores(
        num_answers=len(answers),
        accuracy=_sure(ratio(exact, [1] * len(answers), clips)),
        precision=ratio(right, named, clips),
        recall=_sure(ratio(right, asked, clips)),
        f1=_f1(right, named, asked, clips),
        constant_answer=round(max(targets.values()) / len(answers), 6),
        num_silent=sum(reading.silent for reading in readings),
    )


def _f1(
    right: Sequence[int], named: Sequence[int], asked: Sequence[int], clips: Sequence[str]
) -> Estimate:
    doubled = [2 * count for count in right]
    totals = [said + wanted for said, wanted in zip(named, asked, strict=True)]
    return _sure(ratio(doubled, totals, clips))


def _together(readings: Mapping[str, PartReading], parts: Sequence[Part]) -> PartReading:
    chosen = [readings[part] for part in parts if part in readings]
    return PartReading(
        right=tuple(label for reading in chosen for label in reading.right),
        wrong=tuple(label for reading in chosen for label in reading.wrong),
        missed=tuple(label for reading in chosen for label in reading.missed),
    )


def _sure(estimate: Estimate | None) -> Estimate:
    assert estimate is not None, "answers have tokens, and parts that are asked for have targets"
    return estimate
