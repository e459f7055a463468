"""What the policy said: prompts, responses and rewards, one row a response."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa

from degrpo.lifecycle.parts import PartFolder, list_parts, read_part

ROLLOUT_FOLDER = "rollouts"


class Phase(StrEnum):
    """When a response was given."""

    TRAIN = "train"
    BEFORE = "before"  # evaluation before the first step
    AFTER = "after"  # evaluation after the last step
    BEFORE_SHUFFLED = "before_shuffled"  # the same questions about another sample's clip
    AFTER_SHUFFLED = "after_shuffled"


ROLLOUT_SCHEMA = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("policy_version", pa.int64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("phase", pa.string(), nullable=False),
        pa.field("greedy", pa.bool_(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("reward", pa.float64()),
        pa.field("parts", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("log_prob_sum", pa.float64()),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
    ]
)
"""The columns of ``rollouts/*.parquet``; ``parts`` is the reward's breakdown."""


class RolloutLog:
    """Writes a run's responses; durable at :meth:`commit`, like the lifecycle log.

    Raises:
        CheckpointError: when the folder's log is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self._parts = PartFolder(folder, ROLLOUT_SCHEMA)
        self._buffer: list[dict[str, Any]] = []

    @property
    def folder(self) -> Path:
        return self._parts.folder

    def append(
        self,
        *,
        step: int,
        policy_version: int,
        sample_id: str,
        index: int,
        prompt: str,
        response: str,
        reward: float | None,
        parts: Mapping[str, float | None],
        log_prob_sum: float | None,
        tokens: int,
        stop_reason: str,
        greedy: bool = False,
        phase: str = Phase.TRAIN,
    ) -> None:
        """Buffer response ``index`` of a group. Numbers that are not finite are stored as null.

        Raises:
            ValueError: for an unknown phase, or a step before that of the row before.
        """
        last = self._buffer[-1]["step"] if self._buffer else self._parts.last_step or 0
        if step < last:
            raise ValueError(
                f"a response of step {step} after one of step {last}; steps never go back"
            )
        row = {
            "seq": self._parts.next_seq + len(self._buffer),
            "step": int(step),
            "policy_version": int(policy_version),
            "sample_id": sample_id,
            "index": int(index),
            "phase": str(Phase(phase)),
            "greedy": bool(greedy),
            "prompt": prompt,
            "response": response,
            "reward": _finite(reward),
            "parts": [(name, _finite(value)) for name, value in parts.items()],
            "log_prob_sum": _finite(log_prob_sum),
            "tokens": int(tokens),
            "stop_reason": str(stop_reason),
        }
        self._buffer.append(row)

    def commit(self, step: int) -> Path | None:
        """Write the buffered responses as one part, atomically; None when there are none.

        Raises:
            ValueError: when a buffered response belongs to a later step.
        """
        if not self._buffer:
            return None
        if self._buffer[-1]["step"] > step:
            raise ValueError(
                f"commit({step}) was given responses of step {self._buffer[-1]['step']}"
            )
        path = self._parts.write(self._buffer, step=step)
        self._buffer = []
        return path

    def rewind(self, next_step: int) -> None:
        """Forget the training responses from ``next_step`` on, buffered ones included.

        Whatever was written after the first of them goes too. An evaluation stays as long as the
        training that it followed.
        """
        self._buffer = []
        cut = None
        for part in reversed(list_parts(self.folder)):
            if part.step < next_step:
                break
            rows = read_part(part, columns=["seq", "step", "phase"]).to_pylist()
            dropped = [
                row["seq"]
                for row in rows
                if row["phase"] == Phase.TRAIN and row["step"] >= next_step
            ]
            cut = min(dropped, default=cut)
        if cut is not None:
            self._parts.rewind(cut)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
