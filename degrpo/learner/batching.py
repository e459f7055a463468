"""From prompts and responses to padded or packed batches, within a token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from policy.mixed_prompt import MixedPrompt

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRow:
    """One response behind its prompt: response ``member`` of group ``group`` of the step."""

    group: int
    member: int
    prompt: MixedPrompt
    token_ids: tuple[int, ...]  # at least one

    def __len__(self) -> int:
        """Positions fed to the model: the last token is predicted, never fed."""
        return len(self.prompt) + len(self.token_ids) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Sequences for one forward pass, and which hidden states predict the responses' tokens.

    R counts the response tokens, end to end in the order of ``lengths``.
    """

    inputs_embeds: Tensor  # [N, T, H]
    attention_mask: Tensor | None  # [N, 1, T, T] bool; None is causal
    position_ids: Tensor | None  # [N, T]; None counts from 0
    rows: Tensor  # [R] which sequence
    positions: Tensor  # [R] where in it, one before the token
    targets: Tensor  # [R] token ids
    lengths: tuple[int, ...]  # |y_k|; they sum to R
    prompt_ends: Tensor  # [N] last position of each sequence's prompt


def micro_batches(
    groups: Sequence[Sequence[ResponseRow]], max_tokens: int
) -> list[list[ResponseRow]]:
    """Split all groups' responses into batches of at most ``max_tokens``, padding included.

    Groups follow one another, longest first: that keeps the padding small, and only the group at a
    batch's edge has to wait with its gradients for the next batch. A sequence longer than the
    budget gets a batch of its own.
    """
    in_order = sorted(groups, key=lambda group: max(map(len, group)), reverse=True)
    rows = [row for group in in_order for row in sorted(group, key=len, reverse=True)]
    return _split_by_budget(rows, len, max_tokens)


def group_batches(
    groups: Sequence[Sequence[ResponseRow]], max_tokens: int
) -> list[list[Sequence[ResponseRow]]]:
    """The same for whole groups that share their prompt (see :func:`pack_groups`)."""
    in_order = sorted(groups, key=_packed_length, reverse=True)
    return _split_by_budget(in_order, _packed_length, max_tokens)


def _split_by_budget(items: Sequence[T], length: Callable[[T], int], budget: int) -> list[list[T]]:
    batches: list[list[T]] = []
    longest = 0
    for item in items:
        longest = max(longest, length(item))
        if batches and longest * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(item)
        else:
            longest = length(item)
            batches.append([item])
    return batches


def pad_rows(rows: Sequence[ResponseRow], embedding: nn.Module) -> TokenBatch:
    """One sequence per response, padded on the right.

    Causal attention alone keeps padding out: no real position comes after it.
    """
    sequences = [(row.prompt, row.token_ids[:-1]) for row in rows]
    places = [
        (n, len(row.prompt) - 1 + t)
        for n, row in enumerate(rows)
        for t in range(len(row.token_ids))
    ]
    return TokenBatch(
        inputs_embeds=_embed(sequences, embedding),
        attention_mask=None,
        position_ids=None,
        **_targets(rows, places, embedding),
        prompt_ends=_index([len(row.prompt) - 1 for row in rows], embedding),
    )


def pack_groups(groups: Sequence[Sequence[ResponseRow]], embedding: nn.Module) -> TokenBatch:
    """One sequence per group: the prompt once, then every response, each blind to the others.

    For passes without gradient only: at the prompt's positions the responses' gradients would mix.
    """
    sequences, positions, segments, places = [], [], [], []
    for n, group in enumerate(groups):
        prompt, start = group[0].prompt, len(group[0].prompt)
        fed: list[int] = []
        position, segment = list(range(start)), [0] * start
        for k, row in enumerate(group, start=1):
            count = len(row.token_ids) - 1
            places += [(n, len(prompt) - 1), *((n, start + t) for t in range(count))]
            fed += row.token_ids[:-1]
            position += range(len(prompt), len(prompt) + count)
            segment += [k] * count
            start += count
        sequences.append((prompt, fed))
        positions.append(_index(position, embedding))
        segments.append(_index(segment, embedding))
    return TokenBatch(
        inputs_embeds=_embed(sequences, embedding),
        attention_mask=_shared_prompt_mask(pad_sequence(segments, True, padding_value=-1)),
        position_ids=pad_sequence(positions, batch_first=True),
        **_targets([row for group in groups for row in group], places, embedding),
        prompt_ends=_index([len(group[0].prompt) - 1 for group in groups], embedding),
    )


def _packed_length(group: Sequence[ResponseRow]) -> int:
    return len(group[0].prompt) + sum(len(row.token_ids) - 1 for row in group)


def _shared_prompt_mask(segments: Tensor) -> Tensor:
    """``[N, 1, T, T]``, true where a query may look: back into the prompt (0) or its own segment.

    Padding (-1) is a segment like any other, so that no row of the softmax is empty.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(segments.shape[1:] * 2, dtype=torch.bool, device=segments.device).tril()
    return (causal & ((key == 0) | (key == query)))[:, None]


def _embed(sequences: Sequence[tuple[MixedPrompt, Sequence[int]]], embedding: nn.Module) -> Tensor:
    """Embeddings ``[N, T, H]`` with the visual rows in their places, zeros as padding."""
    embedded = []
    for prompt, token_ids in sequences:
        ids = np.concatenate([prompt.token_ids, np.asarray(token_ids, dtype=np.int64)])
        values = embedding(_index(ids, embedding)).detach().clone()
        places = torch.from_numpy(np.flatnonzero(prompt.visual_mask))
        values[places] = torch.tensor(prompt.visual_rows).to(values)
        embedded.append(values)
    return pad_sequence(embedded, batch_first=True)


def _targets(
    rows: Sequence[ResponseRow], places: Sequence[tuple[int, int]], embedding: nn.Module
) -> dict[str, Tensor | tuple[int, ...]]:
    return {
        "rows": _index([row for row, _ in places], embedding),
        "positions": _index([position for _, position in places], embedding),
        "targets": _index([token for row in rows for token in row.token_ids], embedding),
        "lengths": tuple(len(row.token_ids) for row in rows),
    }


def _index(values: Sequence[int] | np.ndarray, embedding: nn.Module) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int64, device=next(embedding.parameters()).device)
