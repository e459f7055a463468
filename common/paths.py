"""Where things that outlive a run are kept."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import MachineError

CACHE_VARIABLE = "FAVCHAT_CACHE"


def cache_dir(*parts: str) -> Path:
    """The folder for converted models and encoder features, created when missing.

    ``$FAVCHAT_CACHE`` when set, else ``~/.cache/favchat``. Everything in it can be deleted and is
    made again.

    Raises:
        MachineError: when it cannot be created.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    folder = Path(chosen or Path.home() / ".cache" / "favchat").joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"cache folder {folder} ({error.strerror})",
            f"it lies in ${CACHE_VARIABLE}, or else in ~/.cache/favchat, and can be created",
            f"set {CACHE_VARIABLE} to a folder on a disk with free space",
        ) from error
    return folder
