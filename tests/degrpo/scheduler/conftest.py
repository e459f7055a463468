"""A scheduler over letters, and statistics of visits with a chosen utility."""

from __future__ import annotations

import pytest

from degrpo.config import AlgorithmConfig, SchedulerConfig, TrainConfig
from degrpo.scheduler import build_scheduler
from degrpo.types import SampleStatistics


@pytest.fixture
def visit():
    """``visit(id, utility)``: statistics with S_sep = utility and S_grad = 1."""

    def make(sample_id: str, utility: float, *, reward: float = 0.5, group_size: int = 4):
        return SampleStatistics(
            sample_id=sample_id,
            rewards=(reward,) * group_size,
            separability=utility,
            sensitivity=1.0,
            value=0.5,
            weight=1.0,
            advantage_abs_mean=0.1,
            response_tokens=88,
            generate_seconds=1.9,
            learn_seconds=2.4,
        )

    return make


@pytest.fixture
def recipe():
    """``recipe(batch_size=…, algorithm={…}, …scheduler options)``: quick to judge, no warm-up."""

    def make(*, batch_size: int = 2, seed: int = 0, algorithm: dict | None = None, **scheduler):
        quick = {"min_visits": 1, "min_pool_batches": 1, "min_pool_fraction": 0.0}
        config = TrainConfig(
            batch_size=batch_size,
            seed=seed,
            algorithm=AlgorithmConfig(
                **{"threshold_warmup": 0, "smoothing": 0.5, **(algorithm or {})}
            ),
            scheduler=SchedulerConfig(**{**quick, "probe_probability": 0.0, **scheduler}),
        )
        config.algorithm.check()
        config.scheduler.check()
        return config

    return make


@pytest.fixture
def build(recipe):
    """``build(ids, **recipe options)``: a scheduler."""
    return lambda ids, **options: build_scheduler(recipe(**options), list(ids))
