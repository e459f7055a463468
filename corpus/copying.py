"""Cutting without re-encoding: packets of the source copied into a file of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import VideoError
from corpus.records import SourceClip
from policy.video import Part, Picture, iterate_pictures, open_video, video_stream

MP4_CODECS = ("h264", "hevc", "mpeg4", "av1", "vp9")

MAX_TIME_ERROR = 1e-4
"""Seconds by which the time of a copied frame may differ from the source's."""


@dataclass(frozen=True, slots=True)
class _Packet:
    pts: int | None
    dts: int | None
    is_key: bool
    is_shown: bool  # not hidden by an edit list


class CopyCheck:
    """A copied file that must prove itself, compared with the source's frames as they come."""

    def __init__(self, partial: Path, path: Path) -> None:
        self.path, self._partial = path, partial
        self._is_equal = True
        self._copy: Iterator[Picture] = iterate_pictures(partial)
        self._starts: tuple[float, float] | None = None

    def add(self, picture: Picture) -> None:
        """Compare the source's next frame with the copy's."""
        if not self._is_equal:
            return
        copy = self._next()
        if copy is None:
            self._is_equal = False
            return
        self._starts = self._starts or (picture.time, copy.time)
        late = (picture.time - self._starts[0]) - (copy.time - self._starts[1])
        self._is_equal = abs(late) <= MAX_TIME_ERROR and np.array_equal(picture.rgb(), copy.rgb())

    def finish(self) -> bool:
        """Put the file in its place when it shows exactly the frames compared; else say no."""
        if self._is_equal and self._next() is None and self._is_equal:
            self._partial.replace(self.path)
            return True
        return False

    def _next(self) -> Picture | None:
        try:
            return next(self._copy, None)
        except VideoError:  # not decodable by itself
            self._is_equal = False
            return None

    def discard(self) -> None:
        """Remove the file where it did not prove itself."""
        self._partial.unlink(missing_ok=True)


def copy_packets(clip: SourceClip, spans: Sequence[tuple[int, int, Path]]) -> dict[Path, CopyCheck]:
    """Copies of those of ``spans`` (first frame, last frame, path) that packets allow, by path.

    A span can be copied when its first frame is a key frame and the packets from there on, in
    decoding order, up to the last one needed are exactly the span's frames: then no frame before or
    after it is missed by one that leans on it. Nothing can be copied of a cropped clip, a folder of
    images, a codec that MP4 does not hold, or a stream without presentation times.
    """
    from av.error import FFmpegError

    source = Path(clip.video)
    if clip.crop is not None or not source.is_file():
        return {}
    ranges = _ranges(source, Part(clip.start_seconds, clip.end_seconds), spans)
    copies = {}
    for path, (start, stop) in ranges.items():
        partial = path.with_name(f"{path.name}.{os.getpid()}.copy.part")
        try:
            _remux(source, start, stop, partial)
        except FFmpegError:  # a stream that the MP4 muxer refuses
            partial.unlink(missing_ok=True)
            continue
        copies[path] = CopyCheck(partial, path)
    return copies


def _ranges(
    source: Path, part: Part, spans: Sequence[tuple[int, int, Path]]
) -> dict[Path, tuple[int, int]]:
    """First packet, and one past the last, of every span that packets allow."""
    packets, seconds = _packets(source)
    times = [packet.pts for packet in packets]
    if None in times or len(set(times)) < len(times):
        return {}
    shown = sorted(
        packet.pts
        for packet in packets
        if packet.pts is not None
        and packet.is_shown
        and part.has_begun(packet.pts * seconds)
        and not part.is_over(packet.pts * seconds)
    )
    place = {pts: index for index, pts in enumerate(times)}
    ranges = {}
    for first, last, path in spans:
        wanted = shown[first : last + 1]
        if len(wanted) < last - first + 1:
            continue
        start, stop = place[wanted[0]], max(place[pts] for pts in wanted) + 1
        run = packets[start:stop]
        has_all = len(run) == len(wanted) and {packet.pts for packet in run} == set(wanted)
        if has_all and run[0].is_key and all(packet.dts is not None for packet in run):
            ranges[path] = (start, stop)
    return ranges


def _packets(source: Path) -> tuple[list[_Packet], float]:
    """All packets in decoding order, and the seconds of one tick; none of a codec unfit for MP4."""
    from av.error import FFmpegError

    try:
        with open_video(source) as container:
            stream = video_stream(container, source)
            if stream.codec_context.name not in MP4_CODECS or stream.time_base is None:
                return [], 0.0
            first = stream.start_time or 0  # parts count from the first picture
            found = [
                _Packet(
                    None if packet.pts is None else packet.pts - first,
                    packet.dts,
                    packet.is_keyframe,
                    not packet.is_discard,
                )
                for packet in container.demux(stream)
                if packet.size
            ]
            return found, float(stream.time_base)
    except (FFmpegError, VideoError):  # damaged: what can be decoded of it is cut by encoding
        return [], 0.0


def _remux(source: Path, start: int, stop: int, path: Path) -> None:
    import av

    with open_video(source) as container, av.open(str(path), "w", format="mp4") as output:
        stream = video_stream(container, source)
        copy = output.add_stream_from_template(stream)
        base: Any = None
        packets = (packet for packet in container.demux(stream) if packet.size)
        for index, packet in enumerate(packets):
            if index >= stop:
                break
            if index < start or packet.pts is None or packet.dts is None:
                continue
            base = packet.pts if base is None else base  # a key frame is the first one shown
            packet.pts, packet.dts, packet.stream = packet.pts - base, packet.dts - base, copy
            output.mux(packet)
