"""LoRA adapters on a policy's language model: adding, sending, saving and merging them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.errors import CheckpointError, ConfigError

ADAPTER = "default"
ADAPTER_FILE = (
    "adapter_model.safetensors"  # PEFT's own names, so that PEFT opens the folder as it is
)


def refuse_other_parts(parts: Iterable[str]) -> None:
    """Raise :class:`ConfigError` for a freeze table whose RL row has more than adapters can do."""
    if set(parts) != {"language_model"}:
        raise ConfigError(
            f"RL that trains {', '.join(parts)}",
            "the learner trains adapters on the language model, and nothing else",
            "leave `language_model` alone in the table's RL row (policy.freezing)",
        )


def add_adapters(language_model: PreTrainedModel, *, rank: int, alpha: int, seed: int) -> PeftModel:
    """Put fresh LoRA adapters (arXiv:2106.09685) on every linear layer but the output head.

    The layers are replaced inside ``language_model``. B starts at zero, so that the policy is
    unchanged; switched off, the adapters leave the reference policy. Embeddings and head stay as
    they are: vLLM's packed copy of a tied head would miss their updates.

    Args:
        language_model: frozen.
        rank, alpha: W becomes W + (alpha / rank) B A.
        seed: of A's initial values.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=linear_layer_names(language_model),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(language_model, config, adapter_name=ADAPTER)


def linear_layer_names(language_model: PreTrainedModel) -> list[str]:
    """The last parts of the names of all linear layers but the head, such as ``q_proj``; sorted."""
    head = language_model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in language_model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }
    )


def adapter_tensors(adapted: PeftModel) -> dict[str, Tensor]:
    """The adapters' weights under the names that PEFT saves them with."""
    return get_peft_model_state_dict(adapted, adapter_name=ADAPTER, save_embedding_layers=False)


def save_adapters(adapted: PeftModel, folder: Path) -> None:
    """Write the adapters the way PEFT does."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in adapter_tensors(adapted).items()}
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
    adapted.peft_config[ADAPTER].save_pretrained(str(folder))


def load_adapters(adapted: PeftModel, folder: Path) -> None:
    """Read what :func:`save_adapters` wrote.

    Raises:
        CheckpointError: when the file is missing or its tensors are not the model's.
    """
    tensors = read_tensors(folder / ADAPTER_FILE)
    refuse_other_tensors(tensors, adapter_tensors(adapted), folder / ADAPTER_FILE)
    set_peft_model_state_dict(adapted, tensors, adapter_name=ADAPTER)


def merge_adapters(language_model: nn.Module, target: nn.Module) -> None:
    """Add the adapters of ``language_model`` to ``target``, the same model without any."""
    for name, layer in language_model.named_modules():
        if ADAPTER in getattr(layer, "lora_A", {}):
            weight = target.get_submodule(name).weight
            weight.data += layer.get_delta_weight(ADAPTER).to(weight)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: when it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}", f"cannot be read ({error})", "resume from an earlier checkpoint"
        ) from error


def refuse_other_tensors(
    received: dict[str, Tensor], expected: dict[str, Tensor], origin: Path
) -> None:
    """Raise :class:`CheckpointError` unless names and shapes are the same."""
    shapes = {name: list(tensor.shape) for name, tensor in received.items()}
    wanted = {name: list(tensor.shape) for name, tensor in expected.items()}
    for name in sorted(shapes.keys() | wanted.keys()):
        if shapes.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{origin}: {name} of shape {shapes.get(name, 'missing')}",
                f"this learner has {wanted.get(name, 'no such tensor')}",
                "resume with the recipe that the checkpoint was made with",
            )
