"""Heads: splits, calibration, thresholds, and what a reported F1 means."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from common.errors import ConfigError
from corpus.extractors.features import Block
from corpus.extractors.heads import HeadReport, Heads, HeadTable, logistic, standardise
from corpus.extractors.training import (
    UNKNOWN,
    Components,
    Head,
    HeadSettings,
    best_threshold,
    calibrate,
    grouped_splits,
    judge,
    rank_z,
    too_few,
    train_head,
    train_heads,
)

QUICK = HeadSettings(views=("all",), costs=(1.0,))


def report(name: str, f1: float) -> HeadReport:
    return HeadReport(
        name=name, num_present=1, num_absent=2, f1=f1, precision=1.0, recall=0.5,
        average_precision=0.9, chance_f1=0.5, view="all", cost=1.0,
    )  # fmt: skip


def test_groups_are_never_parted_and_stay_balanced() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 300)
    present = np.isin(groups, range(10))
    judged_rows = []
    for training, judged in grouped_splits(present, groups, 5, seed=1):
        assert not set(groups[training]) & set(groups[judged])
        assert sorted([*training, *judged]) == list(range(300))
        assert len(set(groups[judged][present[judged]])) == 2  # of the 10 groups that show it
        judged_rows.extend(judged.tolist())
    assert sorted(judged_rows) == list(range(300))


def test_what_a_group_shares_is_not_learned() -> None:
    """Vectors that name the group, labels drawn per group: only a leak could predict them."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(60), 5)
    values = rng.normal(size=(60, 80))[groups] + 0.1 * rng.normal(size=(300, 80))
    labels = rng.integers(0, 2, 60)[groups].astype(np.int8)
    told = train_head("x", {"all": values}, labels, groups, QUICK)
    assert isinstance(told, str)
    assert told.startswith("not told apart from chance")
    leaking = train_head("x", {"all": values}, labels, np.arange(300), QUICK)
    assert isinstance(leaking, Head)
    assert leaking.report.f1 > 0.95


def test_noise_gets_no_more_than_always_yes() -> None:
    nested, same_scores, always = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scores, present = rng.normal(size=200), rng.permutation(200) < 10
        splits = list(grouped_splits(present, np.arange(200), 5, seed))
        found = judge("noise", scores, present, splits, view="all", cost=1.0)
        nested.append(found.f1)
        always.append(found.chance_f1)
        same_scores.append(f1_score(present, scores >= best_threshold(scores, present)))
    assert np.mean(same_scores) > np.mean(always) + 0.05  # what F1 at its own threshold would say
    assert np.mean(nested) < np.mean(always) + 0.02


def test_judged_by_hand() -> None:
    present = np.array([1, 1, 0, 0, 1, 0, 0, 0], dtype=bool)
    scores = np.array([4.0, 3.0, 2.0, 1.0, 1.5, 3.5, 0.0, 0.5])
    splits = [(np.arange(4, 8), np.arange(4)), (np.arange(4), np.arange(4, 8))]
    # Rows 4..7 are split best from 1.5 on (yes to 1.5 and 3.5: F1 2/3), halfway down to 0.5: 1.0;
    # from 1.0 on all of rows 0..3 are yes. Rows 0..3 are split best at 2.5: of rows 4..7 only 3.5
    # is yes, wrongly.
    found = judge("x", scores, present, splits, view="all", cost=0.3)
    assert found.precision == pytest.approx(2 / 5)
    assert found.recall == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(0.5)
    assert (found.num_present, found.num_absent, found.cost) == (3, 5, 0.3)
    assert found.chance_f1 == pytest.approx(2 * 3 / (2 * 3 + 5))
    # Sorted: 4 yes, 3.5 no, 3 yes, 2 no, 1.5 yes.
    assert found.average_precision == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_threshold_lies_halfway() -> None:
    assert best_threshold(np.array([1.0, 2, 4, 6]), np.array([False, False, True, True])) == 3
    assert best_threshold(np.array([1.0, 2]), np.array([True, True])) == 1


