"""The language model of a policy as vLLM takes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.errors import ConfigError
from policy.folders import replaced_folder

if TYPE_CHECKING:
    from policy.modeling import FaVChatForConditionalGeneration
    from policy.processing import FaVChatProcessor


def export_language_model(
    model: FaVChatForConditionalGeneration, processor: FaVChatProcessor, folder: str | Path
) -> Path:
    """Write the language model and its tokenizer as a plain Hugging Face folder, for vLLM.

    An existing folder is replaced; a reader sees the old one or the new one, never a half.

    Raises:
        ConfigError: when adapters are still inside the language model; merge them first.
    """
    refuse_adapters(model.language_model)
    folder = Path(folder)
    with replaced_folder(folder) as new:
        model.language_model.save_pretrained(new)
        processor.tokenizer.save_pretrained(new)
    return folder


def refuse_adapters(language_model: torch.nn.Module) -> None:
    """Raise :class:`ConfigError` when PEFT layers are inside: their names would not load back."""
    if any("lora_" in name for name, _ in language_model.named_parameters()):
        raise ConfigError(
            "a language model with LoRA adapters",
            "a policy is saved merged",
            "call merge_and_unload() and assign the result to model.language_model first",
        )
