"""Eq. 9 from a Gram matrix, against distances between the gradients themselves."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, SampleError
from degrpo.algorithm import gradient_sensitivity

# Three gradients in the plane: 0, (3, 4) and (3, 0). Distances 5, 3 and 4.
GRADIENTS = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]]], dtype=torch.float64)
REWARDS = torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64)


def gram_of(gradients: torch.Tensor) -> torch.Tensor:
    return gradients @ gradients.mT


def distances(gradients: torch.Tensor, lengths: list[int], power: float) -> list[float]:
    scaled = [g * n**power for g, n in zip(gradients, lengths, strict=True)]
    return [float((a - b).norm()) for a, b in itertools.combinations(scaled, 2)]


def test_hand_computed():
    assert gradient_sensitivity(gram_of(GRADIENTS), REWARDS).item() == pytest.approx(4.0)


def test_strict_drops_pairs_of_equal_reward():
    # The pair of the last two (distance 4) has equal rewards: (5 + 3) / 2.
    strict = gradient_sensitivity(gram_of(GRADIENTS), REWARDS, pairs="strict")
    assert strict.item() == pytest.approx(4.0)
    rewards = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    # Without the first pair (distance 5): (3 + 4) / 2.
    strict = gradient_sensitivity(gram_of(GRADIENTS), rewards, pairs="strict")
    assert strict.item() == pytest.approx(3.5)
    equal = torch.ones(1, 3, dtype=torch.float64)
    assert gradient_sensitivity(gram_of(GRADIENTS), equal, pairs="strict").item() == 0.0


def test_cosine():
    # Pairs with the zero gradient count 0; cos between (3, 4) and (3, 0) is .6: sqrt(.8) / 3.
    cosine = gradient_sensitivity(gram_of(GRADIENTS), REWARDS, metric="cosine")
    assert cosine.item() == pytest.approx(math.sqrt(0.8) / 3)


def test_cosine_of_tiny_gradients():
    # Squared norms of 1e-30: their product, 1e-60, is 0 in float32. Orthogonal: sqrt(2).
    gram = torch.eye(2)[None] * 1e-30
    rewards = torch.tensor([[0.0, 1.0]])
    cosine = gradient_sensitivity(gram, rewards, metric="cosine")
    assert cosine.item() == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(("length", "power"), [("mean", 0.0), ("sqrt", 0.5), ("sum", 1.0)])
def test_length_correction_scales_each_gradient(length, power):
    lengths = [4, 9, 1]
    measured = gradient_sensitivity(
        gram_of(GRADIENTS), REWARDS, lengths=torch.tensor([lengths]), length=length
    )
    expected = sum(distances(GRADIENTS[0], lengths, power)) / 3
    assert measured.item() == pytest.approx(expected)


@given(
    entries=st.lists(st.floats(-5, 5), min_size=24, max_size=24),
    group_size=st.sampled_from([2, 3, 4, 6]),
    seed=st.integers(0, 99),
)
def test_agrees_with_brute_force_in_any_order(entries, group_size, seed):
    gradients = torch.tensor(entries, dtype=torch.float64).reshape(1, 6, 4)[:, :group_size]
    rewards = torch.arange(group_size, dtype=torch.float64)[None]
    found = distances(gradients[0], [1] * group_size, 0.0)
    expected = sum(found) / len(found)
    order = torch.randperm(group_size, generator=torch.Generator().manual_seed(seed))
    for each in (gradients, gradients[:, order]):
        assert gradient_sensitivity(gram_of(each), rewards).item() == pytest.approx(
            expected, rel=1e-6, abs=1e-6
        )


def test_rounding_below_zero_is_clamped():
    # K_ii + K_jj - 2 K_ij = -2e-9: a matrix product's rounding, not a distance.
    gram = torch.tensor([[[1.0, 1.0 + 1e-9], [1.0 + 1e-9, 1.0]]], dtype=torch.float64)
    assert gradient_sensitivity(gram, torch.tensor([[0.0, 1.0]])).item() == 0.0


def test_refusals():
    gram = gram_of(GRADIENTS)
    with pytest.raises(ConfigError, match="lengths"):
        gradient_sensitivity(gram, REWARDS, length="sqrt")
    with pytest.raises(ConfigError, match="at least one token"):
        gradient_sensitivity(gram, REWARDS, length="sqrt", lengths=torch.tensor([[0, 1, 1]]))
    with pytest.raises(ConfigError, match="metric"):
        gradient_sensitivity(gram, REWARDS, metric="manhattan")
    with pytest.raises(ConfigError, match="length"):
        gradient_sensitivity(gram, REWARDS, length="max")
    with pytest.raises(ConfigError, match=r"\[1, 3, 3\]"):
        gradient_sensitivity(gram[:, :2], REWARDS)
    with pytest.raises(ConfigError, match="G >= 2"):
        gradient_sensitivity(gram[:, :1, :1], REWARDS[:, :1])
    with pytest.raises(SampleError, match="gram"):
        gradient_sensitivity(gram * math.nan, REWARDS)
    with pytest.raises(SampleError, match="rewards"):
        gradient_sensitivity(gram, REWARDS * math.inf)
