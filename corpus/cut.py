"""Cutting a segment out of a source clip into a video file of its own."""

from __future__ import annotations

import hashlib
import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np

from common.errors import MachineError
from policy.video import Clip

ENCODER = "libx264"
# A mean error of 1.5 to 3 grey levels. Macroblock-tree rate control is off because with it x264
# gives other bytes from run to run, even on one thread.
OPTIONS = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}
VERSION = 1  # counts changes to what a cut of the same frames looks like
TIME_BASE = Fraction(1, 90_000)  # fine enough to keep variable frame times


def clip_digest(source_sha256: str, first: int, last: int) -> str:
    """Names a cut clip by what it is cut from: the source's bytes and its frames.

    Unlike a hash of the cut file it does not change with the encoder's build or its threads, so
    that samples keep their ids from one machine to another.
    """
    content = json.dumps([source_sha256, first, last, ENCODER, OPTIONS, VERSION], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def write_clip(clip: Clip, first: int, last: int, path: Path) -> None:
    """Encode frames ``first`` to ``last`` (inclusive) as H.264 in MP4, at their own times.

    The file appears under ``path`` only when it is whole.

    Raises:
        MachineError: when this build of PyAV has no H.264 encoder.
    """
    import av

    if ENCODER not in av.codecs_available:
        raise MachineError(
            f"PyAV {av.__version__} without {ENCODER}",
            "clips are cut as H.264",
            "install PyAV from its PyPI wheel: pip install av",
        )
    frames, times = clip.frames[first : last + 1], clip.times[first : last + 1]
    ticks = _increasing(np.round((times - times[0]) / float(TIME_BASE)).astype(np.int64))
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream(ENCODER, rate=Fraction(clip.fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        # 4:2:0 halves both sides; an odd side needs full chroma.
        stream.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
        stream.options = OPTIONS
        stream.codec_context.thread_count = 1  # same bytes whatever the number of cores
        stream.codec_context.time_base = TIME_BASE
        for image, tick in zip(frames, ticks.tolist(), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = tick, TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    partial.replace(path)


def _increasing(ticks: np.ndarray) -> np.ndarray:
    """Times [T] made strictly increasing: no two frames of a file may share one."""
    steps = np.arange(len(ticks))
    return np.maximum.accumulate(ticks - steps) + steps
