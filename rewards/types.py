"""What a reward is asked and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Score = float | None | Mapping[str, float]
"""A number; None where the reward does not apply; or the number under ``score`` among its parts."""


class RewardFunction(Protocol):
    """TRL's signature: one score per completion, ``None`` where the reward does not apply.

    ``columns`` holds, per completion, the sample's ``question``, ``answer``, ``attributes``,
    ``emotion``, ``action`` and ``kind``. May be ``async``. A reward with a method ``details`` of
    the same signature is asked that instead, and answers with mappings: its score under ``score``
    and the parts that the breakdown shall keep. Another optional method, ``prepare()``, loads what
    takes long to load.
    """

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[Score] | Awaitable[list[Score]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedReward:
    """One term of the total.

    Example:
        >>> WeightedReward(name="constant", weight=0.5, function=ConstantReward(value=1.0))
    """

    name: str  # its key in a breakdown
    weight: float
    function: RewardFunction


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardRequest:
    """The responses to one sample, to be scored together.

    Example:
        >>> RewardRequest(
        ...     sample_id="3f9c2b7a10de44c1", prompt="What emotion does this person show?",
        ...     completions=("The man looks happy.", "The man looks sad."),
        ...     columns={"emotion": ["happy"], "answer": "The man looks happy."})
    """

    sample_id: str
    prompt: str
    completions: tuple[str, ...]
    columns: Mapping[str, Any]  # one value each, the same for every completion of the sample


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardBreakdown:
    """One response's score.

    Example:
        >>> RewardBreakdown(
        ...     total=0.71, parts={"facial": 0.71, "facial/emotion": 0.71}, seconds=0.004)
    """

    total: float | None  # weighted sum; None when the response could not be scored
    parts: Mapping[str, float]
    seconds: float
    error: str | None = None
