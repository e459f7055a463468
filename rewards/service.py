"""The reward service: reward functions in a process of their own, where they can do no harm.

A function that never returns, or that takes its process down, is ended with the process. What the
caller sees is always one breakdown per completion:

    batch -> service ------------------------------------------> breakdowns
               | too slow, or its process died
               +-> new service -> sample by sample -> breakdowns
                                    | again
                                    +-> that sample fails, new service, next sample

Ray is imported when a service is started, not with this module.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from common.errors import FaVChatError, MachineError
from rewards.config import RewardsConfig
from rewards.registry import build_rewards
from rewards.scoring import score
from rewards.types import RewardBreakdown, RewardRequest, WeightedReward

START_SECONDS = 180.0  # for a process to start and load its embedding model

log = logging.getLogger(__name__)


class RewardService:
    """What runs in the actor: builds a recipe's rewards once, then scores batches."""

    def __init__(self) -> None:
        self._functions: list[WeightedReward] = []

    def prepare(self, config: RewardsConfig) -> None:
        """Build the rewards and call their ``prepare()``, before the first batch's clock runs.

        Raises:
            ConfigError: for a recipe whose rewards cannot be built.
        """
        self._functions = build_rewards(config)
        for reward in self._functions:
            if hasattr(reward.function, "prepare"):
                reward.function.prepare()

    def score(self, requests: Sequence[RewardRequest]) -> list[tuple[RewardBreakdown, ...]]:
        """See :func:`rewards.scoring.score`."""
        return score(self._functions, requests)

    def process_id(self) -> int:
        """For a person who looks for the process in a list of processes."""
        return os.getpid()


class RewardClient:
    """The caller's side: a service that is always there.

    Args:
        config: the recipe's rewards.
        num_cpus: cores that Ray reserves for the service. None by default: it works while learner
            and sampler wait for it.

    Example:
        >>> with RewardClient(RewardsConfig()) as rewards:
        ...     rewards.score([request])
        [(RewardBreakdown(total=1.0, parts={'facial': 1.0, 'facial/emotion': 1.0}, ...),)]
    """

    def __init__(self, config: RewardsConfig, *, num_cpus: float = 0.0) -> None:
        self.restarts = 0
        self._config, self._num_cpus = config, num_cpus
        self._actor: Any = None

    def start(self) -> None:
        """Start the service. Needs a Ray that is initialised.

        Raises:
            ConfigError: when the recipe's rewards cannot be built.
            MachineError: when the process does not come up.
        """
        import ray

        actor_class = ray.remote(num_cpus=self._num_cpus, max_concurrency=1)(RewardService)
        self._actor = actor_class.remote()
        try:
            ray.get(self._actor.prepare.remote(self._config), timeout=START_SECONDS)
        except ray.exceptions.RayTaskError as error:
            self.close()
            if isinstance(error.cause, FaVChatError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:  # died, killed for memory, or too slow
            self.close()
            raise MachineError(
                f"a reward service that did not start within {START_SECONDS:.0f} s",
                f"its process must come up ({type(error).__name__}: {error})",
                "look at the worker's log under the Ray session folder",
            ) from error

    def score(self, requests: Sequence[RewardRequest]) -> list[tuple[RewardBreakdown, ...]]:
        """One tuple of breakdowns per request, as :func:`rewards.scoring.score`.

        A batch that takes longer than ``config.timeout_seconds``, or kills the service, is scored
        again sample by sample by a new service, each sample with its share of that time. A sample
        that fails again has ``total`` None and the reason in ``error``.
        """
        requests = list(requests)
        if not requests:
            return []
        limit = self._config.timeout_seconds
        answer = self._ask(requests, limit)
        if not isinstance(answer, str):
            return answer
        log.warning("scoring %d samples again, one by one: %s", len(requests), answer)
        share = max(1.0, limit / len(requests))
        rescored: list[tuple[RewardBreakdown, ...]] = []
        for request in requests:
            again = self._ask([request], share)
            rescored.extend([_failed(request, again)] if isinstance(again, str) else again)
        return rescored

    def close(self) -> None:
        """End the service's process."""
        if self._actor is not None:
            import ray

            ray.kill(self._actor)
            self._actor = None

    def __enter__(self) -> RewardClient:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def process_id(self) -> int:
        """The service's process."""
        import ray

        return ray.get(self._actor.process_id.remote())

    def _ask(
        self, requests: list[RewardRequest], seconds: float
    ) -> list[tuple[RewardBreakdown, ...]] | str:
        """The service's answer, or the reason why it had to be replaced."""
        import ray

        try:
            return ray.get(self._actor.score.remote(requests), timeout=seconds)
        except ray.exceptions.RayTaskError:
            raise  # scoring catches what a reward raises: this is a defect, not a dead process
        except ray.exceptions.GetTimeoutError:
            reason = f"the reward service gave no answer within {seconds:.1f} s"
        except ray.exceptions.RayError:  # killed for memory is a plain RayError
            reason = "the reward service's process died"
        self.restarts += 1
        self.close()
        self.start()
        return reason


def _failed(request: RewardRequest, reason: str) -> tuple[RewardBreakdown, ...]:
    breakdown = RewardBreakdown(total=None, parts={}, seconds=0.0, error=reason)
    return (breakdown,) * len(request.completions)
