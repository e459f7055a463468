"""Checkpoints inside a stage: a stage that was killed goes on from the newest whole one.

::

    stage-3.partial/
      checkpoints/
        checkpoint-200/
          trained.safetensors     what the stage trains, adapters included, and its buffers
          optimizer.pt, scheduler.pt, rng_state.pth, trainer_state.json
          checkpoint.json         fingerprint, seconds, size and SHA-256 of every file
        checkpoint-300/
        .writing/                 the next one; renamed when its files are on the disk

``Trainer`` writes and reads the second line. The frozen rest of the policy is kept by DeepSpeed
alone: a stage starts by rebuilding it from the stage before. Only the last two checkpoints stay, so
that one is left when the newest turns out to be damaged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import CheckpointError, FaVChatError, MachineError
from sft.config import StageConfig
from sft.finite import refuse_not_finite
from sft.ranks import Ranks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from policy.modeling import FaVChatForConditionalGeneration

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
MARKER = "checkpoint.json"
TRAINED = "trained.safetensors"
PREFIX = "checkpoint-"  # transformers' own, so that its rotation finds them
WRITING = ".writing"
KEPT = 2
_NOT_OF_DISKS = ("gloo", "NCCL", "CUDA", "onnection")
COPIES_PER_WEIGHT = 3
"""The weight and AdamW's two moments, in float32 whatever the policy's dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint.

    Example:
        >>> Checkpoint(folder=Path("stage-3.partial/checkpoints/checkpoint-300"), seconds=412.5)
    """

    folder: Path
    seconds: float  # of training until then, interruptions left out

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return _step(self.folder)


class CheckpointWriter:
    """Puts a stage's checkpoints in place, each whole or not at all.

    Args:
        partial: existing folder of a stage in training.
        fingerprint: of everything that the stage's training is a function of.
        every: optimiser steps from one checkpoint to the next; 0 writes none.
        seconds: of training before this process.
        ranks: that all write into a checkpoint, and whose writers do everything in step.
    """

    def __init__(
        self,
        partial: Path,
        *,
        fingerprint: str,
        every: int,
        seconds: float = 0,
        ranks: Ranks | None = None,
    ) -> None:
        self.every = every
        self.staging = partial / FOLDER / WRITING
        self._fingerprint = fingerprint
        self._ranks = ranks or Ranks()
        self._began = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """Seconds of training, those of interrupted runs up to their last checkpoint included."""
        return time.monotonic() - self._began

    @contextmanager
    def writing(self, step: int) -> Iterator[None]:
        """Clear ``staging`` for the block to write ``checkpoint-<step>`` into, then put that in
        place and delete all checkpoints but the last two.

        A process killed inside the block, or a machine that loses power, keeps those before.

        Raises:
            MachineError: when the block cannot write, say for want of room.
        """
        written = self.staging / f"{PREFIX}{step}"
        with _disk_errors(step, self.staging.parent):
            self._ranks.on_main(lambda: _clear(written))
            yield
        self._ranks.gather(None)  # every rank has written its files
        self._ranks.on_main(lambda: self._put_in_place(written, step))

    def _put_in_place(self, written: Path, step: int) -> None:
        from transformers.trainer_utils import rotate_checkpoints

        with _disk_errors(step, self.staging.parent):
            _seal(written, {"fingerprint": self._fingerprint, "seconds": round(self.seconds, 1)})
            folder = self.staging.with_name(written.name)
            written.rename(folder)
            to_disk(folder.parent)
            rotate_checkpoints(str(folder.parent), save_total_limit=KEPT)


@contextmanager
def _disk_errors(step: int, folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch.save says RuntimeError when a disk is full, and so do ranks and GPUs that are lost.
        if isinstance(error, FaVChatError) or any(word in str(error) for word in _NOT_OF_DISKS):
            raise
        raise MachineError(
            f"a checkpoint at step {step} that cannot be written to {folder} ({error})",
            "a stage in training keeps its state on the disk of sft.output_dir",
            "free some room and run the same command again: it goes on from the checkpoint "
            "before; or set sft.checkpoint_every=0",
        ) from error


def _clear(written: Path) -> None:
    shutil.rmtree(written.parent, ignore_errors=True)
    written.mkdir(parents=True)


def newest_checkpoint(partial: Path, *, fingerprint: str) -> Checkpoint | None:
    """The newest whole checkpoint in a stage's partial folder; None when there is none.

    One that is damaged, and one of another recipe or other data, is left out with a warning.
    """
    for folder in sorted(_folders(partial / FOLDER), key=_step, reverse=True):
        try:
            marker = _read_marker(folder)
        except CheckpointError as error:
            logger.warning("%s; trying the one before", error)
            continue
        if marker["fingerprint"] != fingerprint:
            logger.warning("%s is of another recipe, other data or another start: not used", folder)
            continue
        return Checkpoint(folder=folder, seconds=marker["seconds"])
    return None


def drop_others(checkpoint: Checkpoint) -> None:
    """Delete what is newer than ``checkpoint`` or half written: a stage goes on from it alone."""
    parent = checkpoint.folder.parent
    newer = [folder for folder in _folders(parent) if _step(folder) > checkpoint.step]
    for folder in (*newer, parent / WRITING):
        shutil.rmtree(folder, ignore_errors=True)


def trained_tensors(
    model: nn.Module, state_dict: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """What training changes: parameters that require gradients, and buffers.

    Buffers are there for modules that keep running statistics. What two modules share comes once,
    under its first name.

    Args:
        state_dict: the model's, where it had to be gathered from several processes.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trained |= {name for name, _ in model.named_buffers()}
    state_dict = model.state_dict() if state_dict is None else state_dict
    return {name: tensor for name, tensor in state_dict.items() if name in trained}


