"""Saving and loading a whole policy in the Hugging Face layout, safetensors only."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError

from common.errors import CheckpointError
from policy.build import register_policy
from policy.folders import replaced_folder, restore_folder
from policy.language import refuse_adapters
from policy.modeling import FaVChatForConditionalGeneration
from policy.processing import FaVChatProcessor
from policy.published import load_published as load_published
from policy.published import named_differences


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

    Encoders and the Q-Formers' words take no gradient, as in a policy that was just built. Files
    of tensors only are read; memory beside the weights goes to one tensor at a time.

    Args:
        dtype: of the weights in memory, whatever the file's is.

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
    return model.eval(), processor


def _refuse_differences(folder: Path, info: dict) -> None:
    misshapen = [
        f"{key} (file {tuple(file)}, model {tuple(model)})"
        for key, file, model in sorted(info["mismatched_keys"])
    ]
    shaped = {key for key, _, _ in info["mismatched_keys"]}
    differences = named_differences(
        missing=set(info["missing_keys"]) - shaped,
        extra=info["unexpected_keys"],
        misshapen=misshapen,
    )
    if differences:
        raise CheckpointError(
            f"policy {folder} with {differences}",
            "weights must match config.json key by key",
            "save the policy again with the code that trained it",
        )
