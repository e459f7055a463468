"""Where things that outlive a run are kept."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "FAVCHAT_CACHE"


def cache_dir(*parts: str) -> Path:
    """The folder for converted models and encoder features, created when missing.

    ``$FAVCHAT_CACHE`` when set, else ``~/.cache/favchat``. Everything in it can be deleted and is
    made again.
    """
    root = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "favchat")
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
