"""The host: what a step leaves in the log, in which order, and what a restart leaves of it."""

from __future__ import annotations

import json
import math
from itertools import groupby

import pyarrow.parquet as pq
import pytest

from common.errors import CheckpointError, ConfigError, SampleError
from degrpo.lifecycle.events import EventKind
from degrpo.scheduler.actor import Proposal, SchedulerHost, StepRow, start_scheduler

IDS = [f"{i:02d}" for i in range(8)]


@pytest.fixture
def host(recipe, tmp_path):
    """``host(folder=…)``: N = 8, B = 2, quick to cool and to probe."""

    def make(folder: str = "lifecycle", seed: int = 0) -> SchedulerHost:
        config = recipe(seed=seed, min_visits=2, probe_probability=0.5)
        return SchedulerHost(config, IDS, tmp_path / folder, "run-1")

    return make


@pytest.fixture
def rows(visit):
    """Rows of a step: samples 00–02 have no use, 07 fails at its odd steps."""

    def make(proposals: list[tuple[str, float]], step: int) -> list[StepRow]:
        made = []
        for name, *_ in proposals:
            came = {"sample_id": name, "response_tokens": 88, "generate_seconds": 1.9}
            if name == "07" and step % 2:
                made.append(StepRow(**came, failure="reward timed out", detail="after 10 s"))
                continue
            statistics = visit(name, 0.0 if name < "03" else 1.0)
            made.append(StepRow(**came, rewards=statistics.rewards, statistics=statistics))
        return made

    return make


def play(host: SchedulerHost, rows, steps: range) -> list[list[Proposal]]:
    played = []
    for step in steps:
        proposals = host.propose(step)
        host.commit_step(step, step + 100, rows(proposals, step))
        played.append(proposals)
    return played


def events(folder) -> list[dict]:
    parts = sorted(folder.glob("*.parquet"))
    return sorted(
        (event for part in parts for event in pq.read_table(part).to_pylist()),
        key=lambda event: event["seq"],
    )


def without_time(found: list[dict]) -> list[dict]:
    return [{key: value for key, value in event.items() if key != "time"} for event in found]


def test_one_step_from_proposed_to_trained(host, rows, tmp_path):
    one = host()
    proposals = one.propose(0)
    metrics = one.commit_step(0, 100, rows(proposals, 0))
    found = events(tmp_path / "lifecycle")
    names = [name for name, *_ in proposals]
    phases = ["proposed", "generated", "scored", "trained"]
    assert [(e["event"], e["sample_id"]) for e in found] == [
        (phase, name) for phase in phases for name in names
    ]
    assert [event["seq"] for event in found] == list(range(8))
    trained = found[-1]
    useful = names[1] >= "03"
    expected = {
        "run_id": "run-1",
        "step": 0,
        "policy_version": 100,
        "round": 0,
        "visits": 1,
        "rewards": [0.5] * 4,
        "reward_mean": 0.5,
        "separability": float(useful),
        "sensitivity": 1.0,
        "utility": float(useful),
        "threshold": 0.0,
        "state": 0.75 if useful else 0.25,
        "weight": 1.0,
        "value": 0.5,
        "advantage_abs_mean": 0.1,
        "response_tokens": 88,
        "generate_seconds": 1.9,
        "learn_seconds": 2.4,
        "detail": "",
    }
    assert {key: trained[key] for key in expected} == expected
    proposed = found[0]
    assert (proposed["visits"], proposed["state"], proposed["weight"]) == (0, 0.5, 1.0)
    assert metrics["lifecycle/discover"] == 8


def test_the_order_of_a_steps_events(host, rows, tmp_path):
    play(host(), rows, range(60))
    found = events(tmp_path / "lifecycle")
    assert {event["event"] for event in found} == set(EventKind) - {"removed"}
    place = {"proposed": 1, "probed": 2, "generated": 3, "scored": 4, "trained": 5, "failed": 7}
    for _, step in groupby(found, key=lambda event: event["step"]):
        order = []
        for event in step:
            # A cooldown that is over ends before the proposal, the visit's changes follow it.
            at_start = event["event"] == "revived" and event["reason"].startswith("the cooldown")
            order.append(place.get(event["event"], 0 if at_start else 6))
        assert order == sorted(order)