def test_calibration_is_platts() -> None:
    rng = np.random.default_rng(5)
    present = rng.random(200) < 0.3
    scores = rng.normal(size=200) * 2 + 3 * present - 7
    target = np.where(
        present, (present.sum() + 1) / (present.sum() + 2), 1 / ((~present).sum() + 2)
    )

    def loss(line: np.ndarray) -> float:
        value = line[0] * scores + line[1]
        return float((np.logaddexp(0, value) - target * value).sum())

    best = minimize(loss, x0=[1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8}).x
    np.testing.assert_allclose(calibrate(scores, present), best, rtol=2e-3)


def test_calibration_of_separate_scores_is_finite() -> None:
    slope, offset = calibrate(np.array([-2.0, -1, 1, 2] * 5), np.array([0, 0, 1, 1] * 5, bool))
    found = logistic(slope * np.array([-2.0, 2.0]) + offset)
    assert 0 < found[0] < 0.09 < 0.91 < found[1] < 1  # N₊ = N₋ = 10: targets 1/12 and 11/12


def test_rank_test_by_hand() -> None:
    scores, present = np.array([1.0, 2, 3, 4]), np.array([False, True, False, True])
    # Area 3/4; standard error sqrt(5 / (12 · 2 · 2)).
    assert rank_z(scores, present) == pytest.approx(0.25 / np.sqrt(5 / 48))


def test_unknown_clips_take_no_part() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(200, 6))
    labels = (values[:, 0] + 0.3 * rng.normal(size=200) > 0.5).astype(np.int8)
    known = np.arange(200) % 4 != 0
    masked = np.where(known, labels, UNKNOWN)
    spoilt = np.where(known[:, None], values, 1e3)
    first = train_head("x", {"all": spoilt}, masked, np.arange(200), QUICK)
    second = train_head("x", {"all": values[known]}, labels[known], np.flatnonzero(known), QUICK)
    assert isinstance(first, Head)
    assert isinstance(second, Head)
    np.testing.assert_array_equal(first.weights, second.weights)
    assert first.report == second.report
    assert first.report.num_present + first.report.num_absent == 150


@pytest.mark.parametrize(
    ("present", "groups", "reason"),
    [
        ([1] * 9 + [0] * 30, range(39), "9 clips with it, 10 are needed"),
        ([1] * 30 + [0] * 3, range(33), "3 clips without it, 10 are needed"),
        ([1] * 20 + [0] * 20, [0] * 20 + [*range(1, 21)], "with it come from 1 groups, 10"),
    ],
)
def test_too_few(present: list[int], groups, reason: str) -> None:
    found = too_few(np.array(present, bool), np.array(list(groups)), HeadSettings())
    assert reason in found


def test_components_are_a_rotation_of_weighted_blocks() -> None:
    rng = np.random.default_rng(2)
    vectors = (rng.normal(size=(12, 50)) * rng.uniform(1, 9, 50) + 4).astype(np.float32)
    vectors[:, 7] = 2.5  # constant
    blocks = [
        Block(stream="a", statistic="mean", part="x", start=0, size=10),
        Block(stream="b", statistic="mean", part="x", start=10, size=40),
    ]
    space = Components.of(vectors, blocks, "all", HeadSettings())
    standard = (vectors - vectors.mean(0)) / np.where(vectors.std(0) == 0, 1, vectors.std(0))
    weighted = standard / np.sqrt(np.repeat([10, 40], [10, 40]))
    np.testing.assert_allclose(space.values @ space.values.T, weighted @ weighted.T, atol=1e-4)
    assert space.values.shape[1] == 11  # centred
    head = rng.normal(size=11)
    scores = standardise(vectors, space.mean, space.scale) @ space.to_vectors(head)
    np.testing.assert_allclose(scores, space.values @ head, atol=1e-4)
    few = Components.of(vectors, blocks, "all", HeadSettings(num_components=4)).values
    np.testing.assert_allclose((few**2).sum(0), (space.values[:, :4] ** 2).sum(0), rtol=1e-5)