def save_trained(
    model: nn.Module, folder: Path, state_dict: Mapping[str, Tensor] | None = None
) -> None:
    """Write :func:`trained_tensors` to a folder, created when missing.

    Raises:
        TrainingError: for weights that are not finite: nothing can go on from them.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = trained_tensors(model, state_dict)
    refuse_not_finite(tensors, what="trained weights", key="the stage")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TRAINED)


def load_trained(model: nn.Module, folder: Path) -> None:
    """Read what :func:`save_trained` wrote into a model that trains the same.

    Raises:
        CheckpointError: for other tensors than the model trains.
    """
    from safetensors.torch import load_file

    tensors, wanted = load_file(folder / TRAINED), trained_tensors(model)
    differing = tensors.keys() ^ wanted.keys()
    differing |= {n for n in tensors.keys() & wanted.keys() if tensors[n].shape != wanted[n].shape}
    if differing:
        raise CheckpointError(
            f"{folder} with {len(differing)} other tensors ({', '.join(sorted(differing)[:3])})",
            "a checkpoint holds what its stage trains",
            f"delete {folder.parent}, so that the stage starts from its beginning",
        )
    model.load_state_dict(tensors, strict=False)


def checkpoints_bytes(
    model: FaVChatForConditionalGeneration, stages: Sequence[StageConfig], *, deepspeed: bool
) -> int:
    """The most room, in bytes, that the checkpoints of these stages take, one stage at a time.

    Two are kept while the next one is written. Each has the trained weights and AdamW's moments;
    DeepSpeed's have the trained weights twice, and the whole policy beside them.
    """
    trained = max(_trained_bytes(model, stage) for stage in stages)
    whole = sum(parameter.nbytes for parameter in model.parameters()) if deepspeed else 0
    return (KEPT + 1) * ((COPIES_PER_WEIGHT + deepspeed) * trained + whole)


def _trained_bytes(model: FaVChatForConditionalGeneration, stage: StageConfig) -> int:
    rank = stage.lora_rank if "language_model" in stage.trainable else 0
    parts = [part for part in stage.trainable if not (rank and part == "language_model")]
    # By identity: parts may share parameters.
    trained = {id(p): 4 * p.numel() for part in parts for p in model.part_parameters(part)}
    return sum(trained.values()) + (_adapter_bytes(model, rank) if rank else 0)


def _adapter_bytes(model: FaVChatForConditionalGeneration, rank: int) -> int:
    """LoRA is on all linear layers but the output head, in float32 whatever the layer's dtype."""
    from torch import nn

    head = model.get_output_embeddings()
    layers = [m for m in model.language_model.modules() if isinstance(m, nn.Linear)]
    return sum(
        4 * rank * (layer.in_features + layer.out_features) for layer in layers if layer is not head
    )


def _seal(folder: Path, content: dict[str, Any]) -> None:
    """Bring every file to the disk, then the marker that says what they are."""
    files = {}
    for path in _files(folder):
        files[path.relative_to(folder).as_posix()] = file_record(path)
        to_disk(path)
    marker = folder / MARKER
    marker.write_text(json.dumps({**content, "files": files}, indent=2) + "\n", encoding="utf-8")
    for path in (marker, *(p for p in folder.rglob("*") if p.is_dir()), folder):
        to_disk(path)


def _read_marker(folder: Path) -> dict[str, Any]:
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        for name, expected in marker["files"].items():
            path = folder / name
            if file_record(path) != expected:
                raise ValueError(f"{name} is not what was written")
        return {"fingerprint": marker["fingerprint"], "seconds": float(marker["seconds"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"checkpoint {folder} that is damaged ({error})",
            f"its files are those that its {MARKER} names",
            "nothing is to be done where there is one before",
        ) from error


def _folders(checkpoints: Path) -> list[Path]:
    found = checkpoints.glob(f"{PREFIX}*")
    return [path for path in found if path.name.removeprefix(PREFIX).isdigit()]


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def file_record(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, as markers keep them."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, past the caches that a power cut empties."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
