"""What goes to a rollout worker and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from policy.mixed_prompt import MixedPrompt


class StopReason(StrEnum):
    """Why a response ended."""

    END = "end"  # the model said it was done
    LENGTH = "length"  # cut at max_response_tokens
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """One prompt and how many responses it wants.

    The seed of response g depends on (``seed``, sample, ``visit``, g) and not on the worker.
    ``greedy`` asks for one response at temperature 0.
    """

    prompt: MixedPrompt
    visit: int = 0
    num_responses: int = 1
    seed: int = 0
    greedy: bool = False
    max_tokens: int | None = None  # None: the worker's max_response_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One sampled answer.

    Example:
        >>> Response(text="The person looks happy.", token_ids=(504, 1575, 4033, 5029, 30, 2),
        ...          log_probs=(-0.1, -0.6, -0.4, -1.2, -0.1, -0.01), stop_reason=StopReason.END, policy_version=3)
    """

    text: str
    token_ids: tuple[int, ...]  # the end token included when stop_reason is END
    log_probs: tuple[float, ...]  # the sampler's, per token, after bans and temperature
    stop_reason: StopReason
    policy_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The G responses to one prompt. A prompt that could not be sampled has none and an ``error``."""

    sample_id: str
    responses: tuple[Response, ...]
    tokens: int  # response tokens generated
    seconds: float  # this group's share of the batch's generation time
    error: str | None = None
