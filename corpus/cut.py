"""Cutting stretches out of source clips into video files of their own.

    copy      packets as they are, where a cut begins with a key frame and needs no other packets
    lossless  H.264 with quantiser 0: each decoded frame is the source's, bit by bit
    compact   H.264 with CRF 18: a tenth of the size, a mean error of 1.5 to 3 grey levels

Files hold pictures only, no sound.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import MachineError, VideoError
from corpus.copying import CopyCheck, copy_packets
from corpus.records import SourceClip
from corpus.segments import Stretch
from policy.video import Clip, Picture, crop_frame, frame_rate, iterate_pictures

ENCODER = "libx264"
# Macroblock-tree rate control is off because with it x264 gives other bytes from run to run, even
# on one thread.
OPTIONS = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}
VERSION = 1  # counts changes to what a cut of the same frames looks like
TIME_BASE = Fraction(1, 90_000)  # fine enough to keep variable frame times

LOSSLESS_OPTIONS = {"qp": "0", "preset": "veryfast"}
RGB_ENCODER = "libx264rgb"
LOSSLESS_FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "gray")
"""Pixel formats that x264 keeps bit by bit; of others the RGB picture is kept."""


def clip_digest(
    source_sha256: str, first: int, last: int, options: Mapping[str, Any] | None = None
) -> str:
    """Names a cut clip by what it is cut from: the source's bytes and its frames.

    Unlike a hash of the cut file it does not change with the encoder's build or its threads, so
    that samples keep their ids from one machine to another.

    Args:
        options: of :func:`digest_options`, where the cut is not simply the compact one of a file.
    """
    content: list[Any] = [source_sha256, first, last, ENCODER, OPTIONS, VERSION]
    if options:
        content = [source_sha256, first, last, dict(options), VERSION]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest_options(clip: SourceClip, encoding: str) -> dict[str, Any]:
    """What beside file and frame numbers decides a cut's pixels; empty for a compact cut of a file.

    Cuts by ``copy`` and ``lossless`` show the same pixels and share their digest.
    """
    options: dict[str, Any] = {} if encoding == "compact" else {"encoding": "exact"}
    for name in ("start_seconds", "end_seconds", "crop"):
        if (value := getattr(clip, name)) is not None:
            options[name] = value
    return options


def cut(clip: SourceClip, stretch: Stretch, path: Path, *, encoding: str) -> tuple[str, float]:
    """Write one stretch of ``clip``: :func:`cut_all` for a single one."""
    (result,) = cut_all(clip, [(stretch, path)], encoding=encoding)
    return result


def cut_all(
    clip: SourceClip, parts: Sequence[tuple[Stretch, Path]], *, encoding: str
) -> list[tuple[str, float]]:
    """Write stretches of ``clip`` as MP4 files, decoding the source once for all of them.

    The frames of a cut are those of the source, at their own times less the first one's.

    - ``copy``: where the cut can be made of the source's own packets they are copied, and the copy
      is decoded beside the source and compared, frame by frame; everywhere else ``lossless``.
    - ``lossless``: in the source's own pixel format, so that the decoded frames equal the source's
      bit by bit; where x264 has no such format, the clip is cropped, turned by its container or a
      folder of images, as RGB, equal bit by bit to what :mod:`policy.video` reads. Only where a
      stream changes size midway are the later frames resized, with rounding.
    - ``compact``: see ``OPTIONS``.

    A file appears under its path only when it is whole.

    Args:
        parts: stretches, numbered in frames of the clip, with the paths to write.

    Returns:
        For each part how it was made (``copied``, ``lossless`` or ``encoded``) and the source's
        frames a second.

    Raises:
        VideoError: for a source that cannot be read, or ends before a stretch does.
        MachineError: when this build of PyAV has no H.264 encoder.
    """
    fps = frame_rate(clip.video)
    copies: dict[Path, CopyCheck] = {}
    if encoding == "copy":
        copies = copy_packets(clip, [(part.first, part.last, path) for part, path in parts])
    sinks: list[tuple[Stretch, Encoder | CopyCheck]] = [
        (part, copies.get(path) or Encoder(path, fps, crop=clip.crop, exact=encoding != "compact"))
        for part, path in parts
    ]
    try:
        _feed(clip, sinks)
        whole = [sink.finish() for _, sink in sinks]
    finally:
        for _, sink in sinks:
            sink.discard()
    methods = {path: _method(encoding, path in copies) for _, path in parts}
    if again := [item for item, done in zip(parts, whole, strict=True) if not done]:
        cut_all(clip, again, encoding="lossless")
        methods |= {path: "lossless" for _, path in again}
    return [(methods[path], fps) for _, path in parts]


def _method(encoding: str, copied: bool) -> str:
    return "copied" if copied else {"compact": "encoded"}.get(encoding, "lossless")


def _feed(clip: SourceClip, sinks: Sequence[tuple[Stretch, Encoder | CopyCheck]]) -> None:
    """Hand every frame to the sinks whose stretch it lies in; stop after the last one."""
    needed = max((stretch.last for stretch, _ in sinks), default=-1) + 1
    count = 0
    pictures = iterate_pictures(
        clip.video, start_seconds=clip.start_seconds, end_seconds=clip.end_seconds
    )
    for index, picture in enumerate(pictures):
        if index >= needed:
            break
        count += 1
        for stretch, sink in sinks:
            if stretch.first <= index <= stretch.last:
                sink.add(picture)
    if count < needed:
        raise VideoError(
            f"video {clip.video} with {count} frames",
            f"a stretch of it ends with frame {needed - 1}",
            "inspect the clip again: its file has changed",
        )


class Encoder:
    """Encodes the pictures it is given as one MP4 file; ``finish`` puts it under its path.

    Args:
        exact: lossless; else compact.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        *,
        exact: bool,
        crop: tuple[float, float, float, float] | None = None,
    ) -> None:
        import av

        self.path, self.fps, self.crop, self.exact = path, fps, crop, exact
        for name in (ENCODER, RGB_ENCODER) if exact else (ENCODER,):
            if name not in av.codecs_available:
                raise MachineError(
                    f"PyAV {av.__version__} without {name}",
                    "clips are cut as H.264",
                    "install PyAV from its PyPI wheel: pip install av",
                )
        self._partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        self._container: Any = None
        self._stream: Any = None
        self._start = 0.0
        self._tick = -1

    def add(self, picture: Picture) -> None:
        """Take the next picture, of the first one's size."""
        frame = self._frame(picture)
        if self._stream is None:
            self._start = picture.time
            self._open(frame)
        tick = int(np.round((picture.time - self._start) / float(TIME_BASE)))
        self._tick = max(tick, self._tick + 1)  # no two frames of a file may share a time
        frame.pts, frame.time_base = self._tick, TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> bool:
        """Put the file in its place."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None
        self._partial.replace(self.path)
        return True

    def discard(self) -> None:
        """Remove what is unfinished; without effect after :meth:`finish`."""
        if self._container is not None:
            self._container.close()
        self._partial.unlink(missing_ok=True)

    def _frame(self, picture: Picture) -> Any:
        """What the encoder gets: the file's own frame where nothing but a copy of it is wanted."""
        import av
        from av.video.frame import PictureType

        if self.exact and self._is_native(picture):
            frame: Any = picture.native
            if (frame.width, frame.height) != picture.size:  # a stream that changes size midway
                frame = frame.reformat(*picture.size)
            frame.pict_type = PictureType.NONE  # which frames become key frames is x264's choice
            return frame
        image = np.ascontiguousarray(crop_frame(picture.rgb(), self.crop))
        return av.VideoFrame.from_ndarray(image, format="rgb24")

    def _is_native(self, picture: Picture) -> bool:
        frame, sides_are_even = picture.native, not any(side % 2 for side in picture.size)
        if frame is None or self.crop is not None or round(frame.rotation / 90) % 4:
            return False
        name = frame.format.name
        return name in LOSSLESS_FORMATS and (sides_are_even or name in ("yuv444p", "gray"))

    def _open(self, first: Any) -> None:
        import av

        is_rgb = first.format.name == "rgb24"
        self._container = av.open(str(self._partial), "w", format="mp4")
        stream = self._container.add_stream(
            RGB_ENCODER if self.exact and is_rgb else ENCODER,
            rate=Fraction(self.fps).limit_denominator(1001),
        )
        stream.height, stream.width = first.height, first.width
        if self.exact:
            stream.pix_fmt = first.format.name
            for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
                setattr(stream.codec_context, tag, getattr(first, tag))
        else:
            # 4:2:0 halves both sides; an odd side needs full chroma.
            stream.pix_fmt = "yuv444p" if first.height % 2 or first.width % 2 else "yuv420p"
        stream.options = LOSSLESS_OPTIONS if self.exact else OPTIONS
        stream.codec_context.thread_count = 1  # same bytes whatever the number of cores
        stream.codec_context.time_base = TIME_BASE
        self._stream = stream


def write_clip(clip: Clip, first: int, last: int, path: Path) -> None:
    """Write frames ``first`` to ``last`` (inclusive) of a clip in memory, compact.

    Raises:
        MachineError: when this build of PyAV has no H.264 encoder.
    """
    with _encoding(path, clip.fps) as encoder:
        for index in range(first, last + 1):
            image = clip.frames[index]
            encoder.add(
                Picture(
                    time=float(clip.times[index]),
                    size=(image.shape[1], image.shape[0]),
                    native=None,
                    image=image,
                )
            )


@contextmanager
def _encoding(path: Path, fps: float) -> Iterator[Encoder]:
    encoder = Encoder(path, fps, exact=False)
    try:
        yield encoder
        encoder.finish()
    finally:
        encoder.discard()
