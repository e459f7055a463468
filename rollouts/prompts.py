"""Mixed prompts on their way into vLLM."""

from __future__ import annotations

from typing import Any

import numpy as np

from policy.mixed_prompt import MixedPrompt


def prompt_problem(
    prompt: MixedPrompt, *, max_prompt: int, hidden_size: int, vocab_size: int
) -> str | None:
    """Why a prompt cannot be sampled, or None.

    vLLM refuses a whole batch for one prompt that is too long, and does not look at the rest.
    """
    if not 0 < len(prompt) <= max_prompt:
        return (
            f"a prompt of {len(prompt)} tokens; 1 to {max_prompt} fit beside the response in "
            "rollouts.max_model_len; raise it or shorten the question"
        )
    if prompt.visual_rows.shape[1] != hidden_size:
        return (
            f"visual rows of width {prompt.visual_rows.shape[1]}; the language model's width is "
            f"{hidden_size}; start sampler and learner from the same policy"
        )
    if not np.isfinite(prompt.visual_rows).all():
        return "visual rows that are not finite; check the clip and the vision encoders for NaN"
    text = prompt.token_ids[~prompt.visual_mask]
    if text.size and (text.min() < 0 or text.max() >= vocab_size):
        return (
            f"token ids from {text.min()} to {text.max()}; the vocabulary has {vocab_size}; "
            "start sampler and learner from the same policy"
        )
    return None


def engine_prompt(prompt: MixedPrompt, dtype: str, filler_id: int) -> dict[str, Any]:
    """vLLM's form of a mixed prompt.

    Text rows are zero: vLLM embeds their ids itself, but hashes the rows for its prefix cache.
    Visual positions get ``filler_id``: a media placeholder may lie outside the vocabulary, and
    vLLM's newer runner looks up every id.

    Returns:
        ``prompt_embeds`` [L, H] of ``dtype``; ``prompt_token_ids`` and ``prompt_is_token_ids`` [L].
    """
    import torch

    rows = np.zeros((len(prompt), prompt.visual_rows.shape[1]), dtype=np.float32)
    rows[prompt.visual_mask] = prompt.visual_rows
    return {
        "prompt_embeds": torch.from_numpy(rows).to(getattr(torch, dtype)),
        "prompt_token_ids": np.where(prompt.visual_mask, filler_id, prompt.token_ids).tolist(),
        "prompt_is_token_ids": (~prompt.visual_mask).tolist(),
    }
