"""Reading video. The one place in the project where a video, or a folder of frames, is decoded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import VideoError
from policy.frame_folder import images_in, read_image

if TYPE_CHECKING:
    import av

MIN_DECODED_SHARE = 0.9
"""A damaged file is used while at least this share of its declared frames decodes."""

ASSUMED_FPS = 25.0
"""Frame rate of a stream that states none (raw, badly muxed) and of a folder of frame images."""

TIME_SLACK = 1e-6
"""Seconds by which a frame's time may miss the start or end of a part and still count as on it."""


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
    native: av.VideoFrame | None  # of a video file: in the file's own pixel format
    image: np.ndarray | None = None  # of a folder: [H, W, 3] uint8 RGB

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


def read_clip(
    path: str | Path,
    *,
    num_frames: int | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Clip:
    """Decode a video: all of its frames, or ``num_frames`` spread evenly over it.

    Even spread takes the middle frame of ``num_frames`` equal stretches; a video with fewer frames
    repeats some. Frames come in presentation order, turned upright by the container's rotation, and
    all in the first frame's size. Only the chosen frames are converted to RGB and kept.

    Args:
        path: a video file, or a folder of frame images in natural order of
            their names (``2.jpg`` before ``10.jpg``), taken as ``ASSUMED_FPS`` frames a second.
        start_seconds: only frames from this time on; times still count from the video's start.
        end_seconds: only frames before this time.

    Raises:
        VideoError: for a missing or empty file or folder, a file that is not a video, one without a
            decodable frame (between start and end), and one that is cut off or damaged in more than
            a tenth of its frames.
    """
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    path, part = Path(path), Part(start_seconds, end_seconds)
    if num_frames is None:
        decoded = _decode(path, part, wanted=None)
        indices = np.arange(decoded.count)
    else:
        # Most containers declare their frame count, so that one pass finds the right frames; when
        # the count proves wrong (edit lists, damage, none declared) a second pass corrects it.
        guess = even_indices(_declared_frames(path, part), num_frames)
        decoded = _decode(path, part, wanted=set(guess.tolist()))
        indices = even_indices(decoded.count, num_frames)
        if not set(indices.tolist()) <= decoded.frames.keys():
            decoded = _decode(path, part, wanted=set(indices.tolist()))
    return Clip(
        frames=np.stack([decoded.frames[index] for index in indices.tolist()]),
        times=np.asarray(decoded.times, dtype=np.float64)[indices],
        fps=decoded.fps,
        path=str(path),
    )


def iterate_frames(
    path: str | Path, *, start_seconds: float | None = None, end_seconds: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of :func:`read_clip` one by one, as (time in seconds, [H, W, 3] uint8 RGB).

    Holds one frame at a time, so that an hour of video costs no more memory than a second.

    Raises:
        VideoError: as :func:`read_clip`; for a damaged video only after its last good frame.
    """
    for picture in iterate_pictures(path, start_seconds=start_seconds, end_seconds=end_seconds):
        yield picture.time, picture.rgb()


def iterate_pictures(
    path: str | Path, *, start_seconds: float | None = None, end_seconds: float | None = None
) -> Iterator[Picture]:
    """As :func:`iterate_frames`, before the conversion to RGB."""
    path, part = Path(path), Part(start_seconds, end_seconds)
    return _folder_pictures(path, part) if path.is_dir() else _file_pictures(path, part)


def frame_rate(path: str | Path) -> float:
    """Frames a second that a video states; ``ASSUMED_FPS`` for one that states none.

    Raises:
        VideoError: when the file cannot be opened or holds no video.
    """
    path = Path(path)
    if path.is_dir():
        return ASSUMED_FPS
    with open_video(path) as container:
        return _stream_rate(_video_stream(container, path))


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


def even_indices(total: int, num: int) -> np.ndarray:
    """``num`` indices [num] int64 into ``total`` frames: the middles of ``num`` equal stretches.

    Example:
        >>> even_indices(10, 2).tolist(), even_indices(2, 4).tolist()
        ([2, 7], [0, 0, 1, 1])
    """
    # Integer arithmetic: floor((i + 1/2) · total / num), free of rounding.
    return (2 * np.arange(num, dtype=np.int64) + 1) * total // (2 * num)


def file_sha256(path: str | Path) -> str:
    """SHA-256 in hexadecimal: names a video by content, wherever it lies.

    Of a file it is the published digest of its bytes; of a folder of frame images the digest of
    its images' digests (32 bytes each) in natural order.

    Raises:
        VideoError: when the file cannot be read, or the folder holds no image.
    """
    path = Path(path)
    if path.is_dir():
        digests = (bytes.fromhex(file_sha256(image)) for image in images_in(path))
        return hashlib.sha256(b"".join(digests)).hexdigest()
    _refuse_unreadable(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


@dataclass(slots=True)
class _Decoded:
    """What one pass over a video found."""

    fps: float
    times: list[float] = field(default_factory=list)  # of every frame
    frames: dict[int, np.ndarray] = field(default_factory=dict)  # the wanted ones, by index

    @property
    def count(self) -> int:
        return len(self.times)


def _decode(path: Path, part: Part, *, wanted: Set[int] | None) -> _Decoded:
    """One pass over the video; keeps the frames whose index is ``wanted`` (all when None)."""
    decoded = _Decoded(fps=frame_rate(path))
    pictures = iterate_pictures(path, start_seconds=part.start, end_seconds=part.end)
    for index, picture in enumerate(pictures):
        decoded.times.append(picture.time)
        if wanted is None or index in wanted:
            decoded.frames[index] = picture.rgb()
    return decoded


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


def _refuse_damaged(path: Path, part: Part, *, count: int, declared: int, damaged: bool) -> None:
    """``declared`` frames should lie in the part, ``count`` of them could be decoded."""
    if not count:
        where = "" if part.is_whole else f" between {part.start or 0} and {part.end} seconds"
        raise VideoError(
            f"video {path}",
            f"none of its frames{where} can be decoded",
            "replace the file or drop the sample",
        )
    if damaged and count < MIN_DECODED_SHARE * declared:
        raise VideoError(
            f"video {path} with {count} decodable frames of {declared}",
            f"a damaged or cut-off video needs {MIN_DECODED_SHARE:.0%} of its frames",
            "copy or download the file again, or drop the sample",
        )


def _declared_frames(path: Path, part: Part) -> int:
    """Frames that the part claims to have; 0 when the container does not say."""
    if path.is_dir():
        return part.frames(len(images_in(path)), ASSUMED_FPS)
    with open_video(path) as container:
        stream = _video_stream(container, path)
        return part.frames(int(stream.frames), _stream_rate(stream))


def _file_pictures(path: Path, part: Part) -> Iterator[Picture]:
    seeks = bool(part.start) and _can_seek(path, part.start or 0.0)
    with open_video(path) as container:
        stream = _video_stream(container, path)
        if seeks:
            container.seek(int((part.start or 0.0) * 1_000_000))
        fps, damage, count = _stream_rate(stream), _Damage(), 0
        size: tuple[int, int] | None = None
        for index, frame in enumerate(_frames(container, stream, damage)):
            size = size or (frame.width, frame.height)
            time = index / fps if frame.time is None else float(frame.time)
            if part.is_over(time):
                break
            if part.has_begun(time):
                count += 1
                yield Picture(time=time, size=size, native=frame)
        declared = part.frames(int(stream.frames), fps)
    _refuse_damaged(path, part, count=count, declared=declared, damaged=damage.packets > 0)


def _can_seek(path: Path, start: float) -> bool:
    """Does a jump to ``start`` land on a key frame at or before it, with nothing shown earlier?

    Not in raw streams and where the index is missing or follows decoding times: there the frames
    first shown may lean on ones that the jump skipped.
    """
    from av.error import FFmpegError

    with open_video(path) as container:
        stream = _video_stream(container, path)
        try:
            container.seek(int(start * 1_000_000))
        except FFmpegError:
            return False
        frame = next(_frames(container, stream, _Damage()), None)
        if frame is None or frame.time is None:
            return False
        return bool(frame.key_frame) and frame.time <= start


def _stream_rate(stream) -> float:  # type: ignore[no-untyped-def]
    rate: Fraction | None = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else ASSUMED_FPS


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


def open_video(path: Path):  # type: ignore[no-untyped-def]
    """An open ``av`` container, for what the functions above do not give, such as packets.

    Raises:
        VideoError: for a missing or empty file, and one that is not a video.
    """
    import av
    from av.error import FFmpegError

    _refuse_unreadable(path)
    try:
        # Titles in another encoding than UTF-8 are common in old files, and nobody reads them here.
        return av.open(str(path), metadata_errors="replace")
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


def _folder_pictures(folder: Path, part: Part) -> Iterator[Picture]:
    images = images_in(folder)
    times = [index / ASSUMED_FPS for index in range(len(images))]
    inside = [
        (time, image)
        for time, image in zip(times, images, strict=True)
        if part.has_begun(time) and not part.is_over(time)
    ]
    size, count = None, 0
    for time, image in inside:
        pixels = read_image(image)
        if pixels is None:
            continue
        size, count = size or (pixels.shape[1], pixels.shape[0]), count + 1
        yield Picture(time=time, size=size, native=None, image=pixels)
    _refuse_damaged(folder, part, count=count, declared=len(inside), damaged=count < len(inside))
