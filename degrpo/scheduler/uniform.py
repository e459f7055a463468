"""Uniform sampling: shuffled passes over the whole corpus, as GRPO has it (arXiv 2402.03300)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.errors import CheckpointError
from degrpo.config import AlgorithmConfig, SchedulerConfig
from degrpo.scheduler.base import SampleSnapshot, SampleStatus, Transition
from degrpo.scheduler.passes import ShuffledPasses
from degrpo.types import SampleStatistics


class UniformScheduler:
    """Every sample in turn, every weight 1; what is measured moves nothing."""

    def __init__(
        self,
        sample_ids: Sequence[str],
        *,
        batch_size: int,
        seed: int,
        algorithm: AlgorithmConfig,
        scheduler: SchedulerConfig,
    ) -> None:
        del algorithm, scheduler  # it has no knobs
        self._visits = dict.fromkeys(sample_ids, 0)
        self._steps_a_round = -(-len(self._visits) // batch_size)
        self._step = -1
        self._rng = np.random.default_rng(seed)
        self._passes = ShuffledPasses(self._rng)

    def propose(self, n: int) -> list[str]:
        self._step += 1
        return self._passes.take(n, lambda: list(self._visits), self._visits.__contains__)

    def weights(self, sample_ids: Sequence[str]) -> list[float]:
        return [1.0] * len(sample_ids)

    def observe(self, stats: Sequence[SampleStatistics]) -> None:
        for one in stats:
            self._visits[one.sample_id] += 1

    def fail(self, sample_id: str) -> None:
        self._visits[sample_id] += 1

    def snapshot(self, sample_id: str) -> SampleSnapshot:
        return SampleSnapshot(
            sample_id=sample_id,
            visits=self._visits[sample_id],
            state=None,
            utility=None,
            threshold=None,
            status=SampleStatus.ACTIVE,
            round=self._round,
            reason="",
        )

    def drain_transitions(self) -> list[Transition]:
        return []

    def metrics(self) -> dict[str, float]:
        return {"lifecycle/round": self._round, "lifecycle/active": len(self._visits)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "visits": list(self._visits.items()),  # pairs: their order matters
            "queue": list(self._passes.queue),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        visits = dict(state["visits"])
        if set(visits) != set(self._visits):
            raise CheckpointError(
                f"scheduler state of {len(visits)} samples",
                f"it is of the same {len(self._visits)} samples as the corpus",
                "resume with the corpus that the run began with, or start a new run",
            )
        self._step = state["step"]
        self._visits = visits
        self._passes.queue = list(state["queue"])
        self._rng.bit_generator.state = state["rng"]

    @property
    def _round(self) -> int:
        return max(self._step, 0) // self._steps_a_round
