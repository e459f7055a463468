"""What Ray raises becomes what users meet."""

from __future__ import annotations

import pytest
import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, OutOfMemoryError, RayTaskError

from common.errors import MachineError, TrainingError
from degrpo.actors import get


def task_error(cause: BaseException) -> RayTaskError:
    """As ``ray.get`` raises it: an instance of the cause's class, too."""
    error = RayTaskError("f", "Traceback", cause, proctitle="actor", pid=1, ip="127.0.0.1")
    return error.as_instanceof_cause()


@pytest.fixture
def raising(monkeypatch):
    def install(error):
        def fail(reference):
            raise error

        monkeypatch.setattr(ray, "get", fail)

    return install


def test_a_value_is_returned(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda reference: reference + 1)
    assert get(1, "learner") == 2


def test_our_own_error_comes_out_unwrapped(raising):
    raising(task_error(TrainingError("loss nan", "a loss is finite", "lower learner.lr")))
    with pytest.raises(TrainingError) as caught:
        get(None, "learner")
    assert type(caught.value) is TrainingError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OutOfMemoryError("Task was killed\nnode report"), "OutOfMemoryError: Task was killed"),
        (OutOfMemoryError(""), "OutOfMemoryError: no message"),
        (ActorDiedError(), "ActorDiedError: "),
    ],
)
def test_a_dead_actor_is_a_machine_error(raising, error, kind):
    raising(error)
    with pytest.raises(MachineError) as caught:
        get(None, "learner")
    assert f"a learner that died ({kind}" in caught.value.received
    assert "\n" not in str(caught.value)
    assert "last checkpoint" in caught.value.fix


@pytest.mark.parametrize(
    ("cause", "received"),
    [
        (OSError(28, "No space left on device"), "OSError in the scheduler ([Errno 28] No space"),
        (MemoryError(), "MemoryError in the scheduler (no message)"),
    ],
)
def test_a_lack_of_disk_or_memory_is_a_machine_error(raising, cause, received):
    raising(task_error(cause))
    with pytest.raises(MachineError) as caught:
        get(None, "scheduler")
    assert received in caught.value.received
    assert "disk or memory" in caught.value.fix


@pytest.mark.parametrize("cause", [KeyError("bug"), GetTimeoutError("waited")])
def test_other_errors_keep_their_traceback(raising, cause):
    raising(task_error(cause))
    with pytest.raises(RayTaskError) as caught:
        get(None, "learner")
    assert not isinstance(caught.value, MachineError)
