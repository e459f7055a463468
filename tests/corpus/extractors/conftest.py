from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from corpus.adapters.embedded import locate
from corpus.labels import load_labels
from policy.video import read_clip


@pytest.fixture(scope="session")
def man() -> np.ndarray:
    """[72, 360, 640, 3]: a face in every frame, smiling from frame 17."""
    return read_clip(locate(load_labels().clips["single_face.mp4"])).frames


@pytest.fixture(scope="session")
def woman() -> np.ndarray:
    """[60, h, w, 3], every eighth frame: a face in almost every one."""
    return read_clip(locate(load_labels().clips["WolfgangLanger_Pexels.mp4"])).frames[::8]


@pytest.fixture(scope="session")
def write_frames() -> Callable[[np.ndarray, Path], Path]:
    """Frames [T, H, W, 3] to a video file at 25 frames a second."""

    def write(frames: np.ndarray, path: Path) -> Path:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(25))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "12", "preset": "ultrafast"}
            for image in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write
