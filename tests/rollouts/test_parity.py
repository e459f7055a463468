"""rollouts.parity against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from common.errors import ParityError
from rollouts.parity import compare

BOUNDS = {"max_allowed": 0.05, "mean_allowed": 0.03}


def _compare(sampler, learner, *, ids=("a", "b"), versions=(3, 3), **bounds):
    return compare(
        sampler,
        learner,
        sample_ids=ids,
        sampler_version=versions[0],
        learner_version=versions[1],
        **(BOUNDS | bounds),
    )


def test_max_mean_and_worst_sample_by_hand():
    # |differences|: a: 0.01, 0.02   b: 0.04, 0.00, 0.03   sum 0.10 over 5 tokens
    report = _compare([[-1.00, -2.00], [-0.50, -1.0, -3.0]], [[-1.01, -1.98], [-0.54, -1.0, -2.97]])
    assert report.max == pytest.approx(0.04)
    assert report.mean == pytest.approx(0.02)  # a mean over tokens; over responses it were 0.0192
    assert report.num_tokens == 5
    assert report.worst_sample_id == "b"
    assert report.policy_version == 3


def test_one_token_beyond_the_largest_difference():
    with pytest.raises(ParityError) as caught:
        _compare([[-1.0], [-2.0]], [[-1.0], [-2.06]], mean_allowed=1.0)
    assert "b by 0.06" in str(caught.value)
    assert "policy version 3" in str(caught.value)


def test_many_small_differences_break_the_mean():
    learner = [[-1.04, -1.04], [-1.04, -1.0]]  # none above 0.05, mean 0.03
    _compare([[-1.0, -1.0], [-1.0, -1.0]], learner, mean_allowed=0.0301)
    with pytest.raises(ParityError, match=r"0\.03 on average"):
        _compare([[-1.0, -1.0], [-1.0, -1.0]], learner, mean_allowed=0.0299)


def test_the_sign_of_a_difference_does_not_matter():
    with pytest.raises(ParityError):
        _compare([[-2.0], [-2.0]], [[-2.04], [-1.96]], mean_allowed=0.039)


def test_different_policy_versions():
    with pytest.raises(ParityError, match=r"sampler at policy version 3, learner at 4"):
        _compare([[-1.0], [-1.0]], [[-1.0], [-1.0]], versions=(3, 4))


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_log_prob_that_is_not_finite_names_its_sample(value):
    with pytest.raises(ParityError, match=r"not finite for b "):
        _compare([[-1.0], [-1.0]], [[-1.0], [value]])
    with pytest.raises(ParityError, match=r"not finite for b "):
        _compare([[-1.0], [value]], [[-1.0], [value]])  # inf - inf must not count as agreement


def test_different_tokens():
    with pytest.raises(ParityError, match=r"same tokens"):
        _compare([[-1.0], [-1.0]], [[-1.0], [-1.0, -2.0]])


def test_nothing_compared_is_not_agreement():
    with pytest.raises(ParityError, match=r"at least one"):
        _compare([], [], ids=())
