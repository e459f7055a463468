"""The Ray actor around one sampler."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from policy.mixed_prompt import MixedPrompt
from rollouts.config import RolloutConfig
from rollouts.sampler import Sampler
from rollouts.types import AdapterWeights, RolloutGroup, RolloutRequest

PROBE_PASSES = 2


class RolloutWorker:
    """What :class:`rollouts.pool.RolloutPool` runs in each of its actor processes.

    The engine starts in :meth:`start` and not in the constructor: an exception in a Ray actor's
    constructor reaches the caller as a dead actor without its own type.
    """

    def __init__(self, config: RolloutConfig, sampler_arguments: Mapping[str, Any]) -> None:
        self._config, self._arguments = config, dict(sampler_arguments)
        self._sampler: Sampler | None = None

    def start(self, adapter: AdapterWeights | None) -> int:
        """Start the engine, at ``adapter`` when there is one. Returns this process's id."""
        self._sampler = Sampler(config=self._config, **self._arguments)
        if adapter is not None:
            self._sampler.load_adapter(adapter)
        return os.getpid()

    def generate(self, requests: Sequence[RolloutRequest]) -> list[RolloutGroup]:
        return self._started().generate(requests)

    def load_adapter(self, adapter: AdapterWeights) -> int:
        return self._started().load_adapter(adapter)

    def probe(self, prompts: Sequence[MixedPrompt]) -> list[RolloutGroup]:
        """Greedy responses to each prompt, in two passes.

        The first pass would read prefixes that a sync left behind, the second those of the first.
        """
        requests = [
            RolloutRequest(prompt=prompt, greedy=True, max_tokens=self._config.probe_tokens)
            for prompt in prompts
        ]
        return [group for _ in range(PROBE_PASSES) for group in self.generate(requests)]

    def _started(self) -> Sampler:
        assert self._sampler is not None, "start() comes before any other call"
        return self._sampler
