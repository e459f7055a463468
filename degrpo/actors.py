"""The actors of a run: started together, spoken to in one place, ended together.

Calls return values or raise the project's own errors; Ray's wrapping ends here. A scheduler or
learner that dies ends the run (it continues from its last checkpoint); rollout workers and the
reward service are restarted by their own clients.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from common.errors import FaVChatError, MachineError
from common.progress import bar
from corpus.schema import Sample
from degrpo.config import TrainConfig
from degrpo.learner.actor import start_learner
from degrpo.run_folder import RunFolder
from degrpo.scheduler.actor import Proposal, StepRow, start_scheduler
from degrpo.types import TrainGroup, UpdateResult
from policy.mixed_prompt import MixedPrompt
from rewards.service import RewardClient
from rollouts.pool import RolloutPool


@dataclass(slots=True, kw_only=True)
class Actors:
    """Handles to a run's actors."""

    rollouts: RolloutPool
    rewards: RewardClient
    _learner: Any
    _scheduler: Any
    _policy_version: int = field(default=0)

    def propose(self, step: int) -> list[Proposal]:
        return get(self._scheduler.propose.remote(step), "scheduler")

    def commit(self, step: int, rows: Sequence[StepRow]) -> dict[str, float]:
        """Move the states, write the step's events; ``rows`` are of the version before the sync."""
        return get(
            self._scheduler.commit_step.remote(step, self._policy_version, rows), "scheduler"
        )

    def scheduler_state(self) -> dict[str, Any]:
        return get(self._scheduler.state_dict.remote(), "scheduler")

    def encode(self, samples: Sequence[Sample]) -> list[MixedPrompt | str]:
        return get(self._learner.encode.remote(samples), "learner")

    def update(self, groups: Sequence[TrainGroup]) -> UpdateResult:
        return get(self._learner.update.remote(groups), "learner")

    def log_probs(
        self, prompts: Sequence[MixedPrompt], token_ids: Sequence[Sequence[int]]
    ) -> tuple[list[np.ndarray], int]:
        return get(self._learner.log_probs.remote(prompts, token_ids), "learner")

    def sync(self) -> None:
        """Bring every rollout worker to the learner's policy version."""
        adapter = get(self._learner.adapter_weights.remote(), "learner")
        self.rollouts.sync(adapter)
        self._policy_version = adapter.policy_version

    def save_learner(self, folder: Path) -> None:
        get(self._learner.save.remote(folder), "learner")

    def save_policy(self, folder: Path) -> None:
        get(self._learner.save_merged.remote(folder), "learner")

    def restore(self, checkpoint: Path, scheduler_state: dict[str, Any]) -> None:
        """Put learner and scheduler where ``checkpoint`` was taken."""
        get(self._learner.load.remote(checkpoint), "learner")
        get(self._scheduler.load_state_dict.remote(scheduler_state), "scheduler")


@contextlib.contextmanager
def connect(
    config: TrainConfig, folder: RunFolder, policy: Path, sample_ids: Sequence[str]
) -> Iterator[Actors]:
    """Start a run's actors on the cluster named by ``RAY_ADDRESS``; end them on the way out.

    Args:
        policy: folder of the policy to start from.
        sample_ids: the pool that the scheduler chooses from.
    """
    ray.init(log_to_driver=True, logging_level=logging.WARNING)
    with contextlib.ExitStack() as ended:
        ended.callback(ray.shutdown)
        with bar("starting actors", total=4, unit="actor") as started:
            learner = start_learner()
            loading = learner.start.remote(config, policy)
            scheduler = start_scheduler(config, sample_ids, folder.lifecycle, folder.run_id)
            rewards = ended.enter_context(RewardClient(config.rewards))
            started.update(2)
            get(loading, "learner")
            arguments = get(learner.sampler_arguments.remote(folder.language_model), "learner")
            started.update()
            rollouts = ended.enter_context(
                contextlib.closing(RolloutPool(config.rollouts, arguments))
            )
            started.update()
        yield Actors(rollouts=rollouts, rewards=rewards, _learner=learner, _scheduler=scheduler)


def get(reference: Any, who: str) -> Any:
    """``ray.get`` whose errors are those that users meet.

    Raises:
        FaVChatError: the one that the actor raised.
        MachineError: when the actor's process died, or lacked disk or memory.
    """
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, FaVChatError):
            raise cause from error
        # Ray's own timeouts are OSErrors too, but say nothing about disk or memory.
        if isinstance(cause, (OSError, MemoryError)) and not isinstance(cause, RayError):
            raise MachineError(
                f"{type(cause).__name__} in the {who} ({_first_line(cause)})",
                "it needs disk and memory that it can use",
                "free disk or memory, check the folder's permissions, and start the run again: "
                "it continues from its last checkpoint",
            ) from error
        raise
    except RayError as error:  # an actor killed for memory is a plain RayError, not RayActorError
        raise MachineError(
            f"a {who} that died ({type(error).__name__}: {_first_line(error)})",
            "the run cannot go on without it",
            "free memory, look at the job's log, and start the run again: "
            "it continues from its last checkpoint",
        ) from error


def _first_line(error: BaseException) -> str:
    """What went wrong, on one line; for an actor that failed to start, the error that it raised."""
    lines = str(error).strip().splitlines() or ["no message"]
    return lines[-1] if "in its creation task" in lines[0] else lines[0]
