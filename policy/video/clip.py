"""What reading a video gives: clips, single pictures, and the part of a video that is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.errors import VideoError

if TYPE_CHECKING:
    import av

ASSUMED_FPS = 25.0
"""Frame rate of a stream that states none (raw, badly muxed) and of a folder of frame images."""

TIME_SLACK = 1e-6
"""Seconds by which a frame's time may miss a moment, a part's start say, and still be on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Decoded frames of one video, upright.

    Example: eight frames of a 72-frame clip at 30 frames a second:
        >>> clip = read_clip("single_face.mp4", num_frames=8)
        >>> clip.frames.shape, clip.times.round(2).tolist()[:3]
        ((8, 360, 640, 3), [0.13, 0.43, 0.73])
    """

    frames: np.ndarray  # [T, H, W, 3] uint8 RGB
    times: np.ndarray  # [T] float64, seconds since the start of the video
    fps: float  # of the file, not of the frames chosen from it
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One decoded frame, still as its file stores it; :meth:`rgb` converts it."""

    time: float  # seconds since the start of the video
    size: tuple[int, int]  # width and height of the video's first frame, as stored
    native: av.VideoFrame | None  # as PyAV decodes it: in the file's own pixel format
    image: np.ndarray | None = None  # of any other source: [H, W, 3] uint8 RGB

    def rgb(self) -> np.ndarray:
        """[H, W, 3] uint8 RGB, upright. All pictures of a video take the first one's size."""
        if self.native is not None:
            return _upright_rgb(self.native, self.size)
        if self.image is None:
            raise ValueError("a picture is either native or an image")
        if self.image.shape[1::-1] == self.size:
            return self.image
        import cv2

        return cv2.resize(self.image, self.size, interpolation=cv2.INTER_AREA)


def _upright_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8. Streams may change size midway; all frames take the first one's ``size``."""
    image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
    quarter_turns = round(frame.rotation / 90) % 4  # phones store sideways pictures and an angle
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a video in seconds; None: from its start, to its end."""

    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if (self.start or 0.0) < 0 or (self.end is not None and self.end <= (self.start or 0.0)):
            raise VideoError(
                f"the part from {self.start} to {self.end} seconds of a video",
                "a part starts at 0 or later and ends after it starts",
                "correct the annotation or drop the sample",
            )

    @property
    def is_whole(self) -> bool:
        return not self.start and self.end is None

    def has_begun(self, time: float) -> bool:
        return self.start is None or time >= self.start - TIME_SLACK

    def is_over(self, time: float) -> bool:
        return self.end is not None and time >= self.end - TIME_SLACK

    def frames(self, declared: int, fps: float) -> int:
        """About how many of a video's ``declared`` frames fall into this part."""
        if self.is_whole:
            return declared
        start, end = self.start or 0.0, math.inf if self.end is None else self.end
        return max(0, math.floor((min(end, declared / fps) - start) * fps))


def crop_frame(frame: np.ndarray, crop: tuple[float, float, float, float] | None) -> np.ndarray:
    """The part of ``frame`` [H, W, 3] inside ``crop`` (left, top, right, bottom, 0..1); a view.

    Edges are rounded to whole pixels and clipped to the frame; at least one pixel stays.

    Example:
        >>> crop_frame(np.zeros((100, 200, 3), np.uint8), (0.25, 0.0, 0.75, 0.5)).shape
        (50, 100, 3)
    """
    if crop is None:
        return frame
    height, width = frame.shape[:2]
    left, right = _pixels(crop[0], crop[2], width)
    top, bottom = _pixels(crop[1], crop[3], height)
    return frame[top:bottom, left:right]


def _pixels(start: float, stop: float, size: int) -> tuple[int, int]:
    first = min(max(round(start * size), 0), size - 1)
    return first, min(max(round(stop * size), first + 1), size)
