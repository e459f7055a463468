"""One function over many items: in this process, or as Ray tasks.

What may go wrong with an item is data here. A :class:`SampleError`, a worker process that dies on
it (a decoder that crashes), and a task that never ends all become a :class:`Failure` of that item;
every other error is a defect or a broken machine and stops the build.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from common.errors import MachineError, SampleError
from common.progress import bar

Item = TypeVar("Item")
Result = TypeVar("Result")

IN_FLIGHT = 2  # tasks per worker that are submitted ahead, so that no worker waits for the driver
DEATHS = 2  # a task is tried again so many times when its worker dies: it may not be its fault
POLL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that has no result, and why."""

    reason: str
    lasting: bool  # would be the same another time: nothing to try again


def each(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    what: str,
    num_workers: int,
    seconds: float,
) -> Iterator[tuple[Item, Result | Failure]]:
    """Yield every item with its result as soon as it is there, behind a progress bar.

    Args:
        function: importable; items and results pickle.
        what: for the progress bar.
        num_workers: Ray tasks at a time on the cluster that this process is connected to; 0 calls
            the function here, one item after the other.
        seconds: a task that runs longer is cancelled and its item fails (not with 0 workers).

    Raises:
        MachineError: when tasks are asked for and no cluster is connected.
    """
    waiting = list(items)
    if not waiting:
        return
    with bar(what, total=len(waiting), unit="clip") as shown:
        results = _as_tasks(function, waiting, num_workers, seconds) if num_workers else None
        for pair in results or ((item, _attempt(function, item)) for item in waiting):
            shown.update()
            yield pair


def _attempt(function: Callable[[Item], Result], item: Item) -> Result | Failure:
    try:
        return function(item)
    except SampleError as error:
        return Failure(f"{error.received}: {error.rule}", lasting=True)


def _as_tasks(
    function: Callable[[Any], Any], items: list[Any], num_workers: int, seconds: float
) -> Iterator[tuple[Any, Any]]:
    import ray

    if not ray.is_initialized():
        raise MachineError(
            f"corpus.num_workers={num_workers} without a Ray cluster",
            "workers are Ray tasks",
            "use `degrpo corpus build`, which starts a cluster, or set corpus.num_workers=0",
        )
    # Tasks beyond the cluster's cores would wait in its queue, and their time run out there.
    num_workers = min(num_workers, max(1, int(ray.cluster_resources().get("CPU", 1))))
    task = ray.remote(_attempt).options(num_cpus=1, max_retries=DEATHS)
    running: dict[Any, tuple[Any, float]] = {}
    todo = iter(items)
    while True:
        while len(running) < IN_FLIGHT * num_workers and (item := next(todo, None)) is not None:
            running[task.remote(function, item)] = (item, time.monotonic())
        if not running:
            return
        done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
        for reference in done:
            item, _ = running.pop(reference)
            yield item, _outcome(reference)
        # A task has waited for at most the one before it.
        overdue = time.monotonic() - seconds * IN_FLIGHT
        for reference in [ref for ref, (_, since) in running.items() if since < overdue]:
            item, _ = running.pop(reference)
            ray.cancel(reference, force=True)
            yield item, Failure(f"took longer than {seconds:g} seconds", lasting=False)


def _outcome(reference: Any) -> Any:
    import ray

    deaths = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.NodeDiedError,
    )
    try:
        return ray.get(reference)
    except deaths as error:
        cause = "memory ran out" if isinstance(error, deaths[1]) else "the worker process died"
        return Failure(f"{cause} on it, {DEATHS + 1} times", lasting=False)
