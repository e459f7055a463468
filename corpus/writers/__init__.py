"""Writers: from the features of a clip to its summary and questions (docs/writers.md)."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import ConfigError, FaVChatError
from corpus.config import WriteConfig
from corpus.writers.base import Writer
from corpus.writers.brief import Brief
from corpus.writers.llm import Llm
from corpus.writers.rules import Rules

WRITERS: dict[str, Callable[[WriteConfig, Path], Writer]] = {
    "brief": lambda config, cache_folder: Brief(),
    "rules": lambda config, cache_folder: Rules(),
    "llm": Llm,
}


def find_writer(config: WriteConfig, cache_folder: Path) -> Writer:
    """The writer that a recipe names, or the user's own, written ``my_package.module:object``.

    Args:
        cache_folder: where a writer may keep what it should not have to make twice.

    Raises:
        ConfigError: for an unknown name, an import that fails, or an object that is no writer.
    """
    build = _find(config.writer) if ":" in config.writer else WRITERS.get(config.writer)
    if build is None:
        close = difflib.get_close_matches(config.writer, WRITERS, n=1)
        raise ConfigError(
            f"corpus.write.writer={config.writer}",
            f"writers are {', '.join(WRITERS)}, or your own, my_package.module:object",
            f"set corpus.write.writer={close[0] if close else 'rules'}",
        )
    try:
        writer = build(config, cache_folder)
    except FaVChatError:
        raise
    except Exception as error:  # a user's constructor may raise anything
        raise _refuse(config.writer, f"raised {type(error).__name__}: {error}") from error
    if not hasattr(writer, "write") or not hasattr(writer, "name"):
        raise _refuse(config.writer, f"made a {type(writer).__name__}, which is no writer")
    return writer


def _find(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything at import
        raise _refuse(name, f"importing it raised {type(error).__name__}: {error}") from error
    if not callable(found := getattr(module, attribute, None)):
        raise _refuse(name, f"{module_name} has no class or function {attribute}")
    return found


def _refuse(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"corpus.write.writer={name}, and {what}",
        "a writer's class or function takes (WriteConfig, cache folder) and gives a writer",
        "see docs/writers.md",
    )
