"""Few frames of a long file, by jumps to the key frames before them.

A file's packets tell, without decoding, when its frames are shown and from which of them decoding
can start. Reading packets costs a small part of decoding them; so a few frames of a long video come
at the price of the few stretches that they lie in. What the packets promise is checked against what
is decoded, and given up for a plain reading of the whole at the first doubt.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policy.video.checks import MIN_DECODED_SHARE
from policy.video.clip import Part, Picture
from policy.video.container import (
    Clock,
    Damage,
    decoded_frames,
    open_video,
    stated_seconds,
    stream_rate,
    video_stream,
)

MIN_FRAMES = 300
"""A shorter video is decoded whole: that is fast, and misses no damage."""

MAX_SHARE = 0.5
"""Jumps are made when they spare at least so much of the decoding."""

CODECS = ("h264", "hevc", "vp9", "av1", "libdav1d", "mpeg2video")
"""Codecs that start afresh at a key frame and show one frame for each packet. Packets of VP8 and of
MPEG-4 Part 2 may show none."""

FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "flv", "nut")
"""Containers that store when a frame is shown. AVI and MPEG program streams leave it to guessing,
and raw streams store no time at all."""

Choose = Callable[[np.ndarray], np.ndarray]
"""From the times [N] of all frames (seconds) to the indices [T] of those to take."""

Keep = Callable[[np.ndarray], Any]
"""From a frame [H, W, 3] uint8 RGB to what is kept of it."""


def whole(frame: np.ndarray) -> np.ndarray:
    """The :data:`Keep` that keeps everything."""
    return frame


@dataclass(slots=True)
class Decoded:
    """What reading a video found."""

    fps: float
    times: list[float] = field(default_factory=list)  # of every frame
    frames: dict[int, Any] = field(default_factory=dict)  # what is kept of the wanted ones

    @property
    def count(self) -> int:
        return len(self.times)


class _DoubtError(Exception):
    """The packets promised something else than was decoded."""


@dataclass(frozen=True, slots=True)
class _Timeline:
    """The frames of a file in the order they are shown, as its packets promise them."""

    ticks: list[int]  # of each frame
    keys: list[tuple[int, int]]  # ticks of the key frames, and to jump to for them; ascending

    def key_before(self, tick: int) -> tuple[int, int]:
        # Frames shown before a key frame and decoded after it lean on earlier ones: a key frame
        # serves the frames from its own time on, and those alone.
        return self.keys[bisect_right(self.keys, tick, key=lambda key: key[0]) - 1]


def read_by_seeking(
    path: Path, part: Part, choose: Choose, keep: Keep = whole, *, min_frames: int = MIN_FRAMES
) -> Decoded | None:
    """The chosen frames of ``part``, equal to those of a reading of the whole file.

    None where jumps would not pay, or cannot be trusted: in files without presentation times, that
    are cut off, or that declare another number of frames than they have. A packet that is damaged
    inside, though, is noticed only in the stretches that are decoded.

    Raises:
        VideoError: when the file cannot be opened or holds no video.
    """
    from av.error import FFmpegError

    with open_video(path) as container:
        stream = video_stream(container, path)
        codec = stream.codec_context  # None: one that FFmpeg does not know
        if container.format.name not in FORMATS or codec is None or codec.name not in CODECS:
            return None
        try:
            return _read(container, stream, part, choose, keep, min_frames)
        except (FFmpegError, _DoubtError):
            return None


def _read(
    container: Any, stream: Any, part: Part, choose: Choose, keep: Keep, min_frames: int
) -> Decoded | None:
    if 0 < stream.frames < min_frames:
        return None
    clock, length = Clock.of(stream), stated_seconds(container, stream)
    timeline = _timeline(container, stream)
    timed = [(tick, clock.seconds(tick)) for tick in timeline.ticks]
    if not stream.frames and timed and timed[-1][1] < MIN_DECODED_SHARE * length:
        return None  # perhaps cut off
    inside = [
        (tick, time) for tick, time in timed if part.has_begun(time) and not part.is_over(time)
    ]
    if len(inside) < max(1, min_frames):
        return None
    decoded = Decoded(fps=stream_rate(stream), times=[time for _, time in inside])
    indices = sorted(set(choose(np.array(decoded.times)).tolist()))
    stretches = _stretches(timeline, [inside[index][0] for index in indices])
    cost = sum(last - first + 1 for first, last, _ in stretches)
    if cost > MAX_SHARE * len(inside):
        return None
    wanted = {inside[index][0]: index for index in indices}
    size = _first_size(container, stream)
    for first, last, key in stretches:
        container.seek(key, stream=stream)
        for frame in _checked(container, stream, timeline, first, last):
            if (frame.width, frame.height) != size:
                raise _DoubtError
            if (index := wanted.get(frame.pts)) is not None:
                picture = Picture(time=decoded.times[index], size=size, native=frame)
                decoded.frames[index] = keep(picture.rgb())
    return decoded


def _timeline(container: Any, stream: Any) -> _Timeline:
    # A transport stream is searched by when its packets are decoded; all others have an index.
    jumps_by_decoding_time = container.format.name == "mpegts"
    keys, shown, first, count = [], [], None, 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        count += 1
        first = first or packet
        # A hole in a file (a copy that stopped, a download in pieces) reads as zeros; no packet of
        # these codecs begins with so many.
        is_hole = not any(memoryview(packet)[:8])
        if packet.pts is None or packet.is_corrupt or is_hole:
            raise _DoubtError
        if not first.is_keyframe or packet.pts < first.pts:  # leans on what the file lacks
            raise _DoubtError
        if packet.is_keyframe:
            target = packet.dts if jumps_by_decoding_time else packet.pts
            keys.append((packet.pts, packet.pts if target is None else target))
        if not packet.is_discard:  # hidden by an edit list
            shown.append(packet.pts)
    if len(set(shown)) < len(shown) or stream.frames not in (0, count):
        raise _DoubtError
    return _Timeline(sorted(shown), sorted(keys))


def _stretches(timeline: _Timeline, wanted: Sequence[int]) -> list[tuple[int, int, int]]:
    """What to decode: (first frame, last frame, ticks to jump to), numbered in frames shown."""
    last_by_key: dict[tuple[int, int], int] = {}
    for tick in wanted:
        last_by_key[timeline.key_before(tick)] = bisect_left(timeline.ticks, tick)
    return [
        (bisect_left(timeline.ticks, shown), last, target)
        for (shown, target), last in last_by_key.items()
    ]


def _checked(
    container: Any, stream: Any, timeline: _Timeline, first: int, last: int
) -> Iterator[Any]:
    """Frames from ``first`` to ``last`` after a jump, each one as promised by its packet."""
    damage, expected = Damage(), None
    for frame in decoded_frames(container, stream, damage):
        if frame.pts is None or frame.is_corrupt or damage.packets:
            raise _DoubtError
        if expected is None:  # a jump may land on an earlier key frame, and on no later one
            expected = bisect_left(timeline.ticks, frame.pts)
            is_start = frame.key_frame or expected == 0  # whose key frame may be hidden
            if not is_start or expected > first:
                raise _DoubtError
        if expected > last or frame.pts != timeline.ticks[expected]:
            raise _DoubtError
        if expected >= first:
            yield frame
        if expected == last:
            return
        expected += 1
    raise _DoubtError


def _first_size(container: Any, stream: Any) -> tuple[int, int]:
    """Width and height of the file's first frame, which all others take."""
    container.seek(stream.start_time or 0, stream=stream)
    for frame in decoded_frames(container, stream, Damage()):
        return frame.width, frame.height
    raise _DoubtError
