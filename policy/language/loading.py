"""Language models and tokenizers by name: embedded, from a folder, or from the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.errors import ConfigError
from policy.language.embedded import (
    EMBEDDED,
    SMOLLM2,
    TINY,
    smollm2_config,
    smollm2_folder,
    smollm2_tokenizer_folder,
    tiny_config,
    tiny_model,
)
from policy.language.media_tokens import add_media_tokens, num_rows, register_media_tokens
from policy.language.published import PUBLISHED, published_config
from policy.published import named

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w.-]+")
NUM_BYTES = 256
"""The smallest vocabulary that writes any text."""


def load_language_model(
    name: str, *, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, both with the media tokens.

    Weights are read straight into ``dtype``; no second copy of them is held.

    Args:
        name: ``smollm2-135m``, ``tiny`` (random weights from ``seed``), a Hugging Face folder, or
            a hub id.
        seed: of the media tokens' rows where the model has none.

    Raises:
        ConfigError: for a name that is none of these, a hub id that cannot be reached, and files
            that are incomplete.
    """
    tokenizer = load_tokenizer(name)
    model = (
        tiny_model(tokenizer, seed=seed, dtype=dtype) if name == TINY else _pretrained(name, dtype)
    )
    add_media_tokens(model, tokenizer, seed=seed)
    return model.eval(), tokenizer


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of :func:`load_language_model`'s ``name``, as it is published.

    Raises:
        ConfigError: as there.
    """
    from transformers import AutoTokenizer

    if name in EMBEDDED:
        return AutoTokenizer.from_pretrained(smollm2_tokenizer_folder())
    _check_name(name)
    try:
        # mistral_common's own tokenizers, the default beside a tekken.json, take no media tokens.
        tokenizer = AutoTokenizer.from_pretrained(name, mistral_format=False)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    if tokenizer.vocab_size < NUM_BYTES:  # what transformers makes of a folder without its files
        raise _unreadable(name, ValueError("the tokenizer's files are missing"))
    return tokenizer


def language_model_config(name: str) -> PreTrainedConfig:
    """The config of :func:`load_language_model`'s model, without its weights.

    ``vocab_size`` includes rows for the media tokens, as after loading. Names in
    :data:`policy.language.published.PUBLISHED` need neither files nor network.

    Raises:
        ConfigError: as there.
    """
    if name in PUBLISHED and not Path(name).is_dir():
        config, num_tokens = published_config(name)
    else:
        tokenizer = load_tokenizer(name)
        if name == TINY:
            config = tiny_config(tokenizer)
        elif name == SMOLLM2:
            config = smollm2_config()
        else:
            config = _pretrained_config(name)
        register_media_tokens(tokenizer)
        num_tokens = num_rows(tokenizer)
    config.vocab_size = max(config.vocab_size, num_tokens)
    return config


def _pretrained_config(name: str) -> PreTrainedConfig:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _pretrained(name: str, dtype: torch.dtype) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    source = smollm2_folder() if name == SMOLLM2 else name
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are all named below
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(name, error) from error
    if wrong := sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}):
        raise ConfigError(
            f"language model {name!r} without fitting {named(wrong)}",
            "its files hold every weight in the shape that its config.json says",
            "download it again",
        )
    return model


def _check_name(name: str) -> None:
    if Path(name, "config.json").is_file():
        return
    if not Path(name).exists() and _HUB_ID.fullmatch(name):
        return
    raise ConfigError(
        f"language model {name!r}",
        "it is smollm2-135m, tiny, a folder with a config.json, or a hub id",
        "correct the name, or download the model into a folder first",
    )


def _unreadable(name: str, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(name).is_dir():
        return ConfigError(
            f"language model {name!r}",
            f"it cannot be read: {reason}",
            "download config, tokenizer and safetensors files into this folder again",
        )
    return ConfigError(
        f"language model {name!r}, which is no folder and cannot be had from the hub ({reason})",
        "a hub id is read from the local cache, and without HF_HUB_OFFLINE=1 from the network",
        f"download it (`hf download {name} --local-dir …`) and give the folder, or set "
        "HF_HUB_OFFLINE=0",
    )
