"""What a reward is asked and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class RewardFunction(Protocol):
    """TRL's signature: one score per completion, ``None`` where the reward does not apply.

    ``columns`` holds, per completion, the sample's ``question``, ``answer``, ``attributes``,
    ``emotion``, ``action`` and ``kind``.
    """

    def __call__(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float | None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardRequest:
    """The responses to one sample, to be scored together."""

    sample_id: str
    prompt: str
    completions: tuple[str, ...]
    columns: Mapping[str, Any]  # one value each, the same for every completion of the sample


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardBreakdown:
    """One response's score.

    Example:
        >>> RewardBreakdown(total=0.71, parts={"facial": 0.71, "facial/emotion": 0.71}, seconds=0.004)
    """

    total: float | None  # weighted sum; None when the sample could not be scored
    parts: Mapping[str, float]
    seconds: float
    error: str | None = None
