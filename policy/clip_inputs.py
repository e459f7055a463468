"""One clip on its way from a file to the policy: its frames, its face, both encoders' inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.errors import ConfigError, NoFaceError, VideoError
from policy.config import CHOICES
from policy.encoders import find_encoder
from policy.encoders.base import EncoderOptions, VisionEncoder
from policy.faces import FaceBox, FaceDetector, crop_face, fill_gaps, track_largest_face
from policy.video import Clip, read_clip

STREAM_INPUTS = ("general_pixels", "facial_pixels", "general_features", "facial_features")
"""Fields of :class:`ClipInputs` that go to the model; the others tell about the clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipInputs:
    """One clip, ready for the policy: for each stream pixels, or features of its frozen encoder.

    Example: eight frames for the embedded encoders, before encoding:
        >>> ClipInputs(general_pixels=rgb, facial_pixels=grey, faces=faces, times=times)
        ... # rgb [8, 3, 224, 224], grey [8, 1, 64, 64], faces [8] bool, times [8] float64
    """

    general_pixels: Float[Tensor, "T C H W"] | None = None
    facial_pixels: Float[Tensor, "T C H W"] | None = None  # None too without a facial encoder
    general_features: Float[Tensor, "T C h w"] | None = None
    facial_features: tuple[Float[Tensor, "T C h w"], ...] | None = None

    faces: Bool[Tensor, " T"] | None = None
    """In which frames the face was found; None when none was looked for."""

    times: Float[Tensor, " T"] | None = None
    """Seconds from the video's start, float64; None when the frames came without."""

    @property
    def num_frames(self) -> int:
        first = self.general_pixels if self.general_features is None else self.general_features
        if first is None:
            raise ValueError("a clip has pixels or features of the general stream")
        return int(first.shape[0])

    @property
    def face_found(self) -> bool:
        """False when a face was looked for and none found: the facial stream sees whole frames."""
        return self.faces is None or bool(self.faces.any())


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPreprocessor:
    """``preprocessor(video)`` reads a clip, follows its face and prepares both encoders' pixels.

    Holds settings alone, so that it travels to worker processes.
    """

    general_encoder: str
    facial_encoder: str
    general_encoder_options: Mapping[str, Any] = field(default_factory=dict)
    facial_encoder_options: Mapping[str, Any] = field(default_factory=dict)
    facial_source: str = "facial"
    face_crop: str = "box"
    face_required: bool = False
    num_frames: int = 8
    sampling: str = "middle"
    fps: float = 1.0
    min_frames: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("facial_source", "face_crop", "sampling"):
            if (value := getattr(self, key)) not in CHOICES[key]:
                raise ConfigError(
                    f"{key}={value}",
                    f"it is one of {', '.join(CHOICES[key])}",
                    f"set {key}={CHOICES[key][0]}",
                )
        _ = self.name  # refuses unknown encoders and options now, not at the first video

    def __call__(self, video: str | Path | np.ndarray) -> ClipInputs:
        """The inputs of a video file, a folder of frame images, or frames [T, H, W, 3] uint8 RGB.

        Frames in memory are all taken, whatever ``sampling`` and ``num_frames`` say.

        Raises:
            VideoError: for a video that cannot be decoded, or of fewer frames than ``min_frames``.
            NoFaceError: for a clip without a face, if ``face_required`` and one was looked for.
        """
        if isinstance(video, np.ndarray):
            times, frames, shown = None, _checked_frames(video), f"in memory {video.shape}"
            found = len(frames)
        else:
            clip = self._read(video)
            times, frames, shown = clip.times, clip.frames, str(video)
            found = self._num_different(clip)
        if found < self.min_frames:
            raise VideoError(
                f"video {shown} with {found} frame{'s' * (found != 1)} to look at",
                f"a clip has at least min_frames={self.min_frames}",
                "give a longer video, or lower policy.min_frames",
            )
        inputs = self._prepare(list(frames), times)
        if self.face_required and not inputs.face_found:
            raise no_face(shown)
        return inputs

    def _read(self, video: str | Path) -> Clip:
        return read_clip(
            video,
            num_frames=self.num_frames,
            sampling=self.sampling,
            fps=self.fps,
            seed=self.seed,
        )

    def _num_different(self, clip: Clip) -> int:
        """Frames of the clip, without the repetitions that stand in for missing ones."""
        found = len(np.unique(clip.times))
        if found < self.min_frames and self.sampling == "random":
            # Draws may leave out frames of a short video; middles of as many stretches do not.
            found = len(np.unique(read_clip(clip.path, num_frames=self.num_frames).times))
        return found

    def _prepare(self, frames: list[np.ndarray], times: np.ndarray | None) -> ClipInputs:
        boxes = track_largest_face(frames, FaceDetector()) if self.looks_for_faces else None
        general, options = self._encoder("general")
        return ClipInputs(
            general_pixels=general.prepare(frames, options),
            facial_pixels=self._facial_pixels(frames, boxes),
            faces=None if boxes is None else torch.tensor([box is not None for box in boxes]),
            times=None if times is None else torch.from_numpy(times.astype(np.float64)),
        )

    def _facial_pixels(
        self, frames: Sequence[np.ndarray], boxes: Sequence[FaceBox | None] | None
    ) -> Float[Tensor, "T C H W"] | None:
        if self.facial_source == "general":
            return None
        facial, options = self._encoder("facial")
        if (filled := fill_gaps(boxes or [])) is not None:
            frames = [
                crop_face(frame, box, enlarge=facial.face_enlargement)
                for frame, box in zip(frames, filled, strict=True)
            ]
        return facial.prepare(frames, options)

    def _encoder(self, stream: str) -> tuple[type[VisionEncoder], EncoderOptions]:
        encoder = find_encoder(getattr(self, f"{stream}_encoder"))
        return encoder, encoder.Options.of(getattr(self, f"{stream}_encoder_options"))

    @property
    def looks_for_faces(self) -> bool:
        return self.facial_source == "facial" and self.face_crop == "box"

    @property
    def name(self) -> str:
        """Everything between a video file and pixels, apart from the number of frames.

        Caches go by it: settings that could change a pixel change it, others do not.
        """
        general, options = self._encoder("general")
        details = {"fps": f"-{self.fps}", "random": f"-{self.seed}"}
        steps = [
            "frames-v1",
            self.sampling + details.get(self.sampling, ""),
            general.preprocessing(options),
        ]
        if self.facial_source == "facial":
            facial, options = self._encoder("facial")
            crop = f"{FaceDetector.name}-{facial.face_enlargement}"
            steps += [
                facial.preprocessing(options),
                crop if self.looks_for_faces else "whole",
            ]
        return "/".join(steps)


def _checked_frames(frames: np.ndarray) -> np.ndarray:
    if frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3 and frames.size:
        return frames
    raise VideoError(
        f"video in memory {frames.shape} of {frames.dtype}",
        "frames in memory are [frames, height, width, 3] of uint8, red first",
        "convert them, or give the path of a video file",
    )


def no_face(video: str | Path) -> NoFaceError:
    return NoFaceError(
        f"video {video} without a face",
        "the facial stream needs one in at least one frame",
        "leave the video out, or let whole frames do: policy.face_required=false in a recipe, "
        "`degrpo chat` without --require-face, face_required=False in code",
    )
