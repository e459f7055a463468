"""What a recipe says about rollouts."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import ConfigError


@dataclass(kw_only=True)
class RolloutConfig:
    """vLLM rollout workers and how they sample."""

    num_workers: int = 1
    """Ray actors, one vLLM engine each."""

    group_size: int = 4
    """G, responses per prompt; at least 2."""

    max_response_tokens: int = 32
    """Responses are cut here."""

    max_model_len: int = 256
    """Prompt and response together; decides the engine's memory."""

    temperature: float = 1.0
    """Sampling temperature; the learner's softmax uses the same."""

    dtype: str = "float32"
    """The engine's dtype. On CPUs without AMX float32 is the fastest."""

    kv_cache_gib: float = 0.5
    """Memory for the engine's KV cache, in GiB."""

    max_num_seqs: int = 64
    """Responses that one engine decodes at a time."""

    threads: int = 0
    """Threads of one engine; 0 means every core (learner and sampler take turns)."""

    timeout_seconds: float = 300.0
    """A generation batch, or the start of an engine, that takes longer counts as a dead worker."""

    cpus_per_worker: float = 0.0
    """Cores that each worker reserves from Ray; 0 where it takes turns with the learner."""

    gpus_per_worker: float = 0.0
    """GPUs that each worker reserves from Ray."""

    probe_prompts: int = 2
    """Prompts of the parity probe after each weight sync."""

    probe_tokens: int = 8
    """Response tokens per probe prompt."""

    parity_max: float = 5e-3
    """Largest allowed |log-prob difference| between sampler and learner on one token."""

    parity_mean: float = 5e-4
    """Largest allowed mean of the same."""

    def check(self) -> None:
        if self.group_size < 2:
            raise ConfigError(
                f"rollouts.group_size={self.group_size}",
                "a group needs at least 2 responses to compare",
                "set rollouts.group_size=4",
            )
        if self.max_response_tokens >= self.max_model_len:
            raise ConfigError(
                f"rollouts.max_response_tokens={self.max_response_tokens}",
                f"it is below rollouts.max_model_len={self.max_model_len}, to leave a prompt room",
                "lower the first or raise the second",
            )
        if self.temperature <= 0:
            raise ConfigError(
                f"rollouts.temperature={self.temperature}",
                "sampling needs a positive temperature",
                "set rollouts.temperature=1.0",
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(
                f"rollouts.dtype={self.dtype}",
                "it is float32, bfloat16 or float16",
                "set rollouts.dtype=float32",
            )
        for key in ("kv_cache_gib", "timeout_seconds", "parity_max", "parity_mean"):
            if getattr(self, key) <= 0:
                raise ConfigError(
                    f"rollouts.{key}={getattr(self, key)}",
                    "it is positive",
                    f"raise rollouts.{key}",
                )
        for key in ("threads", "cpus_per_worker", "gpus_per_worker"):
            if getattr(self, key) < 0:
                raise ConfigError(
                    f"rollouts.{key}={getattr(self, key)}",
                    "it is not negative",
                    f"set rollouts.{key}=0",
                )
        for key in (
            "num_workers",
            "max_response_tokens",
            "max_num_seqs",
            "probe_prompts",
            "probe_tokens",
        ):
            if getattr(self, key) < 1:
                raise ConfigError(
                    f"rollouts.{key}={getattr(self, key)}",
                    "it is at least 1",
                    f"raise rollouts.{key}",
                )
