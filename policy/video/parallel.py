"""Reading several videos at a time, in threads: PyAV, OpenCV and PyTorch let go of the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from common.errors import SampleError, VideoError
from policy.video.clip import Clip
from policy.video.reading import read_clip

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_clips(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_workers: int,
    *,
    num_ahead: int | None = None,
) -> Iterator[Result | SampleError]:
    """``function`` of every item, in the order of ``items``, computed by ``num_workers`` threads.

    A sample that cannot be used comes out as its error, a value in its place, so that it costs only
    itself. Any other exception is raised when its turn comes, and ends the iteration. ``items`` is
    asked for the next one only when a result has been taken, in the caller's thread. Whoever stops
    early closes the iterator (leaving a ``for`` loop over it lets go of it, which does): what has
    not begun is dropped, what has begun is waited for, and no thread stays behind.

    A thread cannot be killed: a function that never returns holds up the results after its own, and
    the end of the program. Files from untrusted sources belong into processes with a time limit.

    Args:
        function: called in several threads at a time; for example reads a clip and finds its faces.
        num_workers: threads; with 0 everything happens in the caller's, one item at a time.
        num_ahead: items that may be begun, or done and not yet taken; bounds the memory.
            None: two for each worker.
    """
    if num_workers < 0 or (num_ahead is not None and num_ahead < 1):
        raise ValueError(
            f"num_workers is 0 or more and num_ahead 1 or more, got {num_workers}, {num_ahead}"
        )
    if num_workers == 0:
        return (_outcome(function, item) for item in items)
    return _in_threads(function, items, num_workers, num_ahead or 2 * num_workers)


def _in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int, num_ahead: int
) -> Iterator[Result | SampleError]:
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="clips")
    ahead: deque[Future[Result | SampleError]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(_outcome, function, item))
            if len(ahead) >= num_ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(function: Callable[[Item], Result], item: Item) -> Result | SampleError:
    try:
        return function(item)
    except SampleError as error:
        return error


def read_clips(
    paths: Iterable[str | Path], *, num_workers: int, **how: Any
) -> Iterator[Clip | VideoError]:
    """:func:`read_clip` of every path, in order, by ``num_workers`` threads.

    A video that cannot be read comes out as its error, which names the file. At most
    ``2 · num_workers`` clips are in memory, apart from those that the caller keeps. On stopping
    early and on files whose decoding hangs, see :func:`map_clips`.

    Args:
        how: as in :func:`read_clip`: ``num_frames``, ``sampling``, ...

    Example:
        >>> for clip in read_clips(["a.mp4", "b.mp4"], num_workers=2, num_frames=8):
        ...     if isinstance(clip, VideoError):
        ...         skipped.append(clip)
    """
    clips = map_clips(partial(read_clip, **how), paths, num_workers)
    return cast("Iterator[Clip | VideoError]", clips)
