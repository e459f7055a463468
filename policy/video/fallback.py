"""Readers for the files that PyAV does not read: OpenCV's, and Pillow's for animated WebP.

OpenCV's FFmpeg knows no container or codec that PyAV's lacks in the wheels of either (compared by
their lists of demuxers and decoders), but PyAV may be built against a smaller one; and OpenCV has
an AVI reader of its own, which reads MJPEG whose codec tag FFmpeg does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from policy.video.checks import refuse_damaged
from policy.video.clip import ASSUMED_FPS, Part, Picture

TimedImages = Generator[tuple[float, np.ndarray], None, None]


@dataclass(frozen=True, slots=True)
class Reader:
    """A way to read one file that PyAV does not read."""

    path: Path
    fps: float
    num_frames: int  # as the file states; 0: it does not
    images: Callable[[], TimedImages]  # (seconds, [H, W, 3] uint8 RGB, upright) from the start

    def pictures(self, part: Part) -> Iterator[Picture]:
        """Pictures of ``part``, one at a time.

        Raises:
            VideoError: after the last one, when too few of the part's frames decode.
        """
        size, count, ended, time = None, 0, True, 0.0
        with closing(self.images()) as images:
            for time, image in images:
                size = size or (image.shape[1], image.shape[0])
                if part.is_over(time):
                    ended = False
                    break
                if part.has_begun(time):
                    count += 1
                    yield Picture(time=time, size=size, native=None, image=image)
        declared = part.frames(self.num_frames, self.fps)
        seconds = max(time, self.num_frames / self.fps)
        refuse_damaged(
            self.path, part, count=count, declared=declared, damaged=ended, seconds=seconds
        )


def find_reader(path: Path) -> Reader | None:
    """The first reader that decodes a picture of the file; None when there is none."""
    import cv2

    with path.open("rb") as file:
        head = file.read(12)
    form = head[8:] if head.startswith(b"RIFF") else b""
    # Named one by one: left to choose, OpenCV takes "clip_01.avi" for a series of still images.
    reader = _find_opencv(path, cv2.CAP_FFMPEG)
    if reader is None and form == b"AVI ":
        reader = _find_opencv(path, cv2.CAP_OPENCV_MJPEG)
    if reader is None and form == b"WEBP":
        reader = _find_webp(path)
    return reader


def _find_opencv(path: Path, backend: int) -> Reader | None:
    import cv2

    capture = cv2.VideoCapture(str(path.absolute()), backend)
    try:
        if not (capture.isOpened() and capture.grab()):
            return None
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 0 < fps < float("inf") else ASSUMED_FPS
        num_frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        return Reader(path, fps, num_frames, partial(_opencv_images, path, backend, fps))
    finally:
        capture.release()


def _opencv_images(path: Path, backend: int, fps: float) -> TimedImages:
    import cv2

    capture = cv2.VideoCapture(str(path.absolute()), backend)
    try:
        index = 0
        while True:
            is_read, image = capture.read()
            if not is_read:
                return
            # The AVI reader gives the time of the frame to come; its frames are evenly spaced.
            is_timed = backend == cv2.CAP_FFMPEG
            time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 if is_timed else index / fps
            yield time, np.ascontiguousarray(image[:, :, ::-1])
            index += 1
    finally:
        capture.release()


def _find_webp(path: Path) -> Reader | None:
    from PIL import Image

    try:
        with Image.open(path, formats=("WEBP",)) as image:
            num_frames = getattr(image, "n_frames", 1)
            image.load()
            seconds = _duration(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return Reader(path, 1 / seconds, num_frames, partial(_webp_images, path))


def _webp_images(path: Path) -> TimedImages:
    from PIL import Image, ImageSequence

    time = 0.0
    with Image.open(path, formats=("WEBP",)) as image:
        try:
            for frame in ImageSequence.Iterator(image):
                yield time, np.array(frame.convert("RGB"))
                time += _duration(frame)
        except (OSError, ValueError):  # a damaged tail
            return


def _duration(image) -> float:  # type: ignore[no-untyped-def]
    return image.info.get("duration", 0) / 1000 or 1 / ASSUMED_FPS
