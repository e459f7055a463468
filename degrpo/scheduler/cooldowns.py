"""Who is set aside, until when, and which of them get a probe meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np


class Cooldowns:
    """Cooling samples. Time is in steps; a round is ``steps_a_round`` of them.

    Args:
        rng: shared with its owner, who also saves it.
        steps_a_round: steps of one pass over the whole corpus.
        probe_probability: chance per round that a cooling sample is probed, at a random step of it.
    """

    def __init__(
        self, rng: np.random.Generator, *, steps_a_round: int, probe_probability: float
    ) -> None:
        self._rng = rng
        self._steps_a_round, self._probe_probability = steps_a_round, probe_probability
        self._until: dict[str, int] = {}  # sample -> the first step of its return
        self._returns: dict[int, list[str]] = {}  # the same by step; may name samples since ended
        self._probes: dict[str, int] = {}  # sample -> step from which its probe is due, ascending

    def start(self, sample_id: str, step: int, rounds: int) -> int:
        """Set a sample aside after ``step`` for so many rounds; returns the step of its return."""
        until = step + 1 + rounds * self._steps_a_round
        self._until[sample_id] = until
        self._returns.setdefault(until, []).append(sample_id)
        return until

    def end(self, sample_id: str) -> None:
        """The sample is back; its pending probe is void."""
        del self._until[sample_id]
        self._probes.pop(sample_id, None)

    def over(self, step: int) -> list[str]:
        """Samples whose time ends with this step; :meth:`end` them. To be asked at every step."""
        return [name for name in self._returns.pop(step, []) if self._until.get(name) == step]

    def draw_probes(self, step: int) -> None:
        """At the first step of a round: choose who is probed in it, and when."""
        names = [name for name in self._until if name not in self._probes]
        chosen = np.flatnonzero(self._rng.random(len(names)) < self._probe_probability)
        due = step + self._rng.integers(self._steps_a_round, size=len(chosen))
        for i in np.argsort(due, kind="stable"):
            self._probes[names[chosen[i]]] = int(due[i])

    def due_probes(self, step: int, limit: int) -> list[str]:
        """At most ``limit`` samples to probe at this step; the others stay due."""
        due: list[str] = []
        for name, when in self._probes.items():
            if when > step or len(due) == limit:
                break
            due.append(name)
        for name in due:
            del self._probes[name]
        return due

    def state_dict(self) -> dict[str, Any]:
        """JSON-able. Pairs, not mappings: their order matters."""
        return {"until": list(self._until.items()), "probes": list(self._probes.items())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._until = dict(state["until"])
        self._probes = dict(state["probes"])
        self._returns = {}
        for name, until in self._until.items():
            self._returns.setdefault(until, []).append(name)
