"""What is refused: a path that cannot hold a video, and a video of which too much is missing."""

from __future__ import annotations

import stat
from pathlib import Path

from common.errors import VideoError
from policy.video.clip import Part

MIN_DECODED_SHARE = 0.9
"""A damaged file is used while at least this share of its declared frames decodes."""


def refuse_unreadable(path: Path) -> None:
    """Raises: VideoError for a missing, empty or forbidden file, and for what is no file."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would keep its reader waiting forever
            raise VideoError(
                f"video {path}", "is neither a file nor a folder of frames", "give a video file"
            )
        with path.open("rb"):
            pass
    except OSError as error:
        raise VideoError(
            f"video {path}",
            f"cannot be read ({error.strerror})",
            "correct the path, or rebuild the corpus",
        ) from error
    if status.st_size == 0:
        raise VideoError(
            f"video {path} of 0 bytes", "a video has content", "copy or cut the file again"
        )


def refuse_damaged(path: Path, part: Part, *, count: int, declared: int, damaged: bool) -> None:
    """``declared`` frames should lie in the part, ``count`` of them could be decoded.

    Raises:
        VideoError: when that is none of them, or too few of a video that is ``damaged``.
    """
    if not count:
        where = "" if part.is_whole else f" between {part.start or 0} and {part.end} seconds"
        raise VideoError(
            f"video {path}",
            f"none of its frames{where} can be decoded",
            "replace the file or drop the sample",
        )
    if damaged and count < MIN_DECODED_SHARE * declared:
        raise VideoError(
            f"video {path} with {count} decodable frames of {declared}",
            f"a damaged or cut-off video needs {MIN_DECODED_SHARE:.0%} of its frames",
            "copy or download the file again, or drop the sample",
        )
