"""What goes to a rollout worker and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

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
    ``greedy`` asks for one response that takes the likeliest token at each position; its log-probs
    are still those of the distribution that other requests sample from.
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
        ...          log_probs=(-0.1, -0.6, -0.4, -1.2, -0.1, -0.01), stop_reason=StopReason.END,
        ...          policy_version=3)
    """

    text: str
    token_ids: tuple[int, ...]  # the end token included when stop_reason is END
    log_probs: tuple[float, ...]  # the sampler's, per token, after bans and temperature
    stop_reason: StopReason
    policy_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The G responses to one prompt; none, and an ``error``, where it could not be sampled."""

    sample_id: str
    responses: tuple[Response, ...]
    tokens: int  # response tokens generated
    seconds: float  # this group's share of the batch's generation time
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterWeights:
    """LoRA adapters of the language model on their way from the learner to the sampler.

    A target's weight becomes ``W + (alpha / rank) B A`` (LoRA, arXiv:2106.09685, Eq. 3). NumPy, so
    that Ray's workers read one shared copy.

    Example: rank 8 on one projection of a language model of width 576:
        >>> AdapterWeights(
        ...     tensors={
        ...         "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": a,  # [8, 576]
        ...         "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": b,  # [576, 8]
        ...     },
        ...     rank=8, alpha=16, target_modules=("q_proj",), policy_version=3)
    """

    tensors: Mapping[str, np.ndarray]  # PEFT's names, A and B of every target
    rank: int
    alpha: float
    target_modules: tuple[str, ...]  # names of linear layers; never the embedding or the head
    policy_version: int
