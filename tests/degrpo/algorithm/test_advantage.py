"""Eq. 13: the shrunken baseline, kappa, and what makes the gradient unbiased."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, SampleError
from degrpo.algorithm import (
    BaselineStatistics,
    effective_sample_size,
    shrinkage_advantage,
    shrinkage_kappa,
)

GROUP = st.lists(st.floats(-10, 10), min_size=2, max_size=6)


def advantage(
    rewards: list[float], value: float = 0.0, weight: float = 1.0, kappa: float = 0.0, **options
) -> list[float]:
    return shrinkage_advantage(
        torch.tensor([rewards], dtype=torch.float64),
        torch.tensor([value], dtype=torch.float64),
        torch.tensor([weight], dtype=torch.float64),
        kappa,
        **options,
    )[0].tolist()


class TestAdvantage:
    def test_hand_computed(self):
        # Others' means of 0, 1, 5 are 3, 2.5, .5. With kappa = .2 and V = 2 the baselines are
        # .8 * 3 + .4 = 2.8, .8 * 2.5 + .4 = 2.4 and .8 * .5 + .4 = .8.
        assert advantage([0, 1, 5]) == pytest.approx([-3, -1.5, 4.5])
        assert advantage([0, 1, 5], value=2, kappa=0.2) == pytest.approx([-2.8, -1.4, 4.2])
        assert advantage([0, 1, 5], value=2, kappa=1.0) == pytest.approx([-2, -1, 3])
        assert advantage([0, 1, 5], weight=0.5) == pytest.approx([-1.5, -0.75, 2.25])
        assert advantage([0, 1, 5], weight=0.0) == [0, 0, 0]

    @given(rewards=GROUP)
    def test_without_the_critic_it_is_the_mean_pairwise_difference(self, rewards):
        expected = [
            sum(rewards[k] - rewards[j] for j in range(len(rewards)) if j != k) / (len(rewards) - 1)
            for k in range(len(rewards))
        ]
        assert advantage(rewards) == pytest.approx(expected, abs=1e-9)
        assert sum(advantage(rewards)) == pytest.approx(0, abs=1e-9)

    @given(rewards=GROUP, shift=st.floats(-5, 5), scale=st.floats(-3, 3), kappa=st.floats(0, 1))
    def test_follows_shift_and_scale(self, rewards, shift, scale, kappa):
        moved = advantage(
            [scale * r + shift for r in rewards], scale_value(scale, shift), kappa=kappa
        )
        plain = advantage(rewards, value=1.0, kappa=kappa)
        assert moved == pytest.approx([scale * a for a in plain], abs=1e-9)

    @given(rewards=GROUP, data=st.data())
    def test_follows_the_order_of_responses(self, rewards, data):
        order = data.draw(st.permutations(range(len(rewards))))
        shuffled = advantage([rewards[k] for k in order], value=0.3, kappa=0.4)
        plain = advantage(rewards, value=0.3, kappa=0.4)
        assert shuffled == pytest.approx([plain[k] for k in order], abs=1e-9)

    def test_a_tied_group_still_says_how_wrong_the_critic_is(self):
        # kappa (Rbar - V) = .4 (.7 - .2)
        assert advantage([0.7, 0.7, 0.7], value=0.2, kappa=0.4) == pytest.approx([0.2] * 3)
        assert advantage([0.7, 0.7, 0.7], value=0.2) == pytest.approx([0, 0, 0])

    @pytest.mark.parametrize("kappa", [0.0, 0.5, 0.9])
    def test_the_policy_gradient_is_unbiased(self, kappa):
        # All 3^2 groups of two responses of a softmax policy over three answers. The expectation of
        # the mean of A_k grad log pi(y_k) must be grad E[R], for a value that saw none of them.
        logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
        rewards = torch.tensor([0.1, 0.9, 0.4], dtype=torch.float64)
        probs = torch.softmax(logits, 0)
        (expected,) = torch.autograd.grad((probs * rewards).sum(), logits, retain_graph=True)
        score = torch.eye(3, dtype=torch.float64) - probs.detach()  # grad log pi(y) per answer y
        measured = torch.zeros(3, dtype=torch.float64)
        for group in itertools.product(range(3), repeat=2):
            chance = math.prod(probs[y].item() for y in group)
            each = advantage([rewards[y].item() for y in group], value=0.8, kappa=kappa)
            measured += chance * sum(a * score[y] for a, y in zip(each, group, strict=True)) / 2
        assert torch.allclose(measured, expected, atol=1e-12)

    def test_group_std(self):
        # The unbiased deviation of 0, 2 is sqrt 2; advantages are -2 and 2.
        assert advantage([0, 2], scale="group_std") == pytest.approx([-math.sqrt(2), math.sqrt(2)])
        # Too even to tell apart: 0, whatever the critic says.
        assert advantage([1, 1 + 1e-7], value=5, kappa=0.5, scale="group_std") == [0, 0]

    def test_batch_std_is_one_number_for_all(self):
        rewards = torch.tensor([[0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
        zeros, ones = torch.zeros(2), torch.ones(2)
        # Deviation of 0 2 1 1 about 1: sqrt(2 / 3).
        scaled = shrinkage_advantage(rewards, zeros, ones, 0.0, scale="batch_std")
        size = 2 / math.sqrt(2 / 3)
        assert scaled.flatten().tolist() == pytest.approx([-size, size, 0, 0])

    def test_refusals(self):
        with pytest.raises(ConfigError, match="kappa"):
            advantage([0, 1], kappa=1.1)
        with pytest.raises(ConfigError, match="scale"):
            advantage([0, 1], scale="std")
        with pytest.raises(ConfigError, match="G >= 2"):
            advantage([0])
        with pytest.raises(SampleError, match="rewards"):
            advantage([0, math.nan])
        with pytest.raises(SampleError, match="values"):
            advantage([0, 1], value=math.inf)
        with pytest.raises(ConfigError, match="weights"):
            shrinkage_advantage(torch.zeros(2, 2), torch.zeros(2), torch.ones(3), 0.0)


def scale_value(scale: float, shift: float) -> float:
    """V = 1 under the same change of units as the rewards."""
    return scale * 1.0 + shift


class TestKappa:
    def test_hand_computed(self):
        # sigma^2 = .12 / 3 = .04, MSE_V = .07 - .12 / 4 = .04: half and half.
        assert shrinkage_kappa(0.12, 0.07, 4) == pytest.approx(0.5)
        # MSE_V = .19 - .03 = .16: .04 / .20.
        assert shrinkage_kappa(0.12, 0.19, 4) == pytest.approx(0.2)

    def test_limits(self):
        assert shrinkage_kappa(0.0, 0.0, 4) == 0.0  # nothing to gain
        assert shrinkage_kappa(0.0, 0.3, 4) == 0.0  # the mean is perfect
        assert shrinkage_kappa(0.12, 0.03, 4) == 1.0  # the critic is perfect
        assert shrinkage_kappa(0.12, 0.01, 4) == 1.0  # and its error is never below 0

    def test_is_the_share_with_the_least_squared_error(self):
        # Error of (1 - k) L + k V about the truth, for independent L and V: (1-k)^2 s + k^2 m.
        within, squared, group = 0.3, 0.25, 3
        s, m = within / 2, squared - within / 3
        best = min((k / 1000 for k in range(1001)), key=lambda k: (1 - k) ** 2 * s + k**2 * m)
        assert shrinkage_kappa(within, squared, group) == pytest.approx(best, abs=1e-3)

    def test_refusals(self):
        with pytest.raises(ConfigError, match="G is at least 2"):
            shrinkage_kappa(0.1, 0.1, 1)
        for bad in (-0.1, math.nan, math.inf):
            with pytest.raises(ConfigError, match="finite"):
                shrinkage_kappa(bad, 0.1, 4)
            with pytest.raises(ConfigError, match="finite"):
                shrinkage_kappa(0.1, bad, 4)


class TestBaselineStatistics:
    def test_running_means(self):
        statistics = BaselineStatistics()
        # Variances .5 and 0; (Rbar - V)^2 = (.5 - .5)^2 and (1 - .5)^2.
        statistics.update(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([0.5, 0.5]))
        assert statistics.within_variance == pytest.approx(0.25)
        assert statistics.squared_error == pytest.approx(0.125)
        # Variance 2, error (1 - 4)^2 = 9: means (.5 + 0 + 2) / 3 and (0 + .25 + 9) / 3.
        statistics.update(torch.tensor([[0.0, 2.0]]), torch.tensor([4.0]))
        assert statistics.within_variance == pytest.approx(2.5 / 3)
        assert statistics.squared_error == pytest.approx(9.25 / 3)
        assert statistics.count == 3

    def test_forgets_beyond_its_horizon(self):
        statistics = BaselineStatistics(horizon=2)
        for size in (0.0, 0.0, 2.0):  # variances 0, 0, 2: the third weighs 1/2, not 1/3
            statistics.update(torch.tensor([[0.0, size]]), torch.tensor([size / 2]))
        assert statistics.within_variance == pytest.approx(1.0)

    def test_kappa_waits_and_is_capped(self):
        statistics = BaselineStatistics()
        rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([0.5])  # a perfect critic
        for _ in range(63):
            statistics.update(rewards, values)
        assert statistics.kappa(2) == 0.0
        statistics.update(rewards, values)
        assert statistics.kappa(2) == 0.9
        assert statistics.kappa(2, maximum=0.5) == 0.5
        assert statistics.kappa(2, warmup=65) == 0.0

    def test_a_useless_critic_gets_no_weight(self):
        statistics = BaselineStatistics()
        for _ in range(64):
            statistics.update(torch.tensor([[0.0, 0.1]]), torch.tensor([100.0]))
        assert statistics.kappa(2) < 1e-6

    def test_survives_a_checkpoint(self):
        statistics = BaselineStatistics()
        statistics.update(torch.rand(5, 4), torch.rand(5))
        restored = BaselineStatistics()
        restored.load_state_dict(json.loads(json.dumps(statistics.state_dict())))
        assert restored == statistics

    def test_bad_groups_leave_it_unchanged(self):
        statistics = BaselineStatistics()
        with pytest.raises(SampleError):
            statistics.update(torch.tensor([[0.0, 1.0]]), torch.tensor([math.nan]))
        with pytest.raises(SampleError):
            statistics.update(torch.tensor([[0.0, math.nan]]), torch.tensor([0.0]))
        assert statistics == BaselineStatistics()


class TestEffectiveSampleSize:
    def test_hand_computed(self):
        assert effective_sample_size(torch.tensor([1.0, -1.0, 1.0, -1.0])) == pytest.approx(4)
        assert effective_sample_size(torch.tensor([0.0, 0.0, -3.0])) == pytest.approx(1)
        # (1 + 3)^2 / (1 + 9)
        assert effective_sample_size(torch.tensor([1.0, 3.0])) == pytest.approx(1.6)
        assert effective_sample_size(torch.zeros(4)) == 0.0
        assert effective_sample_size(torch.full((4,), 1e-30)) == pytest.approx(4)
