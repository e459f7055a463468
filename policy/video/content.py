"""Naming a video by its content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from policy.video.checks import is_folder, refuse_unreadable
from policy.video.folders import images_in


def file_sha256(path: str | Path) -> str:
    """SHA-256 in hexadecimal: names a video by content, wherever it lies.

    Of a file it is the published digest of its bytes; of a folder of frame images the digest of
    its images' digests (32 bytes each) in natural order.

    Raises:
        VideoError: when the file cannot be read, or the folder holds no image.
    """
    path = Path(path)
    if is_folder(path):
        digests = (bytes.fromhex(file_sha256(image)) for image in images_in(path))
        return hashlib.sha256(b"".join(digests)).hexdigest()
    refuse_unreadable(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
