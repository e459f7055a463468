"""Eq. 10–12: numbers by hand, one rule at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, SampleError
from degrpo.algorithm import (
    lifecycle_weight,
    lifecycle_zone,
    sample_utility,
    update_state,
    utility_drive,
    utility_threshold,
)


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def close(measured: torch.Tensor, *expected: float) -> bool:
    return measured.tolist() == pytest.approx(list(expected))


class TestUtility:
    def test_product(self):
        assert close(sample_utility(vector(0.2, 0.0), vector(3.0, 5.0)), 0.6, 0.0)

    def test_sum_of_what_is_relative_to_its_scale(self):
        # .2 / .1 + 3 / 6 and 0 + 5 / 6.
        both = sample_utility(vector(0.2, 0.0), vector(3, 5), combine="sum", scales=(0.1, 6.0))
        assert close(both, 2.5, 5 / 6)

    def test_refusals(self):
        with pytest.raises(ConfigError, match="scales"):
            sample_utility(vector(1), vector(1), combine="sum")
        with pytest.raises(ConfigError, match="positive"):
            sample_utility(vector(1), vector(1), combine="sum", scales=(0.0, 1.0))
        with pytest.raises(ConfigError, match="combine"):
            sample_utility(vector(1), vector(1), combine="max")
        with pytest.raises(ConfigError, match="shape"):
            sample_utility(vector(1), vector(1, 2))
        with pytest.raises(SampleError, match="sensitivity"):
            sample_utility(vector(1), vector(math.nan))


class TestThreshold:
    # Sorted positives 1 2 3 4: the 75th percentile lies at index 2.25, which is 3.25.
    WINDOW = vector(0, 4, 0, 1, 3, 0, 2, 0)

    def test_fraction_of_the_positive_utilities(self):
        assert utility_threshold(self.WINDOW).item() == pytest.approx(0.35 * 3.25)
        assert utility_threshold(self.WINDOW, fraction=0.2).item() == pytest.approx(0.2 * 3.25)

    def test_fraction_ignores_how_many_are_useless(self):
        more = torch.cat([self.WINDOW, torch.zeros(50, dtype=torch.float64)])
        assert utility_threshold(more).item() == utility_threshold(self.WINDOW).item()

    def test_quantile_of_all(self):
        # 0 0 0 0 1 2 3 4: index .5 * 7 = 3.5 lies between 0 and 1; a low quantile is 0.
        assert utility_threshold(self.WINDOW, rule="quantile", fraction=0.5).item() == 0.5
        assert utility_threshold(self.WINDOW, rule="quantile", fraction=0.35).item() == 0.0

    def test_batch_mean(self):
        assert utility_threshold(self.WINDOW, rule="batch_mean").item() == 10 / 8

    @pytest.mark.parametrize("rule", ["fraction", "quantile", "batch_mean"])
    def test_is_zero_where_there_is_nothing_to_compare(self, rule):
        assert utility_threshold(vector(), rule=rule).item() == 0.0
        assert utility_threshold(vector(0, 0), rule=rule).item() == 0.0

    @given(scale=st.floats(1e-3, 1e3))
    def test_is_relative(self, scale):
        scaled = utility_threshold(self.WINDOW * scale).item()
        assert scaled == pytest.approx(scale * utility_threshold(self.WINDOW).item())

    def test_refusals(self):
        with pytest.raises(ConfigError, match="rule"):
            utility_threshold(self.WINDOW, rule="median")
        with pytest.raises(ConfigError, match="fraction"):
            utility_threshold(self.WINDOW, fraction=0.0)
        with pytest.raises(SampleError, match="window"):
            utility_threshold(vector(1, math.inf))


class TestDrive:
    def test_indicator(self):
        assert close(utility_drive(vector(0.9, 1.0, 1.1), 1.0), 0, 1, 1)
        # Nothing is useful at U = 0, even where the threshold is 0.
        assert close(utility_drive(vector(0.0, 1e-9), 0.0), 0, 1)

    def test_rank(self):
        window = vector(1, 2, 2, 4)
        assert close(
            utility_drive(vector(2, 5, 1), 0.0, kind="rank", window=window), 0.25, 1.0, 0.0
        )

    def test_sigmoid(self):
        # (3 - 2) / (2 * .5) = 1 and (2 - 2) / … = 0.
        drive = utility_drive(vector(3, 2), 2.0, kind="sigmoid", temperature=2.0, spread=0.5)
        assert close(drive, 1 / (1 + math.exp(-1)), 0.5)

    def test_sigmoid_takes_its_spread_from_the_window(self):
        # Quartiles of 0 1 2 3 4 are 1 and 3, so the spread is 2 / 1.35.
        drive = utility_drive(vector(3), 2.0, kind="sigmoid", window=vector(0, 1, 2, 3, 4))
        assert close(drive, 1 / (1 + math.exp(-1.35 / 2)))

    def test_sigmoid_without_any_spread_is_a_step(self):
        drive = utility_drive(vector(1, 2, 3), 2.0, kind="sigmoid", window=vector(2, 2))
        assert close(drive, 0.0, 0.5, 1.0)

    def test_ratio(self):
        assert close(utility_drive(vector(-1, 1, 4, 9), 4.0, kind="ratio"), 0, 0.25, 1, 1)
        assert close(utility_drive(vector(0, 5), 0.0, kind="ratio"), 0, 0)

    def test_raw(self):
        assert close(utility_drive(vector(0.3, 7), 1.0, kind="raw"), 0.3, 7)

    @pytest.mark.parametrize("kind", ["indicator", "rank", "sigmoid", "ratio"])
    @given(utilities=st.lists(st.floats(0, 1e3), min_size=1, max_size=9))
    def test_bounded_and_monotone(self, kind, utilities):
        ordered = torch.tensor(sorted(utilities), dtype=torch.float64)
        drive = utility_drive(ordered, 1.0, kind=kind, window=ordered)
        assert bool(((drive >= 0) & (drive <= 1)).all())
        assert bool((drive.diff() >= 0).all())

    def test_refusals(self):
        for kind in ("rank", "sigmoid"):
            with pytest.raises(ConfigError, match="window"):
                utility_drive(vector(1), 1.0, kind=kind)
        with pytest.raises(ConfigError, match="temperature"):
            utility_drive(vector(1), 1.0, kind="sigmoid", spread=1.0, temperature=0.0)
        with pytest.raises(ConfigError, match="kind"):
            utility_drive(vector(1), 1.0, kind="step")
        with pytest.raises(SampleError, match="utility"):
            utility_drive(vector(math.nan), 1.0)
        with pytest.raises(SampleError, match="threshold"):
            utility_drive(vector(1), math.nan)


class TestState:
    def test_lambda_on_the_old_state_or_on_the_new_drive(self):
        # .8 * .5 + .2 * 1 = .6 ; .2 * .5 + .8 * 1 = .9
        assert close(update_state(vector(0.5), vector(1)), 0.6)
        assert close(update_state(vector(0.5), vector(1), smoothing_on="new"), 0.9)

    def test_five_misses_from_a_half_reach_the_removal_bound(self):
        state, path = vector(0.5), []
        for _ in range(5):
            state = update_state(state, vector(0))
            path.append(state.item())
        assert path == pytest.approx([0.4, 0.32, 0.256, 0.2048, 0.16384])

    @given(
        state=st.floats(0, 1),
        drive=st.floats(0, 1),
        smoothing=st.floats(0, 1),
        on=st.sampled_from(["old", "new"]),
    )
    def test_lies_between_state_and_drive(self, state, drive, smoothing, on):
        new = update_state(vector(state), vector(drive), smoothing=smoothing, smoothing_on=on)
        assert min(state, drive) - 1e-12 <= new.item() <= max(state, drive) + 1e-12

    def test_refusals(self):
        with pytest.raises(ConfigError, match="lambda"):
            update_state(vector(0.5), vector(1), smoothing=1.5)
        with pytest.raises(ConfigError, match="smoothing_on"):
            update_state(vector(0.5), vector(1), smoothing_on="both")
        with pytest.raises(ConfigError, match="drive"):
            update_state(vector(0.5), vector(1, 1))
        with pytest.raises(SampleError, match="state"):
            update_state(vector(math.nan), vector(1))


class TestWeight:
    STATES = vector(0.0, 0.2, 0.21, 0.5, 0.79, 0.8, 1.0)

    def test_three_zones(self):
        assert close(lifecycle_weight(self.STATES, decay=0.5), 0, 0, 1, 1, 1, 0.5, 0.5)
        assert close(lifecycle_weight(self.STATES), 0, 0, 1, 1, 1, 1, 1)
        assert lifecycle_zone(self.STATES).tolist() == [-1, -1, 0, 0, 0, 1, 1]

    def test_bounds_hold_within_rounding(self):
        # In float32 .8 * .25 is .20000000298 and 4/5 may come out as .79999995.
        states = torch.tensor([0.2 + 9e-7, 0.2 + 3e-6, 0.8 - 9e-7, 0.8 - 3e-6], dtype=torch.float64)
        assert lifecycle_zone(states).tolist() == [-1, 0, 1, 0]
        assert lifecycle_zone(torch.tensor([0.8]) * 0.25).tolist() == [-1]

    def test_refusals(self):
        with pytest.raises(ConfigError, match="remove"):
            lifecycle_weight(vector(0.5), remove=0.8, keep=0.2)
        with pytest.raises(SampleError, match="state"):
            lifecycle_weight(vector(math.nan))
