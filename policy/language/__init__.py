"""Language models: which there are, their media tokens, and what vLLM is given."""

from policy.language.export import export_language_model, refuse_adapters
from policy.language.loading import language_model_config, load_language_model, load_tokenizer
from policy.language.media_tokens import (
    MEDIA_TOKENS,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    add_media_tokens,
)

__all__ = [
    "MEDIA_TOKENS",
    "VIDEO_PAD",
    "VISION_END",
    "VISION_START",
    "add_media_tokens",
    "export_language_model",
    "language_model_config",
    "load_language_model",
    "load_tokenizer",
    "refuse_adapters",
]
