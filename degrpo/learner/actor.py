"""The learner as a Ray actor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corpus.schema import Sample
from degrpo.config import TrainConfig
from degrpo.learner.learner import Learner
from degrpo.types import TrainGroup, UpdateResult
from policy.mixed_prompt import MixedPrompt
from rollouts.types import AdapterWeights


class LearnerActor:
    """:class:`Learner` in a process of its own; see there for what each method does.

    It is not restarted when it dies: the run goes back to its last checkpoint instead.
    """

    def start(self, config: TrainConfig, policy_dir: str | Path) -> None:
        """Load the policy. Not in the constructor: Ray would turn its errors into a dead actor."""
        # Ray set OMP_NUM_THREADS from num_cpus; learner and sampler take turns on the same cores.
        torch.set_num_threads(config.learner.threads or os.cpu_count() or 1)
        self._learner = Learner(config, policy_dir)

    def encode(self, samples: Sequence[Sample]) -> list[MixedPrompt | str]:
        return self._learner.encode(samples)

    def update(self, groups: Sequence[TrainGroup]) -> UpdateResult:
        return self._learner.update(groups)

    def adapter_weights(self) -> AdapterWeights:
        return self._learner.adapter_weights()

    def log_probs(
        self, prompts: Sequence[MixedPrompt], token_ids: Sequence[Sequence[int]]
    ) -> tuple[list[np.ndarray], int]:
        """The tokens' log-probabilities and the policy version that they are of."""
        return self._learner.log_probs(prompts, token_ids), self._learner.policy_version

    def sampler_arguments(self, folder: Path) -> dict[str, Any]:
        """Export the language model to ``folder``; return what a sampler needs to match it."""
        return self._learner.sampler_arguments(folder)

    def save(self, folder: Path) -> None:
        self._learner.save(folder)

    def load(self, folder: Path) -> None:
        self._learner.load(folder)

    def save_merged(self, folder: Path) -> None:
        self._learner.save_merged(folder)


def start_learner() -> Any:
    """Start an empty learner actor in the connected Ray cluster; returns its handle.

    No CPU is reserved: learner and sampler take turns on the same cores.
    """
    import ray

    return ray.remote(num_cpus=0, max_restarts=0)(LearnerActor).remote()
