"""degrpo.lifecycle.queries against numbers worked out by hand."""

import pytest

from common.errors import CheckpointError
from degrpo.lifecycle import queries


def test_event_counts(pruning_run):
    # 18 proposals, of which one failed after generation.
    assert queries.event_counts(pruning_run) == {
        "proposed": 18, "generated": 18, "scored": 17, "trained": 17, "decayed": 1,
        "cooled": 2, "probed": 2, "revived": 2, "removed": 0, "failed": 1,
    }  # fmt: skip


def test_states_over_time(pruning_run):
    curve = queries.states_over_time(pruning_run)
    columns = ("discover", "active", "decayed", "cooldown", "removed")
    assert [(step, tuple(counts[name] for name in columns)) for step, counts in curve] == [
        (0, (4, 0, 0, 0, 0)),
        (1, (2, 0, 1, 1, 0)),  # a decayed, b cooling
        (2, (2, 1, 0, 1, 0)),  # a active again
        (3, (1, 1, 1, 1, 0)),  # c judged: .85 is decayed; b's probe changes nothing
        (4, (1, 2, 1, 0, 0)),  # b revived; c's failure leaves it decayed
        (5, (1, 1, 1, 1, 0)),  # a cooling
        (6, (1, 2, 0, 1, 0)),  # c active
        (7, (1, 3, 0, 0, 0)),
        (8, (1, 3, 0, 0, 0)),
    ]


def test_unseen_samples_are_in_discover(pruning_run):
    connection = queries.connect(pruning_run, num_samples=10)
    curve = queries.states_over_time(connection)
    assert curve[0][1]["discover"] == 10
    assert curve[-1][1]["discover"] == 7
    assert all(sum(counts.values()) == 10 for _, counts in curve)


def test_a_state_at_keep_within_rounding_is_decayed(story):
    for step in range(4):
        story.visit(step, "a", state=0.8 - 1e-9)
        story.commit(step)
    assert queries.states_over_time(story.run_dir)[-1][1]["decayed"] == 1


def test_removed_is_for_good(story):
    for step in range(4):
        story.visit(step, "a", state=0.1)
    story.event(3, "a", "removed")
    story.visit(3, "b")
    story.commit(3)
    story.visit(4, "b")
    story.commit(4)
    assert queries.states_over_time(story.run_dir)[-1][1]["removed"] == 1


def test_reward_curve(pruning_run):
    curve = {point.step: point for point in queries.reward_curve(pruning_run)}
    # Step 0: 1, 0, .25, .25; numpy.quantile gives .1875 and .4375.
    first = curve[0]
    assert (first.mean, first.low, first.high, first.responses) == (0.375, 0.1875, 0.4375, 4)
    # Step 4: c failed before it was scored, b alone has rewards .5, .25.
    assert (curve[4].mean, curve[4].responses) == (0.375, 2)
    assert sorted(curve) == list(range(9))


def test_rewards_that_are_null_do_not_count(story):
    story.visit(0, "a", rewards=(0.5, float("nan")))
    story.commit(0)
    (point,) = queries.reward_curve(story.run_dir)
    assert (point.mean, point.responses) == (0.5, 1)


def test_sample_history_is_in_order(pruning_run):
    history = queries.sample_history(pruning_run, "b")
    assert [(event["step"], event["event"]) for event in history if event["step"] in (1, 4)] == [
        (1, "proposed"), (1, "generated"), (1, "scored"), (1, "trained"), (1, "cooled"),
        (4, "probed"), (4, "proposed"), (4, "generated"), (4, "scored"), (4, "trained"),
        (4, "revived"),
    ]  # fmt: skip
    assert history[4]["reason"] == ""
    assert history[8]["reason"] == "state 0.15 <= 0.20"
    assert queries.sample_history(pruning_run, "zebra") == []


