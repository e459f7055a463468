"""The actor that hosts a scheduler and writes the lifecycle log.

::

    propose(t) --> [Proposal]              ... generate, score, train ...      commit_step(t, rows)
        |                                                                            |
        +-- transitions kept (revived, probed)          statistics move the states --+
                                                        all events of t in one part of the log

Scheduler and log share a process, so that a checkpoint holds both at the same step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from common.errors import CheckpointError, ConfigError
from degrpo.config import TrainConfig
from degrpo.lifecycle.events import EventKind
from degrpo.lifecycle.log import LifecycleLog
from degrpo.scheduler.base import Transition
from degrpo.scheduler.registry import build_scheduler
from degrpo.types import SampleStatistics

logger = logging.getLogger(__name__)


class Proposal(NamedTuple):
    """A sample that the step visits.

    Example:
        >>> Proposal(sample_id="3f9c2b7a10de44c1", weight=1.0, visits=4)
    """

    sample_id: str
    weight: float  # delta(x), from the state before this visit
    visits: int  # before this one


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """How far one proposed sample came in a step: generated, scored, trained, or failed on the way.

    Example:
        >>> StepRow(sample_id="3f9c2b7a10de44c1", response_tokens=88, generate_seconds=1.9,
        ...     failure="reward timed out", detail="after 10.0 s in my_rewards:judge")
    """

    sample_id: str
    response_tokens: int | None = None  # None: nothing was generated
    generate_seconds: float | None = None
    rewards: tuple[float, ...] = ()  # G, without KL; empty: not scored
    statistics: SampleStatistics | None = None  # None: not trained
    flags: tuple[str, ...] = ()
    failure: str = ""  # a short reason; set exactly where there are no statistics
    detail: str = ""  # a traceback or message

    def check(self) -> None:
        if (self.statistics is None) != bool(self.failure):
            raise ConfigError(
                f"sample {self.sample_id}: statistics={self.statistics}, failure={self.failure!r}",
                "a proposed sample either trained (statistics) or failed (why)",
                "give exactly one of them",
            )


class SchedulerHost:
    """A scheduler, its log, and the order in which a step's events are written.

    Events of a step: ``revived`` for cooldowns that ended with it, ``proposed``, ``probed``,
    ``generated``, ``scored``, ``trained``, then what the visit changed (``decayed``, ``cooled``,
    ``revived``, ``removed``), then ``failed``. One part of the log holds a whole step or none of
    it.

    A host begins a run at step 0, or :meth:`load_state_dict` puts it after the step at which the
    state was taken; either way events that the log has beyond that point are dropped, so that
    ``seq`` neither repeats nor skips.

    Args:
        config: the recipe.
        sample_ids: the corpus.
        log_folder: usually ``outputs/<run>/lifecycle``.
        run_id: put on every event.
    """

    def __init__(
        self, config: TrainConfig, sample_ids: Sequence[str], log_folder: str | Path, run_id: str
    ) -> None:
        self._scheduler = build_scheduler(config, sample_ids)
        self._batch_size = config.batch_size
        self._log = LifecycleLog(log_folder, run_id)
        self._seq = 0  # events of the steps committed so far
        self._open: _OpenStep | None = None

    def propose(self, step: int) -> list[Proposal]:
        """The step's samples. Asked again for the same step, it answers alike.

        Raises:
            ConfigError: when another step is still open.
        """
        if self._open is None:
            ids = self._scheduler.propose(self._batch_size)
            weights = dict(zip(ids, self._scheduler.weights(ids), strict=True))
            self._open = _OpenStep(
                step=step,
                weights=weights,
                transitions=[self._transition(one) for one in self._scheduler.drain_transitions()],
                standing={name: self._standing(name) for name in ids},
            )
        elif self._open.step != step:
            raise ConfigError(
                f"propose({step}) while step {self._open.step} is open",
                "one step is open at a time",
                f"commit step {self._open.step} first",
            )
        return [
            Proposal(name, weight, self._open.standing[name]["visits"])
            for name, weight in self._open.weights.items()
        ]

    def commit_step(
        self, step: int, policy_version: int, rows: Sequence[StepRow]
    ) -> dict[str, float]:
        """Move the states and make the step's events durable; returns the scheduler's metrics.

        Args:
            step: the open one.
            policy_version: that generated the responses.
            rows: one for each proposed sample, in any order.

        Raises:
            ConfigError: for another step, or rows that are not of its samples.
            SampleError: for statistics that are not finite. In either case nothing has changed,
                and the step can be committed again.
        """
        opened, rows = self._match(step, rows)
        self._scheduler.observe([row.statistics for row in rows if row.statistics is not None])
        for row in rows:
            if row.failure:
                self._scheduler.fail(row.sample_id)
        if self._log.next_seq != self._seq:
            beyond = self._log.next_seq - self._seq
            logger.warning("dropping %d lifecycle events from beyond step %d", beyond, step)
            self._log.rewind(self._seq)
        for event in self._events(opened, rows):
            self._log.append(step=step, policy_version=policy_version, **event)
        self._log.commit(step)
        self._seq, self._open = self._log.next_seq, None
        return self._scheduler.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Scheduler and log position after the last committed step; JSON-able.

        Raises:
            CheckpointError: in the middle of a step.
        """
        if self._open is not None:
            raise CheckpointError(
                f"a checkpoint in the middle of step {self._open.step}",
                "a checkpoint holds whole steps",
                "commit the step first",
            )
        return {"scheduler": self._scheduler.state_dict(), "next_seq": self._seq}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where :meth:`state_dict` was taken; later events of the log are dropped.

        Raises:
            CheckpointError: when the state is of other samples or the log is shorter than it was.
        """
        self._scheduler.load_state_dict(state["scheduler"])
        self._log.rewind(state["next_seq"])
        self._seq, self._open = state["next_seq"], None

    def _match(self, step: int, rows: Sequence[StepRow]) -> tuple[_OpenStep, list[StepRow]]:
        """The open step and its rows in the order of the proposal."""
        if self._open is None or self._open.step != step:
            now = "none" if self._open is None else str(self._open.step)
            raise ConfigError(
                f"commit_step({step})", f"the open step is {now}", "propose the step before it"
            )
        by_id = {row.sample_id: row for row in rows}
        if len(by_id) != len(rows) or by_id.keys() != self._open.weights.keys():
            raise ConfigError(
                f"rows of {sorted(row.sample_id for row in rows)}",
                f"step {step} proposed {sorted(self._open.weights)}",
                "give one row for each proposed sample, failed ones too",
            )
        for row in rows:
            row.check()
        return self._open, [by_id[name] for name in self._open.weights]

    def _events(self, opened: _OpenStep, rows: list[StepRow]) -> Iterator[dict[str, Any]]:
        """The fields of a step's events, in order; the states have moved already."""
        yield from (one for one in opened.transitions if one["event"] is EventKind.REVIVED)
        for name, weight in opened.weights.items():
            yield {"event": EventKind.PROPOSED, "weight": weight, **opened.standing[name]}
        yield from (one for one in opened.transitions if one["event"] is not EventKind.REVIVED)
        now = {row.sample_id: self._standing(row.sample_id) for row in rows}
        for row in rows:
            if row.response_tokens is not None:
                yield {"event": EventKind.GENERATED, **_generated(row), **now[row.sample_id]}
        for row in rows:
            if row.rewards:
                yield {"event": EventKind.SCORED, **_scored(row.rewards), **now[row.sample_id]}
        for row in rows:
            if row.statistics is not None:
                snapshot = self._scheduler.snapshot(row.sample_id)
                yield {
                    "event": EventKind.TRAINED,
                    **_trained(row.statistics),
                    **now[row.sample_id],
                    "utility": snapshot.utility,
                    "threshold": snapshot.threshold,
                    "reason": snapshot.reason,
                    "flags": row.flags,
                }
        yield from (self._transition(one) for one in self._scheduler.drain_transitions())
        for row in rows:
            if row.failure:
                why = {"reason": row.failure, "detail": row.detail, "flags": row.flags}
                yield {"event": EventKind.FAILED, **why, **now[row.sample_id]}

    def _standing(self, sample_id: str) -> dict[str, Any]:
        snapshot = self._scheduler.snapshot(sample_id)
        return {
            "sample_id": sample_id,
            "round": snapshot.round,
            "visits": snapshot.visits,
            "state": snapshot.state,
        }

    def _transition(self, one: Transition) -> dict[str, Any]:
        standing = {**self._standing(one.sample_id), "round": one.round}
        return {"event": one.kind, "reason": one.reason, **standing}


