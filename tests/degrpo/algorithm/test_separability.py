"""Eq. 8 against hand-computed numbers, a brute-force oracle and its invariances."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, SampleError
from degrpo.algorithm import reward_separability

# Of gaps under 1e-77 the brute force's squares and fourth powers round to zero; the code scales.
REWARD = st.floats(-10, 10).map(lambda reward: reward if abs(reward) > 1e-60 else 0.0)
REWARDS = st.lists(REWARD, min_size=2, max_size=7)


def one(rewards: list[float], **options) -> float:
    return reward_separability(torch.tensor([rewards], dtype=torch.float64), **options).item()


def brute_force(rewards: list[float], power: float, pairs: str) -> float:
    gaps = [abs(a - b) for a, b in itertools.combinations(rewards, 2)]
    if pairs == "strict":
        gaps = [gap for gap in gaps if gap > 0]
    if not gaps:
        return 0.0
    if power == 0:
        return math.exp(sum(math.log(gap + 1e-6) for gap in gaps) / len(gaps))
    return (sum(gap**power for gap in gaps) / len(gaps)) ** (1 / power)


def test_hand_computed():
    # Gaps of 0, 1, 3, 3: 1 3 3 | 2 2 | 0, six pairs that sum to 11.
    assert one([0, 1, 3, 3]) == pytest.approx(11 / 6)
    # Without the tie: five pairs.
    assert one([0, 1, 3, 3], pairs="strict") == pytest.approx(11 / 5)
    # Squares 1 9 9 4 4 0 sum to 27.
    assert one([0, 1, 3, 3], power=2) == pytest.approx(math.sqrt(27 / 6))
    # Gaps of 0, 1, 5 are 1, 5, 4; the product is 20.
    assert one([0, 1, 5], power=0) == pytest.approx(20 ** (1 / 3), rel=1e-5)


def test_rows_of_a_batch_are_separate():
    both = reward_separability(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    assert both.tolist() == [1.0, 3.0]


@pytest.mark.parametrize("group_size", [2, 3, 4, 8])
def test_binary_rewards(group_size):
    for k in range(group_size + 1):
        rewards = [1.0] * k + [0.0] * (group_size - k)
        expected = 2 * k * (group_size - k) / (group_size * (group_size - 1))
        assert one(rewards) == pytest.approx(expected)
        assert one(rewards) == pytest.approx(2 * torch.tensor(rewards).var().item())
        assert one(rewards, pairs="strict") == (1.0 if 0 < k < group_size else 0.0)


@given(
    rewards=REWARDS,
    power=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 4.0]),
    pairs=st.sampled_from(["all", "strict"]),
)
def test_agrees_with_brute_force(rewards, power, pairs):
    expected = brute_force(rewards, power, pairs)
    assert one(rewards, power=power, pairs=pairs) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(rewards=REWARDS, data=st.data(), power=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_order_of_responses_does_not_matter(rewards, data, power):
    shuffled = data.draw(st.permutations(rewards))
    assert one(shuffled, power=power) == pytest.approx(one(rewards, power=power), rel=1e-12)


@given(
    rewards=st.lists(st.integers(-50, 50), min_size=2, max_size=7),
    shift=st.integers(-1000, 1000),
    scale=st.integers(-8, 8),
    power=st.sampled_from([0.25, 1.0, 4.0]),
)
def test_shift_is_not_seen_and_scale_is(rewards, shift, scale, power):
    moved = [scale * reward + shift for reward in rewards]
    expected = abs(scale) * one(rewards, power=power)
    assert one(moved, power=power) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("power", [0.25, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("pairs", ["all", "strict"])
def test_equal_rewards_separate_nothing(power, pairs):
    assert one([0.7] * 5, power=power, pairs=pairs) == 0.0


def test_geometric_mean_of_ties_is_its_floor():
    assert one([0.7] * 5, power=0) == pytest.approx(1e-6)
    assert one([0.7] * 5, power=0, pairs="strict") == 0.0


def test_no_power_underflows_or_overflows():
    # 1e-30 to the fourth is 0 in float32 and 1e30 to the fourth is infinite.
    for size in (1e-30, 1e30):
        rewards = torch.tensor([[0.0, size, size]])
        assert reward_separability(rewards, power=4).item() == pytest.approx(size * (2 / 3) ** 0.25)


def test_half_precision_is_computed_in_float32():
    # In bfloat16 the mean of 1, 1 and 0 would be .66796875.
    rewards = torch.tensor([[0, 1, 1]], dtype=torch.bfloat16)
    assert reward_separability(rewards).item() == pytest.approx(2 / 3, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite(bad):
    with pytest.raises(SampleError, match="1 NaN or infinite of 3"):
        one([0.0, 1.0, bad])


@pytest.mark.parametrize("shape", [(3, 1), (3, 0), (4,), (2, 2, 2)])
def test_refuses_groups_of_one_and_other_shapes(shape):
    with pytest.raises(ConfigError, match="G >= 2"):
        reward_separability(torch.zeros(shape))


@pytest.mark.parametrize(
    "options", [{"power": 0.1}, {"power": -1}, {"power": 5}, {"pairs": "some"}]
)
def test_refuses_other_options(options):
    with pytest.raises(ConfigError):
        one([0.0, 1.0], **options)