def test_trained_heads_tell_what_scikit_learn_tells() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(240, 30)).astype(np.float32)
    labels = np.stack([vectors[:, 0] + vectors[:, 1] > 1, rng.random(240) < 0.4], axis=1)
    blocks = [Block(stream="a", statistic="mean", part="x", start=0, size=30)]
    groups = [str(row // 2) for row in range(240)]
    settings = HeadSettings(views=("all",), costs=(2.0,))
    heads, table = train_heads(vectors, labels, groups, ["bald", "smile"], blocks, settings)
    assert heads.names == ("bald",)
    assert "not told apart" in table.left_out["smile"]
    standard = standardise(vectors, vectors.mean(0), vectors.std(0)) / np.sqrt(30)
    oracle = LogisticRegression(C=2.0, class_weight="balanced", tol=1e-6, max_iter=2000)
    oracle.fit(standard, labels[:, 0])
    score = oracle.decision_function(standard)
    expected = logistic(heads.slope[0] * score + heads.offset[0])
    found = np.array([heads.probabilities(vector)[0] for vector in vectors])
    np.testing.assert_allclose(found, expected, atol=0.03)  # stops earlier
    assert ((found >= heads.threshold[0]) == labels[:, 0]).mean() > 0.95
    assert table.reports[0].f1 > 0.7


def test_each_head_chooses_its_view() -> None:
    """What is seen in few means drowns among many changes, and what moves needs those."""
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(300, 220)).astype(np.float32)
    labels = np.stack([vectors[:, 0] + vectors[:, 1] > 1, vectors[:, 20:60].sum(1) > 4], axis=1)
    blocks = [
        Block(stream="a", statistic="mean", part="x", start=0, size=20),
        Block(stream="a", statistic="change", part="x", start=20, size=200),
    ]
    groups = [str(row) for row in range(300)]
    heads, table = train_heads(
        vectors, labels, groups, ["bald", "nod"], blocks, HeadSettings(costs=(10.0,))
    )
    assert [row.view for row in table.reports] == ["still", "all"]
    assert (heads.weights[0, 20:] == 0).all()
    assert np.abs(heads.weights[1, 20:]).min() > 0
    by_hand = [heads.probabilities(vector) >= heads.threshold for vector in vectors]
    assert (np.array(by_hand) == labels).mean() > 0.9


def test_nothing_to_learn_is_an_error() -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    labels = np.zeros((12, 1), dtype=np.int8)
    blocks = [Block(stream="a", statistic="mean", part="x", start=0, size=5)]
    with pytest.raises(ConfigError, match="bald: 0 clips with it"):
        train_heads(vectors, labels, [str(i) for i in range(12)], ["bald"], blocks, QUICK)


def test_calibrated_probabilities_are_frequencies() -> None:
    rng = np.random.default_rng(8)
    values = rng.normal(size=(3000, 2))
    truth = 1 / (1 + np.exp(-(2 * values[:, 0] - 2)))
    labels = (rng.random(3000) < truth).astype(np.int8)
    head = train_head("x", {"all": values}, labels, np.arange(3000), QUICK)
    assert isinstance(head, Head)
    found = logistic(head.slope * (values @ head.weights + head.bias) + head.offset)
    np.testing.assert_allclose(found, truth, atol=0.05)  # classes were balanced; this undoes it


def test_table() -> None:
    table = HeadTable(reports=(report("bald", 0.5), report("smile", 0.9)), left_out={"cry": "rare"})
    assert table.macro_f1 == pytest.approx(0.7)
    text = table.markdown()
    assert text.index("| smile | 0.900 |") < text.index("| bald | 0.500 |")
    assert "macro F1, 2 features** | **0.700**" in text
    assert "- `cry`: rare" in text


def test_heads_by_hand() -> None:
    heads = Heads(
        names=("bald",), mean=np.array([1, 0], np.float32), scale=np.array([2, 1], np.float32),
        weights=np.array([[1, 0.5]], np.float32), bias=np.array([-1], np.float32),
        slope=np.array([2], np.float32), offset=np.array([1], np.float32),
        threshold=np.array([0.5], np.float32),
    )  # fmt: skip
    # (5 - 1) / 2 = 2; 100 is cut at 8: score 2 + 4 - 1 = 5, logistic(11).
    assert heads.probabilities(np.array([5, 100])) == pytest.approx(1 / (1 + np.exp(-11)))
