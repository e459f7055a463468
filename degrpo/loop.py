"""One step of DE-GRPO, phase by phase.

::

    scheduler      learner        rollouts        rewards
        | propose     |               |              |
        |-----------> | encode        |              |
        |             |-------------> | generate     |
        |             |               |------------> | score
        |             | update  <--------------------|
        | commit <----|               |              |
        |             |-------------> | sync, parity probe

A sample that fails in a phase leaves the step there, with its reason; the others go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from common.errors import MachineError, ParityError
from common.metrics import MetricsWriter
from corpus.schema import Sample
from degrpo.actors import Actors
from degrpo.config import TrainConfig
from degrpo.lifecycle.rollout_log import RolloutLog
from degrpo.pool_evaluation import Answer, request_for
from degrpo.scheduler.actor import StepRow
from degrpo.types import SampleStatistics, TrainGroup, UpdateResult
from policy.mixed_prompt import MixedPrompt
from rewards.types import RewardBreakdown
from rollouts.parity import ParityReport, compare
from rollouts.types import Response, RolloutGroup, RolloutRequest


@dataclass(slots=True, kw_only=True)
class Visit:
    """A sample's way through one step; ``failure`` ends it."""

    sample: Sample
    weight: float
    visits: int
    prompt: MixedPrompt | None = None
    group: RolloutGroup | None = None
    scores: tuple[RewardBreakdown, ...] = ()
    statistics: SampleStatistics | None = None
    failure: str = ""

    @property
    def rewards(self) -> tuple[float, ...]:
        return tuple(score.total for score in self.scores if score.total is not None)


