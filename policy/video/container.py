"""Video files as PyAV (FFmpeg) reads them: opening, finding the pictures' stream, decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import VideoError
from policy.video.checks import MIN_DECODED_SHARE, refuse_cut_off, refuse_damaged, refuse_unreadable
from policy.video.clip import ASSUMED_FPS, Part, Picture

if TYPE_CHECKING:
    import av

HEADED = ("matroska,webm", "flv", "mov,mp4,m4a,3gp,3g2,mj2")
"""Containers whose header says how long they are. Others leave it to guesses from what is there."""


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


@dataclass(frozen=True, slots=True)
class Clock:
    """From a stream's ticks to seconds since its first frame is shown.

    Broadcasts and recordings in pieces begin at any hour, and B-frames delay the start by some
    frames in containers that know no edit list. To be made right after opening: where a file's
    clock starts at another time than 0, a jump may change what FFmpeg takes for the start.
    """

    start: int  # ticks; 0 where unknown
    ticks: Fraction  # seconds of one tick

    @classmethod
    def of(cls, stream: Any) -> Clock:
        return cls(stream.start_time or 0, stream.time_base or Fraction(0))

    def seconds(self, pts: int) -> float:
        return float(pts - self.start) * self.ticks.numerator / self.ticks.denominator

    def microseconds(self, seconds: float) -> int:
        """Where to jump to in a container, for ``seconds``."""
        return int((seconds + float(self.start * self.ticks)) * 1_000_000)


def stated_seconds(container: Any, stream: Any) -> float:
    """How long a file says its pictures are, or pictures and sound; 0.0 where it does not say."""
    if container.format.name not in HEADED:
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    # Here FFmpeg counts from 0, wherever the clock starts.
    return max(0.0, ((container.duration or 0) - (container.start_time or 0)) / 1_000_000)


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
            damaged in more than a tenth of its frames, is cut off by more than a tenth of its time,
            or has no frame in this part. A file that says neither how many frames it has nor how
            long it is (a transport stream, a live recording) is taken for whole.
    """
    seeks = bool(part.start) and _can_seek(path, part.start or 0.0)
    with open_video(path) as container:
        stream = video_stream(container, path)
        clock, length = Clock.of(stream), stated_seconds(container, stream)
        if seeks:
            container.seek(clock.microseconds(part.start or 0.0))
        fps, damage, count, time, is_over = stream_rate(stream), Damage(), 0, 0.0, False
        size: tuple[int, int] | None = None
        for index, frame in enumerate(decoded_frames(container, stream, damage)):
            size = size or (frame.width, frame.height)
            time = index / fps if frame.time is None else clock.seconds(frame.pts)
            is_over = part.is_over(time)
            if is_over:
                break
            if part.has_begun(time):
                count += 1
                yield Picture(time=time, size=size, native=frame)
        num_frames = int(stream.frames)
    if not (num_frames or is_over) and time < MIN_DECODED_SHARE * length:
        _refuse_shortened(path, length)
    refuse_damaged(
        path,
        part,
        count=count,
        declared=part.frames(num_frames, fps),
        damaged=damage.packets > 0,
        seconds=max(time, length),
    )


def _refuse_shortened(path: Path, length: float) -> None:
    """Raises: VideoError when the packets of a file end well before its stated ``length``.

    Sound may go on after the last picture, and a picture may stay as long as any before it.
    """
    from av.error import FFmpegError

    shown, end = [], 0.0
    with open_video(path) as container:
        stream = video_stream(container, path)
        start = float((stream.start_time or 0) * stream.time_base)
        try:
            for packet in container.demux():
                if packet.pts is None or not packet.size:
                    continue
                ticks = packet.pts + (packet.duration or 0)
                end = max(end, float(ticks * packet.time_base) - start)
                if packet.stream_index == stream.index:
                    shown.append(float(packet.pts * packet.time_base))
        except FFmpegError:  # the container breaks off
            pass
    shown.sort()
    stay = max((later - earlier for earlier, later in pairwise(shown)), default=0.0)
    refuse_cut_off(path, seconds=end, stay=stay, declared=length)


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
        clock = Clock.of(stream)
        try:
            container.seek(clock.microseconds(start))
        except FFmpegError:
            return False
        frame = next(decoded_frames(container, stream, Damage()), None)
        if frame is None or frame.time is None:
            return False
        return bool(frame.key_frame) and clock.seconds(frame.pts) <= start
