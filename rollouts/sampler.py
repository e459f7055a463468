"""One vLLM engine: mixed prompts in, groups of responses with log-probs out. No Ray."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import ConfigError, MachineError
from rollouts.config import RolloutConfig
from rollouts.engine import eager_kernels, start_engine, stop_engine
from rollouts.merge import check_targets, merged_weights, read_weights
from rollouts.prompts import engine_prompt, prompt_problem
from rollouts.types import AdapterWeights, Response, RolloutGroup, RolloutRequest, StopReason

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

STOP_REASONS = {"stop": StopReason.END, "length": StopReason.LENGTH}


def response_seed(seed: int, sample_id: str, visit: int, index: int) -> int:
    """The seed of one response, in [0, 2^62): the same on every worker, in any order.

    Hashed, because sums of small numbers would give neighbouring samples the same noise.
    """
    text = f"{seed}/{sample_id}/{visit}/{index}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2


class Sampler:
    """Samples responses of a language model whose prompts mix text and visual rows.

    Args:
        language_model_dir: a Hugging Face folder: config, safetensors weights, tokenizer.
        config: how to sample; ``config.threads`` is applied to this process.
        banned_token_ids: tokens that are never sampled.
        end_token_id: the token that ends a response; part of the response.
        lora_rank: rank of the adapters that :meth:`load_adapter` will be given.
        lora_target_modules: the layers that they change.

    Raises:
        ConfigError: for adapters on the embedding or head, or token ids outside the vocabulary.
        MachineError: when the engine cannot start.
    """

    def __init__(
        self,
        language_model_dir: str | Path,
        config: RolloutConfig,
        *,
        banned_token_ids: Sequence[int],
        end_token_id: int,
        lora_rank: int,
        lora_target_modules: Sequence[str],
    ) -> None:
        self.policy_version = 0
        self._folder, self._config = Path(language_model_dir), config
        self._end_token_id = end_token_id
        self._lora_rank, self._lora_targets = lora_rank, frozenset(lora_target_modules)
        check_targets(tuple(lora_target_modules))
        self._hidden_size, self._vocab_size = _model_sizes(self._folder)
        _check_token_ids(banned_token_ids, end_token_id, self._vocab_size)
        self._engine = start_engine(self._folder, config, banned_token_ids)
        self._tokenizer = self._engine.get_tokenizer()

    def generate(self, requests: Sequence[RolloutRequest]) -> list[RolloutGroup]:
        """Sample every request's responses in one batch.

        Returns:
            One group per request, in order. A prompt that cannot be sampled gets a group with an
            ``error`` and no responses; the others are not touched by it.
        """
        errors = [
            prompt_problem(
                request.prompt,
                max_prompt=self._config.max_model_len - self._max_tokens(request),
                hidden_size=self._hidden_size,
                vocab_size=self._vocab_size,
            )
            for request in requests
        ]
        prompts: list[dict[str, Any]] = []
        params: list[SamplingParams] = []
        for request, error in zip(requests, errors, strict=True):
            if error is None:
                parameters = self._sampling_params(request)
                prompt = engine_prompt(request.prompt, self._config.dtype, self._end_token_id)
                prompts += [prompt] * len(parameters)
                params += parameters
        started = time.perf_counter()
        outputs: list[RequestOutput] = []
        if prompts:
            with eager_kernels():
                outputs = self._engine.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        total_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        groups, remaining = [], iter(outputs)
        for request, error in zip(requests, errors, strict=True):
            mine = [] if error else [next(remaining) for _ in range(_num_responses(request))]
            groups.append(self._group(request, mine, error, seconds / max(total_tokens, 1)))
        return groups

    def load_adapter(self, adapter: AdapterWeights) -> int:
        """Replace the language model's weights by the base merged with ``adapter``.

        Starts from the base on disk each time, so that no rounding adds up over a run.

        Returns:
            The policy version that responses carry from now on.

        Raises:
            ConfigError: for an adapter that does not fit; the weights stay as they were.
        """
        if adapter.rank != self._lora_rank or not self._lora_targets.issuperset(
            adapter.target_modules
        ):
            raise ConfigError(
                f"an adapter of rank {adapter.rank} on {', '.join(adapter.target_modules)}",
                f"it has rank {self._lora_rank}, on any of {', '.join(sorted(self._lora_targets))}",
                "start sampler and learner from the same recipe",
            )
        weights = merged_weights(read_weights(self._folder), adapter)
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        # Cached prefixes hold keys and values of the old weights; vLLM does not drop them itself.
        if not self._engine.reset_prefix_cache():
            raise MachineError(
                f"a prefix cache still in use before policy version {adapter.policy_version}",
                "a weight sync happens while nothing is generated",
                "wait for every response before the sync",
            )
        self.policy_version = adapter.policy_version
        return self.policy_version

    def close(self) -> None:
        """Free the engine; the sampler cannot be used afterwards."""
        stop_engine(self._engine)
        del self._engine

    def _sampling_params(self, request: RolloutRequest) -> list[SamplingParams]:
        """One per response. The temperature itself is applied by the engine's logits processor."""
        from vllm import SamplingParams

        sample_id = request.prompt.sample_id
        return [
            SamplingParams(
                temperature=0.0 if request.greedy else 1.0,
                seed=response_seed(request.seed, sample_id, request.visit, index),
                max_tokens=self._max_tokens(request),
                stop_token_ids=[self._end_token_id],
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
            )
            for index in range(_num_responses(request))
        ]

    def _max_tokens(self, request: RolloutRequest) -> int:
        return request.max_tokens or self._config.max_response_tokens

    def _group(
        self,
        request: RolloutRequest,
        outputs: Sequence[RequestOutput],
        error: str | None,
        seconds_per_token: float,
    ) -> RolloutGroup:
        responses = tuple(self._response(output) for output in outputs)
        tokens = sum(len(response.token_ids) for response in responses)
        if not all(np.isfinite(response.log_probs).all() for response in responses):
            error = (
                f"log-probs that are not finite at policy version {self.policy_version}; "
                "check the last update for NaN"
            )
            responses = ()
        return RolloutGroup(
            sample_id=request.prompt.sample_id,
            responses=responses,
            tokens=tokens,
            seconds=tokens * seconds_per_token,
            error=error,
        )

    def _response(self, output: RequestOutput) -> Response:
        completion = output.outputs[0]
        token_ids = tuple(completion.token_ids)
        log_probs = tuple(
            position[token].logprob
            for position, token in zip(completion.logprobs, token_ids, strict=True)
        )
        return Response(
            text=self._tokenizer.decode(token_ids, skip_special_tokens=True),
            token_ids=token_ids,
            log_probs=log_probs,
            stop_reason=STOP_REASONS.get(completion.finish_reason, StopReason.ABORTED),
            policy_version=self.policy_version,
        )


def _num_responses(request: RolloutRequest) -> int:
    return 1 if request.greedy else request.num_responses


def _model_sizes(folder: Path) -> tuple[int, int]:
    """Width and vocabulary of a Hugging Face language model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise MachineError(
            f"language model folder {folder} ({error.strerror})",
            "it holds a readable config.json",
            "export it with policy.language.export_language_model",
        ) from error
    return int(config["hidden_size"]), int(config["vocab_size"])


def _check_token_ids(banned: Sequence[int], end_token_id: int, vocab_size: int) -> None:
    outside = [token for token in (*banned, end_token_id) if not 0 <= token < vocab_size]
    if outside or end_token_id in banned:
        raise ConfigError(
            f"banned_token_ids={tuple(banned)}, end_token_id={end_token_id}",
            f"they lie in the vocabulary of {vocab_size}, and the end token can be sampled",
            "take both from the policy's processor",
        )
