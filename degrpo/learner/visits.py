"""One group on its way through an update: what comes in, in which order, and what it amounts to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.errors import SampleError
from degrpo.algorithm import (
    gradient_sensitivity,
    response_coefficients,
    reward_separability,
    shrinkage_advantage,
)
from degrpo.learner.batching import ResponseRow
from degrpo.learner.gradient_statistics import GroupGradients
from degrpo.types import SampleStatistics, TrainGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTotals:
    """Counts over the whole optimiser step, known before its first backward."""

    num_responses: int
    num_tokens: int
    max_length: int  # L_max, the longest response that generation allows


@dataclass(slots=True, kw_only=True)
class GroupVisit:
    """A group of the step. Its responses may pass in any order and in several micro-batches."""

    index: int
    group: TrainGroup
    gradients: GroupGradients | None = None  # dropped once the group's statistics are in
    log_probs: dict[int, Tensor] = field(default_factory=dict)  # the learner's, [|y_k|] by member
    reference: dict[int, Tensor] = field(default_factory=dict)  # adapters off; empty without KL
    features: Tensor | None = None  # [H], what the critic reads
    value: float = 0.0
    separability: float = 0.0
    sensitivity: float = 0.0
    shaped_rewards: Tensor | None = None  # [G], KL included
    advantages: Tensor | None = None  # [G]

    def rows(self) -> list[ResponseRow]:
        return [
            ResponseRow(
                group=self.index, member=k, prompt=self.group.prompt, token_ids=response.token_ids
            )
            for k, response in enumerate(self.group.responses)
        ]

    @property
    def lengths(self) -> list[int]:
        return [len(response.token_ids) for response in self.group.responses]

    def sampler_log_probs(self, member: int) -> Tensor:
        return torch.tensor(self.group.responses[member].log_probs)

    def kl(self) -> Tensor:
        """sum_t (log pi_old - log pi_ref) per response, ``[G]`` float64; 0 without a reference."""
        return torch.stack(
            [
                (self.log_probs[k].double() - self.reference[k].double()).sum()
                if self.reference
                else torch.zeros((), dtype=torch.float64)
                for k in range(len(self.group.responses))
            ]
        )

    def finish(
        self,
        *,
        value: float,
        kappa: float,
        kl_coefficient: float,
        separability_power: float,
        totals: StepTotals,
    ) -> Tensor:
        """Eq. 8, 9 and 13 of a complete group; its part of the update, sum_k c_k A_k g_k, ``[D]``.

        S_sep reads the rewards as they came; the advantage reads them after
        ``kl_coefficient * (log pi_old - log pi_ref)`` has been taken off (Eq. 14-16).

        Raises:
            SampleError: when a log-probability, a reward or a gradient is not finite.
        """
        if self.gradients is None:
            raise RuntimeError(f"group {self.group.sample_id} is already finished")
        self._refuse_non_finite_log_probs()
        rewards = torch.tensor([self.group.rewards], dtype=torch.float64)
        self.value = value
        self.shaped_rewards = rewards[0] - kl_coefficient * self.kl()
        self.separability = reward_separability(rewards, power=separability_power).item()
        self.sensitivity = gradient_sensitivity(self.gradients.gram()[None].cpu(), rewards).item()
        self.advantages = shrinkage_advantage(
            self.shaped_rewards[None],
            torch.tensor([value]),
            torch.tensor([self.group.weight]),
            kappa,
        )[0]
        coefficients = response_coefficients(
            torch.tensor(self.lengths, dtype=torch.float64),
            denominator="constant",
            max_length=totals.max_length,
            num_tokens=totals.num_tokens,
            num_responses=totals.num_responses,
        )
        part = self.gradients.combine(coefficients * self.advantages)
        self.gradients = None
        return part

    def _refuse_non_finite_log_probs(self) -> None:
        for name, by_member in (("policy", self.log_probs), ("reference", self.reference)):
            for k, log_probs in by_member.items():
                if not bool(torch.isfinite(log_probs).all()):
                    raise SampleError(
                        f"a NaN or infinite {name} log-probability in response {k}",
                        "every sampled token has a finite log-probability",
                        "look at the clip's visual rows and at the banned tokens",
                    )

    def statistics(self, learn_seconds: float) -> SampleStatistics:
        if self.advantages is None:
            raise RuntimeError(f"group {self.group.sample_id} is not finished")
        return SampleStatistics(
            sample_id=self.group.sample_id,
            rewards=self.group.rewards,
            separability=self.separability,
            sensitivity=self.sensitivity,
            value=self.value,
            weight=self.group.weight,
            advantage_abs_mean=self.advantages.abs().mean().item(),
            response_tokens=sum(self.lengths),
            generate_seconds=self.group.generate_seconds,
            learn_seconds=learn_seconds,
        )


def refusal(group: TrainGroup, banned_token_ids: Collection[int]) -> str:
    """Why a group cannot be trained on; empty when it can."""
    if len(group.responses) < 2:
        return f"a group needs at least 2 responses to compare, got {len(group.responses)}"
    if len(group.rewards) != len(group.responses):
        return f"{len(group.responses)} responses have {len(group.rewards)} rewards"
    for k, response in enumerate(group.responses):
        if not response.token_ids:
            return f"response {k} is empty"
        if len(response.log_probs) != len(response.token_ids):
            counts = f"{len(response.token_ids)} tokens and {len(response.log_probs)} log-probs"
            return f"response {k} has {counts}"
        if banned := set(response.token_ids) & set(banned_token_ids):
            return f"response {k} holds tokens {sorted(banned)}, which cannot be sampled"
    return ""


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows of different lengths as ``[N, T]``, zeros behind them."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
