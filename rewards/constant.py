"""A reward that knows nothing: the control for every other one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ConstantReward:
    """The same score for every completion, so that no response of a group is worth more.

    Args:
        value: the score.
    """

    def __init__(self, *, value: float = 0.0) -> None:
        self.value = value

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float | None]:
        return [self.value] * len(completions)
