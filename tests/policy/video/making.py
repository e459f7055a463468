"""Videos made for tests: moving noise, so that every frame differs from every other."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

TICK = Fraction(1, 1000)


def moving(num_frames: int, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """A window that slides over coarse noise, one pixel a frame."""
    width, height = size
    coarse = np.random.default_rng(0).integers(0, 256, (8, num_frames + width, 3), dtype=np.uint8)
    wide = coarse.repeat(-(-height // 8), axis=0)[:height]
    return [np.ascontiguousarray(wide[:, index : index + width]) for index in range(num_frames)]


def grey(levels: Sequence[int], size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Frames of one grey level each."""
    return [np.full((size[1], size[0], 3), level, np.uint8) for level in levels]


def levels_of(frames: np.ndarray) -> list[float]:
    return frames.reshape(len(frames), -1).mean(axis=1).tolist()


def write(
    path: Path,
    images: Sequence[np.ndarray],
    codec: str = "libx264",
    *,
    pix_fmt: str = "yuv420p",
    rate: int = 10,
    times: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    before: Callable[[Any], list[Any]] | None = None,
) -> Path:
    """Encode ``images`` at ``rate``, or at ``times`` in seconds; ``before`` adds a stream first."""
    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        packets = before(output) if before else []
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = TICK
        output.mux(packets)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[index] / TICK), TICK
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def silence(output: Any) -> list[Any]:
    """Add an audio stream to an open container; a tenth of a second of silence for it."""
    stream = output.add_stream("aac", rate=8000)
    frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
    frame.planes[0].update(bytes(4 * 1024))
    frame.rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
    return [*stream.encode(frame), *stream.encode(None)]


def turn(path: Path, degrees: int) -> Path:
    """Write "show turned clockwise by ``degrees``" into the track header of an MP4 file."""
    one = 1 << 16
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    turned = struct.pack(
        ">9i", cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30
    )
    content = path.read_bytes()
    start = content.index(upright, content.index(b"tkhd"))
    path.write_bytes(content[:start] + turned + content[start + len(turned) :])
    return path


def animation(path: Path, images: Sequence[np.ndarray], milliseconds: int = 100) -> Path:
    """A lossless animated WebP, or an AVIF, by Pillow."""
    first, *others = [Image.fromarray(image) for image in images]
    kind = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=milliseconds, **kind)
    return path
