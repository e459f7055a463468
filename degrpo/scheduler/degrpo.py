"""DE-GRPO's recurrent data mechanism: every sample has a life (FaVChat v4, Eq. 10–12).

    discover --min_visits--> active <--state crosses keep--> decayed
                               |  ^
              state <= remove  v  |  time is over, or a probe hits
                             cooldown

A sample's utility moves its state, the state decides whether it stays in the pool. A cooling
sample is not generated for, which is what is saved; rounds later, or when a probe finds it useful
again, it returns.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

import numpy as np
import torch

from common.errors import CheckpointError, ConfigError
from degrpo.algorithm.advantage import effective_sample_size
from degrpo.algorithm.utility import (
    lifecycle_weight,
    lifecycle_zone,
    sample_utility,
    update_state,
    utility_drive,
    utility_threshold,
)
from degrpo.config import AlgorithmConfig, SchedulerConfig
from degrpo.lifecycle.events import EventKind
from degrpo.scheduler.base import POOL, SampleSnapshot, SampleStatus, Transition
from degrpo.scheduler.cooldowns import Cooldowns
from degrpo.scheduler.passes import ShuffledPasses
from degrpo.types import SampleStatistics


@dataclass(slots=True, kw_only=True)
class _Life:
    """What is remembered of one sample."""

    state: float
    status: SampleStatus = SampleStatus.DISCOVER
    visits: int = 0
    cooldowns: int = 0
    utility: float | None = None
    threshold: float | None = None
    hit: bool = False  # whether the last visit's utility reached the threshold
    reason: str = ""


_COLUMNS = [field.name for field in fields(_Life)]


class DEGRPOScheduler:
    """The recurrent data mechanism with its guards.

    Guards: nothing moves during the warm-up; no sample is pruned before ``min_visits``; the pool
    keeps a least size; every cooling sample has a floor probability of a probe; a cooldown is
    capped. The mechanism does not see noisy labels (their rewards do spread), nor can it tell an
    impossible sample from a hard one when rewards are dense and noisy.

    Args:
        sample_ids: N different ids.
        batch_size: B; a round is ceil(N / B) steps.
        seed: of the passes and the probes.
        algorithm: Eq. 8–12's constants.
        scheduler: the guards'.
    """

    def __init__(
        self,
        sample_ids: Sequence[str],
        *,
        batch_size: int,
        seed: int,
        algorithm: AlgorithmConfig,
        scheduler: SchedulerConfig,
    ) -> None:
        self._algorithm, self._config, self._batch_size = algorithm, scheduler, batch_size
        self._lives = {name: _Life(state=algorithm.initial_state) for name in sample_ids}
        self._steps_a_round = math.ceil(len(self._lives) / batch_size)
        self._min_pool = _least_pool(len(self._lives), batch_size, scheduler)
        self._rng = np.random.default_rng(seed)
        self._passes = ShuffledPasses(self._rng)
        self._cooldowns = Cooldowns(
            self._rng,
            steps_a_round=self._steps_a_round,
            probe_probability=scheduler.probe_probability,
        )
        self._step = -1  # of the latest proposal
        self._num_observed = 0  # visits of the run that were measured
        self._utilities: deque[float] = deque(maxlen=algorithm.threshold_window)
        self._reward_means: deque[float] = deque(maxlen=algorithm.threshold_window)
        self._saved_visits = 0.0
        self._effective_fraction = 1.0
        self._transitions: list[Transition] = []
        self._counts = Counter(life.status for life in self._lives.values())

    # ---- a step ------------------------------------------------------------------------------

    def propose(self, n: int) -> list[str]:
        """Start a step: due probes (at most half the batch), then the pool in shuffled passes."""
        self._step += 1
        for name in self._cooldowns.over(self._step):
            self._revive(name, self._lives[name], "the cooldown is over")
        if self._step % self._steps_a_round == 0:
            self._cooldowns.draw_probes(self._step)
        aside = len(self._lives) - self._pool_size
        probes = self._cooldowns.due_probes(self._step, limit=max(1, n // 2))
        chance = f"chance of {self._config.probe_probability:g} a round"
        for name in probes:
            self._record(name, EventKind.PROBED, f"probe of a cooling sample; {chance}")
        batch = probes + self._passes.take(n - len(probes), self._pool, self._in_pool)
        # Uniform passes would have spent this share of the step on samples that are set aside.
        self._saved_visits += len(batch) * aside / len(self._lives) - len(probes)
        return batch

    def weights(self, sample_ids: Sequence[str]) -> list[float]:
        """delta(x) read from the state before the coming visit; 1 for probes and ``discover``."""
        lives = [self._life(name) for name in sample_ids]
        deltas = lifecycle_weight(
            torch.tensor([life.state for life in lives], dtype=torch.float64),
            remove=self._algorithm.remove,
            keep=self._algorithm.keep,
            decay=self._algorithm.decay,
        ).tolist()
        # A low state in the pool was held there by the pool's least size: generated for, so used.
        judged = (SampleStatus.ACTIVE, SampleStatus.DECAYED)
        return [
            delta if life.status in judged and delta > 0 else 1.0
            for life, delta in zip(lives, deltas, strict=True)
        ]

    def observe(self, stats: Sequence[SampleStatistics]) -> None:
        """Move the states by what the learner measured.

        The threshold comes from earlier visits only, so that it has seen none of these responses.

        Raises:
            ConfigError: for an unknown sample.
            SampleError: for statistics that are not finite; nothing has moved then.
        """
        if not stats:
            return
        lives = [self._life(one.sample_id) for one in stats]
        utilities = sample_utility(
            torch.tensor([one.separability for one in stats], dtype=torch.float64),
            torch.tensor([one.sensitivity for one in stats], dtype=torch.float64),
        )
        sizes = torch.tensor([one.advantage_abs_mean for one in stats], dtype=torch.float64)
        self._effective_fraction = effective_sample_size(sizes) / len(stats)
        self._move(lives, utilities, group_size=len(stats[0].rewards))
        self._judge(stats, lives)
        self._utilities.extend(utilities.tolist())
        self._reward_means.extend(fmean(one.rewards) for one in stats)
        self._num_observed += len(stats)

    def fail(self, sample_id: str) -> None:
        """Count the visit; a failure says nothing about use, so the state rests."""
        life = self._life(sample_id)
        life.visits += 1
        life.reason = "the visit failed; the state rests"
        if life.status is SampleStatus.DISCOVER and life.visits >= self._config.min_visits:
            self._set_status(life, SampleStatus.ACTIVE)

    # ---- what others read --------------------------------------------------------------------

    def snapshot(self, sample_id: str) -> SampleSnapshot:
        life = self._life(sample_id)
        return SampleSnapshot(
            sample_id=sample_id,
            visits=life.visits,
            state=life.state,
            utility=life.utility,
            threshold=life.threshold,
            status=life.status,
            round=self._round,
            reason=life.reason,
        )

    def drain_transitions(self) -> list[Transition]:
        drained, self._transitions = self._transitions, []
        return drained

    def metrics(self) -> dict[str, float]:
        """Counts per status, mean state, visits saved so far, and the effective share of the batch.

        ``lifecycle/saved_visits`` are the visits that uniform passes would have spent on samples
        set aside, less the probes. ``lifecycle/effective_alarm`` is 1 where few samples carry the
        step's |A|.
        """
        states = math.fsum(life.state for life in self._lives.values())
        alarm = self._effective_fraction < self._config.min_effective_fraction
        return {
            **{f"lifecycle/{status}": float(self._counts[status]) for status in SampleStatus},
            "lifecycle/state_mean": states / len(self._lives),
            "lifecycle/round": float(self._round),
            "lifecycle/saved_visits": self._saved_visits,
            "lifecycle/effective_fraction": self._effective_fraction,
            "lifecycle/effective_alarm": float(alarm),
        }

    def state_dict(self) -> dict[str, Any]:
        lives = self._lives.values()
        return {
            "sample_ids": list(self._lives),
            "lives": {name: [getattr(life, name) for life in lives] for name in _COLUMNS},
            "step": self._step,
            "num_observed": self._num_observed,
            "utilities": list(self._utilities),
            "reward_means": list(self._reward_means),
            "cooldowns": self._cooldowns.state_dict(),
            "queue": list(self._passes.queue),
            "saved_visits": self._saved_visits,
            "effective_fraction": self._effective_fraction,
            "transitions": [
                [one.sample_id, one.kind, one.reason, one.round] for one in self._transitions
            ],
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where the state was taken.

        Raises:
            CheckpointError: when it is of other samples.
        """
        if set(state["sample_ids"]) != set(self._lives):
            raise CheckpointError(
                f"scheduler state of {len(state['sample_ids'])} samples",
                f"it is of the same {len(self._lives)} samples as the corpus",
                "resume with the corpus that the run began with, or start a new run",
            )
        rows = zip(*(state["lives"][column] for column in _COLUMNS), strict=True)
        lives = [_Life(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]
        for life in lives:
            life.status = SampleStatus(life.status)
        self._lives = dict(zip(state["sample_ids"], lives, strict=True))
        self._step, self._num_observed = state["step"], state["num_observed"]
        self._utilities = deque(state["utilities"], self._algorithm.threshold_window)
        self._reward_means = deque(state["reward_means"], self._algorithm.threshold_window)
        self._cooldowns.load_state_dict(state["cooldowns"])
        self._passes.queue = list(state["queue"])
        self._saved_visits = state["saved_visits"]
        self._effective_fraction = state["effective_fraction"]
        self._transitions = [
            Transition(sample_id=name, kind=EventKind(kind), reason=reason, round=number)
            for name, kind, reason, number in state["transitions"]
        ]
        self._rng.bit_generator.state = state["rng"]
        self._counts = Counter(life.status for life in self._lives.values())

    # ---- how a life moves --------------------------------------------------------------------

    def _move(self, lives: Sequence[_Life], utilities: torch.Tensor, *, group_size: int) -> None:
        """Eq. 11: each visit's utility, held against the threshold, moves its state."""
        warmup = self._algorithm.threshold_warmup
        if self._num_observed < warmup:
            for life, utility in zip(lives, utilities.tolist(), strict=True):
                life.visits += 1
                life.utility, life.threshold, life.hit = utility, None, False
                life.reason = f"warm-up: {self._num_observed} of {warmup} visits; the state rests"
            return
        # A lone success among G responses must pass: its utility falls like 1/G.
        fraction = min(self._algorithm.threshold_fraction, 3 / group_size)
        window = torch.tensor(list(self._utilities), dtype=torch.float64)
        threshold = utility_threshold(window, fraction=fraction)
        drives = utility_drive(utilities, threshold)
        old = torch.tensor([life.state for life in lives], dtype=torch.float64)
        new = update_state(old, drives, smoothing=self._algorithm.smoothing)
        moves = zip(lives, utilities.tolist(), drives.tolist(), new.tolist(), strict=True)
        for life, utility, drive, state in moves:
            life.visits += 1
            life.utility, life.threshold, life.hit = utility, float(threshold), drive >= 1
            sign = ">=" if life.hit else "<"
            life.reason = (
                f"utility {utility:.3g} {sign} threshold {float(threshold):.3g}; "
                f"state {life.state:.2f} -> {state:.2f}"
            )
            life.state = state

    def _judge(self, stats: Sequence[SampleStatistics], lives: Sequence[_Life]) -> None:
        """Eq. 12: where each state lies decides whether its sample stays in the pool."""
        for one, life in zip(stats, lives, strict=True):
            if life.status is SampleStatus.COOLDOWN and life.hit:
                self._revive(one.sample_id, life, f"the probe hit: {life.reason}")
        zones = lifecycle_zone(
            torch.tensor([life.state for life in lives], dtype=torch.float64),
            remove=self._algorithm.remove,
            keep=self._algorithm.keep,
        ).tolist()
        judged = sorted(zip(stats, lives, zones, strict=True), key=lambda each: each[1].state)
        for one, life, zone in judged:  # the least useful first: only so many may leave the pool
            if life.status not in POOL or life.visits < self._config.min_visits:
                continue
            if zone < 0:
                self._set_aside(one, life)
            elif zone > 0 and life.status is not SampleStatus.DECAYED:
                self._set_status(life, SampleStatus.DECAYED)
                bound = f"state {life.state:.2f} >= {self._algorithm.keep:.2f}"
                weight = f"weight {self._algorithm.decay:g}"
                self._record(one.sample_id, EventKind.DECAYED, f"{bound}; {weight}")
            elif zone == 0:
                self._set_status(life, SampleStatus.ACTIVE)

    def _set_aside(self, one: SampleStatistics, life: _Life) -> None:
        if self._pool_size <= self._min_pool:
            self._set_status(life, SampleStatus.ACTIVE)
            life.reason += f"; kept: the pool is at its least size of {self._min_pool}"
            return
        bound = f"state {life.state:.2f} <= {self._algorithm.remove:.2f}"
        why = f"{bound} after {life.visits} visits"
        if self._config.pruning == "remove":
            self._set_status(life, SampleStatus.REMOVED)
            self._record(one.sample_id, EventKind.REMOVED, why)
            return
        reward = fmean(one.rewards)
        unsolved = bool(self._reward_means) and reward < fmean(self._reward_means)
        cap = self._config.cooldown_cap_unsolved if unsolved else self._config.cooldown_cap_solved
        life.cooldowns += 1
        rounds = min(self._config.cooldown_base**life.cooldowns, cap)
        self._cooldowns.start(one.sample_id, self._step, rounds)
        self._set_status(life, SampleStatus.COOLDOWN)
        plural = "round" if rounds == 1 else "rounds"
        self._record(one.sample_id, EventKind.COOLED, f"{why}; cooldown of {rounds} {plural}")

    def _revive(self, sample_id: str, life: _Life, why: str) -> None:
        self._cooldowns.end(sample_id)
        life.state = max(life.state, self._algorithm.initial_state)
        self._set_status(life, SampleStatus.ACTIVE)
        self._record(sample_id, EventKind.REVIVED, f"{why}; state set to {life.state:.2f}")

    # ---- small things ------------------------------------------------------------------------

    @property
    def _round(self) -> int:
        return max(self._step, 0) // self._steps_a_round

    @property
    def _pool_size(self) -> int:
        return sum(self._counts[status] for status in POOL)

    def _pool(self) -> list[str]:
        return [name for name, life in self._lives.items() if life.status in POOL]

    def _in_pool(self, sample_id: str) -> bool:
        return self._lives[sample_id].status in POOL

    def _set_status(self, life: _Life, status: SampleStatus) -> None:
        self._counts[life.status] -= 1
        self._counts[status] += 1
        life.status = status

    def _record(self, sample_id: str, kind: EventKind, reason: str) -> None:
        self._transitions.append(
            Transition(sample_id=sample_id, kind=kind, reason=reason, round=self._round)
        )

    def _life(self, sample_id: str) -> _Life:
        if sample_id not in self._lives:
            raise ConfigError(
                f"sample {sample_id!r}",
                f"the scheduler knows the {len(self._lives)} samples it was built with",
                "pass the ids that propose() returned",
            )
        return self._lives[sample_id]


def _least_pool(num_samples: int, batch_size: int, config: SchedulerConfig) -> int:
    """The pool's least size; one batch where the corpus is no larger than it should be."""
    least = max(
        config.min_pool_batches * batch_size, math.ceil(config.min_pool_fraction * num_samples)
    )
    return least if least < num_samples else min(batch_size, num_samples)
