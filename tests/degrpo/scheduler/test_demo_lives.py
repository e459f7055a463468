"""A pool as small as the demo's lives through every transition by the rules themselves."""

from __future__ import annotations

import numpy as np
import pytest

from degrpo.config import AlgorithmConfig, SchedulerConfig, TrainConfig
from degrpo.lifecycle.events import EventKind
from degrpo.scheduler import build_scheduler

# Spread of the rewards of a sample's responses: two samples always tie, two nearly do.
SPREADS = [0.0] * 2 + [0.02] * 2 + [0.08] * 7 + [0.15] * 5


@pytest.mark.parametrize("seed", range(10))
def test_sixteen_samples_and_twenty_four_steps_show_a_whole_life(seed, visit):
    config = TrainConfig(
        seed=seed,
        batch_size=4,
        algorithm=AlgorithmConfig(smoothing=0.5, threshold_warmup=16, threshold_fraction=0.5),
        scheduler=SchedulerConfig(min_visits=2, min_pool_batches=2, probe_probability=0.5),
    )
    ids = [f"{i:02d}" for i in range(16)]
    scheduler = build_scheduler(config, ids)
    rng = np.random.default_rng(seed)
    seen = set()
    for _ in range(24):
        batch = scheduler.propose(4)
        utilities = [
            np.abs(np.diff(rng.normal(scale=SPREADS[int(name)], size=2))).item() for name in batch
        ]
        scheduler.observe([visit(n, u) for n, u in zip(batch, utilities, strict=True)])
        seen |= {one.kind for one in scheduler.drain_transitions()}
    assert seen == {EventKind.DECAYED, EventKind.COOLED, EventKind.PROBED, EventKind.REVIVED}
    assert scheduler.metrics()["lifecycle/saved_visits"] > 2
