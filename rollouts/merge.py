"""Weight sync: LoRA adapters folded into the sampler's language model.

Merging beats serving the adapters through the engine's own LoRA path, whose CPU kernels gather a
copy of A and B for every token: 16 responses of 32 tokens take twice as long there, while merging
and reloading the 135M-parameter default costs under a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import ConfigError, MachineError
from rollouts.types import AdapterWeights

if TYPE_CHECKING:
    from torch import Tensor

PEFT_PREFIX = "base_model.model."
NEVER_ADAPTED = ("embed_tokens", "lm_head")


def check_targets(target_modules: tuple[str, ...]) -> None:
    """Refuse adapters on the embedding or the head.

    With tied embeddings the engine keeps its packed copy of the head across a reload, so that a
    change there would reach only one of the two; and prompts are embedded with frozen weights.

    Raises:
        ConfigError: when one is among ``target_modules``.
    """
    refused = [name for name in target_modules if name.rpartition(".")[2] in NEVER_ADAPTED]
    if refused:
        raise ConfigError(
            f"LoRA target modules {', '.join(refused)}",
            "the embedding and the head stay frozen: the sampler cannot take new ones",
            "name linear layers of the blocks, such as q_proj, v_proj, down_proj",
        )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A Hugging Face folder's weights by name, mapped from disk: resident only while they are read.

    Raises:
        MachineError: when the folder has no safetensors file.
    """
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MachineError(
            f"language model folder {folder}",
            "it holds *.safetensors",
            "export it with policy.language.export_language_model",
        )
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def merged_weights(
    base: Mapping[str, Tensor], adapter: AdapterWeights
) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the base, those with an adapter as ``W + (alpha / rank) B A``.

    All of them are yielded, also unchanged ones: the engine fuses layers (q, k and v; gate and up)
    and turns a layer that gets only some of its parts into garbage without an error.

    Args:
        base: name -> ``[out, in]`` and other weights.
        adapter: A ``[rank, in]`` and B ``[out, rank]`` per target.

    Raises:
        ConfigError: for an adapter that does not fit the base; raised before the first weight.
    """
    factors = _factors_by_weight(base, adapter)
    return _merge(base, factors, adapter.alpha / adapter.rank)


def _merge(
    base: Mapping[str, Tensor], factors: Mapping[str, tuple[np.ndarray, np.ndarray]], scale: float
) -> Iterator[tuple[str, Tensor]]:
    import torch

    for name, weight in base.items():
        if name not in factors:
            yield name, weight
            continue
        # Arrays that come through Ray's object store are read-only; torch.tensor copies.
        a, b = (torch.tensor(factor, dtype=torch.float32) for factor in factors[name])
        merged = torch.addmm(weight.float(), b, a, alpha=scale)
        yield name, merged.to(weight.dtype)


def _factors_by_weight(
    base: Mapping[str, Tensor], adapter: AdapterWeights
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Weight name -> (A, B), every pair checked against the weight it changes."""
    check_targets(adapter.target_modules)
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in adapter.tensors.items():
        module, _, factor = name.removeprefix(PEFT_PREFIX).partition(".lora_")
        found.setdefault(f"{module}.weight", {})[factor.partition(".")[0]] = tensor
    factors = {}
    for name, pair in found.items():
        if name not in base or set(pair) != {"A", "B"}:
            raise ConfigError(
                f"adapter tensors {', '.join(sorted(pair))} for {name}",
                "an adapter has A and B, and changes a weight of the sampler's language model",
                "start sampler and learner from the same policy",
            )
        a, b = pair["A"], pair["B"]
        expected = ((adapter.rank, base[name].shape[1]), (base[name].shape[0], adapter.rank))
        if (a.shape, b.shape) != expected:
            raise ConfigError(
                f"A {a.shape} and B {b.shape} for {name}",
                f"rank {adapter.rank} needs A {expected[0]} and B {expected[1]}",
                "start sampler and learner from the same policy",
            )
        factors[name] = (a, b)
    if not factors:
        raise ConfigError(
            "an adapter without tensors",
            "it changes at least one weight",
            "check the learner's LoRA",
        )
    return factors
