"""The model's own configuration: what is saved with the weights."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, InstructBlipQFormerConfig, PreTrainedConfig
from transformers.models.auto import CONFIG_MAPPING

from common.errors import ConfigError
from policy.config import check_architecture


class FaVChatConfig(PreTrainedConfig):
    """Architecture of a FaVChat policy.

    Raises:
        ConfigError: for options that do not exist or do not go together, numbers out of range, and
            an unknown kind of language model.

    Example:
        >>> model, processor = build_policy(PolicyConfig())
        >>> model.config.num_queries, model.config.shared_width
        (8, 192)
    """

    model_type = "favchat"
    sub_configs = {"text_config": AutoConfig, "qformer_config": InstructBlipQFormerConfig}  # noqa: RUF012

    text_config: Any = None  # of the language model
    qformer_config: Any = None  # of both Q-Formers; encoder_hidden_size is the general tokens'
    general_encoder: str = "efficientnet_lite0"
    general_encoder_options: Any = None  # dict; of policy.encoders.base.EncoderOptions
    facial_encoder: str = "mini_xception"
    facial_encoder_options: Any = None  # dict
    facial_source: str = "facial"
    facial_grid: int = 0  # longest side of facial maps; 0: as they come
    frames_per_clip: int = 0  # frames that an encoder sees at a time; 0: all
    shared_width: int = 192  # D
    num_queries: int = 8  # Q
    low_level: str = "text_query"
    middle_level: str = "text_guided"
    gate: str = "text"
    fusion: str = "sum"
    video_token_id: int = 0
    visual_scale: float = 1.0  # spread of a word embedding, per component

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None:
            self.text_config = CONFIG_MAPPING["llama"]()
        elif isinstance(self.text_config, dict):
            kind = self.text_config.get("model_type", "llama")
            if kind not in CONFIG_MAPPING:
                raise ConfigError(
                    f"text_config with model_type={kind}",
                    "transformers knows the language model",
                    "correct it, or use a version of transformers that has it",
                )
            self.text_config = CONFIG_MAPPING[kind](**self.text_config)
        if self.qformer_config is None:
            self.qformer_config = InstructBlipQFormerConfig()
        elif isinstance(self.qformer_config, dict):
            self.qformer_config = InstructBlipQFormerConfig(**self.qformer_config)
        self.general_encoder_options = dict(self.general_encoder_options or {})
        self.facial_encoder_options = dict(self.facial_encoder_options or {})
        check_architecture(self)
        super().__post_init__(**kwargs)

    @property
    def num_visual_rows(self) -> int:
        """Rows that the language model sees per clip, and media placeholders of its prompt."""
        return self.num_queries * (2 if self.fusion == "concat" else 1)
