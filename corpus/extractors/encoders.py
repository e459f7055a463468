"""Encoders as extractors look through them."""

from __future__ import annotations

from torch import Tensor

from policy.encoders.efficientnet import EfficientNetLite0

TAPS = (0, 2, 4, 10)  # the last block at strides 2, 4, 8 and 16


class EfficientNetPyramid(EfficientNetLite0):
    """EfficientNet-Lite0 with what it computes on the way: 16, 24, 40, 112 and 1280 channels.

    On grids of 112, 56, 28, 14 and 7. What kind of object a picture shows hardly depends on the
    colour of lips or the bend of a brow, and the last map hardly keeps them; the first ones do.
    """

    stage_channels = (16, 24, 40, 112, 1280)

    def frame_maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of prepared pixels, from fine to coarse."""
        net, taps = self.net, []
        x = net._swish(net._bn0(net._conv_stem(pixels)))
        for index, block in enumerate(net._blocks):
            x = block(x)
            if index in TAPS:
                taps.append(x)
        return (*taps, net._swish(net._bn1(net._conv_head(x))))
