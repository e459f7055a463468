"""What every function here refuses: unknown names, odd shapes, groups of one, NaN."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from common.errors import ConfigError, SampleError


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise :class:`ConfigError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        known = ", ".join(choices)
        raise ConfigError(
            f"{name}={value!r}", f"{name} is one of {known}", f"set {name} to one of them"
        )


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise :class:`ConfigError` unless ``tensor`` has exactly this ``shape``."""
    if tuple(tensor.shape) != shape:
        raise ConfigError(
            f"{name} of shape {list(tensor.shape)}",
            f"{name} has shape {list(shape)} here",
            "pass tensors of the same batch, one row per sample",
        )


def finite(name: str, tensor: Tensor) -> Tensor:
    """Return ``tensor`` detached, in float32 or better.

    Raises:
        SampleError: when an entry is NaN or infinite.
    """
    tensor = tensor.detach()
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise SampleError(
            f"{name} with {bad} NaN or infinite of {tensor.numel()} numbers",
            f"{name} is finite",
            "leave the sample out of the step and record it as failed",
        )
    return tensor


def group_rewards(rewards: Tensor) -> Tensor:
    """Return rewards ``[P, G]`` detached, in float32 or better.

    Raises:
        ConfigError: when they are not ``[P, G]`` or G < 2 (one response has nothing to differ
            from).
        SampleError: when one is NaN or infinite.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ConfigError(
            f"rewards of shape {list(rewards.shape)}",
            "rewards are [P, G] with G >= 2 responses to each prompt",
            "set rollouts.group_size to at least 2",
        )
    return finite("rewards", rewards)
