"""The learner: policy, critic and optimisers, and one DE-GRPO update of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from common.errors import SampleError
from corpus.schema import Sample
from degrpo.algorithm import BaselineStatistics
from degrpo.config import TrainConfig
from degrpo.learner.batching import ResponseRow
from degrpo.learner.critic import ValueCritic, fit_critic
from degrpo.learner.distribution import ResponseDistribution
from degrpo.learner.gradient_statistics import AdapterSpace
from degrpo.learner.lora import (
    ADAPTER,
    adapter_tensors,
    add_adapters,
    load_adapters,
    merge_adapters,
    read_tensors,
    refuse_other_parts,
    refuse_other_tensors,
    save_adapters,
)
from degrpo.learner.passes import PolicyPasses
from degrpo.learner.persistence import (
    ADAPTER_FOLDER,
    CRITIC_FILE,
    OPTIMIZERS_FILE,
    STATE_FILE,
    load_optimizer,
    optimizer_tensors,
    read_json,
    write_json,
)
from degrpo.learner.prompt_encoder import PromptEncoder
from degrpo.learner.step_metrics import explained_variance, visit_metrics
from degrpo.learner.visits import GroupVisit, StepTotals, refusal
from degrpo.types import TrainGroup, UpdateResult
from policy.checkpoints import load_policy, save_policy
from policy.feature_cache import FeatureCache
from policy.freezing import Phase, trainable_parts
from policy.language import export_language_model
from policy.mixed_prompt import MixedPrompt
from rollouts.types import AdapterWeights

MIB = 1 << 20
REMEMBERED_VALUES = 256  # groups that optim/explained_variance looks back on
NON_FINITE_STEP = "the step's gradient is not finite; it was skipped"


class Learner:
    """Trains LoRA adapters on a frozen policy's language model, and a value critic beside it.

    One update is one optimiser step on freshly sampled groups. The ratio of Eq. 14 is 1 there, so
    that the clipped objective's gradient is a weighted sum of per-response gradients; those come
    out of the same backward whose statistics Eq. 9 reads (``gradient_statistics``).

    Args:
        config: the run's recipe; read are ``learner``, ``algorithm``, ``rollouts`` (temperature and
            response length) and ``seed``.
        policy_dir: the policy to start from, as ``policy.checkpoints.save_policy`` writes it. It is
            also the reference policy, and is read again by the exports.
    """

    def __init__(self, config: TrainConfig, policy_dir: str | Path) -> None:
        self.config = config
        self._policy_dir = Path(policy_dir)
        self._model, self._processor = load_policy(self._policy_dir)
        self._model.eval().requires_grad_(False)
        refuse_other_parts(trainable_parts(config.sft.freeze_table, Phase.RL))
        self.language_model = self._model.language_model.to(getattr(torch, config.learner.dtype))
        self._adapted = add_adapters(
            self.language_model,
            rank=config.learner.lora_rank,
            alpha=config.learner.lora_alpha,
            seed=config.seed,
        )
        self._space = AdapterSpace(self._adapted)
        distribution = ResponseDistribution(
            self.language_model, self._processor.banned_token_ids, config.rollouts.temperature
        )
        self._passes = PolicyPasses(
            self._adapted, self._space, distribution, config.learner.micro_batch_tokens
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._critic = ValueCritic(self.language_model.config.hidden_size).to(
                self._space.device
            )
        self._optimizer = torch.optim.AdamW(
            self._space.parameters, lr=config.learner.lr, weight_decay=0.0
        )
        self._critic_optimizer = torch.optim.AdamW(
            self._critic.parameters(), lr=config.learner.critic_lr
        )
        self._baseline = BaselineStatistics()
        self._values: deque[tuple[float, float]] = deque(maxlen=REMEMBERED_VALUES)
        self._prompts = PromptEncoder(
            self._model,
            self._processor,
            FeatureCache(max_bytes=int(config.policy.feature_cache_gib * 1024 * MIB)),
            memory_bytes=config.learner.prompt_cache_mib * MIB,
        )
        self._seconds: dict[str, float] = {}
        self.policy_version = 0
        self.num_skipped_steps = 0

    def encode(self, samples: Sequence[Sample]) -> list[MixedPrompt | str]:
        """Each sample's prompt with its visual rows, or the reason why it has none."""
        return self._prompts(samples)

    def update(self, groups: Sequence[TrainGroup]) -> UpdateResult:
        """One optimiser step on a step's groups, and their statistics.

        A group that cannot be used (too few or empty responses, numbers that are not finite) is
        left out and named in ``failed``; the denominator still counts one that turned out not to be
        finite only on its way. When nothing is left, or the gradient itself is not finite, the step
        is skipped: nothing moves and ``policy_version`` stays.
        """
        self._seconds = {}
        with self._timed("update"):
            failed = self._refusals(groups)
            visits = [
                GroupVisit(index=n, group=group)
                for n, group in enumerate(g for g in groups if g.sample_id not in failed)
            ]
            totals = StepTotals(
                num_responses=sum(len(visit.lengths) for visit in visits),
                num_tokens=sum(sum(visit.lengths) for visit in visits),
                max_length=self.config.rollouts.max_response_tokens,
            )
            kappa = self._kappa()
            if self.config.algorithm.kl_coefficient:
                with self._timed("reference"):
                    self._passes.reference(visits)
            with self._timed("gradient"):
                direction = self._gradient_pass(visits, totals, kappa, failed)
            finished = [visit for visit in visits if visit.group.sample_id not in failed]
            with self._timed("optimizer"):
                step_metrics = self._step(direction, finished, failed)
        metrics = {
            **step_metrics,
            "optim/kappa": kappa,
            "optim/skipped_steps": float(self.num_skipped_steps),
            "optim/explained_variance": explained_variance(self._values),
            "perf/learner/tokens_per_second": totals.num_tokens / self._seconds["update"],
            **self._prompts.cache.metrics(),
            **{f"time/learner/{name}": seconds for name, seconds in self._seconds.items()},
        }
        stepped = [visit for visit in finished if visit.group.sample_id not in failed]
        if stepped:
            metrics |= visit_metrics(stepped, totals, self.config.algorithm)
        return UpdateResult(
            statistics=tuple(
                visit.statistics(self._seconds["update"] * sum(visit.lengths) / totals.num_tokens)
                for visit in stepped
            ),
            metrics=metrics,
            policy_version=self.policy_version,
            failed=failed,
        )

    def _refusals(self, groups: Sequence[TrainGroup]) -> dict[str, str]:
        banned = frozenset(self._processor.banned_token_ids)
        return {group.sample_id: why for group in groups if (why := refusal(group, banned))}

    def _kappa(self) -> float:
        algorithm = self.config.algorithm
        return self._baseline.kappa(
            self.config.rollouts.group_size,
            warmup=algorithm.kappa_warmup,
            maximum=algorithm.kappa_max,
        )

    def _gradient_pass(
        self,
        visits: Sequence[GroupVisit],
        totals: StepTotals,
        kappa: float,
        failed: dict[str, str],
    ) -> Tensor:
        """sum_k c_k A_k g_k over the step, ``[D]``; the visits come out finished or failed."""
        direction = self._space.zeros()
        for visit in self._passes.gradients(visits, self.config.algorithm.tis_cap):
            try:
                direction += self._finish(visit, totals, kappa)
            except SampleError as error:
                failed[visit.group.sample_id] = str(error)
                visit.gradients = None
        return direction

    def _finish(self, visit: GroupVisit, totals: StepTotals, kappa: float) -> Tensor:
        with torch.no_grad():
            value = self._critic(_features([visit])).item()
        return visit.finish(
            value=value,
            kappa=kappa,
            kl_coefficient=self.config.algorithm.kl_coefficient,
            separability_power=self.config.algorithm.separability_power,
            totals=totals,
        )

    def _step(
        self, direction: Tensor, visits: Sequence[GroupVisit], failed: dict[str, str]
    ) -> dict[str, float]:
        """Clip and apply the update, then train the critic and the baseline's running means."""
        norm = direction.double().norm().item()
        if not visits or not np.isfinite(norm):
            self.num_skipped_steps += 1
            failed.update({visit.group.sample_id: NON_FINITE_STEP for visit in visits})
            return {"optim/grad_norm": norm, "optim/lr": 0.0}
        clip = min(1.0, self.config.learner.max_grad_norm / max(norm, 1e-12))
        self._space.assign_gradients(-direction * clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.policy_version += 1

        shaped = [visit.shaped_rewards for visit in visits if visit.shaped_rewards is not None]
        means = torch.stack([rewards.mean() for rewards in shaped]).to(self._space.device)
        critic_loss = fit_critic(self._critic, self._critic_optimizer, _features(visits), means)
        for visit, rewards in zip(visits, shaped, strict=True):
            self._baseline.update(rewards[None], torch.tensor([visit.value]))
            self._values.append((rewards.mean().item(), visit.value))
        return {
            "optim/grad_norm": norm,
            "optim/lr": self.config.learner.lr,
            "loss/critic": critic_loss,
        }

    def log_probs(
        self, prompts: Sequence[MixedPrompt], token_ids: Sequence[Sequence[int]]
    ) -> list[np.ndarray]:
        """log pi of each prompt's tokens under the current policy, ``[|y_k|]`` float32 each."""
        found = [np.zeros(0, dtype=np.float32)] * len(prompts)
        rows = [
            ResponseRow(group=n, member=0, prompt=prompt, token_ids=tuple(tokens))
            for n, (prompt, tokens) in enumerate(zip(prompts, token_ids, strict=True))
            if len(tokens)
        ]
        for row, log_probs in self._passes.log_probs(rows):
            found[row.group] = log_probs.float().cpu().numpy()
        return found

    def adapter_weights(self) -> AdapterWeights:
        """The adapters as the sampler takes them; copies, so that later updates do not show."""
        lora = self._adapted.peft_config[ADAPTER]
        return AdapterWeights(
            tensors={
                name: tensor.detach().float().cpu().numpy().copy()
                for name, tensor in adapter_tensors(self._adapted).items()
            },
            rank=lora.r,
            alpha=lora.lora_alpha,
            target_modules=tuple(sorted(lora.target_modules)),
            policy_version=self.policy_version,
        )

    def export_language_model(self, folder: Path) -> Path:
        """Write the language model without adapters as a plain Hugging Face folder for vLLM."""
        model, processor = load_policy(self._policy_dir)
        return export_language_model(model, processor, folder)

    def sampler_arguments(self, folder: Path) -> dict[str, Any]:
        """:class:`rollouts.sampler.Sampler`'s arguments; the language model goes to ``folder``."""
        lora = self._adapted.peft_config[ADAPTER]
        return {
            "language_model_dir": self.export_language_model(folder),
            "banned_token_ids": self._processor.banned_token_ids,
            "end_token_id": self._processor.end_token_id,
            "lora_rank": lora.r,
            "lora_target_modules": tuple(sorted(lora.target_modules)),
        }

    def save_merged(self, folder: Path) -> None:
        """Write the whole policy with the adapters merged in; it loads without PEFT."""
        model, processor = load_policy(self._policy_dir)
        merge_adapters(self.language_model, model.language_model)
        save_policy(model, processor, folder)

    def save(self, folder: Path) -> None:
        """Write all that the next updates depend on (see ``persistence``) into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_adapters(self._adapted, folder / ADAPTER_FOLDER)
        save_file(self._critic.state_dict(), folder / CRITIC_FILE)
        tensors = optimizer_tensors(self._optimizer, "adapter")
        tensors |= optimizer_tensors(self._critic_optimizer, "critic")
        save_file({**tensors, "random_state": torch.get_rng_state()}, folder / OPTIMIZERS_FILE)
        state = {
            "policy_version": self.policy_version,
            "num_skipped_steps": self.num_skipped_steps,
            "baseline": self._baseline.state_dict(),
            "values": list(self._values),
        }
        write_json(folder / STATE_FILE, state)

    def load(self, folder: Path) -> None:
        """Continue from :meth:`save`: the next updates are the ones that run would have made.

        Raises:
            CheckpointError: when a file is missing, damaged or of another model.
        """
        state = read_json(folder / STATE_FILE)
        critic = read_tensors(folder / CRITIC_FILE)
        refuse_other_tensors(critic, self._critic.state_dict(), folder / CRITIC_FILE)
        tensors = read_tensors(folder / OPTIMIZERS_FILE)
        load_adapters(self._adapted, folder / ADAPTER_FOLDER)
        self._critic.load_state_dict(critic)
        torch.set_rng_state(tensors.pop("random_state"))
        for optimizer, prefix in ((self._optimizer, "adapter"), (self._critic_optimizer, "critic")):
            load_optimizer(optimizer, tensors, prefix, folder / OPTIMIZERS_FILE)
        self._baseline.load_state_dict(state["baseline"])
        self._values.clear()
        self._values.extend((reward, value) for reward, value in state["values"])
        self.policy_version = int(state["policy_version"])
        self.num_skipped_steps = int(state["num_skipped_steps"])

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._seconds[phase] = time.monotonic() - start


def _features(visits: Sequence[GroupVisit]) -> Tensor:
    return torch.stack([visit.features for visit in visits if visit.features is not None])