def test_sample_history_takes_the_beginning_of_an_id(story):
    story.visit(0, "3f9c2b")
    story.visit(0, "3e0000")
    story.commit(0)
    assert {event["sample_id"] for event in queries.sample_history(story.run_dir, "3f")} == {
        "3f9c2b"
    }


def test_sample_summaries(pruning_run):
    a, b, c, d = (
        {s.sample_id: s for s in queries.sample_summaries(pruning_run)}[name] for name in "abcd"
    )
    assert (a.visits, a.failures, a.probes, a.status) == (5, 0, 0, "active")
    assert (b.visits, b.failures, b.probes, b.status) == (6, 0, 2, "active")
    assert (c.visits, c.failures, c.status) == (5, 1, "active")
    assert (d.visits, d.status) == (1, "discover")
    assert (a.reward_first, a.reward_last) == (0.5, 1.0)
    assert (b.state, b.utility, b.threshold) == (0.5, 0.3, 0.1)
    assert b.mean_utility == pytest.approx((0.3 + 0 + 0 + 0.6 + 0.3 + 0.3) / 6)
    # A visit costs 20 tokens, 2 s and 3 s, though several of its events say so; c's failed visit
    # was generated but not learned from.
    assert (a.response_tokens, a.generate_seconds, a.learn_seconds) == (100, 10.0, 15.0)
    assert (c.response_tokens, c.generate_seconds, c.learn_seconds) == (120, 12.0, 15.0)


def test_what_cooling_saved(pruning_run):
    """Uniform passes give each of 4 samples 2/4 visits a step.

    b is set aside in steps 2, 3 and 4 (revived by the probe in 4): 1.5 visits less 2 probes. a is
    set aside in step 6 only: in step 7 its time is over before samples are proposed.
    """
    saved = {s.sample_id: s for s in queries.sample_summaries(pruning_run)}
    assert saved["a"].visits_saved == pytest.approx(0.5)
    assert saved["a"].tokens_saved == pytest.approx(10.0)
    assert saved["a"].seconds_saved == pytest.approx(2.5)
    assert saved["b"].visits_saved == pytest.approx(-0.5)
    assert saved["c"].visits_saved == 0
    assert saved["d"].visits_saved == 0


def test_a_sample_that_never_returns_saves_to_the_end(story):
    for step in range(6):
        story.visit(step, "a")
        if step == 1:
            story.visit(step, "b", state=0.1)
            story.event(step, "b", "cooled")
        story.commit(step)
    saved = {s.sample_id: s.visits_saved for s in queries.sample_summaries(story.run_dir)}
    assert saved == {"a": 0.0, "b": pytest.approx(4 * 1 / 2)}  # steps 2 to 5, one of two samples


def test_sample_curves(pruning_run):
    curves = queries.sample_curves(pruning_run)
    assert curves["a"] == [
        (0, 0.5, 0.5), (1, 0.75, 0.9), (2, 0.375, 0.7), (5, 0.375, 0.2), (7, 1.0, 0.5),
    ]  # fmt: skip
    assert curves["c"][2] == (4, None, None)  # the failed visit


def test_audit_of_a_complete_log(pruning_run):
    assert queries.audit(pruning_run) == []


@pytest.mark.parametrize(
    ("kinds", "whole"),
    [
        (["proposed", "generated", "scored", "trained"], True),
        (["proposed", "failed"], True),
        (["proposed", "generated", "scored", "failed"], True),
        (["probed", "proposed", "generated", "scored", "trained", "revived"], True),
        (["revived"], True),
        (["proposed"], False),
        (["proposed", "generated", "scored"], False),
        (["proposed", "scored", "trained"], False),
        (["proposed", "scored", "generated", "trained"], False),
        (["generated", "scored", "trained"], False),
        (["proposed", "generated", "scored", "trained", "trained"], False),
        (["proposed", "generated", "scored", "trained", "failed"], False),
        (["failed"], False),
    ],
)
def test_audit_of_one_visit(story, kinds, whole):
    for kind in kinds:
        story.event(0, "a", kind)
    story.commit(0)
    problems = queries.audit(story.run_dir)
    assert (problems == []) == whole
    if not whole:
        assert "step 0, sample a" in problems[0]


