"""DeepSpeed's JSON configs, read as training reads them, without GPUs and without an engine."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError

if TYPE_CHECKING:
    from transformers import TrainingArguments


def resolve_deepspeed_config(
    path: Path, arguments: TrainingArguments, *, hidden_size: int
) -> dict[str, Any]:
    """The config that DeepSpeed would be given: every ``auto`` replaced, then parsed by DeepSpeed.

    ``Trainer`` fills ``auto`` from its arguments and bucket sizes from the model's width. DeepSpeed
    checks keys, types and that the batch sizes go together.

    Args:
        path: a DeepSpeed JSON config, such as configs/deepspeed/zero3.json.
        arguments: those of the run that it is meant for.
        hidden_size: width of the language model.

    Raises:
        ConfigError: for a file that is no JSON object, for values that contradict ``arguments``,
            and for what DeepSpeed refuses.
    """
    from transformers.integrations import HfTrainerDeepSpeedConfig

    content = _read(path)
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=hidden_size))
    try:
        config = HfTrainerDeepSpeedConfig(copy.deepcopy(content))
        config.trainer_config_process(arguments)
        config.trainer_config_finalize(arguments, model, num_training_steps=1)
        _parse(config.config)
    except (ValueError, KeyError, TypeError, AssertionError) as error:  # pydantic's is a ValueError
        raise ConfigError(
            f"{path}, refused: {_first_line(error)}",
            "it is a DeepSpeed config whose values fit the run's arguments",
            "correct it, or say `auto`, so that Trainer fills it in",
        ) from error
    return config.config


def training_config(path: Path) -> dict[str, Any]:
    """The config for training: as in the file, with whole weights to be had from sharded ones.

    Raises:
        ConfigError: for a file that is no JSON object.
    """
    config = _read(path)
    zero = config.get("zero_optimization")
    if isinstance(zero, dict) and zero.get("stage") == 3:
        config["zero_optimization"] = {**zero, "stage3_gather_16bit_weights_on_model_save": True}
    return config


def zero_stage(path: Path, *, hidden_size: int, bf16: bool) -> int:
    """The stage of ZeRO that a DeepSpeed config asks for, once it has been read as training would.

    Raises:
        ConfigError: as :func:`resolve_deepspeed_config`.
    """
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(path.parent), per_device_train_batch_size=1, use_cpu=True, bf16=bf16
    )
    config = resolve_deepspeed_config(path, arguments, hidden_size=hidden_size)
    return int(config.get("zero_optimization", {}).get("stage", 0))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}, which cannot be read ({error})", "it is a JSON file", "correct the path"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} with a {type(content).__name__} in it",
            "a DeepSpeed config is a JSON object",
            "start from configs/deepspeed/zero3.json",
        )
    return content


def _parse(config: dict[str, Any]) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    DeepSpeedConfig(copy.deepcopy(config))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:3]) or type(error).__name__
