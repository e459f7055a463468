"""Shapes of published language models, so that recipes can be sized without their files.

Each entry repeats the model's config.json. ``num_tokens`` counts the published tokenizer's tokens
together with the media tokens: Qwen's tokenizers have those, and fewer tokens than rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-7B-Instruct": {
        "model_type": "qwen2",
        "num_tokens": 151_665,
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32_768,
        "max_window_layers": 28,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
    },
    "Qwen/Qwen3-8B": {
        "model_type": "qwen3",
        "num_tokens": 151_669,
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40_960,
        "max_window_layers": 36,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
    },
    "mistralai/Mistral-7B-Instruct-v0.2": {
        "model_type": "mistral",
        "num_tokens": 32_003,
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32_768,
        "sliding_window": None,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "meta-llama/Llama-3.1-8B-Instruct": {
        "model_type": "llama",
        "num_tokens": 128_259,
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": _LLAMA3_ROPE,
        "tie_word_embeddings": False,
        "bos_token_id": 128_000,
        "eos_token_id": [128_001, 128_008, 128_009],
    },
}


def published_config(name: str) -> tuple[PreTrainedConfig, int]:
    """The config of a name in :data:`PUBLISHED`, and its tokens together with the media tokens."""
    from transformers import AutoConfig

    settings = dict(PUBLISHED[name])
    num_tokens = settings.pop("num_tokens")
    return AutoConfig.for_model(**settings, dtype="bfloat16"), num_tokens