def test_audit_sees_the_policy_go_back(story):
    story.log.append(event="revived", step=0, policy_version=4, sample_id="a")
    story.log.append(event="revived", step=1, policy_version=3, sample_id="a")
    story.commit(1)
    assert queries.audit(story.run_dir) == ["policy_version goes back at seq 1"]


def test_audit_sees_a_missing_part(pruning_run):
    sorted((pruning_run / "lifecycle").glob("*.parquet"))[2].unlink()
    with pytest.raises(CheckpointError, match="are missing before it"):
        queries.audit(pruning_run)


def test_damage_inside_a_part_is_no_answer(pruning_run):
    path = sorted((pruning_run / "lifecycle").glob("*.parquet"))[2]
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        queries.audit(pruning_run)


def test_no_log(tmp_path):
    with pytest.raises(CheckpointError, match="without events"):
        queries.event_counts(tmp_path)


def test_one_connection_answers_many_questions(pruning_run):
    connection = queries.connect(pruning_run)
    assert queries.event_counts(connection) == queries.event_counts(pruning_run)
    assert queries.audit(connection) == []
    assert connection.execute("select count(*) from rollouts").fetchall() == [(0,)]


def test_the_scheduler_agrees(tmp_path):
    """What is derived from the log alone is what the scheduler itself counts."""
    from degrpo.config import AlgorithmConfig, SchedulerConfig, TrainConfig
    from degrpo.scheduler.actor import SchedulerHost, StepRow
    from degrpo.types import SampleStatistics

    config = TrainConfig(
        batch_size=4,
        algorithm=AlgorithmConfig(threshold_warmup=8, smoothing=0.6),
        scheduler=SchedulerConfig(probe_probability=0.1, min_pool_batches=1, min_visits=3),
    )
    ids = [f"sample{i:02d}" for i in range(12)]
    host = SchedulerHost(config, ids, tmp_path / "lifecycle", "agreement")
    expected = []
    for step in range(80):
        rows = []
        for place, (name, weight, _) in enumerate(host.propose(step)):
            if (step, place) in ((2, 0), (30, 1)):
                rows.append(StepRow(sample_id=name, failure="no face found"))
                continue
            # A third never spreads; another third stops to after a while, and starts again.
            number = int(name[-2:])
            flat = number % 3 == 0 or (number % 3 == 1 and step % 40 > 12)
            statistics = SampleStatistics(
                sample_id=name, rewards=(0.5, 0.5) if flat else (0.2, 0.8),
                separability=0.0 if flat else 0.6, sensitivity=1.0, value=0.0, weight=weight,
                advantage_abs_mean=0.1, response_tokens=20, generate_seconds=1.0,
                learn_seconds=1.0,
            )  # fmt: skip
            rows.append(
                StepRow(
                    sample_id=name, response_tokens=20, generate_seconds=1.0,
                    rewards=statistics.rewards, statistics=statistics,
                )
            )  # fmt: skip
        expected.append(host.commit_step(step, step, rows))

    (tmp_path / "config.yaml").write_text("scheduler: {min_visits: 3}\n")
    connection = queries.connect(tmp_path)
    assert queries.audit(connection) == []
    curve = queries.states_over_time(connection)
    for (step, counts), metrics in zip(curve, expected, strict=True):
        assert counts == {name: metrics[f"lifecycle/{name}"] for name in queries.STATUSES}, step
    saved = sum(summary.visits_saved for summary in queries.sample_summaries(connection))
    assert saved == pytest.approx(expected[-1]["lifecycle/saved_visits"])
    # The comparison is of something: samples cooled, were probed and came back.
    counts = queries.event_counts(connection)
    assert min(counts[kind] for kind in ("cooled", "probed", "revived", "decayed", "failed")) > 0
    assert saved > 5
