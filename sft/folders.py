"""Where stages are kept: a finished stage is whole and says what it was made from, or is not there.

::

    outputs/sft/
      stage-1/             a policy that `policy.checkpoints.load_policy` reads, and beside it
        stage.json         the marker: fingerprint of everything the stage was made from
        metrics.json       losses, token accuracy, skipped samples, seconds
        tensorboard/
      stage-2/ ...
      stage-3.partial/     a stage being trained; thrown away by the next run when this one dies
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import CheckpointError, MachineError
from corpus.schema import Sample
from policy.config import PolicyConfig
from sft.config import StageConfig

MARKER = "stage.json"
METRICS = "metrics.json"
POLICY = "policy"
"""Subfolder of a partial folder that holds the policy; its files move up when it is published."""


def policy_fingerprint(config: PolicyConfig) -> str:
    """Names what stage 1 starts from: the policy that this config builds."""
    policy = asdict(config)
    del policy["feature_cache_gib"]  # how much disk a run may use changes nothing of it
    return _digest({"policy": policy})


def stage_fingerprint(
    stage: StageConfig,
    *,
    seed: int,
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    start: str,
) -> str:
    """Names a stage's result by everything that it is made from.

    Args:
        stage: the stage's recipe.
        seed: of the data order and of dropout.
        samples: training samples; their ids hash video, question, answer and split.
        held_out: samples that only the metrics use.
        start: fingerprint of the stage before, or :func:`policy_fingerprint` for stage 1.
    """
    return _digest(
        {
            "stage": asdict(stage),
            "seed": seed,
            "samples": sorted(sample.sample_id for sample in samples),
            "held_out": sorted(sample.sample_id for sample in held_out),
            "start": start,
        }
    )


def finished_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the finished stage in ``folder``; None when there is none.

    Raises:
        CheckpointError: for a folder that is there but was not finished by :func:`publish`.
    """
    if not folder.exists():
        return None
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder} without a readable {MARKER}",
            "a stage folder is written whole, marker included, so this one is not a stage's",
            f"move {folder} away, or set sft.output_dir to another folder",
        ) from error


def fresh_partial(folder: Path) -> Path:
    """An empty folder to train in; what an interrupted run left there is thrown away."""
    partial = _beside(folder, "partial")
    for leftover in (partial, _beside(folder, "old")):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir()
    return partial


def publish(folder: Path, *, fingerprint: str, stage: int, metrics: dict[str, Any]) -> None:
    """Turn a stage's partial folder into ``folder``, replacing an older result.

    A process killed at any point leaves the older result, the new one, or none; never a mixture.
    """
    partial, old = _beside(folder, "partial"), _beside(folder, "old")
    for path in (partial / POLICY).iterdir():
        path.rename(partial / path.name)
    (partial / POLICY).rmdir()
    (partial / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    marker = {"stage": stage, "fingerprint": fingerprint}
    (partial / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def check_room(output_dir: Path, *, needed_bytes: int) -> None:
    """Raise :class:`MachineError` when the disk of ``output_dir`` has less room than needed."""
    free = shutil.disk_usage(output_dir).free
    if free < needed_bytes:
        raise MachineError(
            f"{free / 2**20:.0f} MiB free on the disk of {output_dir}",
            f"the stages need about {needed_bytes / 2**20:.0f} MiB",
            "free some room, or set sft.output_dir to another disk",
        )


def _beside(folder: Path, state: str) -> Path:
    return folder.with_name(f"{folder.name}.{state}")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
