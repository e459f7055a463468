"""Eq. 14–16: the clipped loss against explicit loops and autograd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, SampleError
from degrpo.algorithm import importance_weights, policy_loss, response_coefficients

DENOMINATORS = ("sequence", "token", "constant")


def loss_by_loops(current, old, sampler, advantages, mask, *, clip, denominator, max_length, cap):
    """The definition, token by token, in Python floats."""
    responses, tokens = len(advantages), sum(sum(row) for row in mask)
    total = 0.0
    for k in range(responses):
        length, summed = sum(mask[k]), 0.0
        for t in range(len(mask[k])):
            if not mask[k][t]:
                continue
            ratio = math.exp(current[k][t] - old[k][t])
            clipped = min(max(ratio, 1 - clip), 1 + clip)
            weight = min(math.exp(old[k][t] - sampler[k][t]), cap)
            summed += weight * min(ratio * advantages[k], clipped * advantages[k])
        if denominator == "sequence":
            total += summed / length / responses
        elif denominator == "token":
            total += summed / tokens
        else:
            total += summed / (responses * max_length)
    return -total


def single_token(log_ratio: float, advantage: float, clip: float = 0.2):
    """Loss and its derivative by log pi for one response of one token, at pi_old = 1/2."""
    old = torch.full((1, 1), math.log(0.5), dtype=torch.float64)
    current = (old + log_ratio).requires_grad_()
    loss, metrics = policy_loss(
        current, old, torch.tensor([advantage]), torch.ones(1, 1), clip=clip, max_length=1
    )
    loss.backward()
    return loss.item(), current.grad.item(), metrics


class TestClipping:
    # log 1.5 > log 1.2 and log .5 < log .8
    UP, DOWN = math.log(1.5), math.log(0.5)

    def test_inside_the_range(self):
        loss, slope, metrics = single_token(math.log(1.1), 2.0)
        assert (loss, slope) == pytest.approx((-2.2, -2.2))  # d(-rA) / d log pi = -rA
        assert metrics["loss/clip_fraction/high"] == metrics["loss/clip_fraction/low"] == 0

    def test_a_good_token_that_has_risen_is_clipped(self):
        loss, slope, metrics = single_token(self.UP, 2.0)
        assert (loss, slope) == pytest.approx((-2.4, 0.0))
        assert metrics["loss/clip_fraction/high"] == 1

    def test_a_bad_token_that_has_fallen_is_clipped(self):
        loss, slope, metrics = single_token(self.DOWN, -2.0)
        assert (loss, slope) == pytest.approx((1.6, 0.0))
        assert metrics["loss/clip_fraction/low"] == 1

    def test_a_bad_token_that_has_risen_is_not(self):
        loss, slope, metrics = single_token(self.UP, -2.0)
        assert (loss, slope) == pytest.approx((3.0, 3.0))
        assert metrics["loss/clip_fraction/high"] == metrics["loss/clip_fraction/low"] == 0

    def test_a_good_token_that_has_fallen_is_not(self):
        loss, slope, _ = single_token(self.DOWN, 2.0)
        assert (loss, slope) == pytest.approx((-1.0, -1.0))

    def test_an_absurd_ratio_stays_finite(self):
        for advantage in (1.0, -1.0):
            loss, slope, _ = single_token(200.0, advantage)
            assert math.isfinite(loss)
            assert math.isfinite(slope)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@given(seed=st.integers(0, 10_000), with_sampler=st.booleans())
@settings(max_examples=25, deadline=None)
def test_agrees_with_explicit_loops(denominator, seed, with_sampler):
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    responses, width = 6, 5
    current, old, sampler = (-2 * rand(responses, width) for _ in range(3))
    advantages = 2 * rand(3, 2) - 1
    lengths = torch.randint(1, width + 1, (responses,), generator=generator)
    mask = torch.arange(width) < lengths[:, None]
    options = {"clip": 0.2, "denominator": denominator, "max_length": 7}
    loss, _ = policy_loss(
        current,
        old,
        advantages,
        mask,
        sampler_log_probs=sampler if with_sampler else None,
        tis_cap=1.5,
        **options,
    )
    expected = loss_by_loops(
        current.tolist(),
        old.tolist(),
        (sampler if with_sampler else old).tolist(),
        advantages.flatten().tolist(),
        mask.tolist(),
        cap=1.5,
        **options,
    )
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_at_ratio_one_the_gradient_is_the_weighted_sum_of_the_responses_gradients(denominator):
    """p.grad = -sum_k c_k A_k g_k, which is what lets one backward serve statistics and update."""
    torch.manual_seed(0)
    features = torch.randn(4, 3, 8, dtype=torch.float64)
    weight = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(5, (4, 3))
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
    advantages = torch.tensor([[0.4, -1.0], [2.0, 0.3]], dtype=torch.float64)
    logits = torch.log_softmax(features @ weight, dim=-1)
    log_probs = logits.gather(-1, tokens[..., None])[..., 0]
    options = {"denominator": denominator, "max_length": 3}
    loss, metrics = policy_loss(log_probs, log_probs.detach(), advantages, mask, **options)
    (measured,) = torch.autograd.grad(loss, weight, retain_graph=True)

    lengths = mask.sum(dim=1)
    coefficients = response_coefficients(lengths, **options)
    expected = torch.zeros_like(weight)
    for k in range(4):
        mean_log_prob = log_probs[k][mask[k]].mean()
        (gradient,) = torch.autograd.grad(mean_log_prob, weight, retain_graph=True)
        expected -= coefficients[k] * advantages.flatten()[k] * gradient
    assert torch.allclose(measured, expected, rtol=1e-6, atol=1e-9)
    assert metrics["loss/ratio/mean"].item() == pytest.approx(1.0)


class TestCoefficients:
    LENGTHS = torch.tensor([2.0, 6.0])

    def test_hand_computed(self):
        assert response_coefficients(self.LENGTHS, denominator="sequence").tolist() == [0.5, 0.5]
        token = response_coefficients(self.LENGTHS, denominator="token")
        assert token.tolist() == pytest.approx([0.25, 0.75])
        constant = response_coefficients(self.LENGTHS, max_length=10)
        assert constant.tolist() == pytest.approx([0.1, 0.3])  # 2 / (2 * 10), 6 / (2 * 10)

    @pytest.mark.parametrize("denominator", DENOMINATORS)
    def test_micro_batches_add_up_to_the_step(self, denominator):
        lengths = torch.tensor([2.0, 6.0, 1.0, 3.0])
        step = {"num_tokens": 12, "num_responses": 4, "max_length": 8, "denominator": denominator}
        parts = [response_coefficients(part, **step) for part in lengths.split(2)]
        whole = response_coefficients(lengths, max_length=8, denominator=denominator)
        assert torch.cat(parts).tolist() == pytest.approx(whole.tolist())

    def test_refusals(self):
        with pytest.raises(ConfigError, match="max_length"):
            response_coefficients(self.LENGTHS)
        with pytest.raises(ConfigError, match="denominator"):
            response_coefficients(self.LENGTHS, denominator="mean")


class TestImportanceWeights:
    def test_truncated_above_only(self):
        learner = torch.tensor([[0.0, math.log(3), -math.log(4)]])
        weights = importance_weights(learner, torch.zeros(1, 3))
        assert weights[0].tolist() == pytest.approx([1, 2, 0.25])

    def test_carry_no_gradient_and_are_reported(self):
        old = torch.zeros(1, 2, dtype=torch.float64)
        current = old.clone().requires_grad_()
        sampler = torch.tensor([[-math.log(3), math.log(2)]], dtype=torch.float64)
        loss, metrics = policy_loss(
            current, old, torch.ones(1), torch.ones(1, 2), sampler_log_probs=sampler, max_length=2
        )
        loss.backward()
        assert current.grad[0].tolist() == pytest.approx([-1.0, -0.25])  # -min(3, 2)/2, -.5/2
        assert metrics["rollout/importance/mean"].item() == pytest.approx(1.25)
        assert metrics["rollout/importance/max"].item() == pytest.approx(2.0)
        assert metrics["rollout/importance/truncated_fraction"].item() == pytest.approx(0.5)

    def test_cap_below_one_is_refused(self):
        with pytest.raises(ConfigError, match="cap"):
            importance_weights(torch.zeros(1, 1), torch.zeros(1, 1), cap=0.5)


class TestPadding:
    @pytest.mark.parametrize("junk", [math.nan, -math.inf, 1e30])
    def test_is_not_read(self, junk):
        mask = torch.tensor([[True, False]])
        current = torch.tensor([[-1.0, junk]], requires_grad=True)
        old = torch.tensor([[-1.0, junk]])
        loss, _ = policy_loss(current, old, torch.tensor([0.5]), mask, max_length=1)
        loss.backward()
        assert loss.item() == pytest.approx(-0.5)
        assert current.grad.tolist() == [[-0.5, 0.0]]

    def test_an_empty_response_adds_nothing(self):
        mask = torch.tensor([[True], [False]])
        zeros = torch.zeros(2, 1)
        for denominator in DENOMINATORS:
            loss, _ = policy_loss(
                zeros, zeros, torch.ones(2), mask, denominator=denominator, max_length=1
            )
            expected = -1.0 if denominator == "token" else -0.5
            assert loss.item() == pytest.approx(expected)


def test_refusals():
    zeros, ones = torch.zeros(2, 3), torch.ones(2, 3)
    with pytest.raises(ConfigError, match="clip"):
        policy_loss(zeros, zeros, torch.ones(2), ones, clip=0.0, max_length=3)
    with pytest.raises(ConfigError, match="advantages"):
        policy_loss(zeros, zeros, torch.ones(3), ones, max_length=3)
    with pytest.raises(ConfigError, match="old_log_probs"):
        policy_loss(zeros, zeros[:, :2], torch.ones(2), ones, max_length=3)
    bad = torch.tensor([[0.0, 0, 0], [0, -math.inf, 0]])
    with pytest.raises(SampleError, match=r"responses \[1\]"):
        policy_loss(bad, zeros, torch.ones(2), ones, max_length=3)
    with pytest.raises(SampleError, match="advantages"):
        policy_loss(zeros, zeros, torch.tensor([1.0, math.nan]), ones, max_length=3)
