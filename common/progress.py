"""One progress bar for everything that takes more than a few seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(
    items: Iterable[T], what: str, *, total: int | None = None, unit: str = "it"
) -> Iterator[T]:
    """Iterate over ``items`` behind a progress bar labelled ``what`` on standard error.

    On a terminal the bar redraws in place; in a log file it prints a line every ten seconds.
    """
    yield from bar(what, items, total=total, unit=unit)


def bar(
    what: str, items: Iterable[T] | None = None, *, total: int | None = None, unit: str = "it"
) -> tqdm:
    """A bar to advance by hand (``with bar("fitting", total=9) as b: b.update()``).

    Of processes that a launcher started together the first alone shows its bars.
    """
    interactive = sys.stderr.isatty()
    return tqdm(
        items,
        desc=what,
        total=total,
        unit=unit,
        mininterval=0.1 if interactive else 10.0,
        dynamic_ncols=interactive,
        ascii=not interactive,
        file=sys.stderr,
        disable=os.environ.get("RANK", "0") != "0",
    )