def start_scheduler(
    config: TrainConfig,
    sample_ids: Sequence[str],
    log_folder: str | Path,
    run_id: str,
    **options: Any,
) -> Any:
    """Start the scheduler actor in the connected Ray cluster; returns its handle.

    It is never restarted behind the loop's back: a fresh scheduler would begin again at step 0. The
    loop starts another and restores it.

    Args:
        options: for ``ray.remote(...).options``; by default the actor takes no CPU.
    """
    import ray

    actor = ray.remote(num_cpus=0, max_restarts=0)(SchedulerHost)
    return actor.options(**options).remote(config, list(sample_ids), str(log_folder), run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenStep:
    step: int
    weights: dict[str, float]  # of the proposed samples, in order
    transitions: list[dict[str, Any]]  # events that came with the proposal
    standing: dict[str, dict[str, Any]]  # of the proposed samples, before the visit


def _generated(row: StepRow) -> dict[str, Any]:
    return {
        "response_tokens": row.response_tokens,
        "generate_seconds": row.generate_seconds,
        "flags": row.flags,
    }


def _scored(rewards: tuple[float, ...]) -> dict[str, Any]:
    return {"rewards": rewards, "reward_mean": fmean(rewards)}


def _trained(statistics: SampleStatistics) -> dict[str, Any]:
    measured = {one.name: getattr(statistics, one.name) for one in fields(statistics)}
    return {**measured, **_scored(statistics.rewards)}
