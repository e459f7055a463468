"""UMT-L/16, the published general encoder (Li et al. 2023, arXiv:2303.16058).

It is the vision tower of VideoChat2 (Li et al. 2024, arXiv:2311.17005), whose key names the modules
keep: published weights load without renaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from common.errors import ConfigError
from policy.encoders.base import NORMALISATIONS, EncoderOptions, VisionEncoder, normalised

TABLE_FRAMES = 4
"""Frames of the pre-training clips, for which the table of positions is defined."""

NORM_EPSILON = 1e-6
INIT_DEVIATION = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class UmtOptions(EncoderOptions):
    """Shape and preprocessing of a UMT; the defaults are the published UMT-L/16's.

    Raises:
        ConfigError: for sizes below 1 or that do not divide each other, and for a normalisation
            without a name.
    """

    width: int = 1024
    num_layers: int = 23
    """The last of ViT-L's 24 layers is not used (VideoChat2 reads the one before)."""
    num_heads: int = 16
    mlp_width: int = 4096
    image_side: int = 224
    """Pixels. Positions are laid out anew for another grid than the 14×14 of pre-training."""
    patch_side: int = 16
    normalisation: str = "imagenet"
    """``imagenet``, as in training, or ``clip``, as VideoChat2's demonstrations have it."""

    def __post_init__(self) -> None:
        self.check_positive(
            "width", "num_layers", "num_heads", "mlp_width", "image_side", "patch_side"
        )
        for name, whole, divisor, part in (
            ("width", self.width, "num_heads", self.num_heads),
            ("image_side", self.image_side, "patch_side", self.patch_side),
        ):
            if whole % part:
                raise ConfigError(
                    f"{name}={whole}, {divisor}={part}",
                    f"{name} is a multiple of {divisor}",
                    "change one of them",
                )
        if self.normalisation not in NORMALISATIONS:
            raise ConfigError(
                f"normalisation={self.normalisation}",
                f"it is one of {', '.join(NORMALISATIONS)}",
                "correct the name",
            )

    @property
    def grid(self) -> int:
        """Patches along a side of the image."""
        return self.image_side // self.patch_side


class UmtL16(VisionEncoder):
    """290.5M parameters; 1024 channels on a 14×14 grid per frame, frames attend to each other.

    A pre-norm ViT-L over 1×16×16 patches of all frames jointly, without class token and without
    final norm: whoever reads the map normalises it. Attention never holds the score matrix, so that
    96 frames (18,816 tokens) fit.
    """

    Options: ClassVar[type[EncoderOptions]] = UmtOptions
    joint_time: ClassVar[bool] = True
    published_kind: ClassVar[str | None] = "umt_l16_qformer"

    # Set by ``PreTrainedModel.gradient_checkpointing_enable``. It lives here and not in the blocks
    # because transformers' GradientCheckpointingLayer acts in training mode only, and encoders are
    # always in eval mode.
    gradient_checkpointing: bool = False

    def __init__(self, options: EncoderOptions | None = None) -> None:
        super().__init__(options)
        sizes = _umt_options(self.options)
        self.stage_channels = (sizes.width,)
        self.patch_embed = UmtPatchEmbedding(sizes.width, sizes.patch_side)
        self.blocks = nn.ModuleList(
            UmtBlock(sizes.width, sizes.num_heads, sizes.mlp_width) for _ in range(sizes.num_layers)
        )
        self._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        self.eval()

    @classmethod
    def preprocessing(cls, options: EncoderOptions | None = None) -> str:
        chosen = _umt_options(options)
        return f"umt_l16-{chosen.image_side}-{chosen.normalisation}-v1"

    @classmethod
    def prepare(
        cls, images: Sequence[np.ndarray], options: EncoderOptions | None = None
    ) -> Float[Tensor, "N 3 side side"]:
        chosen = _umt_options(options)
        return normalised(images, chosen.image_side, chosen.normalisation)

    def forward(self, pixels: Float[Tensor, "B T 3 side side"]) -> tuple[Tensor, ...]:
        """One map [B, T, width, grid, grid], in the dtype of the weights.

        Raises:
            ValueError: for images of another size than ``options.image_side``.
        """
        sizes = _umt_options(self.options)
        if pixels.shape[-2:] != (sizes.image_side, sizes.image_side):
            raise ValueError(
                f"images of {tuple(pixels.shape[-2:])} pixels; this encoder takes squares of"
                f" {sizes.image_side}; use its prepare()"
            )
        num_frames = pixels.shape[1]
        tokens = self.patch_embed(pixels)
        positions = space_time_positions(num_frames, sizes.grid, sizes.width, tokens.device)
        tokens = tokens + positions.to(tokens.dtype)
        checkpointing = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            if checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens)
            else:
                tokens = block(tokens)
        maps = tokens.unflatten(1, (num_frames, sizes.grid, sizes.grid))
        return (maps.permute(0, 1, 4, 2, 3),)


