"""Schedulers by name, or by import path for a user's own."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from common.errors import ConfigError
from degrpo.config import TrainConfig
from degrpo.scheduler.base import SampleScheduler
from degrpo.scheduler.degrpo import DEGRPOScheduler
from degrpo.scheduler.uniform import UniformScheduler

SCHEDULERS: dict[str, type[SampleScheduler]] = {
    "degrpo": DEGRPOScheduler,
    "uniform": UniformScheduler,
}


def build_scheduler(config: TrainConfig, sample_ids: Sequence[str]) -> SampleScheduler:
    """The scheduler that ``config.scheduler.name`` names, over these samples.

    Raises:
        ConfigError: for an unknown name, an import path that leads nowhere, or a corpus that is
            empty or has an id twice.
    """
    if not sample_ids or len(set(sample_ids)) != len(sample_ids):
        raise ConfigError(
            f"{len(sample_ids)} samples, {len(set(sample_ids))} of them different",
            "a scheduler needs at least one sample, and each once",
            "check the corpus; `degrpo corpus` drops duplicates",
        )
    return _scheduler_class(config.scheduler.name)(
        sample_ids,
        batch_size=config.batch_size,
        seed=config.seed,
        algorithm=config.algorithm,
        scheduler=config.scheduler,
    )


def _scheduler_class(name: str) -> type[SampleScheduler]:
    if name in SCHEDULERS:
        return SCHEDULERS[name]
    module, colon, attribute = name.partition(":")
    rule = f"a scheduler is one of {', '.join(SCHEDULERS)} or my_package.module:object"
    fix = "correct scheduler.name, or put the module on PYTHONPATH"
    if not (module and colon and attribute):
        raise ConfigError(f"scheduler.name={name!r}", rule, fix)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"scheduler.name={name!r} ({error})", rule, fix) from error
