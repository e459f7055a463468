"""The append-only log of what happened to every sample, in the order in which it happened."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from degrpo.lifecycle.events import Event, EventKind
from degrpo.lifecycle.parts import PartFolder

LIFECYCLE_FOLDER = "lifecycle"


def _optional(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=True)


EVENT_SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("policy_version", pa.int64(), nullable=False),
        pa.field("time", pa.float64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("round", pa.int64(), nullable=False),
        pa.field("visits", pa.int64(), nullable=False),
        pa.field("rewards", pa.list_(pa.float64()), nullable=False),
        _optional("reward_mean", pa.float64()),
        _optional("separability", pa.float64()),
        _optional("sensitivity", pa.float64()),
        _optional("utility", pa.float64()),
        _optional("threshold", pa.float64()),
        _optional("state", pa.float64()),
        _optional("weight", pa.float64()),
        _optional("value", pa.float64()),
        _optional("advantage_abs_mean", pa.float64()),
        _optional("response_tokens", pa.int64()),
        _optional("generate_seconds", pa.float64()),
        _optional("learn_seconds", pa.float64()),
        pa.field("flags", pa.list_(pa.string()), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""The columns of ``lifecycle/*.parquet``: the fields of :class:`Event`, in their order."""


class LifecycleLog:
    """Writes a run's lifecycle events. One writer a run.

    Events are buffered until :meth:`commit`, which makes a step's events durable together. Opening
    a folder that has events continues their numbering.

    Args:
        folder: usually ``outputs/<run>/lifecycle``.
        run_id: put on every event.
        clock: seconds since the epoch.

    Raises:
        CheckpointError: when the folder's log is damaged, or numbered with gaps or repeats.

    Example:
        >>> log = LifecycleLog("outputs/demo/lifecycle", "demo")
        >>> log.append(event="proposed", step=0, policy_version=0, sample_id="3f9c2b7a10de44c1")
        0
        >>> log.commit(0)
        PosixPath('outputs/demo/lifecycle/part-000000-seq000000000-000000000.parquet')
    """

    def __init__(
        self, folder: str | Path, run_id: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.run_id = run_id
        self._clock = clock
        self._parts = PartFolder(folder, EVENT_SCHEMA)
        self._buffer: list[dict[str, Any]] = []

    @property
    def folder(self) -> Path:
        return self._parts.folder

    @property
    def next_seq(self) -> int:
        """The next event's number, buffered events counted."""
        return self._parts.next_seq + len(self._buffer)

    def append(self, **fields: Any) -> int:
        """Buffer one event and return its ``seq``.

        ``fields`` are those of :class:`Event` but ``run_id``, ``seq`` and ``time``, which the log
        fills in. Numbers may be NumPy's. A number that is not finite is stored as null and flagged
        ``non_finite:<field>``, so that it neither stops the run nor poisons an average.

        Raises:
            TypeError: for a field that an event does not have, or a value of the wrong type.
            ValueError: for an unknown kind of event, an empty ``sample_id``, or a step before that
                of the event before.
        """
        event = Event(run_id=self.run_id, seq=self.next_seq, time=self._clock(), **fields)
        last = self._buffer[-1]["step"] if self._buffer else self._parts.last_step or 0
        if event.step < last:
            raise ValueError(
                f"an event of step {event.step} after one of step {last}; steps never go back"
            )
        self._buffer.append(_row(event))
        return event.seq

    def commit(self, step: int) -> Path | None:
        """Write the buffered events as one part, atomically; None when there are none.

        Raises:
            ValueError: when a buffered event belongs to a later step.
        """
        if not self._buffer:
            return None
        if self._buffer[-1]["step"] > step:
            raise ValueError(f"commit({step}) was given events of step {self._buffer[-1]['step']}")
        path = self._parts.write(self._buffer, step=step)
        self._buffer = []
        return path

    def rewind(self, next_seq: int) -> None:
        """Forget the events from ``next_seq`` on, buffered ones included, to resume there.

        Raises:
            CheckpointError: when the log is shorter than that.
        """
        self._buffer = []
        self._parts.rewind(next_seq)


def _row(event: Event) -> dict[str, Any]:
    """The event as a row of :data:`EVENT_SCHEMA`, its values checked."""
    if event.event not in set(EventKind):
        raise ValueError(f"event={event.event!r} is none of {', '.join(EventKind)}")
    if not event.sample_id:
        raise ValueError(f"event {event.event!r} names no sample")
    row: dict[str, Any] = {}
    dropped = []
    for name, value in asdict(event).items():
        field = EVENT_SCHEMA.field(name)
        try:
            row[name] = None if value is None and field.nullable else _convert(value, field.type)
        except TypeError as error:
            raise TypeError(f"{name}={value!r} of event {event.event!r}: {error}") from error
        if _has_hole(row[name], value):
            dropped.append(f"non_finite:{name}")
    row["flags"] = [*row["flags"], *dropped]
    return row


def _convert(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        if isinstance(value, str):
            raise TypeError("must be a sequence, not a string")
        return [_convert(item, kind.value_type) for item in value]
    if pa.types.is_string(kind):
        if not isinstance(value, str):
            raise TypeError(f"must be a string, not {type(value).__name__}")
        return str(value)
    if pa.types.is_integer(kind):
        return operator.index(value)
    if isinstance(value, str):
        raise TypeError("must be a number, not a string")
    number = float(value)
    return number if math.isfinite(number) else None


def _has_hole(stored: Any, given: Any) -> bool:
    return (
        any(item is None for item in stored)
        if isinstance(stored, list)
        else stored is None and given is not None
    )
