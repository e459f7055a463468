"""Where stages are kept: a finished stage is whole and says what it was made from, or is not there.

::

    outputs/sft/
      stage-1/             a policy that `policy.checkpoints.load_policy` reads, and beside it
        stage.json         the marker: fingerprint of everything the stage was made from, and size
                           and SHA-256 of the weights
        metrics.json       losses, token accuracy, skipped samples, seconds
        evaluation.json    answers to the held-out questions and their scores (sft.evaluation)
        tensorboard/
      stage-2/ ...
      stage-3.partial/     a stage being trained
        checkpoints/       what the next run goes on from when this one dies (sft.checkpoints)
        tensorboard/
      evaluation.md        a table over the stages, and answers to read
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from common.errors import CheckpointError, FaVChatError, MachineError, TrainingError
from corpus.schema import Sample
from policy.config import PolicyConfig
from sft import checkpoints
from sft.checkpoints import Checkpoint
from sft.config import StageConfig

logger = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

MARKER = "stage.json"
METRICS = "metrics.json"
TENSORBOARD = "tensorboard"
WEIGHTS = "*.safetensors"
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


def training_fingerprint(
    stage: str, samples: Sequence[Sample], shards: Mapping[str, object] | None = None
) -> str:
    """Names what the checkpoints inside a stage are a function of.

    Args:
        stage: :func:`stage_fingerprint`.
        samples: those that can be used, in their order: batches are drawn from it.
        shards: how weights and optimiser are divided among ranks; empty where they are not.
    """
    content = {"stage": stage, "samples": [sample.sample_id for sample in samples]}
    return _digest(content | ({"shards": dict(shards)} if shards else {}))


def finished_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the finished stage in ``folder``; None when there is none.

    Raises:
        CheckpointError: for a folder that is there but was not finished by :func:`publish`, or
            whose weights are not of the size that they were written in.
    """
    if not folder.exists():
        return None
    fingerprint, weights = _read_marker(folder)
    for name, written in weights.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else 0
        if size != written["bytes"]:
            raise _damaged(folder, f"{name} has {size} of {written['bytes']} bytes")
    return fingerprint


def check_weights(folder: Path) -> None:
    """Read a finished stage's weights and compare them with what was written.

    A stage whose marker has no hashes passes.

    Raises:
        CheckpointError: when they differ.
    """
    _, weights = _read_marker(folder)
    for name, written in weights.items():
        path = folder / name
        logger.info("checking %s", path)
        if not path.is_file() or checkpoints.file_record(path) != written:
            raise _damaged(folder, f"{name} is not what was written")


