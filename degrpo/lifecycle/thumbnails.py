"""Small pictures of a clip for the report, as data URLs."""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import FaVChatError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from policy.faces import FaceDetector

STRIP_FRAMES = 4
STRIP_HEIGHT = 120  # pixels
FACE_SIDE = 144  # pixels, shown at half that

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPictures:
    """``face``: the face in the clip, square (the middle of the frame where none is found);
    ``strip``: frames spread evenly over the clip. All are JPEG data URLs.
    """

    face: str
    strip: tuple[str, ...]


class Photographer:
    """Takes pictures of clips. What goes wrong with one is logged and costs only its picture."""

    def __init__(self) -> None:
        self._detector: FaceDetector | None = None

    def pictures(self, video: str) -> ClipPictures | None:
        """Pictures of the clip at path ``video``; None when it cannot be read."""
        from PIL import Image

        from policy.video import read_clip

        try:
            frames = read_clip(video, num_frames=STRIP_FRAMES).frames
            face = self._face(frames)
        except (FaVChatError, ImportError, OSError) as error:
            logger.warning("no pictures of %s: %s", video, error)
            return None
        strip = []
        for frame in frames:
            picture = Image.fromarray(frame)
            width = max(1, round(picture.width * STRIP_HEIGHT / picture.height))
            strip.append(_data_url(picture.resize((width, STRIP_HEIGHT))))
        return ClipPictures(face=_data_url(face), strip=tuple(strip))

    def _face(self, frames: np.ndarray) -> Image:
        """From the first frame with a face. frames [T, H, W, 3] uint8."""
        from dataclasses import replace

        from PIL import Image, ImageOps

        from policy.faces import FaceDetector, crop_face

        self._detector = self._detector or FaceDetector()
        cut = frames[len(frames) // 2]
        for frame in frames:
            boxes = self._detector.detect(frame)
            if boxes:
                box, side = boxes[0], max(boxes[0].width, boxes[0].height)
                left, top = box.x + (box.width - side) / 2, box.y + (box.height - side) / 2
                cut = crop_face(frame, replace(box, x=left, y=top, width=side, height=side))
                break
        return ImageOps.fit(Image.fromarray(cut), (FACE_SIDE, FACE_SIDE))


def _data_url(picture: Image) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
