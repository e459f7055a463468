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
from policy.config import CHOICES, MAX_FRAMES, check_frames
from policy.encoders import find_encoder
from policy.encoders.base import EncoderOptions, VisionEncoder
from policy.faces import (
    TRACKING,
    FaceBox,
    FaceDetector,
    crop_face,
    fill_gaps,
    follow_largest_face,
)
from policy.video import Frames, read_frames

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
class _Seen:
    """What is kept of a frame: which face is followed is known after the last one only."""

    general: Float[Tensor, "1 C H W"]
    facial: Float[Tensor, "1 C H W"] | None = None  # where it depends on no other frame
    boxes: list[FaceBox] = field(default_factory=list)
    views: list[np.ndarray] = field(default_factory=list)  # of each face; without any, the whole


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
        check_frames(self)
        for key in ("facial_source", "face_crop"):
            if (value := getattr(self, key)) not in CHOICES[key]:
                raise ConfigError(
                    f"{key}={value}",
                    f"it is one of {', '.join(CHOICES[key])}",
                    f"set {key}={CHOICES[key][0]}",
                )
        _ = self.name  # refuses unknown encoders and options now, not at the first video

    def __call__(self, video: str | Path | np.ndarray) -> ClipInputs:
        """The inputs of a video file, a folder of frame images, or frames [T, H, W, 3] uint8 RGB.

        Frames in memory are all taken, whatever ``sampling`` and ``num_frames`` say. Of a file's
        frames only what the encoders see stays in memory, and whole ones where no face was found.

        Raises:
            VideoError: for a video that cannot be decoded, or of fewer frames than ``min_frames``;
                for more than ``MAX_FRAMES`` frames in memory.
            NoFaceError: for a clip without a face, if ``face_required`` and one was looked for.
        """
        if isinstance(video, np.ndarray):
            times, seen = None, [self._look(frame) for frame in _checked_frames(video)]
            found, shown = len(seen), f"in memory {video.shape}"
        else:
            clip = self._read(video)
            times, seen, shown = clip.times, clip.kept, str(video)
            found = self._num_different(video, clip)
        if found < self.min_frames:
            raise self._too_short(shown, found, is_timed=times is not None)
        inputs = self._put_together(seen, times)
        if self.face_required and not inputs.face_found:
            raise no_face(shown)
        return inputs

    def _read(self, video: str | Path) -> Frames:
        return read_frames(
            video,
            self._look,
            num_frames=self.num_frames,
            sampling=self.sampling,
            fps=self.fps,
            seed=self.seed,
        )

    def _num_different(self, video: str | Path, clip: Frames) -> int:
        """Frames of the clip, without the repetitions that stand in for missing ones."""
        found = len(np.unique(clip.times))
        if found < self.min_frames and self.sampling == "random":
            # Draws may leave out frames of a short video; middles of as many stretches do not.
            middles = read_frames(video, lambda frame: None, num_frames=self.num_frames)
            found = len(np.unique(middles.times))
        return found

    def _too_short(self, shown: str, found: int, *, is_timed: bool) -> VideoError:
        by_clock = is_timed and self.sampling == "fps"
        fix = f"raise policy.fps={self.fps}, " if by_clock else ""
        return VideoError(
            f"video {shown} with {found} frame{'s' * (found != 1)} to look at",
            f"a clip has at least min_frames={self.min_frames}",
            f"{fix}give a longer video, or lower policy.min_frames",
        )

    def _look(self, frame: np.ndarray) -> _Seen:
        """What the encoders need of a frame [H, W, 3] uint8."""
        general, options = self._encoder("general")
        pixels = general.prepare([frame], options)
        if self.facial_source == "general":
            return _Seen(general=pixels)
        if not self.looks_for_faces:
            return _Seen(general=pixels, facial=self._facial_pixels(frame))
        boxes = FaceDetector().detect(frame)
        views = [self._crop(frame, box) for box in boxes]
        if len(boxes) == 1:  # whichever face is followed, in this frame it is this one
            return _Seen(general=pixels, boxes=boxes, facial=self._facial_pixels(views[0]))
        return _Seen(general=pixels, boxes=boxes, views=views or [frame])

    def _put_together(self, seen: Sequence[_Seen], times: np.ndarray | None) -> ClipInputs:
        boxes = follow_largest_face([frame.boxes for frame in seen])
        filled = fill_gaps(boxes) or boxes
        facial = None
        if self.facial_source == "facial":
            facial = torch.cat([self._settle(*pair) for pair in zip(seen, filled, strict=True)])
        found = torch.tensor([box is not None for box in boxes])
        return ClipInputs(
            general_pixels=torch.cat([frame.general for frame in seen]),
            facial_pixels=facial,
            faces=found if self.looks_for_faces else None,
            times=None if times is None else torch.from_numpy(times.astype(np.float64)),
        )

    def _settle(self, frame: _Seen, box: FaceBox | None) -> Tensor:
        """The facial encoder's [1, C, H, W] of a frame in which ``box`` is followed."""
        if frame.facial is not None:
            return frame.facial
        if box in frame.boxes:
            return self._facial_pixels(frame.views[frame.boxes.index(box)])
        (whole,) = frame.views
        return self._facial_pixels(whole if box is None else self._crop(whole, box))

    def _facial_pixels(self, image: np.ndarray) -> Float[Tensor, "1 C H W"]:
        facial, options = self._encoder("facial")
        return facial.prepare([image], options)

    def _crop(self, frame: np.ndarray, box: FaceBox) -> np.ndarray:
        return crop_face(frame, box, enlarge=self._encoder("facial")[0].face_enlargement)

    def _encoder(self, stream: str) -> tuple[type[VisionEncoder], EncoderOptions]:
        encoder = find_encoder(getattr(self, f"{stream}_encoder"))
        options = getattr(self, f"{stream}_encoder_options")
        return encoder, encoder.Options.of(options, getattr(self, f"{stream}_encoder"))

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
            crop = f"{FaceDetector.name}-{TRACKING}-{facial.face_enlargement}"
            steps += [
                facial.preprocessing(options),
                crop if self.looks_for_faces else "whole",
            ]
        return "/".join(steps)


def _checked_frames(frames: np.ndarray) -> np.ndarray:
    if frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3 and frames.size:
        if len(frames) <= MAX_FRAMES:
            return frames
        raise VideoError(
            f"video in memory {frames.shape}",
            f"a clip has at most {MAX_FRAMES} frames",
            "take fewer of them, or give the path of a video file",
        )
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
