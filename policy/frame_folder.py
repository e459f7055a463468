"""A video that lies as a folder of frame images: which files are its frames, and reading one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from common.errors import VideoError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""What counts as a frame; every other file of the folder is ignored."""


def images_in(folder: Path) -> list[Path]:
    """Frame images of a folder in natural order of their names.

    Raises:
        VideoError: when the folder cannot be read or holds no image.
    """
    try:
        found = [item for item in folder.iterdir() if item.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise VideoError(
            f"folder {folder}", f"cannot be read ({error.strerror})", "correct the path"
        ) from error
    if not found:
        raise VideoError(
            f"folder {folder}",
            f"holds no frame images ({', '.join(IMAGE_SUFFIXES)})",
            "give a video file or a folder of frames",
        )
    return sorted(found, key=lambda item: (natural_key(item.name), item.name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by value.

    Example:
        >>> sorted(["img10.jpg", "img2.jpg"], key=natural_key)
        ['img2.jpg', 'img10.jpg']
    """
    parts = re.split(r"([0-9]+)", name.lower())
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]


def read_image(path: Path) -> np.ndarray | None:
    """[H, W, 3] uint8 RGB, upright; None for a file that is not a whole image."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