def test_a_life_told_by_the_log_has_no_gaps(host, rows, tmp_path):
    """Nothing is proposed while it cools, but for probes; nothing wakes twice."""
    play(host(), rows, range(60))
    found = events(tmp_path / "lifecycle")
    for name in IDS:
        cooling, visits = False, 0
        life = [event for event in found if event["sample_id"] == name]
        for position, event in enumerate(life):
            kind = event["event"]
            if kind == "proposed":
                assert event["visits"] == visits
                assert not cooling or life[position + 1]["event"] == "probed"
            elif kind == "cooled":
                assert not cooling
                assert event["state"] <= 0.2
                cooling = True
            elif kind == "revived":
                assert cooling
                assert event["state"] >= 0.5
                cooling = False
            elif kind in ("trained", "failed"):
                visits += 1
                assert event["visits"] == visits


def test_a_failure_says_why(host, rows, tmp_path):
    play(host(), rows, range(12))
    found = events(tmp_path / "lifecycle")
    failed = [event for event in found if event["event"] == "failed"]
    assert failed
    for event in failed:
        assert (event["sample_id"], event["reason"]) == ("07", "reward timed out")
        assert event["detail"] == "after 10 s"
        same = [e for e in found if e["step"] == event["step"]]
        of_sample = [e["event"] for e in same if e["sample_id"] == "07"]
        assert of_sample == ["proposed", "generated", "failed"]


@pytest.mark.parametrize("crashed_at", [5, 6, 9])
def test_a_restart_replays_nothing_twice(host, rows, tmp_path, crashed_at):
    """Checkpoint after step 4, crash later (perhaps in the middle of a step), resume from 5."""
    expected = play(host("whole"), rows, range(20))
    first = host("split")
    played = play(first, rows, range(5))
    saved = json.loads(json.dumps(first.state_dict(), sort_keys=True))
    play(first, rows, range(5, crashed_at))
    first.propose(crashed_at)

    second = host("split", seed=7)
    second.load_state_dict(saved)
    assert played + play(second, rows, range(5, 20)) == expected
    found = events(tmp_path / "split")
    assert [event["seq"] for event in found] == list(range(len(found)))
    assert without_time(found) == without_time(events(tmp_path / "whole"))


def test_a_fresh_start_drops_what_no_checkpoint_covers(host, rows, tmp_path):
    play(host(), rows, range(3))
    again = host()
    play(again, rows, range(2))
    found = events(tmp_path / "lifecycle")
    assert [event["seq"] for event in found] == list(range(len(found)))
    assert {event["step"] for event in found} == {0, 1}


def test_refused_rows_change_nothing(host, rows, visit, tmp_path):
    one, other = host("refused"), host("plain")
    proposals = one.propose(0)
    good = rows(proposals, 0)
    name = proposals[0][0]
    bad = StepRow(sample_id=name, statistics=visit(name, math.nan))
    both = StepRow(sample_id=name, statistics=visit(name, 1.0), failure="and yet")
    neither = StepRow(sample_id=name, rewards=(0.1, 0.2))
    for wrong, error in [
        (good[:1], ConfigError),
        ([*good, good[0]], ConfigError),
        ([StepRow(sample_id="zz", failure="?"), good[1]], ConfigError),
        ([both, good[1]], ConfigError),
        ([neither, good[1]], ConfigError),
        ([bad, good[1]], SampleError),
    ]:
        with pytest.raises(error):
            one.commit_step(0, 0, wrong)
    with pytest.raises(ConfigError, match="open step is 0"):
        one.commit_step(1, 0, good)
    one.commit_step(0, 100, good)
    play(other, rows, range(1))
    assert one.state_dict() == other.state_dict()
    assert without_time(events(tmp_path / "refused")) == without_time(events(tmp_path / "plain"))


def test_one_step_at_a_time(host, rows):
    one = host()
    proposals = one.propose(0)
    assert one.propose(0) == proposals  # asked again, it answers alike
    with pytest.raises(ConfigError, match="step 0 is open"):
        one.propose(1)
    with pytest.raises(CheckpointError, match="middle of step 0"):
        one.state_dict()
    one.commit_step(0, 0, rows(proposals, 0))
    with pytest.raises(ConfigError, match="open step is none"):
        one.commit_step(0, 0, rows(proposals, 0))


@pytest.mark.engine
def test_as_a_ray_actor(recipe, rows, host, tmp_path):
    ray = pytest.importorskip("ray")
    started = not ray.is_initialized()
    if started:
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    config = recipe(min_visits=2, probe_probability=0.5)
    actor = start_scheduler(config, IDS, tmp_path / "actor", "run-1")
    try:
        played = []
        for step in range(6):
            proposals = ray.get(actor.propose.remote(step))
            ray.get(actor.commit_step.remote(step, step + 100, rows(proposals, step)))
            played.append(proposals)
        assert played == play(host("local"), rows, range(6))
        assert without_time(events(tmp_path / "actor")) == without_time(events(tmp_path / "local"))
    finally:
        ray.kill(actor)
        if started:
            ray.shutdown()
