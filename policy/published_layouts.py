"""What published checkpoints look like, key by key, and which parts of the policy they fill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Renames = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The keys of a file that start with ``prefix``, and the modules that each take all of them."""

    prefix: str
    modules: tuple[str, ...]
    """Attributes of the policy, dotted."""

    renames: Renames = ()
    """From a module's own names to the file's: (old, new), replaced in this order."""

    fused: tuple[str, ...] = ()
    """Linear layers whose weights the file keeps on top of each other, in this order."""

    def source(self, name: str) -> tuple[str, int | None]:
        """The file's key of a module's tensor, and which of the fused layers it is."""
        position = next((i for i, layer in enumerate(self.fused) if layer in name), None)
        for old, new in self.renames:
            name = name.replace(old, new)
        return self.prefix + name, position


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One kind of published file."""

    encoder: str
    """The encoder that it fills: an attribute of the policy."""

    recipe: Mapping[str, str | int]
    """Fields of a recipe for a policy of these shapes."""

    wrappers: tuple[str, ...]
    """Keys under which a file may keep its state dict."""

    must_wrap: bool
    """A file without a wrapper (other than safetensors, which has none) is refused."""

    parts: tuple[Part, ...]
    queries: Mapping[str, int] = field(default_factory=dict)
    """Keys of learnable queries [1, n, width], and n; they are joined in this order."""

    dropped: tuple[str, ...] = ()
    """Patterns of keys that the policy has no use for; they may be there or not."""

    @property
    def setting(self) -> str:
        """``recipe`` as errors say it."""
        return ", ".join(f"policy.{name}={value}" for name, value in self.recipe.items())


SWIN_STAGES = 4

SWIN_RENAMES: Renames = (
    ("embeddings.patch_embeddings.projection.", "0.0.0."),
    ("embeddings.norm.", "0.0.2."),
    *((f"encoder.layers.{s}.blocks.", f"0.{2 * s + 1}.") for s in range(SWIN_STAGES)),
    *((f"encoder.layers.{s}.downsample.", f"0.{2 * s + 2}.") for s in range(SWIN_STAGES)),
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
    ("layernorm.", "1."),
    ("attention.q_proj.", "attn.qkv."),
    ("attention.k_proj.", "attn.qkv."),
    ("attention.v_proj.", "attn.qkv."),
    ("attention.o_proj.", "attn.proj."),
    ("attention.relative_position_bias.", "attn."),
    ("mlp.fc1.", "mlp.0."),
    ("mlp.fc2.", "mlp.3."),
)
"""transformers' SwinModel to torchvision's SwinTransformer, as FaceXFormer cuts it up."""

QFORMER_RENAMES: Renames = (
    ("embeddings.layernorm.", "embeddings.LayerNorm."),
    ("attention.attention.", "attention.self."),  # in crossattention too
)
"""transformers' InstructBlipQFormerModel to the BertModel of BLIP-2 and VideoChat2."""

LAYOUTS: dict[str, Layout] = {
    "facexformer": Layout(
        encoder="facial_encoder",
        recipe={"facial_source": "facial", "facial_encoder": "facexformer_swin_b"},
        wrappers=("state_dict_backbone",),
        must_wrap=True,
        parts=(
            Part(
                prefix="backbone.",
                modules=("facial_encoder.swin",),
                renames=SWIN_RENAMES,
                fused=("attention.q_proj.", "attention.k_proj.", "attention.v_proj."),
            ),
        ),
        dropped=(
            "backbone.*.attn.relative_position_index",
            "linear_c.*",
            "linear_fuse.*",
            "pe_layer.*",
            "face_decoder.*",
        ),
    ),
    "umt_l16_qformer": Layout(
        encoder="general_encoder",
        recipe={
            "general_encoder": "umt_l16",
            "qformer": "bert_base",
            "qformer_layers": 12,
            "shared_width": 1024,
        },
        wrappers=("model", "module"),
        must_wrap=False,
        parts=(
            Part(prefix="vision_encoder.encoder.", modules=("general_encoder",)),
            Part(prefix="vision_layernorm.", modules=("middle_level.general_tokens.norm",)),
            Part(
                prefix="qformer.bert.",
                modules=("middle_level.general_qformer", "middle_level.facial_qformer"),
                renames=QFORMER_RENAMES,
            ),
        ),
        queries={"query_tokens": 32, "extra_query_tokens": 64},
        dropped=(
            "qformer.bert.embeddings.position_ids",
            "qformer.cls.*",
            "vision_temp_embed*",
            "vision_proj.*",
            "text_proj.*",
            "itm_head.*",
            "temp",
        ),
    ),
}
"""The published files that the policy starts from, by kind.

``facexformer``: ``model.pt`` of Narayan et al. 2024 (arXiv:2403.12960).
``umt_l16_qformer``: the vision tower of VideoChat2 (Li et al. 2024, arXiv:2311.17005).
"""
