"""Video files as PyAV (FFmpeg) reads them: opening, finding the pictures' stream, decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import VideoError
from policy.video.checks import refuse_damaged, refuse_unreadable
from policy.video.clip import ASSUMED_FPS, Part, Picture

if TYPE_CHECKING:
    import av


def open_video(path: Path) -> Any:
    """An open ``av`` container, for what the functions above do not give, such as packets.

    Raises:
        VideoError: for a missing or empty file, and one that is not a video.
    """
    import av
    from av.error import FFmpegError

    refuse_unreadable(path)
    try:
        # An absolute path, as FFmpeg takes the "data" of a file "data:1.mp4" for a protocol.
        # Titles in another encoding than UTF-8 are common in old files, and nobody reads them here.
        return av.open(str(path.absolute()), metadata_errors="replace")
    except FFmpegError as error:
        raise VideoError(
            f"video {path} of {path.stat().st_size} bytes",
            f"is not a readable video ({error.strerror})",
            "give an mp4, mov, mkv, webm or avi file that plays, or drop the sample",
        ) from error


def video_stream(container: Any, path: Path) -> Any:
    """The first stream of moving pictures of an ``av`` container.

    A stream of a single picture (a cover that is not marked as one, the still of an animated AVIF)
    is taken only where there is no other.

    Raises:
        VideoError: when there is none; an album's cover or a preview picture is none.
    """
    from av.stream import Disposition

    stills = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & stills]
    if not streams:
        raise VideoError(
            f"video {path}", "has no video stream", "give a file with pictures, not only sound"
        )
    return next((stream for stream in streams if stream.frames != 1), streams[0])


def stream_rate(stream: Any) -> float:
    """Frames a second that a stream states; ``ASSUMED_FPS`` for one that states none."""
    rate: Fraction | None = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else ASSUMED_FPS


@dataclass(slots=True)
class Damage:
    """Counts packets that are flagged as damaged or do not decode."""

    packets: int = 0


def decoded_frames(container: Any, stream: Any, damage: Damage) -> Iterator[av.VideoFrame]:
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


def container_pictures(path: Path, part: Part) -> Iterator[Picture]:
    """Pictures of ``part`` of a file, one at a time.

    Raises:
        VideoError: when the file cannot be read, or, after its last good frame, for one that is
            damaged in more than a tenth of its frames or has none in this part.
    """
    seeks = bool(part.start) and _can_seek(path, part.start or 0.0)
    with open_video(path) as container:
        stream = video_stream(container, path)
        if seeks:
            container.seek(int((part.start or 0.0) * 1_000_000))
        fps, damage, count = stream_rate(stream), Damage(), 0
        size: tuple[int, int] | None = None
        for index, frame in enumerate(decoded_frames(container, stream, damage)):
            size = size or (frame.width, frame.height)
            time = index / fps if frame.time is None else float(frame.time)
            if part.is_over(time):
                break
            if part.has_begun(time):
                count += 1
                yield Picture(time=time, size=size, native=frame)
        declared = part.frames(int(stream.frames), fps)
    refuse_damaged(path, part, count=count, declared=declared, damaged=damage.packets > 0)


def is_unknown(path: Path) -> bool:
    """Whether a file may hold a video in a form that PyAV does not know, or is no video at all.

    Not so when PyAV decodes a picture of it, or opens it and finds only sound and stills.
    """
    try:
        container = open_video(path)
    except VideoError:
        return True
    with container:
        try:
            stream = video_stream(container, path)
        except VideoError:
            return False
        return next(decoded_frames(container, stream, Damage()), None) is None


def _can_seek(path: Path, start: float) -> bool:
    """Does a jump to ``start`` land on a key frame at or before it, with nothing shown earlier?

    Not in raw streams and where the index is missing or follows decoding times: there the frames
    first shown may lean on ones that the jump skipped.
    """
    from av.error import FFmpegError

    with open_video(path) as container:
        stream = video_stream(container, path)
        try:
            container.seek(int(start * 1_000_000))
        except FFmpegError:
            return False
        frame = next(decoded_frames(container, stream, Damage()), None)
        if frame is None or frame.time is None:
            return False
        return bool(frame.key_frame) and frame.time <= start
