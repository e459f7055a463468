"""A random encoder of two thousand parameters with the shape of a real one, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from policy.encoders.base import EncoderOptions, FrameEncoder, resize, stack

IMAGE_SIDE = 32


class TinyEncoder(FrameEncoder):
    """Four strided convolutions: 4, 8, 8, 16 channels on grids of 16, 8, 4, 2 per 32×32 image."""

    stage_channels = (4, 8, 8, 16)

    def __init__(self, options: EncoderOptions | None = None) -> None:
        super().__init__(options)
        widths = (3, *self.stage_channels)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.GELU())
            for inner, outer in pairwise(widths)
        )
        self.eval()

    @classmethod
    def preprocessing(cls, options: EncoderOptions | None = None) -> str:
        return "tiny-32-v1"

    @classmethod
    def prepare(
        cls, images: Sequence[np.ndarray], options: EncoderOptions | None = None
    ) -> Float[Tensor, "N 3 32 32"]:
        return stack([resize(image, IMAGE_SIDE).astype(np.float32) / 127.5 - 1 for image in images])

    def frame_maps(self, pixels: Float[Tensor, "N 3 32 32"]) -> tuple[Tensor, ...]:
        x, maps = pixels, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)