@dataclass(slots=True)
class Loop:
    """The training loop over actors that are already running."""

    config: TrainConfig
    actors: Actors
    samples: dict[str, Sample]
    rollout_log: RolloutLog
    metrics: MetricsWriter
    _seconds: dict[str, float] = field(default_factory=dict)

    def step(self, step: int) -> dict[str, float | int | None]:
        """Run training step ``step`` (from 0) and return its metrics, already written.

        Raises:
            MachineError: when more than ``max_failed_fraction`` of the step's samples failed.
            ParityError: when sampler and learner disagree after the weight sync.
        """
        self._seconds = {}
        with self._timed("step"):
            visits = self.propose(step)
            self.encode(visits)
            self.generate(visits)
            self.score(visits)
            result = self.update(visits)
            self.refuse_broken_step(step, visits)
            scheduler_metrics = self.commit(step, visits)
            parity = self.sync(visits)
        row = self._metrics_row(visits, result, parity, scheduler_metrics)
        self.metrics.write(step, row)
        return row

    def propose(self, step: int) -> list[Visit]:
        with self._timed("propose"):
            proposals = self.actors.propose(step)
        return [
            Visit(sample=self.samples[sample_id], weight=weight, visits=visits)
            for sample_id, weight, visits in proposals
        ]

    def encode(self, visits: Sequence[Visit]) -> None:
        with self._timed("encode"):
            prompts = self.actors.encode([visit.sample for visit in visits])
        for visit, prompt in zip(visits, prompts, strict=True):
            if isinstance(prompt, str):
                visit.failure = prompt
            else:
                visit.prompt = prompt

    def generate(self, visits: Sequence[Visit]) -> None:
        alive = _alive(visits)
        requests = [
            RolloutRequest(
                prompt=visit.prompt,
                visit=visit.visits,
                num_responses=self.config.rollouts.group_size,
                seed=self.config.seed,
            )
            for visit in alive
            if visit.prompt is not None
        ]
        with self._timed("generate"):
            groups = self.actors.rollouts.generate(requests)
        for visit, group in zip(alive, groups, strict=True):
            visit.group = group
            visit.failure = group.error or ""

    def score(self, visits: Sequence[Visit]) -> None:
        alive = _alive(visits)
        requests = [
            request_for(visit.sample, [r.text for r in _responses(visit)]) for visit in alive
        ]
        with self._timed("score"):
            scored = self.actors.rewards.score(requests)
        for visit, scores in zip(alive, scored, strict=True):
            visit.scores = tuple(scores)
            errors = [score.error or "no reward applies" for score in scores if score.total is None]
            visit.failure = errors[0] if errors else ""

    def update(self, visits: Sequence[Visit]) -> UpdateResult | None:
        groups = [_train_group(visit) for visit in _alive(visits)]
        if not groups:
            return None
        with self._timed("update"):
            result = self.actors.update(groups)
        measured = {statistics.sample_id: statistics for statistics in result.statistics}
        for visit in _alive(visits):
            visit.statistics = measured.get(visit.sample.sample_id)
            if visit.statistics is None:
                visit.failure = result.failed.get(visit.sample.sample_id, "left out of the update")
        return result

    def refuse_broken_step(self, step: int, visits: Sequence[Visit]) -> None:
        failed = [visit for visit in visits if visit.failure]
        if len(failed) > self.config.max_failed_fraction * len(visits):
            reasons = "; ".join(
                f"{visit.sample.sample_id}: {visit.failure.splitlines()[0]}" for visit in failed
            )
            raise MachineError(
                f"{len(failed)} failed samples of {len(visits)} in step {step}",
                f"at most max_failed_fraction={self.config.max_failed_fraction:g} may fail",
                f"mend what failed ({reasons})",
            )

    def sync(self, visits: Sequence[Visit]) -> ParityReport | None:
        """Send the adapters to the sampler, then compare both sides' log-probs on a few prompts."""
        with self._timed("sync"):
            self.actors.sync()
        prompts = [visit.prompt for visit in visits if visit.prompt is not None]
        with self._timed("parity"):
            return self.parity(prompts[: self.config.rollouts.probe_prompts])

    def parity(self, prompts: Sequence[MixedPrompt]) -> ParityReport | None:
        """Compare the log-probs of greedy probe responses; None without prompts."""
        if not prompts:
            return None
        groups = self.actors.rollouts.probe(prompts)
        refused = [f"{group.sample_id}: {group.error}" for group in groups if group.error]
        if refused:
            raise ParityError(
                f"no probe response ({'; '.join(refused)})",
                "the sampler answers every probe",
                "check the last update for NaN",
            )
        by_id = {prompt.sample_id: prompt for prompt in prompts}
        probed = [
            (by_id[group.sample_id], response) for group in groups for response in group.responses
        ]
        learner, version = self.actors.log_probs(
            [prompt for prompt, _ in probed], [response.token_ids for _, response in probed]
        )
        return compare(
            [list(response.log_probs) for _, response in probed],
            [list(row) for row in learner],
            sample_ids=[prompt.sample_id for prompt, _ in probed],
            sampler_version=min(response.policy_version for _, response in probed),
            learner_version=version,
            max_allowed=self.config.rollouts.parity_max,
            mean_allowed=self.config.rollouts.parity_mean,
        )

    def commit(self, step: int, visits: Sequence[Visit]) -> dict[str, float]:
        """Move the samples' states and write every event of the step before it counts as done."""
        for visit in visits:
            if visit.scores and visit.group is not None:
                self._log_rollouts(step, "train", visit.sample, visit.group, visit.scores)
        self.rollout_log.commit(step)
        return self.actors.commit(step, [_step_row(visit) for visit in visits])

    def greedy_answers(self, step: int, phase: str, samples: Sequence[Sample]) -> list[Answer]:
        """Each sample's greedy answer and its reward, also in the rollout log as ``phase``."""
        visits = [Visit(sample=sample, weight=1.0, visits=0) for sample in samples]
        self.encode(visits)
        alive = _alive(visits)
        requests = [
            RolloutRequest(prompt=visit.prompt, greedy=True)
            for visit in alive
            if visit.prompt is not None
        ]
        for visit, group in zip(alive, self.actors.rollouts.generate(requests), strict=True):
            visit.group, visit.failure = group, group.error or ""
        self.score(visits)
        unanswered = RewardBreakdown(total=None, parts={}, seconds=0.0, error="no answer")
        for visit in visits:
            if visit.scores and visit.group is not None:
                self._log_rollouts(step, phase, visit.sample, visit.group, visit.scores)
        self.rollout_log.commit(step)
        return [
            (
                _responses(visit)[0].text if _responses(visit) else "",
                visit.scores[0] if visit.scores else unanswered,
            )
            for visit in visits
        ]

    def _log_rollouts(
        self,
        step: int,
        phase: str,
        sample: Sample,
        group: RolloutGroup,
        scores: Sequence[RewardBreakdown],
    ) -> None:
        for index, (response, score) in enumerate(zip(group.responses, scores, strict=True)):
            self.rollout_log.append(
                step=step,
                policy_version=response.policy_version,
                sample_id=sample.sample_id,
                index=index,
                prompt=sample.question,
                response=response.text,
                reward=score.total,
                parts=dict(score.parts),
                log_prob_sum=math.fsum(response.log_probs),
                tokens=len(response.token_ids),
                stop_reason=str(response.stop_reason),
                greedy=phase != "train",
                phase=phase,
            )

    def _metrics_row(
        self,
        visits: Sequence[Visit],
        result: UpdateResult | None,
        parity: ParityReport | None,
        scheduler_metrics: dict[str, float],
    ) -> dict[str, float | int | None]:
        rewards = [reward for visit in visits for reward in visit.rewards]
        tokens = sum(visit.group.tokens for visit in visits if visit.group)
        row: dict[str, Any] = {
            "reward/total/mean": fmean(rewards) if rewards else None,
            "rollout/tokens": tokens,
            "rollout/failed": sum(bool(visit.failure) for visit in visits),
            "perf/tokens_per_second": tokens / max(self._seconds.get("generate", 0.0), 1e-9),
            **{f"time/{phase}": seconds for phase, seconds in self._seconds.items()},
            **scheduler_metrics,
        }
        if result is not None:
            row |= result.metrics
        if parity is not None:
            row |= {"rollout/parity/max": parity.max, "rollout/parity/mean": parity.mean}
        return row

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._seconds[phase] = time.monotonic() - start


def _alive(visits: Sequence[Visit]) -> list[Visit]:
    return [visit for visit in visits if not visit.failure]


def _responses(visit: Visit) -> tuple[Response, ...]:
    return visit.group.responses if visit.group else ()


def _train_group(visit: Visit) -> TrainGroup:
    if visit.prompt is None or visit.group is None:
        raise ValueError(f"sample {visit.sample.sample_id} has no responses to train on")
    return TrainGroup(
        sample_id=visit.sample.sample_id,
        prompt=visit.prompt,
        responses=visit.group.responses,
        rewards=visit.rewards,
        weight=visit.weight,
        generate_seconds=visit.group.seconds,
    )


def _step_row(visit: Visit) -> StepRow:
    generated = visit.group is not None and visit.group.error is None
    return StepRow(
        sample_id=visit.sample.sample_id,
        response_tokens=visit.group.tokens if generated and visit.group else None,
        generate_seconds=visit.group.seconds if generated and visit.group else None,
        rewards=visit.rewards if len(visit.rewards) == len(visit.scores) else (),
        statistics=visit.statistics,
        flags=(*visit.sample.extra.get("flags", ()), *(visit.prompt.flags if visit.prompt else ())),
        failure=visit.failure.splitlines()[0] if visit.failure else "",
        detail=visit.failure,
    )
