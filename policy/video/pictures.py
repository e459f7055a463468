"""Going through a video picture by picture, whatever it lies in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import VideoError
from policy.video.checks import is_folder, refuse_unreadable
from policy.video.clip import ASSUMED_FPS, Part, Picture
from policy.video.container import (
    container_pictures,
    is_unknown,
    open_video,
    stream_rate,
    video_stream,
)
from policy.video.fallback import Reader, find_reader
from policy.video.folders import folder_pictures, images_in


def iterate_frames(
    path: str | Path, *, start_seconds: float | None = None, end_seconds: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of ``read_clip`` one by one, as (time in seconds, [H, W, 3] uint8 RGB).

    Holds one frame at a time, so that an hour of video costs no more memory than a second.

    Raises:
        VideoError: as ``read_clip``; for a damaged video only after its last good frame.
    """
    for picture in iterate_pictures(path, start_seconds=start_seconds, end_seconds=end_seconds):
        yield picture.time, picture.rgb()


def iterate_pictures(
    path: str | Path, *, start_seconds: float | None = None, end_seconds: float | None = None
) -> Iterator[Picture]:
    """As :func:`iterate_frames`, before the conversion to RGB."""
    path, part = Path(path), Part(start_seconds, end_seconds)
    return folder_pictures(path, part) if is_folder(path) else _file_pictures(path, part)


def frame_rate(path: str | Path) -> float:
    """Frames a second that a video states; ``ASSUMED_FPS`` for one that states none.

    Raises:
        VideoError: when the file cannot be opened or holds no video.
    """
    path = Path(path)
    return ASSUMED_FPS if is_folder(path) else stated(path).fps


@dataclass(frozen=True, slots=True)
class Stated:
    """What a video says of itself, true or not."""

    fps: float
    num_frames: int  # 0: it does not say


def stated(path: Path) -> Stated:
    """Frame rate and number of frames as stated by the file, or counted in the folder.

    Raises:
        VideoError: when the file cannot be opened or holds no video.
    """
    if is_folder(path):
        return Stated(ASSUMED_FPS, len(images_in(path)))
    try:
        with open_video(path) as container:
            stream = video_stream(container, path)
            return Stated(stream_rate(stream), int(stream.frames))
    except VideoError:
        reader = _other_reader(path)
        if reader is None:
            raise
        return Stated(reader.fps, reader.num_frames)


def _file_pictures(path: Path, part: Part) -> Iterator[Picture]:
    pictures = container_pictures(path, part)
    try:
        first = next(pictures)
    except VideoError:
        reader = _other_reader(path)
        if reader is None:
            raise
        yield from reader.pictures(part)
        return
    yield first
    yield from pictures


def _other_reader(path: Path) -> Reader | None:
    """Another way to read a file that PyAV refused; None when it only lacks what was asked for."""
    try:
        refuse_unreadable(path)
    except VideoError:
        return None
    return find_reader(path) if is_unknown(path) else None
