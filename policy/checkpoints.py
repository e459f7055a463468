"""Saving and loading a whole policy in the Hugging Face layout, safetensors only."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError

from common.errors import CheckpointError
from policy.build import register_policy
from policy.language import refuse_adapters, replaced_folder, restore_folder
from policy.modeling import FaVChatForConditionalGeneration
from policy.processing import FaVChatProcessor

MAX_NAMED = 5
"""A broken checkpoint's error names so many keys of each kind."""


def save_policy(
    model: FaVChatForConditionalGeneration, processor: FaVChatProcessor, folder: str | Path
) -> Path:
    """Write config, weights, tokenizers and processor to ``folder``; an existing one is replaced.

    The folder appears whole or not at all. ``AutoModelForImageTextToText.from_pretrained`` and
    ``AutoProcessor.from_pretrained`` read it after :func:`policy.build.register_policy`.

    Raises:
        ConfigError: when LoRA adapters are still inside the language model.
    """
    refuse_adapters(model.language_model)
    folder = Path(folder)
    with replaced_folder(folder) as new:
        model.save_pretrained(new)
        processor.save_pretrained(new)
    return folder


def load_policy(
    folder: str | Path, *, dtype: torch.dtype = torch.float32
) -> tuple[FaVChatForConditionalGeneration, FaVChatProcessor]:
    """Read what :func:`save_policy` wrote; every key must be there, in its shape, and none beside.

    Raises:
        CheckpointError: naming what is missing, extra, misshapen or unreadable.
    """
    register_policy()
    folder = Path(folder)
    restore_folder(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"policy {folder}",
            "a policy is a folder with config.json, model.safetensors and processor_config.json",
            "train one with `degrpo sft`, or correct the path",
        )
    try:
        model, info = FaVChatForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are all named below
        )
        processor = FaVChatProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"policy {folder}", f"cannot be read: {error}", "copy or save it again"
        ) from error
    _refuse_differences(folder, info)
    model.freeze_pretrained()
    return model.eval(), processor


def _refuse_differences(folder: Path, info: dict) -> None:
    misshapen = [
        f"{key} (file {tuple(file)}, model {tuple(model)})"
        for key, file, model in sorted(info["mismatched_keys"])
    ]
    shaped = {key for key, _, _ in info["mismatched_keys"]}
    kinds = {
        "missing": sorted(set(info["missing_keys"]) - shaped),
        "extra": sorted(info["unexpected_keys"]),
        "misshapen": misshapen,
    }
    differences = [f"{kind} {_named(keys)}" for kind, keys in kinds.items() if keys]
    if differences:
        raise CheckpointError(
            f"policy {folder} with {'; '.join(differences)}",
            "weights must match config.json key by key",
            "save the policy again with the code that trained it",
        )


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
    return ", ".join(keys[:MAX_NAMED]) + more
