"""Scores against numbers worked out by hand, intervals against scipy's bootstrap."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from common.errors import CheckpointError
from sft.evaluation.records import (
    AnswerRecord,
    Evaluation,
    PartReading,
    load_evaluation,
    save_evaluation,
)
from sft.evaluation.scoring import (
    AnswerLoss,
    ratio,
    score,
    score_ablation,
    score_kinds,
    score_levels,
    score_strata,
)


def record(sample_id="a", video="a.mp4", loss=1.0, num_correct=1, num_tokens=2, **changes):
    fields = {
        "kind": "emotion",
        "level": "high",
        "stratum": None,
        "question": "What?",
        "gold": "So.",
        "answer": "So.",
        "truncated": False,
        "readings": {},
    }
    return AnswerRecord(
        sample_id=sample_id,
        video=video,
        loss=loss,
        num_correct=num_correct,
        num_tokens=num_tokens,
        **fields | changes,
    )


def named(right=(), wrong=(), missed=()):
    return PartReading(right=tuple(right), wrong=tuple(wrong), missed=tuple(missed))


def test_losses_and_accuracies_are_per_token():
    scores = score(
        [
            record("a", "1.mp4", loss=2.0, num_correct=1, num_tokens=1),
            record("b", "1.mp4", loss=1.0, num_correct=0, num_tokens=4, truncated=True),
            record("c", "2.mp4", loss=3.0, num_correct=3, num_tokens=5),
        ]
    )
    assert scores.loss.value == 0.6  # 6 / 10
    assert scores.token_accuracy.value == 0.4  # 4 / 10
    assert (scores.loss.count, scores.num_answers, scores.num_clips) == (10, 3, 2)
    assert scores.num_truncated == 1
    assert scores.parts == {}
    assert score([]) is None


def test_precision_recall_and_f1_by_hand():
    attributes = score(
        [
            record("a", "1.mp4", readings={"attributes": named("xy", "p", "z")}),
            record("b", "2.mp4", readings={"attributes": named("x")}),
            record("c", "3.mp4", readings={"attributes": named(missed="xy")}),
            record("d", "4.mp4", readings={"emotion": named("h")}),  # not asked for attributes
        ]
    ).parts["attributes"]
    assert attributes.num_answers == 3
    assert attributes.precision.value == 0.75  # 3 of 4 named
    assert attributes.precision.count == 4
    assert attributes.recall.value == 0.5  # 3 of 6 asked for
    assert attributes.f1.value == 0.6  # 2 * 0.75 * 0.5 / 1.25
    assert attributes.accuracy.value == pytest.approx(1 / 3, abs=1e-6)  # b alone is exact
    assert attributes.num_silent == 1


def test_nothing_named_is_no_precision_and_no_error():
    emotion = score([record(readings={"emotion": named(missed="h")})]).parts["emotion"]
    assert emotion.precision is None
    assert (emotion.accuracy.value, emotion.recall.value, emotion.f1.value) == (0, 0, 0)


def test_the_best_constant_answer_is_the_most_frequent_target():
    readings = [named("h"), named(missed="h"), named("s"), named(missed=("s", "h")), named("h")]
    answers = [record(str(i), readings={"emotion": reading}) for i, reading in enumerate(readings)]
    assert score(answers).parts["emotion"].constant_answer == 0.6  # h alone: 3 of 5


def test_facts_are_all_parts_together():
    parts = score(
        [
            record("a", readings={"attributes": named("x", "p"), "emotion": named("h")}),
            record("b", readings={"emotion": named("h")}),
            record("c", readings={"action": named(missed="n")}),
        ]
    ).parts
    assert list(parts) == ["facts", "attributes", "emotion", "action"]
    facts = parts["facts"]
    assert facts.num_answers == 3
    assert facts.precision.value == 0.75  # x, h, h of x, p, h, h
    assert facts.recall.value == 0.75  # x, h, h of x, h, h, n
    assert facts.accuracy.value == pytest.approx(1 / 3, abs=1e-6)  # b


def test_levels_kinds_and_strata_are_apart_and_in_order():
    answers = [
        record("a", level="high", kind="action", loss=3.0, num_tokens=1, stratum="hard"),
        record("b", level="low", kind="appearance", loss=1.0, num_tokens=1),
        record("c", level="low", kind="appearance", loss=2.0, num_tokens=1),
        record("d", level=None, kind=None, loss=9.0),
    ]
    assert [(n, s.loss.value) for n, s in score_levels(answers).items()] == [
        ("low", 1.5),
        ("high", 3.0),
    ]
    assert {n: s.num_answers for n, s in score_kinds(answers).items()} == {
        "appearance": 2,
        "action": 1,
    }
    assert {n: s.loss.value for n, s in score_strata(answers).items()} == {"hard": 3.0}


def test_clips_are_drawn_and_not_answers():
    """One clip's fifty answers are all right and another's all wrong: that is two observations."""
    right = [1] * 50 + [0] * 50
    clips = ["a.mp4"] * 50 + ["b.mp4"] * 50
    assert ratio(right, [1] * 100, clips).low == 0
    assert ratio(right, [1] * 100, clips).high == 1
    apart = ratio(right, [1] * 100, [str(i) for i in range(100)])
    assert 0.37 < apart.low < 0.43
    assert 0.57 < apart.high < 0.63


def test_intervals_agree_with_scipys_percentile_bootstrap():
    generator = np.random.default_rng(3)
    tokens = generator.integers(3, 20, size=80)
    losses = tokens * generator.gamma(2.0, size=80)
    found = ratio(losses.tolist(), tokens.tolist(), [str(i) for i in range(80)])
    expected = stats.bootstrap(
        (losses, tokens),
        lambda above, below, axis: above.sum(axis) / below.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found.value == pytest.approx(losses.sum() / tokens.sum(), abs=1e-6)
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.1 * width)
    assert found.high == pytest.approx(expected.high, abs=0.1 * width)


def test_one_clip_has_no_interval_and_no_denominator_no_ratio():
    only = ratio([1, 2], [2, 2], ["a", "a"])
    assert (only.value, only.low, only.high) == (0.75, None, None)
    assert ratio([0, 0], [0, 0], ["a", "b"]) is None


def test_draws_without_a_denominator_are_left_out():
    found = ratio([1, 0], [1, 0], ["a", "b"])  # a draw of b twice says nothing
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_an_ablations_increase_is_paired():
    """Each answer loses exactly 0.5 a token, whatever its own loss: the interval has no width."""
    intact = {"a": AnswerLoss(1.0, 2, 2), "b": AnswerLoss(40.0, 1, 4), "c": AnswerLoss(9.0, 0, 1)}
    without = {"a": AnswerLoss(2.0, 1, 2), "b": AnswerLoss(42.0, 1, 4)}
    scores = score_ablation(without, intact, {"a": "1.mp4", "b": "2.mp4", "c": "3.mp4"})
    assert scores.num_answers == 2
    assert scores.loss.value == pytest.approx(44 / 6, abs=1e-6)
    increase = scores.loss_increase
    assert (increase.value, increase.low, increase.high) == (0.5, 0.5, 0.5)
    assert scores.loss.low < scores.loss.high
    assert scores.token_accuracy.value == pytest.approx(2 / 6, abs=1e-6)


def make_evaluation(**changes) -> Evaluation:
    answers = (
        record("a", "1.mp4", readings={"emotion": named("h", "s")}, stratum="hard"),
        record("b", "2.mp4", readings={"emotion": named(missed="h")}, level="low"),
    )
    losses = {"a": AnswerLoss(2.0, 1, 2), "b": AnswerLoss(3.0, 1, 2)}
    intact = {"a": AnswerLoss(1.0, 1, 2), "b": AnswerLoss(1.0, 1, 2)}
    fields = {
        "overall": score(answers),
        "levels": score_levels(answers),
        "kinds": score_kinds(answers),
        "strata": score_strata(answers),
        "ablations": {
            "swapped_clips": score_ablation(losses, intact, {"a": "1.mp4", "b": "2.mp4"})
        },
        "answers": answers,
        "skipped": {"c": "no video"},
        "settings": {"max_answer_tokens": 32, "ablations": ["swapped_clips"]},
    }
    return Evaluation(**fields | changes)


@pytest.mark.parametrize("changes", [{}, {"overall": None, "answers": (), "levels": {}}])
def test_evaluations_survive_json(tmp_path, changes):
    evaluation = make_evaluation(**changes)
    json.dumps(evaluation.to_json(), allow_nan=False)
    save_evaluation(evaluation, tmp_path)
    assert load_evaluation(tmp_path) == evaluation


@pytest.mark.parametrize("text", [None, "{", "[]", '{"overall": 3}'])
def test_a_damaged_evaluation_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"evaluation\.json.*the stage is evaluated again"):
        load_evaluation(tmp_path)
