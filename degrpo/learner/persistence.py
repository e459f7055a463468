"""The learner's state on disk: safetensors and JSON, nothing pickled.

::

    adapter/                 the LoRA adapters as PEFT writes them
    critic.safetensors
    optimizers.safetensors   AdamW's moments and steps of both, and torch's random state
    learner.json             policy version, counters, the baseline's running means
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import CheckpointError

CRITIC_FILE, OPTIMIZERS_FILE, STATE_FILE = (
    "critic.safetensors",
    "optimizers.safetensors",
    "learner.json",
)
ADAPTER_FOLDER = "adapter"


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """An optimiser's state as flat tensors: ``prefix.<parameter number>.<key>``."""
    return {
        f"{prefix}.{number}.{key}": torch.as_tensor(value).contiguous()
        for number, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str, origin: Path
) -> None:
    """Give an optimiser the state that :func:`optimizer_tensors` took; learning rates stay its own.

    Raises:
        CheckpointError: for a parameter that the optimiser lacks, or moments of another shape.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, number, key = name.split(".")
        if owner != prefix:
            continue
        known = int(number) < len(parameters)
        if not known or (tensor.ndim and tensor.shape != parameters[int(number)].shape):
            raise CheckpointError(
                f"{origin}: {name} of shape {list(tensor.shape)}",
                "the optimiser has no such parameter",
                "resume with the recipe that the checkpoint was made with",
            )
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read what :func:`write_json` wrote.

    Raises:
        CheckpointError: when it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}", f"cannot be read ({error})", "resume from an earlier checkpoint"
        ) from error
