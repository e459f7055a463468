"""Strips of a few small frames per clip, for the report."""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import FaVChatError
from corpus.records import Inspection, SourceClip

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

NUM_FRAMES = 4
HEIGHT = 84  # pixels
MAX_WIDTH = 180  # pixels of one frame: panoramas are cut at the sides
GAP = 2

logger = logging.getLogger(__name__)


def strip_of_cut(video: Path) -> str | None:
    """Frames spread evenly over a cut's file, side by side, as one JPEG data URL.

    None when the file cannot be read; the reason is logged.
    """
    return _strip(video)


def strip_of_source(
    clip: SourceClip,
    inspection: Inspection | None = None,
    first: int | None = None,
    last: int | None = None,
) -> str | None:
    """As :func:`strip_of_cut`, of frames ``first`` to ``last`` (None: all) of a source clip."""
    from policy.video import crop_frame

    start, end = clip.start_seconds, clip.end_seconds
    if first is not None and last is not None and inspection is not None and inspection.fps > 0:
        # Between frames, so that rounding moves none over the edge.
        begin = (start or 0.0) - 0.5 / inspection.fps
        start, end = (begin + frame / inspection.fps for frame in (first, last + 1))
        start = max(0.0, start)
    return _strip(Path(clip.video), (start, end), crop=lambda frame: crop_frame(frame, clip.crop))


def _strip(  # type: ignore[no-untyped-def]
    video: Path, part: tuple[float | None, float | None] = (None, None), crop=None
) -> str | None:
    from policy.video import read_clip

    try:
        start, end = part
        clip = read_clip(video, num_frames=NUM_FRAMES, start_seconds=start, end_seconds=end)
    except (FaVChatError, OSError) as error:
        logger.warning("no pictures of %s: %s", video, error)
        return None
    return _data_url(_side_by_side([_small(crop(f) if crop else f) for f in clip.frames]))


def _small(frame: np.ndarray) -> Image:
    """frame [H, W, 3] uint8 RGB."""
    from PIL import Image, ImageOps

    width = min(MAX_WIDTH, max(1, round(frame.shape[1] * HEIGHT / frame.shape[0])))
    return ImageOps.fit(Image.fromarray(frame), (width, HEIGHT))


def _side_by_side(pictures: list[Image]) -> Image:
    from PIL import Image

    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    strip = Image.new("RGB", (width, HEIGHT), (128, 128, 128))
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + GAP
    return strip


def _data_url(picture: Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=72, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