class _TruncatedNormal:
    """Initial weights of a ViT: truncated normal of deviation 0.02, biases zero.

    Layers that own the tensors draw them, not the encoder for all: ``PreTrainedModel`` passes over
    modules without tensors of their own.
    """

    weight: Tensor
    bias: Tensor | None

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=INIT_DEVIATION)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class UmtLinear(_TruncatedNormal, nn.Linear):
    """A linear layer, drawn as a ViT's."""


class UmtConv3d(_TruncatedNormal, nn.Conv3d):
    """A convolution over time and space, drawn as a ViT's."""


class UmtPatchEmbedding(nn.Module):
    """Pixels [B, T, 3, H, W] to tokens [B, T·h·w, width], one per patch of one frame."""

    def __init__(self, width: int, patch_side: int) -> None:
        super().__init__()
        patch = (1, patch_side, patch_side)
        self.proj = UmtConv3d(3, width, kernel_size=patch, stride=patch)

    def forward(self, pixels: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B N width"]:
        pixels = pixels.to(self.proj.weight.dtype)  # pixels stay float32 whatever the weights are
        return self.proj(pixels.transpose(1, 2)).flatten(2).transpose(1, 2)


class UmtBlock(nn.Module):
    """A pre-norm transformer block over the tokens of all frames."""

    def __init__(self, width: int, num_heads: int, mlp_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = UmtAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = UmtMlp(width, mlp_width)

    def forward(self, tokens: Float[Tensor, "B N width"]) -> Float[Tensor, "B N width"]:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class UmtAttention(nn.Module):
    """Self-attention with biases on queries and values; a bias on keys would cancel out."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = UmtLinear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.empty(width))
        self.v_bias = nn.Parameter(torch.empty(width))
        self.proj = UmtLinear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.q_bias)
        nn.init.zeros_(self.v_bias)

    def forward(self, tokens: Float[Tensor, "B N width"]) -> Float[Tensor, "B N width"]:
        # Biases are added to the projection's output, not passed as its bias: ``qkv`` is called as
        # a module, which adapters and sharding wrap.
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (query + self.q_bias, key, value + self.v_bias)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class UmtMlp(nn.Module):
    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.fc1 = UmtLinear(width, mlp_width)
        self.fc2 = UmtLinear(mlp_width, width)

    def forward(self, tokens: Float[Tensor, "B N width"]) -> Float[Tensor, "B N width"]:
        return self.fc2(F.gelu(self.fc1(tokens)))


def space_time_positions(
    num_frames: int, grid: int, width: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "T*grid*grid width"]:
    """Fixed positions of the patches of a clip, float32, frame by frame and row by row.

    Defined for four frames (:func:`sinusoid_table`). Other lengths interpolate that table linearly
    along time, each frame standing for the middle of its share of the clip (VideoChat2). A single
    frame is no clip but an image and takes the first frame's positions.

    They are computed instead of kept as a buffer, so that neither a cast of the model to bfloat16
    nor a construction on the meta device can spoil them.
    """
    table = torch.from_numpy(sinusoid_table(TABLE_FRAMES * grid**2, width)).to(device)
    if num_frames == TABLE_FRAMES:
        return table
    if num_frames == 1:
        return table[: grid**2]
    series = table.view(TABLE_FRAMES, grid**2, width).permute(1, 2, 0)
    return F.interpolate(series, size=num_frames, mode="linear").permute(2, 0, 1).flatten(0, 1)


@lru_cache(maxsize=4)
def sinusoid_table(num_positions: int, width: int) -> Float[np.ndarray, "num_positions width"]:
    """Sinusoids of the position's number over all patches of a clip (Vaswani et al. 2017, §3.5).

    Channel j holds the sine (even j) or cosine (odd j) of position / 10000^(2⌊j/2⌋ / width),
    computed in float64 and rounded to float32. The array is shared: do not write to it.
    """
    channels = np.arange(width)
    angles = np.arange(num_positions)[:, None] / 10000.0 ** (2 * (channels // 2) / width)
    return np.where(channels % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


def _umt_options(options: EncoderOptions | None) -> UmtOptions:
    if options is None:
        return UmtOptions()
    assert isinstance(options, UmtOptions), f"options of {type(options).__name__} given to UMT-L/16"
    return options
