"""Folders that one process at a time may write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import ConfigError, MachineError

LOCK = ".lock"


@contextmanager
def claim(folder: Path, key: str) -> Iterator[None]:
    """Hold ``folder`` for this process; the operating system lets go of it when the process ends.

    Args:
        folder: created when missing.
        key: the recipe's field that names it, for the messages.

    Raises:
        MachineError: when the folder cannot be written.
        ConfigError: when another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{key}={folder}, which another run is writing",
            "one run at a time writes into a folder",
            f"wait for that run, or choose another {key}",
        ) from error
    except OSError as error:
        raise MachineError(
            f"{key}={folder} ({error.strerror})",
            "it is a folder that can be created and written",
            f"choose another {key}, with free space",
        ) from error
    try:
        yield
    finally:
        lock.release()
