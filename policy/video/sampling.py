"""Which frames of a video are taken: pure functions of the frames' times."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np

from policy.video.clip import TIME_SLACK

SAMPLINGS = ("middle", "uniform", "random", "fps")


def frame_indices(
    times: np.ndarray,
    num_frames: int | None,
    sampling: str = "middle",
    *,
    fps: float = 1.0,
    rng: random.Random | None = None,
) -> np.ndarray:
    """Indices [T] int64, in order, of the frames to take of a video whose frames have ``times``.

    - ``middle``: the middles of ``num_frames`` equal stretches (TSN in tests, Wang et al. 2016).
    - ``uniform``: evenly from the first to the last frame, both included.
    - ``random``: one at random in each of ``num_frames`` equal stretches (TSN in training).
    - ``fps``: one every ``1/fps`` seconds, so that T follows from the video's length; where that
      makes more than ``num_frames``, so many of them, spread evenly.

    The first three count frames, give exactly ``num_frames`` and repeat some of a shorter video;
    ``fps`` goes by the clock, as matters at a variable frame rate.

    Args:
        times: [N] float64, seconds, ascending; N at least 1.
        num_frames: None: all frames; with ``fps`` as many as the rate gives.
        fps: frames a second, for ``fps`` alone.
        rng: for ``random`` alone; see :func:`frame_rng`.

    Example:
        >>> times = np.arange(10) / 5
        >>> frame_indices(times, 2).tolist(), frame_indices(times, 2, "uniform").tolist()
        ([2, 7], [0, 9])
        >>> frame_indices(times, 8, "fps", fps=2.0).tolist()
        [0, 2, 5, 7]
    """
    check_sampling(num_frames, sampling, fps)
    total = len(times)
    if sampling == "fps":
        return rate_indices(times, num_frames, fps)
    if num_frames is None:
        return np.arange(total)
    if sampling == "random":
        if rng is None:
            raise ValueError("sampling=random draws from rng, got None")
        return random_indices(total, num_frames, rng)
    return (even_indices if sampling == "middle" else uniform_indices)(total, num_frames)


def check_sampling(num_frames: int | None, sampling: str, fps: float) -> None:
    """Raises: ValueError for what no video could satisfy."""
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling is one of {', '.join(SAMPLINGS)}, got {sampling!r}")
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps is a positive number, got {fps}")


def even_indices(total: int, num: int) -> np.ndarray:
    """``num`` indices [num] int64 into ``total`` frames: the middles of ``num`` equal stretches.

    Example:
        >>> even_indices(10, 2).tolist(), even_indices(2, 4).tolist()
        ([2, 7], [0, 0, 1, 1])
    """
    # Integer arithmetic: floor((i + 1/2) · total / num), free of rounding.
    return (2 * np.arange(num, dtype=np.int64) + 1) * total // (2 * num)


def uniform_indices(total: int, num: int) -> np.ndarray:
    """``num`` indices [num] int64 from the first to the last of ``total`` frames.

    Each is i · (total - 1) / (num - 1), halves rounded up. A single one is the middle frame.

    Example:
        >>> uniform_indices(10, 4).tolist(), uniform_indices(2, 4).tolist()
        ([0, 3, 6, 9], [0, 0, 1, 1])
    """
    if num == 1:
        return even_indices(total, 1)
    steps = num - 1
    return (2 * np.arange(num, dtype=np.int64) * (total - 1) + steps) // (2 * steps)


def random_indices(total: int, num: int, rng: random.Random) -> np.ndarray:
    """One index [num] int64 at random in each of ``num`` equal stretches of ``total`` frames.

    The i-th is floor((i + u) · total / num) with u uniform on [0, 1).
    """
    # Fractions: a stretch's end belongs to the next one, which rounding would sometimes forget.
    drawn = [int((i + Fraction(rng.random())) * total / num) for i in range(num)]
    return np.array(drawn, dtype=np.int64)


def rate_indices(times: np.ndarray, num: int | None, fps: float) -> np.ndarray:
    """The frames [T] int64 on screen at the first one's time and every ``1/fps`` seconds after it.

    These are floor((last time - first time) · fps) + 1 moments; of more than ``num`` the middles
    of ``num`` equal stretches of them are taken. A frame is on screen from its time until the next
    one's, and is repeated where it stays longer than ``1/fps``.

    Example: frames at 0, 0.9 and 2 seconds; on screen at 0, 1 and 2:
        >>> rate_indices(np.array([0.0, 0.9, 2.0]), None, 1.0).tolist()
        [0, 1, 2]
    """
    total = int((times[-1] - times[0] + TIME_SLACK) * fps) + 1
    chosen = np.arange(total) if num is None or total <= num else even_indices(total, num)
    moments = times[0] + chosen / fps
    return np.searchsorted(times, moments + TIME_SLACK, side="right") - 1


def frame_rng(seed: int, content_hash: str) -> random.Random:
    """Draws for one video: a function of ``seed`` and the video's content alone.

    Python promises the sequence of ``random()`` for a seed; NumPy's generators may change theirs.
    """
    return random.Random(f"{seed} {content_hash}")
