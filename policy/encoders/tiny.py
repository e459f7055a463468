"""A random encoder of two thousand parameters with the shape of a real one, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from policy.encoders.base import VisionEncoder, resize, stack

IMAGE_SIDE = 32


class TinyEncoder(VisionEncoder):
    """Four strided convolutions: 4, 8, 8, 16 channels on grids of 16, 8, 4, 2 per 32×32 image."""

    stage_channels: ClassVar[tuple[int, ...]] = (4, 8, 8, 16)
    preprocessing: ClassVar[str] = "tiny-32-v1"

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *self.stage_channels)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.GELU())
            for inner, outer in pairwise(widths)
        )
        self.eval()

    @classmethod
    def prepare(cls, images: Sequence[np.ndarray]) -> Float[Tensor, "N 3 32 32"]:
        return stack([resize(image, IMAGE_SIDE).astype(np.float32) / 127.5 - 1 for image in images])

    def forward(self, pixels: Float[Tensor, "N 3 32 32"]) -> tuple[Tensor, ...]:
        x, maps = pixels, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)
