"""What is refused: a path that cannot hold a video, and a video of which too much is missing."""

from __future__ import annotations

import stat
from pathlib import Path

from common.errors import VideoError
from policy.video.clip import Part

MIN_DECODED_SHARE = 0.9
"""A damaged file is used while at least this share of its declared frames decodes."""


def is_folder(path: Path) -> bool:
    """False too for what can be no path: too long a name, or one with a NUL byte in it."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def refuse_unreadable(path: Path) -> None:
    """Raises: VideoError for a missing, empty or forbidden file, and for what is no file."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):  # a pipe would keep its reader waiting forever
            with path.open("rb"):
                pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise VideoError(
            f"video {path}",
            f"cannot be read ({reason})",
            "correct the path, or rebuild the corpus",
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(
            f"video {path}", "is neither a file nor a folder of frames", "give a video file"
        )
    if status.st_size == 0:
        raise VideoError(
            f"video {path} of 0 bytes", "a video has content", "copy or cut the file again"
        )


def refuse_damaged(
    path: Path, part: Part, *, count: int, declared: int, damaged: bool, seconds: float
) -> None:
    """``declared`` frames should lie in the part, ``count`` of them could be decoded.

    The whole video lasts ``seconds``, as far as is known.

    Raises:
        VideoError: when that is none of them, or too few of a video that is ``damaged``.
    """
    if not count:
        if part.is_whole:
            raise VideoError(
                f"video {path}",
                "none of its frames can be decoded",
                "replace the file or drop the sample",
            )
        end = "its end" if part.end is None else f"{part.end} seconds"
        raise VideoError(
            f"video {path}, which covers 0 to {seconds:.2f} seconds",
            f"none of its frames between {part.start or 0} and {end} can be decoded",
            "correct the part, replace the file or drop the sample",
        )
    if damaged and count < MIN_DECODED_SHARE * declared:
        raise VideoError(
            f"video {path} with {count} decodable frames of {declared}",
            f"a damaged or cut-off video needs {MIN_DECODED_SHARE:.0%} of its frames",
            "copy or download the file again, or drop the sample",
        )


def refuse_cut_off(path: Path, *, seconds: float, stay: float, declared: float) -> None:
    """The packets of a video end after ``seconds`` of ``declared``; a picture may ``stay`` so long.

    Raises:
        VideoError: when that leaves more than a tenth of the video uncovered.
    """
    if seconds < MIN_DECODED_SHARE * declared and seconds + stay < declared:
        raise VideoError(
            f"video {path} with {seconds:.2f} seconds of {declared:.2f}",
            f"a damaged or cut-off video needs {MIN_DECODED_SHARE:.0%} of its length",
            "copy or download the file again, or drop the sample",
        )
