"""A run's metrics: one JSON line a step, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.errors import CheckpointError, ConfigError

AREAS = ("loss", "reward", "rollout", "optim", "time", "perf", "lifecycle", "eval")
METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

_PART = re.compile(r"[A-Za-z0-9_.\-]+")


def check_metric_name(name: str) -> None:
    """Refuse a name that is not ``area/name/stat``.

    The stat is left out where there is one number only; the name may have several parts.

    Example:
        >>> check_metric_name("reward/facial/emotion/mean")
        >>> check_metric_name("time/generate")
    """
    parts = name.split("/")
    if parts[0] not in AREAS:
        raise ConfigError(
            f"metric {name!r}",
            f"the area is one of {', '.join(AREAS)}",
            f"name it, say, {AREAS[0]}/{parts[-1] or 'total'}/mean",
        )
    if len(parts) < 2 or not all(_PART.fullmatch(part) for part in parts):
        raise ConfigError(
            f"metric {name!r}",
            "it is area/name or area/name/stat, of letters, digits, '_', '.' and '-'",
            f"name it, say, {parts[0]}/total/mean",
        )


class MetricsWriter:
    """Appends a run's metrics to ``metrics.jsonl`` and to TensorBoard's event files.

    Numbers that are not finite are written as ``null`` to the one and left out of the other. Steps
    never go back; :meth:`rewind` makes room for a resumed run to write later steps again.

    Example:
        >>> with MetricsWriter(Path("outputs/demo")) as metrics:
        ...     metrics.write(3, {"reward/total/mean": 0.55, "rollout/response_tokens/sum": 352})
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.path = self.run_dir / METRICS_FILE
        self._events: Any = None  # TensorBoard's writer, opened at the first step
        self._drop_half_written_line()
        lines = read_metrics(self.run_dir)
        self._last_step = lines[-1]["step"] if lines else None

    def write(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Record one step's metrics; on disk when this returns.

        Raises:
            ConfigError: for a name that :func:`check_metric_name` refuses, or a step before the
                last one.
        """
        if self._last_step is not None and step < self._last_step:
            raise ConfigError(
                f"metrics of step {step} after step {self._last_step}",
                "steps never go back",
                "call rewind(next_step) when resuming",
            )
        for name in values:
            check_metric_name(name)
        finite = {name: _finite(value) for name, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
            _to_disk(file)
        self._to_tensorboard(step, finite)
        self._last_step = step

    def rewind(self, next_step: int) -> None:
        """Drop the steps from ``next_step`` on, atomically; TensorBoard forgets them too."""
        kept = [line for line in _lines(self.path) if json.loads(line)["step"] < next_step]
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in kept)
            _to_disk(file)
        temporary.replace(self.path)
        self._last_step = json.loads(kept[-1])["step"] if kept else None
        if self._events is not None or (self.run_dir / TENSORBOARD_FOLDER).exists():
            self._purge_tensorboard(next_step)

    def close(self) -> None:
        """Flush and close TensorBoard's file. A later :meth:`write` opens a new one."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _event_writer(self) -> Any:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._events is None:
            self._events = EventFileWriter(str(self.run_dir / TENSORBOARD_FOLDER))
        return self._events

    def _to_tensorboard(self, step: int, values: Mapping[str, float | None]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
            if value is not None
        ]
        writer = self._event_writer()
        writer.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=scalars)))
        writer.flush()

    def _purge_tensorboard(self, next_step: int) -> None:
        """TensorBoard drops earlier files' events from the step of a session start on."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        writer = self._event_writer()
        start = SessionLog(status=SessionLog.START)
        writer.add_event(Event(step=next_step, wall_time=time.time(), session_log=start))
        writer.flush()

    def _drop_half_written_line(self) -> None:
        """A line without its newline was being written when the run died; its step was not done."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """One dict a step (``step`` and the metrics), in order; empty when the run has written none.

    Lines of the same step are merged, the later winning. A line without its newline is still being
    written and is left out.

    Raises:
        CheckpointError: for a line that is not a JSON object with a step; the line is named.
    """
    path = Path(run_dir) / METRICS_FILE
    steps: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line)
            steps.setdefault(int(row["step"]), {}).update(row)
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path} line {number}: {line[:80]!r}",
                f"is not a step's metrics ({error})",
                "delete that line",
            ) from error
    return list(steps.values())


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    *whole, _unfinished = path.read_text(encoding="utf-8").split("\n")
    return whole


def _finite(value: float | int | None) -> float | int | None:
    if value is None:
        return None
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
