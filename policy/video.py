"""Reading video. The one place in the project where a video file is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import VideoError

if TYPE_CHECKING:
    import av

MIN_DECODED_SHARE = 0.9
"""A damaged file is used while at least this share of its declared frames decodes."""

ASSUMED_FPS = 25.0
"""Frame rate of a stream that states none (raw or badly muxed streams)."""


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


def read_clip(path: str | Path, *, num_frames: int | None = None) -> Clip:
    """Decode a video: all of its frames, or ``num_frames`` spread evenly over it.

    Even spread takes the middle frame of ``num_frames`` equal stretches; a video with fewer frames
    repeats some. Frames come in presentation order, turned upright by the container's rotation, and
    all in the first frame's size. Only the chosen frames are converted to RGB and kept.

    Raises:
        VideoError: for a missing or empty file, a file that is not a video, one without a
            decodable frame, and one that is cut off or damaged in more than a tenth of its frames.
    """
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    path = Path(path)
    _refuse_unreadable(path)
    if num_frames is None:
        decoded = _decode(path, wanted=None)
        indices = np.arange(decoded.count)
    else:
        # Most containers declare their frame count, so that one pass finds the right frames; when
        # the count proves wrong (edit lists, damage, none declared) a second pass corrects it.
        guess = even_indices(_declared_frames(path), num_frames)
        decoded = _decode(path, wanted=set(guess.tolist()))
        indices = even_indices(decoded.count, num_frames)
        if not set(indices.tolist()) <= decoded.frames.keys():
            decoded = _decode(path, wanted=set(indices.tolist()))
    return Clip(
        frames=np.stack([decoded.frames[index] for index in indices.tolist()]),
        times=np.asarray(decoded.times, dtype=np.float64)[indices],
        fps=decoded.fps,
        path=str(path),
    )


def even_indices(total: int, num: int) -> np.ndarray:
    """``num`` indices [num] int64 into ``total`` frames: the middles of ``num`` equal stretches.

    Example:
        >>> even_indices(10, 2).tolist(), even_indices(2, 4).tolist()
        ([2, 7], [0, 0, 1, 1])
    """
    # Integer arithmetic: floor((i + 1/2) · total / num), free of rounding.
    return (2 * np.arange(num, dtype=np.int64) + 1) * total // (2 * num)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal: names a video by content, wherever it lies.

    Raises:
        VideoError: when the file cannot be read.
    """
    path = Path(path)
    _refuse_unreadable(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(slots=True)
class _Decoded:
    """What one pass over a file found."""

    fps: float
    times: list[float] = field(default_factory=list)  # of every frame
    frames: dict[int, np.ndarray] = field(default_factory=dict)  # the wanted ones, by index

    @property
    def count(self) -> int:
        return len(self.times)


def _refuse_unreadable(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise VideoError(
            f"video {path}",
            f"cannot be read ({error.strerror})",
            "correct the path, or rebuild the corpus",
        ) from error
    if size == 0:
        raise VideoError(
            f"video {path} of 0 bytes", "a video has content", "copy or cut the file again"
        )


def _declared_frames(path: Path) -> int:
    """Frames that the container claims to have; 0 when it does not say."""
    with _open(path) as container:
        return int(_video_stream(container, path).frames)


def _decode(path: Path, *, wanted: Set[int] | None) -> _Decoded:
    """One pass over the file; keeps the frames whose index is ``wanted`` (all when None)."""
    with _open(path) as container:
        stream = _video_stream(container, path)
        rate: Fraction | None = stream.average_rate or stream.guessed_rate
        decoded = _Decoded(fps=float(rate) if rate else ASSUMED_FPS)
        damage = _Damage()
        size: tuple[int, int] | None = None
        for index, frame in enumerate(_frames(container, stream, damage)):
            size = size or (frame.width, frame.height)
            decoded.times.append(index / decoded.fps if frame.time is None else float(frame.time))
            if wanted is None or index in wanted:
                decoded.frames[index] = _upright_rgb(frame, size)
        declared = int(stream.frames)
    if not decoded.count:
        raise VideoError(
            f"video {path}",
            "none of its frames can be decoded",
            "replace the file or drop the sample",
        )
    if damage.packets and decoded.count < MIN_DECODED_SHARE * declared:
        raise VideoError(
            f"video {path} with {decoded.count} decodable frames of {declared}",
            f"a damaged or cut-off video needs {MIN_DECODED_SHARE:.0%} of its frames",
            "copy or download the file again, or drop the sample",
        )
    return decoded


@dataclass(slots=True)
class _Damage:
    packets: int = 0


def _frames(container, stream, damage: _Damage) -> Iterator[av.VideoFrame]:  # type: ignore[no-untyped-def]
    """Frames of the stream in presentation order; damaged packets are counted and skipped."""
    from av.error import FFmpegError

    try:
        for packet in container.demux(stream):
            damage.packets += bool(packet.is_corrupt)
            try:
                yield from packet.decode()
            except FFmpegError:
                damage.packets += 1
    except FFmpegError:  # the container itself breaks off
        damage.packets += 1


def _open(path: Path):  # type: ignore[no-untyped-def]
    import av
    from av.error import FFmpegError

    try:
        return av.open(str(path))
    except FFmpegError as error:
        raise VideoError(
            f"video {path} of {path.stat().st_size} bytes",
            f"is not a readable video ({error.strerror})",
            "give an mp4, mov, mkv, webm or avi file that plays, or drop the sample",
        ) from error


def _video_stream(container, path: Path):  # type: ignore[no-untyped-def]
    if not container.streams.video:
        raise VideoError(
            f"video {path}", "has no video stream", "give a file with pictures, not only sound"
        )
    return container.streams.video[0]


def _upright_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8. Streams may change size midway; all frames take the first one's ``size``."""
    image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
    quarter_turns = round(frame.rotation / 90) % 4  # phones store sideways pictures and an angle
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image
