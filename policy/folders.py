"""Folders that are replaced as a whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of ``folder`` when the block ends.

    A block that raises changes nothing and leaves nothing. What a killed process left is cleared
    away by the next writer; if it was killed between the two renames, that writer or
    :func:`restore_folder` puts the old folder back.
    """
    new, old = _beside(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder.parent):
        _settle(folder)
        try:
            new.mkdir()
            yield new
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        finally:
            _settle(folder)


def restore_folder(folder: Path) -> None:
    """Put back a ``folder`` whose writer was killed in the moment of replacing it."""
    if not folder.exists() and _beside(folder)[1].exists():
        with _only_writer(folder.parent):
            _settle(folder)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where the next ``folder`` is written and the last one waits until that one is in place."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _settle(folder: Path) -> None:
    new, old = _beside(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _only_writer(parent: Path) -> Iterator[None]:
    """Hold the lock of a directory: it leaves no file, and ends with its process."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no directories
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
