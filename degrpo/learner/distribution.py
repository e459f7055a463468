"""The distribution that responses are drawn from, as the learner computes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from degrpo.learner.batching import TokenBatch


class ResponseDistribution:
    """log pi of response tokens: the sampler's bans and temperature, then the softmax.

    The head runs at the positions that predict a response token and nowhere else: with a vocabulary
    of 49,152 it would otherwise cost as much as several layers, most of it for the prompt.

    Args:
        language_model: a Hugging Face causal language model, adapters inside or not.
        banned_token_ids: tokens that cannot be sampled; they have probability 0.
        temperature: the sampler's; logits are divided by it.
    """

    def __init__(
        self, language_model: PreTrainedModel, banned_token_ids: Sequence[int], temperature: float
    ) -> None:
        self._body: nn.Module = language_model.base_model
        head = language_model.get_output_embeddings()
        self._weight = head.weight
        self._temperature = temperature
        # Bans ride in the head's bias: a mask of its own would pass over [R, V] twice more.
        bias = torch.zeros(head.weight.shape[0], dtype=head.weight.dtype, device=head.weight.device)
        if head.bias is not None:
            bias += head.bias.detach() / temperature
        bias[list(banned_token_ids)] = -torch.inf
        self._bias = bias

    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """Last hidden states ``[N, T, H]``."""
        return self._body(
            inputs_embeds=batch.inputs_embeds,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state

    def log_probs(self, hidden_states: Tensor, batch: TokenBatch) -> Tensor:
        """log pi ``[R]`` of the batch's response tokens, from its hidden states."""
        predicting = hidden_states[batch.rows, batch.positions] / self._temperature
        logits = nn.functional.linear(predicting, self._weight, self._bias)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        return -nn.functional.cross_entropy(logits, batch.targets, reduction="none")
