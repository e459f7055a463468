from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import MachineError
from corpus.parallel import Failure, each
from tests.corpus.parallel_functions import defect, square_of

ROOT = Path(__file__).parents[2]


def test_here_in_order_with_a_bad_item_as_data() -> None:
    found = list(each(square_of, [0, 1, 5], what="squares", num_workers=0, seconds=1))
    reason = "video x: is not a readable video"
    assert found == [(0, 0), (1, Failure(reason, lasting=True)), (5, 25)]


def test_a_defect_is_not_data() -> None:
    with pytest.raises(ZeroDivisionError):
        list(each(defect, [1], what="defect", num_workers=0, seconds=1))


def test_nothing_to_do_needs_no_cluster() -> None:
    assert list(each(square_of, [], what="squares", num_workers=4, seconds=1)) == []


def test_workers_without_a_cluster_are_refused() -> None:
    code = (
        "from corpus.parallel import each\nlist(each(abs, [1], what='x', num_workers=2, seconds=1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert MachineError.__name__ in done.stderr
    assert "without a Ray cluster" in done.stderr


@pytest.mark.engine
@pytest.mark.slow
def test_on_ray_a_death_and_a_hang_cost_their_own_item() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.corpus.parallel_functions"],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("1") == "video x: is not a readable video"
    assert found.pop("2") == "the worker process died on it, 3 times"
    assert found.pop("3") == "took longer than 4 seconds"
    assert "ZeroDivisionError" in found.pop("defect")
    assert found == {str(item): item * item for item in (0, 4, 5, 6, 7)}
