import asyncio
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from rewards.baselines import best_constant
from rewards.constant import ConstantReward
from rewards.registry import RewardTerm, build_reward
from rewards.scoring import score
from rewards.types import RewardBreakdown, RewardRequest, WeightedReward


@pytest.fixture(autouse=True)
def _user_module_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def request(*completions, **columns):
    return RewardRequest(sample_id="s", prompt="?", completions=completions, columns=columns)


def user(name, weight=1.0, **kwargs):
    return build_reward(RewardTerm(name=f"user_rewards:{name}", weight=weight, kwargs=kwargs))


def constant(value, weight=1.0, name="constant"):
    return WeightedReward(name=name, weight=weight, function=ConstantReward(value=value))


def totals(functions, *requests):
    return [[breakdown.total for breakdown in row] for row in score(functions, requests)]


def test_weighted_sum_and_parts():
    (row,) = score([user("length", weight=0.5), constant(2.0, weight=3.0)], [request("a", "abcd")])
    assert [breakdown.total for breakdown in row] == [0.5 * 1 + 6.0, 0.5 * 4 + 6.0]
    assert row[1].parts == {"length": 4.0, "constant": 2.0}
    assert row[1].error is None
    assert row[1].seconds > 0


def test_requests_of_different_sizes_keep_their_places():
    assert totals([user("length")], request("a"), request(), request("ab", "abc")) == [
        [1.0],
        [],
        [2.0, 3.0],
    ]


def test_async_functions_also_inside_a_running_loop():
    assert totals([user("slow_length")], request("ab")) == [[2.0]]

    async def inside():
        return totals([user("slow_length")], request("abc"))

    assert asyncio.run(inside()) == [[3.0]]


def test_weights_renormalise_over_those_that_apply():
    functions = [constant(0.4, weight=1.0), user("only_emotion", weight=3.0)]
    emotion, action = totals(functions, request("a", kind="emotion"), request("a", kind="action"))
    assert emotion == [pytest.approx(1 * 0.4 + 3 * 1.0)]
    assert action == [pytest.approx(4 * 0.4)]  # all of the weight, 4, on the one that applies


def test_a_penalty_renormalises_by_size():
    functions = [constant(1.0, weight=1.0), user("only_emotion", weight=-0.5)]
    assert totals(functions, request("a", kind="emotion"), request("a", kind="x")) == [[0.5], [1.5]]


def test_nothing_applies():
    ((breakdown,),) = score([user("only_emotion")], [request("a", kind="action")])
    assert breakdown.total is None
    assert "no reward applies" in breakdown.error


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("breaks_on_bad", r"KeyError: 'bad is bad' \(user_rewards.py, line \d+\)"),
        ("too_few_on_bad", "2 completions need 2 scores, got 1"),
    ],
)
def test_a_failure_costs_its_own_sample_only(name, message):
    rows = score([user(name)], [request("a", "b"), request("a", "bad"), request("c")])
    assert [[breakdown.total for breakdown in row] for row in rows] == [
        [1.0, 1.0],
        [None, None],
        [1.0],
    ]
    assert re.search(message, rows[1][0].error)
    assert name in rows[1][1].error


@pytest.mark.parametrize(("name", "shown"), [("nan_on_bad", "nan"), ("word_on_bad", "'good'")])
def test_a_value_that_is_no_number_costs_its_own_response_only(name, shown):
    (row,) = score([user(name), constant(1.0)], [request("a", "bad")])
    assert row[0].total == 2.0
    assert row[1].total is None
    assert row[1].parts == {"constant": 1.0}
    assert shown in row[1].error


@pytest.mark.parametrize(
    "answer",
    [
        np.array([0.5, 1.0]),
        torch.tensor([0.5, 1.0]),
        [np.float32(0.5), torch.tensor(1.0)],
        (0.5, True),
    ],
)
def test_arrays_and_tensors_are_numbers(answer):
    reward = WeightedReward(name="r", weight=1.0, function=lambda **_: answer)
    assert totals([reward], request("a", "b")) == [[0.5, 1.0]]


def test_details_become_parts():
    ((breakdown,),) = score([user("Detailed", bonus=1.0)], [request("abc")])
    assert breakdown.total == 4.0
    assert breakdown.parts == {"Detailed": 4.0, "Detailed/length": 3.0}


def test_mappings_without_a_score_are_refused():
    reward = WeightedReward(name="r", weight=1.0, function=lambda **_: [{"points": 1.0}])
    ((breakdown,),) = score([reward], [request("a")])
    assert "without `score`" in breakdown.error


def test_columns_are_spread_over_the_completions():
    seen = {}

    def spy(prompts, completions, **columns):
        seen.update(prompts=prompts, completions=completions, **columns)
        return [0.0] * len(completions)

    score(
        [WeightedReward(name="spy", weight=1.0, function=spy)],
        [request("a", "b", answer="x"), request("c", answer="y", kind="emotion")],
    )
    assert seen == {
        "prompts": ["?", "?", "?"],
        "completions": ["a", "b", "c"],
        "answer": ["x", "x", "y"],
        "kind": [None, None, "emotion"],
    }


def test_facial_breakdown_names_its_parts(facial):
    reward = WeightedReward(name="facial", weight=1.0, function=facial)
    sample = request("The man looks happy.", attributes=[], emotion=["happy"], action=[], answer="")
    ((breakdown,),) = score([reward], [sample])
    assert breakdown.parts == {"facial": 1.0, "facial/emotion": 1.0}


def test_best_constant():
    # "bb" scores 2 on both; "a" 1; a repeated candidate changes nothing.
    scorer = partial(score, [user("length")])
    pool = [request("ignored"), request()]
    assert best_constant(scorer, pool, ["a", "bb", "a"]) == ("bb", 2.0)


def test_best_constant_counts_what_cannot_be_scored_as_zero():
    scorer = partial(score, [user("nan_on_bad")])
    assert best_constant(scorer, [request()], ["bad", "ok"]) == ("ok", 1.0)
    assert best_constant(scorer, [request()], ["bad"]) == ("bad", 0.0)


def test_best_constant_survives_a_sample_that_cannot_be_scored():
    def scorer(requests):
        totals = [None if request.sample_id == "broken" else 0.5 for request in requests]
        return [
            [RewardBreakdown(total=total, parts={}, seconds=0.0) for _ in request.completions]
            for total, request in zip(totals, requests, strict=True)
        ]

    pool = [request(), replace(request(), sample_id="broken")]
    assert best_constant(scorer, pool, ["a"]) == ("a", 0.25)


def test_best_constant_is_bounded_in_calls_and_candidates():
    calls = []

    def scorer(requests):
        calls.append([len(request.completions) for request in requests])
        return score([user("length")], requests)

    # The 65th candidate would win, but only the first 64 different ones are tried.
    texts = ["a", "a", *(f"{index:02}" for index in range(63)), "longest"]
    assert best_constant(scorer, [request()] * 19, texts) == ("00", 2.0)
    assert calls == [[64] * 8, [64] * 8, [64] * 3]


@pytest.mark.parametrize(("pool", "texts"), [([], ["a"]), ([request()], [])])
def test_best_constant_needs_requests_and_candidates(pool, texts):
    with pytest.raises(ValueError, match="needs candidates and requests"):
        best_constant(partial(score, [user("length")]), pool, texts)
