"""The forward and backward passes of an update, within the token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from peft import PeftModel
from torch import Tensor

from degrpo.algorithm import importance_weights
from degrpo.learner.batching import (
    ResponseRow,
    TokenBatch,
    group_batches,
    micro_batches,
    pack_groups,
    pad_rows,
)
from degrpo.learner.distribution import ResponseDistribution
from degrpo.learner.gradient_statistics import AdapterSpace, GroupGradients, response_objective
from degrpo.learner.visits import GroupVisit


class PolicyPasses:
    """Runs a language model with adapters over prompts and responses.

    Args:
        adapted: the language model inside its PEFT wrapper.
        space: its adapters.
        distribution: its bans and temperature.
        max_tokens: most tokens in one pass, padding included.
    """

    def __init__(
        self,
        adapted: PeftModel,
        space: AdapterSpace,
        distribution: ResponseDistribution,
        max_tokens: int,
    ) -> None:
        self._adapted, self._space, self._distribution = adapted, space, distribution
        self._max_tokens = max_tokens
        self._embedding = adapted.get_input_embeddings()

    @torch.no_grad()
    def log_probs(self, rows: Sequence[ResponseRow]) -> Iterator[tuple[ResponseRow, Tensor]]:
        """log pi of every response's tokens, ``[|y_k|]``; in no particular order."""
        for batch_rows in micro_batches([[row] for row in rows], self._max_tokens):
            batch = pad_rows(batch_rows, self._embedding)
            yield from zip(batch_rows, self._log_probs(batch), strict=True)

    @torch.no_grad()
    def reference(self, visits: Sequence[GroupVisit]) -> None:
        """log pi_ref, the adapters switched off, into each visit's ``reference``."""
        groups = [visit.rows() for visit in visits]
        with self._adapted.disable_adapter():
            for batch_groups in group_batches(groups, self._max_tokens):
                batch = pack_groups(batch_groups, self._embedding)
                rows = [row for group in batch_groups for row in group]
                for row, log_probs in zip(rows, self._log_probs(batch), strict=True):
                    visits[row.group].reference[row.member] = log_probs

    def gradients(self, visits: Sequence[GroupVisit], tis_cap: float) -> Iterator[GroupVisit]:
        """One forward and one unit-seeded backward of all responses.

        Yields each visit once all its responses have passed, with log-probabilities, critic
        features and gradients; these, G vectors of D, live until the visit is finished.
        """
        waiting: dict[int, GroupGradients] = {}
        for rows in micro_batches([visit.rows() for visit in visits], self._max_tokens):
            for row in rows:
                if row.group not in waiting:
                    size = len(visits[row.group].group.responses)
                    waiting[row.group] = GroupGradients(self._space, size)
            sampler = [visits[row.group].sampler_log_probs(row.member) for row in rows]
            places = [waiting[row.group].row(row.member) for row in rows]
            log_probs, features = self._backward(rows, places, torch.cat(sampler), tis_cap)
            for row, values, feature in zip(rows, log_probs, features, strict=True):
                visits[row.group].log_probs[row.member] = values
                visits[row.group].features = feature
                waiting[row.group].arrived(row.member)
            for index in [n for n, gradients in waiting.items() if gradients.complete]:
                visits[index].gradients = waiting.pop(index)
                yield visits[index]

    def _backward(
        self, rows: Sequence[ResponseRow], places: Sequence[Tensor], sampler: Tensor, cap: float
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Add g_n to ``places[n]``; return log pi per response, and ``[N, H]`` for the critic."""
        batch = pad_rows(rows, self._embedding)
        batch.inputs_embeds.requires_grad_(True)
        with self._space.record(places):
            hidden = self._distribution.hidden_states(batch)
            log_probs = self._distribution.log_probs(hidden, batch)
            weights = importance_weights(log_probs, sampler.to(log_probs), cap=cap)
            objective = response_objective(log_probs, weights, batch.lengths)
            torch.autograd.backward(objective, inputs=[batch.inputs_embeds])
        features = hidden.detach()[torch.arange(len(rows)), batch.prompt_ends]
        return log_probs.detach().split(batch.lengths), features

    def _log_probs(self, batch: TokenBatch) -> Sequence[Tensor]:
        hidden = self._distribution.hidden_states(batch)
        return self._distribution.log_probs(hidden, batch).split(batch.lengths)
