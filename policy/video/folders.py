"""A video that lies as a folder of frame images: which files are its frames, and reading one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.errors import VideoError
from policy.video.checks import refuse_damaged
from policy.video.clip import ASSUMED_FPS, Part, Picture
from policy.video.seeking import Choose, Decoded, Keep

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""What counts as a frame; ignored are all other files, hidden ones and folders within."""


def images_in(folder: Path) -> list[Path]:
    """Frame images of a folder in natural order of their names.

    Raises:
        VideoError: when the folder cannot be read or holds no image.
    """
    try:
        found = [item for item in folder.iterdir() if _is_image(item)]
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


def _is_image(item: Path) -> bool:
    # A Mac leaves "._1.png", which is no picture, beside 1.png on disks of other systems.
    is_named = item.suffix.lower() in IMAGE_SUFFIXES and not item.name.startswith(".")
    return is_named and item.is_file()


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


def read_images(folder: Path, part: Part, choose: Choose, keep: Keep) -> Decoded | None:
    """The chosen frames of ``part`` of a folder, without decoding the others.

    None where one of those needed is broken: which ones are left to choose from, only a reading of
    the whole folder tells. A broken image that is not chosen goes unnoticed.

    Raises:
        VideoError: as ``images_in``.
    """
    inside = _inside(images_in(folder), part)
    if not inside:
        return None
    decoded = Decoded(fps=ASSUMED_FPS, times=[time for time, _ in inside])
    chosen = set(choose(np.array(decoded.times)).tolist())
    size = None
    for index in sorted({0, *chosen}):  # the first one gives the size
        pixels = read_image(inside[index][1])
        if pixels is None:
            return None
        size = size or (pixels.shape[1], pixels.shape[0])
        if index in chosen:
            picture = Picture(time=inside[index][0], size=size, native=None, image=pixels)
            decoded.frames[index] = keep(picture.rgb())
    return decoded


def _inside(images: list[Path], part: Part) -> list[tuple[float, Path]]:
    times = ((index / ASSUMED_FPS, image) for index, image in enumerate(images))
    return [
        (time, image) for time, image in times if part.has_begun(time) and not part.is_over(time)
    ]


def folder_pictures(folder: Path, part: Part) -> Iterator[Picture]:
    """Pictures of ``part`` of a folder, ``ASSUMED_FPS`` a second; broken images are left out.

    Raises:
        VideoError: as ``images_in``; after the last one, when more than a tenth were broken.
    """
    images = images_in(folder)
    inside = _inside(images, part)
    size, count = None, 0
    for time, image in inside:
        pixels = read_image(image)
        if pixels is None:
            continue
        size, count = size or (pixels.shape[1], pixels.shape[0]), count + 1
        yield Picture(time=time, size=size, native=None, image=pixels)
    refuse_damaged(
        folder,
        part,
        count=count,
        declared=len(inside),
        damaged=count < len(inside),
        seconds=len(images) / ASSUMED_FPS,
    )
