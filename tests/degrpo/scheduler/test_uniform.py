"""The baseline: everyone in turn, whatever is measured."""

from __future__ import annotations

import json

import pytest

from common.errors import CheckpointError
from degrpo.scheduler import SampleStatus


def test_everyone_in_turn_whatever_is_measured(build, visit):
    ids = [f"{i}" for i in range(7)]
    scheduler = build(ids, name="uniform", batch_size=3)
    order = []
    for _ in range(14):
        batch = scheduler.propose(3)
        assert len(set(batch)) == 3
        assert scheduler.weights(batch) == [1.0, 1.0, 1.0]
        scheduler.observe([visit(name, 0.0) for name in batch[:2]])
        scheduler.fail(batch[2])
        order += batch
    assert [sorted(order[i : i + 7]) for i in range(0, 42, 7)] == [ids] * 6
    assert order[:7] != order[7:14]
    assert scheduler.drain_transitions() == []
    snapshot = scheduler.snapshot("3")
    assert (snapshot.visits, snapshot.state, snapshot.status) == (6, None, SampleStatus.ACTIVE)
    assert snapshot.round == 13 // 3  # ceil(7 / 3) steps a round


def test_a_split_run_equals_the_unsplit_one(build):
    ids = [f"{i}" for i in range(7)]
    whole, first = (build(ids, name="uniform", batch_size=3) for _ in range(2))
    expected = [whole.propose(3) for _ in range(9)]
    played = [first.propose(3) for _ in range(4)]
    second = build(ids, name="uniform", batch_size=3, seed=5)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), sort_keys=True)))
    assert played + [second.propose(3) for _ in range(5)] == expected
    assert second.metrics() == whole.metrics()


def test_a_corpus_smaller_than_the_batch(build):
    scheduler = build("ab", name="uniform", batch_size=4)
    assert sorted(scheduler.propose(4)) == sorted(scheduler.propose(4)) == ["a", "b"]


def test_other_samples_are_refused(build):
    state = build("abc", name="uniform").state_dict()
    with pytest.raises(CheckpointError, match="same 3 samples"):
        build("abd", name="uniform").load_state_dict(state)
