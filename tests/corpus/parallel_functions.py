"""What :mod:`tests.corpus.test_parallel` sends to Ray workers; run as a program, its driver."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from common.errors import VideoError


def square_of(item: int) -> int:
    """Every kind of end a task can have, by its number."""
    if item == 1:
        raise VideoError("video x", "is not a readable video", "drop it")
    if item == 2:
        os._exit(1)
    if item == 3:
        time.sleep(600)
    return item * item


def defect(item: int) -> int:
    return 1 // 0


if __name__ == "__main__":
    from corpus.parallel import each
    from degrpo.cluster import connected
    from degrpo.config import ClusterConfig

    with connected(ClusterConfig(min_memory_gib=1.0), working_dir=Path.cwd()):
        found = {
            item: getattr(result, "reason", result)
            for item, result in each(
                square_of, range(8), what="squares", num_workers=2, seconds=4.0
            )
        }
        try:
            list(each(defect, [1], what="defect", num_workers=2, seconds=4.0))
        except ZeroDivisionError as error:
            found["defect"] = type(error).__name__
    sys.stdout.write(json.dumps(found))
