"""FaceXFormer's Swin-B, the facial encoder of the paper (Narayan et al. 2024, arXiv:2403.12960).

The backbone is a Swin Transformer (Liu et al. 2021, arXiv:2103.14030), trained further on ten
facial tasks. Its stage outputs are taken before patch merging and before the last norm, as
FaceXFormer's own decoder takes them: they are not normalised (values to ±39).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from common.errors import ConfigError
from policy.encoders.base import NORMALISATIONS, EncoderOptions, FrameEncoder, normalised

PATCH = 4
GRANULARITIES = ("stage", "block")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceXFormerOptions(EncoderOptions):
    """Choices of :class:`FaceXFormerSwinB`; the defaults are the published ones."""

    granularity: str = "stage"
    """`stage` (one map per stage: 4) or `block` (one after every block: 24)."""

    normalisation: str = "imagenet"
    """Key of policy.encoders.base.NORMALISATIONS."""

    image_side: int = 224
    """Pixels; at least window_size patches must be left in the last stage."""

    embed_dim: int = 128
    """Channels of the first stage; each further one has twice as many."""

    depths: tuple[int, ...] = (2, 2, 18, 2)
    """Blocks of each stage."""

    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    """Attention heads of each stage."""

    window_size: int = 7
    """Rows and columns of a window, in patches."""

    def __post_init__(self) -> None:
        self.check_positive("image_side", "embed_dim", "depths", "num_heads", "window_size")
        for name, allowed in {
            "granularity": GRANULARITIES,
            "normalisation": tuple(NORMALISATIONS),
        }.items():
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(
                    f"{name}={value}",
                    f"it is one of {', '.join(allowed)}",
                    f"set {name}={allowed[0]}",
                )
        if len(self.num_heads) != len(self.depths) or not self.depths:
            raise ConfigError(
                f"depths={list(self.depths)}, num_heads={list(self.num_heads)}",
                "both have one number per stage",
                "give num_heads as many as depths",
            )
        for channels, heads in zip(self.stage_channels, self.num_heads, strict=True):
            if channels % heads:
                raise ConfigError(
                    f"embed_dim={self.embed_dim}, num_heads={list(self.num_heads)}",
                    f"a stage's channels divide by its heads, {channels} do not by {heads}",
                    "change embed_dim or num_heads",
                )
        if self.image_side % PATCH or self.stage_sides[-1] < self.window_size:
            raise ConfigError(
                f"image_side={self.image_side}, window_size={self.window_size}, stages with"
                f" {', '.join(map(str, self.stage_sides))} patches a side",
                f"a side is a multiple of {PATCH} pixels and every stage at least a window wide",
                f"set image_side={PATCH * self.window_size * 2 ** (len(self.depths) - 1)}",
            )

    @property
    def stage_channels(self) -> tuple[int, ...]:
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def stage_sides(self) -> tuple[int, ...]:
        """Patches a side; merging rounds up."""
        return tuple(-(-self.image_side // (PATCH * 2**stage)) for stage in range(len(self.depths)))


class FaceXFormerSwinB(FrameEncoder):
    """86.7M parameters; 128, 256, 512, 1024 channels on grids of 56, 28, 14, 7 per frame.

    ``transformers``' Swin, whose weights ``policy.checkpoints.load_published`` reads from
    FaceXFormer's ``model.pt``.

    Raises:
        ConfigError: for options that do not fit each other.
    """

    Options: ClassVar[type[EncoderOptions]] = FaceXFormerOptions
    published_kind: ClassVar[str | None] = "facexformer"
    face_enlargement: ClassVar[float] = 0.5  # of FaceXFormer's own inference script

    stage_channels: tuple[int, ...] = FaceXFormerOptions().stage_channels

    def __init__(self, options: EncoderOptions | None = None) -> None:
        super().__init__(options)
        from transformers import SwinConfig, SwinModel

        chosen = _swin_options(options)
        config = SwinConfig(
            image_size=chosen.image_side,
            patch_size=PATCH,
            embed_dim=chosen.embed_dim,
            depths=chosen.depths,
            num_heads=chosen.num_heads,
            window_size=chosen.window_size,
            layer_norm_eps=1e-5,
            drop_path_rate=0.0,
        )
        self.swin = SwinModel(config, add_pooling_layer=False)
        self.image_side = chosen.image_side
        self.every_block = chosen.granularity == "block"
        self.stage_channels = chosen.stage_channels
        if self.every_block:
            repeated = zip(chosen.stage_channels, chosen.depths, strict=True)
            self.stage_channels = tuple(
                width for channels, depth in repeated for width in [channels] * depth
            )
        self.eval()

    @classmethod
    def preprocessing(cls, options: EncoderOptions | None = None) -> str:
        chosen = _swin_options(options)
        return f"facexformer-{chosen.image_side}-{chosen.normalisation}-v1"

    @classmethod
    def prepare(
        cls, images: Sequence[np.ndarray], options: EncoderOptions | None = None
    ) -> Float[Tensor, "N 3 side side"]:
        chosen = _swin_options(options)
        return normalised(images, chosen.image_side, chosen.normalisation)

    def frame_maps(self, pixels: Float[Tensor, "N 3 side side"]) -> tuple[Tensor, ...]:
        """Outputs [N, stage_channels[s], h_s, w_s] of each stage, or of each block.

        Raises:
            ValueError: for images of another side than ``image_side``.
        """
        # On a grid smaller than a window, SwinModel would shrink its windows for good.
        if pixels.shape[-2:] != (self.image_side, self.image_side):
            raise ValueError(
                f"images of {tuple(pixels.shape[-2:])} pixels; this encoder takes"
                f" {self.image_side}×{self.image_side}; use its prepare"
            )
        # Pixels stay float32 whatever the weights are.
        pixels = pixels.to(self.swin.embeddings.norm.weight.dtype)
        if self.every_block:
            return self._block_maps(pixels)
        output = self.swin(
            pixels, output_hidden_states=True, output_hidden_states_before_downsampling=True
        )
        return tuple(output.reshaped_hidden_states[1:])  # the first is the patch embedding

    def _block_maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        tokens, (rows, columns) = self.swin.embeddings(pixels)
        maps = []
        for stage in self.swin.encoder.layers:
            for block in stage.blocks:
                tokens = block(tokens, (rows, columns))[0]
                maps.append(tokens.transpose(1, 2).unflatten(2, (rows, columns)))
            if stage.downsample is not None:
                tokens = stage.downsample(tokens, (rows, columns))
                rows, columns = (rows + 1) // 2, (columns + 1) // 2
        return tuple(maps)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """All but the last norm, which the file has and the feature maps do not pass."""
        unused = {id(parameter) for parameter in self.swin.layernorm.parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in unused)

    def train(self, mode: bool = True) -> FaceXFormerSwinB:
        """Swin computes the same in both modes here: no running statistics, no dropout.

        It still follows ``mode``, for ``transformers`` checkpoints gradients in training mode only.
        """
        super().train(mode)
        self.swin.train(mode)
        return self


def _swin_options(options: EncoderOptions | None) -> FaceXFormerOptions:
    if options is None:
        return FaceXFormerOptions()
    assert isinstance(options, FaceXFormerOptions), f"{type(options).__name__} given to Swin-B"
    return options