def _read_marker(folder: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """The fingerprint, and size and SHA-256 of each file of weights by name."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        records = marker.get("weights", {}).items()
        weights = {name: {key: row[key] for key in ("bytes", "sha256")} for name, row in records}
        return marker["fingerprint"], weights
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} without a readable {MARKER}",
            "a stage folder is written whole, marker included, so this one is not a stage's",
            f"move {folder} away, or set sft.output_dir to another folder",
        ) from error


def _damaged(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} that is damaged: {what}",
        f"a finished stage has the weights that its {MARKER} names",
        f"delete {folder} and run the same command again: this stage is trained anew",
    )


def partial_folder(folder: Path) -> Path:
    """Where the stage of ``folder`` is kept while it is being trained."""
    return _beside(folder, "partial")


def open_partial(folder: Path, *, fingerprint: str) -> tuple[Path, Checkpoint | None]:
    """A folder to train in, and the checkpoint in it to go on from.

    Without a whole checkpoint of this fingerprint the folder is empty: what an interrupted run
    left there is thrown away.

    Args:
        fingerprint: see :func:`training_fingerprint`.

    Raises:
        MachineError: when the folder cannot be written.
    """
    partial = partial_folder(folder)
    checkpoint = checkpoints.newest_checkpoint(partial, fingerprint=fingerprint)
    with writable(partial):
        shutil.rmtree(_beside(folder, "old"), ignore_errors=True)
        if checkpoint is None:
            if partial.exists():
                logger.warning(
                    "%s is thrown away: an interrupted run left it without a checkpoint that this "
                    "one can go on from",
                    partial,
                )
                shutil.rmtree(partial)
            partial.mkdir()
        else:
            _keep_only(partial, checkpoints.FOLDER, TENSORBOARD)
            checkpoints.drop_others(checkpoint)
    return partial, checkpoint


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn what the system says when the block cannot write into ``folder`` into an error with a
    fix.

    Raises:
        MachineError: for want of room or of permission.
    """
    try:
        yield
    except Exception as error:  # tokenizers raises none narrower when a disk is full
        number = _system_error(error)
        if number is None:
            raise
        if number in _NO_ROOM:
            rule = "the disk of sft.output_dir has room for the stages and their checkpoints"
            fix = (
                "free some room and run the same command again: it goes on from the newest "
                "checkpoint"
            )
        else:
            rule = "it is a folder that can be created, written and deleted"
            fix = "set its permissions right, or set sft.output_dir to another folder"
        raise MachineError(f"{folder} ({os.strerror(number)})", rule, fix) from error


def _system_error(error: Exception) -> int | None:
    """The system's number of an error; safetensors and tokenizers have it in their text alone."""
    if isinstance(error, OSError):
        return error.errno
    if isinstance(error, FaVChatError):  # has its own fix
        return None
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _keep_only(folder: Path, *names: str) -> None:
    for path in folder.iterdir():
        if path.name in names:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def publish(folder: Path, *, fingerprint: str, stage: int, metrics: dict[str, Any]) -> None:
    """Turn a stage's partial folder into ``folder``, replacing an older result.

    A process killed at any point leaves the older result, the new one, or none; never a mixture.
    Until the new one is in place its checkpoints are there to go on from.

    Raises:
        TrainingError: for metrics that are not finite; nothing is published then.
        MachineError: when the disk is full.
    """
    with writable(folder):
        _publish(folder, fingerprint=fingerprint, stage=stage, metrics=encode_metrics(metrics))


def encode_metrics(metrics: dict[str, Any]) -> str:
    """The content of ``metrics.json``.

    Raises:
        TrainingError: for a number that is not finite, which JSON does not have.
    """
    try:
        return json.dumps(metrics, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise TrainingError(
            f"stage {metrics.get('stage')} with metrics that are not finite",
            "the losses of a trained policy are finite numbers",
            f"lower sft.stage_{metrics.get('stage')}.lr",
        ) from error


def _publish(folder: Path, *, fingerprint: str, stage: int, metrics: str) -> None:
    partial, old = _beside(folder, "partial"), _beside(folder, "old")
    for path in (partial / POLICY).iterdir():
        path.rename(partial / path.name)
    (partial / POLICY).rmdir()
    (partial / METRICS).write_text(metrics, encoding="utf-8")
    logger.info("hashing the weights in %s", partial)
    weights = {path.name: checkpoints.file_record(path) for path in sorted(partial.glob(WEIGHTS))}
    marker = {"stage": stage, "fingerprint": fingerprint, "weights": weights}
    (partial / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    for path in partial.iterdir():
        if path.name != checkpoints.FOLDER:
            checkpoints.to_disk(path)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    checkpoints.to_disk(folder.parent)
    clear_away(folder)


def clear_away(folder: Path) -> None:
    """Delete what a finished stage needs no more: its checkpoints, and the older result."""
    for leftover in (folder / checkpoints.FOLDER, _beside(folder, "old")):
        shutil.rmtree(leftover, ignore_errors=True)


def check_room(output_dir: Path, *, needed_bytes: int, partial: Path | None = None) -> None:
    """Make sure, before the work, that its results can be written.

    Args:
        output_dir: existing folder.
        partial: a folder, perhaps missing, whose files are replaced or are part of what is needed.

    Raises:
        MachineError: when ``output_dir`` cannot be written or its disk has less room than needed.
    """
    with writable(output_dir), TemporaryFile(dir=output_dir) as file:
        file.write(b"\0")
    free = shutil.disk_usage(output_dir).free
    if partial is not None:
        free += sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    if free < needed_bytes:
        raise MachineError(
            f"{free / 2**20:.0f} MiB free on the disk of {output_dir}",
            f"the stages and their checkpoints need about {needed_bytes / 2**20:.0f} MiB",
            "free some room, set sft.output_dir to another disk, or sft.checkpoint_every=0",
        )


def _beside(folder: Path, state: str) -> Path:
    return folder.with_name(f"{folder.name}.{state}")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
