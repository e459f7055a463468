"""What the policy asks of a vision encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn


class VisionEncoder(nn.Module, ABC):
    """Images to a pyramid of feature maps, frame by frame.

    The general stream uses the last map of its encoder, the facial stream all of them. Encoders are
    always in eval mode: their BatchNorm statistics are part of the pre-trained weights. Gradients
    flow to their parameters all the same.

    Building one gives random weights; :meth:`load_embedded` reads the pre-trained ones.
    """

    stage_channels: ClassVar[tuple[int, ...]]
    """Channels of each feature map, from fine to coarse."""

    face_enlargement: ClassVar[float] = 0.5
    """By how much a face box grows before it is cut out for this encoder (FaceXFormer: 50%)."""

    preprocessing: ClassVar[str]
    """Name of what :meth:`prepare` does; new name for new pixels, since caches go by it."""

    @classmethod
    @abstractmethod
    def prepare(cls, images: Sequence[np.ndarray]) -> Float[Tensor, "N C H W"]:
        """Turn RGB images (each [h, w, 3] uint8, sizes may differ) into the encoder's input."""

    @abstractmethod
    def forward(self, pixels: Float[Tensor, "N C H W"]) -> tuple[Tensor, ...]:
        """Feature maps [N, stage_channels[s], h_s, w_s] of prepared pixels."""

    def load_embedded(self) -> None:
        """Read the pre-trained weights, where the encoder has some."""
        return

    def train(self, mode: bool = True) -> VisionEncoder:
        return super().train(False)


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """An image [h, w, 3] uint8 at [side, side, 3]; area when it shrinks, bicubic when it grows."""
    import cv2

    if image.shape[:2] == (side, side):
        return image
    shrinks = min(image.shape[:2]) > side
    return cv2.resize(
        image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )


def to_grey(image: np.ndarray) -> np.ndarray:
    """Luma [h, w] float32 in 0..255 of an RGB image (ITU-R BT.601, as OpenCV and Keras use)."""
    return image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def stack(planes: Sequence[np.ndarray]) -> Tensor:
    """Arrays [H, W, C] float32 to one tensor [N, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(planes).transpose(0, 3, 1, 2)))
