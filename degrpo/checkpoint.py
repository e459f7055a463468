"""Save and restore a whole run atomically: learner, scheduler, and the position of every log."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import CheckpointError

PREFIX, STATE_FILE = "step-", "run_state.json"


def save_checkpoint(
    root: Path, step: int, *, save_learner: Callable[[Path], None], state: dict[str, Any], keep: int
) -> Path:
    """Write ``root/step-N`` under a temporary name and rename it when it is whole.

    Args:
        root: the run's checkpoints folder.
        step: steps done.
        save_learner: writes the learner's files into the folder it is given.
        state: JSON-able state of everything else; `step` is added.
        keep: how many checkpoints stay.
    """
    folder, temporary = root / f"{PREFIX}{step}", root / f".{PREFIX}{step}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_learner(temporary)
    with (temporary / STATE_FILE).open("w") as file:
        json.dump({"step": step, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    for old in _checkpoints(root)[:-keep]:
        shutil.rmtree(old)
    return folder


def newest_checkpoint(root: Path) -> Path | None:
    """The checkpoint with the most steps, or None. Partial ones are cleared away."""
    for partial in root.glob(f".{PREFIX}*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    found = _checkpoints(root)
    return found[-1] if found else None


def load_state(folder: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote as ``state``.

    Raises:
        CheckpointError: when the file is missing or damaged.
    """
    try:
        return json.loads((folder / STATE_FILE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {folder}",
            f"its {STATE_FILE} cannot be read ({error})",
            "delete the folder to resume from the one before",
        ) from error


def _checkpoints(root: Path) -> list[Path]:
    folders = [path for path in root.glob(f"{PREFIX}*") if path.name[len(PREFIX) :].isdigit()]
    return sorted(folders, key=lambda path: int(path.name[len(PREFIX) :]))
