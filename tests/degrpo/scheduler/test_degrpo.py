"""The life of a sample and its guards, one rule at a time."""

from __future__ import annotations

import json
import math

import pytest

from common.errors import CheckpointError, ConfigError, SampleError
from degrpo.lifecycle.events import EventKind
from degrpo.scheduler import SampleStatus

COOLED, REVIVED, DECAYED, PROBED = (
    EventKind.COOLED,
    EventKind.REVIVED,
    EventKind.DECAYED,
    EventKind.PROBED,
)

FOREVER = {"cooldown_base": 1000, "cooldown_cap_solved": 1000, "cooldown_cap_unsolved": 1000}


def kinds(scheduler) -> list[tuple[str, EventKind]]:
    return [(one.sample_id, one.kind) for one in scheduler.drain_transitions()]


def play(scheduler, utility_of, visit, steps: int, n: int = 2) -> list:
    """Whole steps; returns each step's batch and transitions."""
    history = []
    for step in range(steps):
        batch = scheduler.propose(n)
        scheduler.observe([visit(name, utility_of(name, step)) for name in batch])
        history.append((batch, scheduler.drain_transitions()))
    return history


class TestStates:
    def test_utility_moves_the_state_toward_one_or_zero(self, build, visit):
        scheduler = build("abcd", algorithm={"smoothing": 0.8})
        scheduler.observe([visit("a", 1.0), visit("b", 0.0)])
        assert scheduler.snapshot("a").state == pytest.approx(0.6)  # .8 * .5 + .2
        assert scheduler.snapshot("b").state == pytest.approx(0.4)
        assert scheduler.snapshot("c").state == 0.5

    def test_threshold_comes_from_earlier_visits(self, build, visit):
        scheduler = build("abcd", algorithm={"threshold_fraction": 0.5})
        # Nothing earlier: tau = 0, so that even .1 beside 10 passes.
        scheduler.observe([visit("a", 0.1), visit("b", 10.0)])
        assert scheduler.snapshot("a").state == pytest.approx(0.75)
        # The 75th percentile of .1 and 10 is 7.525; half of it is 3.7625.
        scheduler.observe([visit("c", 3.7), visit("d", 3.8)])
        assert scheduler.snapshot("c").threshold == pytest.approx(3.7625)
        assert scheduler.snapshot("c").state == pytest.approx(0.25)
        assert scheduler.snapshot("d").state == pytest.approx(0.75)

    def test_large_groups_lower_the_fraction(self, build, visit):
        scheduler = build("abcd", algorithm={"threshold_fraction": 0.5})
        scheduler.observe([visit("a", 1.0, group_size=12)])
        scheduler.observe([visit("b", 1.0, group_size=12)])
        assert scheduler.snapshot("b").threshold == pytest.approx(3 / 12)

    def test_threshold_forgets_what_left_the_window(self, build, visit):
        scheduler = build("abcd", algorithm={"threshold_window": 2, "threshold_fraction": 0.5})
        for utility in (100.0, 1.0, 1.0, 1.0):
            scheduler.observe([visit("a", utility)])
        assert scheduler.snapshot("a").threshold == pytest.approx(0.5)

    def test_nothing_moves_during_the_warmup(self, build, visit):
        scheduler = build("abcd", algorithm={"threshold_warmup": 3})
        scheduler.observe([visit("a", 0.0), visit("b", 1.0)])
        scheduler.observe([visit("c", 0.0), visit("d", 1.0)])  # two visits seen before this step
        assert {scheduler.snapshot(name).state for name in "abcd"} == {0.5}
        assert "warm-up: 2 of 3 visits" in scheduler.snapshot("c").reason
        scheduler.observe([visit("a", 0.0)])
        assert scheduler.snapshot("a").state == pytest.approx(0.25)

    def test_no_sample_is_judged_before_its_visits(self, build, visit):
        scheduler = build("abcdef", min_visits=3)
        for visits, status in enumerate(["discover", "discover", "cooldown"], start=1):
            scheduler.observe([visit("a", 0.0)])  # states .25, .125, .0625
            assert scheduler.snapshot("a").visits == visits
            assert scheduler.snapshot("a").status == status

    def test_decayed_is_logged_once_per_crossing(self, build, visit):
        scheduler = build("abcd")
        seen = []
        # States: .75 .875 .9375 | .46875 | .734 .867
        for utility in (1, 1, 1, 0, 1, 1):
            scheduler.observe([visit("a", utility)])
            seen.append((scheduler.snapshot("a").status.value, len(kinds(scheduler))))
        assert seen == [
            ("active", 0),
            ("decayed", 1),
            ("decayed", 0),
            ("active", 0),
            ("active", 0),
            ("decayed", 1),
        ]

    def test_a_failed_visit_counts_but_moves_nothing(self, build, visit):
        scheduler = build("abcd", min_visits=2)
        scheduler.fail("a")
        scheduler.fail("a")
        snapshot = scheduler.snapshot("a")
        assert (snapshot.visits, snapshot.state, snapshot.status) == (2, 0.5, SampleStatus.ACTIVE)

    def test_statistics_that_are_not_finite_move_nothing(self, build, visit):
        scheduler = build("abcd")
        before = json.dumps(scheduler.state_dict())
        with pytest.raises(SampleError):
            scheduler.observe([visit("a", 0.0), visit("b", math.nan)])
        assert json.dumps(scheduler.state_dict()) == before

    def test_unknown_samples_are_refused(self, build, visit):
        scheduler = build("abcd")
        for call in (lambda: scheduler.observe([visit("z", 1.0)]), lambda: scheduler.fail("z")):
            with pytest.raises(ConfigError, match="'z'"):
                call()


class TestWeights:
    def test_are_read_before_the_visit_and_full_while_discovering(self, build, visit):
        scheduler = build("abcd", min_visits=3, algorithm={"decay": 0.5})
        read = []
        for _ in range(4):  # states .75 .875 .94 .97; judged from the third visit on
            read += scheduler.weights(["a"])
            scheduler.observe([visit("a", 1.0)])
        assert read == [1.0, 1.0, 1.0, 0.5]

    def test_the_default_leaves_decayed_samples_whole(self, build, visit):
        scheduler = build("abcd")
        for _ in range(3):
            scheduler.observe([visit("a", 1.0)])
        assert scheduler.snapshot("a").status is SampleStatus.DECAYED
        assert scheduler.weights(["a", "b"]) == [1.0, 1.0]

    def test_a_probe_has_full_weight(self, build, visit):
        scheduler = build("abcd", probe_probability=1.0)
        scheduler.observe([visit("a", 0.0)])
        scheduler.observe([visit("a", 0.0)])
        assert scheduler.snapshot("a").status is SampleStatus.COOLDOWN
        assert scheduler.weights(["a"]) == [1.0]


class TestCooldown:
    """N = 8, B = 2: a round is four steps. `a` never has any use, the others always do."""

    @staticmethod
    def only_a_is_useless(name: str, step: int) -> float:
        return 0.0 if name == "a" else 1.0

    def cooled_and_revived(self, history) -> list[tuple[int, str]]:
        return [
            (step, one.kind.value)
            for step, (_, transitions) in enumerate(history)
            for one in transitions
            if one.sample_id == "a"
        ]

    def test_is_not_proposed_until_its_time_is_over(self, build, visit):
        scheduler = build("abcdefgh")
        history = play(scheduler, self.only_a_is_useless, visit, 20)
        (cooled, first), (revived, second) = self.cooled_and_revived(history)[:2]
        assert (first, second) == ("cooled", "revived")
        assert revived == cooled + 1 + 2 * 4  # the first cooldown: two rounds of four steps
        assert not any("a" in batch for batch, _ in history[cooled + 1 : revived])
        assert all(len(set(batch)) == 2 for batch, _ in history)

    def test_reasons_say_what_happened(self, build, visit):
        scheduler = build("abcdefgh")
        history = play(scheduler, self.only_a_is_useless, visit, 20)
        reasons = [one.reason for _, moves in history for one in moves if one.sample_id == "a"]
        assert reasons[0] == "state 0.12 <= 0.20 after 2 visits; cooldown of 2 rounds"
        assert reasons[1] == "the cooldown is over; state set to 0.50"

    @pytest.mark.parametrize(
        ("reward", "lengths"),
        [(0.1, [2, 4, 4, 4]), (0.9, [2, 4, 8, 8])],  # unsolved: at most 4 rounds; solved: 8
    )
    def test_doubles_up_to_its_cap(self, build, visit, reward, lengths):
        scheduler = build("abcdefgh")
        measured = []
        start = None
        for step in range(140):
            batch = scheduler.propose(2)
            for one in scheduler.drain_transitions():
                if one.sample_id == "a" and one.kind is REVIVED:
                    measured.append((step - start - 1) / 4)
            scheduler.observe(
                [
                    visit(
                        name,
                        self.only_a_is_useless(name, step),
                        reward=reward if name == "a" else 0.5,
                    )
                    for name in batch
                ]
            )
            if ("a", COOLED) in kinds(scheduler):
                start = step
        assert measured[:4] == lengths

    def test_removal_for_good(self, build, visit):
        scheduler = build("abcdefgh", pruning="remove")
        history = play(scheduler, self.only_a_is_useless, visit, 60)
        ((removed, kind),) = self.cooled_and_revived(history)
        assert kind == "removed"
        assert not any("a" in batch for batch, _ in history[removed + 1 :])
        assert scheduler.metrics()["lifecycle/removed"] == 1

    def test_saved_visits_are_what_uniform_passes_would_have_spent(self, build, visit):
        scheduler = build("abcdefgh")
        history = play(scheduler, self.only_a_is_useless, visit, 20)
        (cooled, _), (revived, _), *later = self.cooled_and_revived(history)
        steps = revived - cooled - 1 + sum(19 - step for step, kind in later if kind == "cooled")
        assert scheduler.metrics()["lifecycle/saved_visits"] == pytest.approx(steps * 2 / 8)


class TestProbes:
    def cooling(self, build, visit, **options):
        """`a` was just set aside at step 1 of a round of four."""
        scheduler = build("abcdefgh", **FOREVER, **options)
        for _ in range(2):
            scheduler.propose(2)
            scheduler.observe([visit("a", 0.0), visit("b", 1.0)])
        assert ("a", COOLED) in kinds(scheduler)
        return scheduler

    def test_certain_probes_come_once_a_round(self, build, visit):
        scheduler = self.cooling(build, visit, probe_probability=1.0)
        probes = []
        for step in range(2, 24):
            batch = scheduler.propose(2)
            if ("a", PROBED) in kinds(scheduler):
                probes.append(step // 4)
                assert "a" in batch
            else:
                assert "a" not in batch
            scheduler.observe([visit(name, 0.0 if name == "a" else 1.0) for name in batch])
        assert probes == [1, 2, 3, 4, 5]
        assert scheduler.snapshot("a").status is SampleStatus.COOLDOWN
        assert scheduler.snapshot("a").visits == 2 + 5

    def test_a_hit_revives(self, build, visit):
        scheduler = self.cooling(build, visit, probe_probability=1.0)
        for _ in range(2, 8):
            batch = scheduler.propose(2)
            probed = ("a", PROBED) in kinds(scheduler)
            scheduler.observe([visit(name, 1.0) for name in batch])
            if probed:
                break
        # From .125: one hit makes .5625, which is over .5 and stays.
        (revived,) = [one for one in scheduler.drain_transitions() if one.sample_id == "a"]
        assert revived.kind is REVIVED
        assert revived.reason.startswith("the probe hit: utility 1 >= threshold 0.35")
        assert scheduler.snapshot("a").state == pytest.approx(0.5625)
        assert scheduler.snapshot("a").status is SampleStatus.ACTIVE

    def test_a_hit_sets_a_low_state_to_the_initial_one(self, build, visit):
        scheduler = build("abcdefgh", probe_probability=1.0, algorithm={"smoothing": 0.8})
        for _ in range(5):  # .4 .32 .256 .2048 .16384
            scheduler.observe([visit("a", 0.0), visit("b", 1.0)])
        assert ("a", COOLED) in kinds(scheduler)
        scheduler.observe([visit("a", 1.0)])  # .8 * .16384 + .2 = .331, under .5
        assert ("a", REVIVED) in kinds(scheduler)
        assert scheduler.snapshot("a").state == 0.5

    def test_probes_take_at_most_half_a_batch(self, build, visit):
        ids = [f"{i:02d}" for i in range(32)]
        scheduler = build(ids, batch_size=4, probe_probability=1.0, cooldown_base=4)
        useless = set(ids[:24])
        most = 0
        for _ in range(40):
            batch = scheduler.propose(4)
            most = max(most, sum(kind is PROBED for _, kind in kinds(scheduler)))
            assert len(set(batch)) == 4
            scheduler.observe([visit(name, 0.0 if name in useless else 1.0) for name in batch])
        assert most == 2

    @pytest.mark.parametrize("probability", [0.1, 0.5])
    def test_frequency(self, build, visit, probability):
        scheduler = self.cooling(build, visit, probe_probability=probability)
        probes, rounds = 0, 150
        for _ in range(2, 4 * rounds):
            batch = scheduler.propose(2)
            probes += ("a", PROBED) in kinds(scheduler)
            scheduler.observe([visit(name, 0.0 if name == "a" else 1.0) for name in batch])
        deviation = math.sqrt(probability * (1 - probability) * rounds)
        assert abs(probes - probability * rounds) < 4 * deviation


class TestPool:
    def test_never_falls_under_its_least_size(self, build, visit):
        scheduler = build(
            [f"{i:02d}" for i in range(40)], batch_size=4, min_pool_batches=4, **FOREVER
        )
        for _ in range(100):
            batch = scheduler.propose(4)
            assert len(set(batch)) == 4
            scheduler.observe([visit(name, 0.0) for name in batch])
            aside = scheduler.metrics()["lifecycle/cooldown"]
            assert aside <= 40 - 16
        assert aside == 24
        held = [scheduler.snapshot(name) for name in batch]
        assert all("kept: the pool is at its least size of 16" in one.reason for one in held)
        assert scheduler.weights(batch) == [1.0] * 4  # generated for, so used

    @pytest.mark.parametrize(
        ("num_samples", "batches", "fraction", "least"),
        [(40, 4, 0.1, 16), (400, 4, 0.1, 40), (16, 4, 0.1, 4), (16, 2, 0.1, 8), (3, 4, 0.1, 3)],
    )
    def test_least_size(self, build, visit, num_samples, batches, fraction, least):
        ids = [f"{i:03d}" for i in range(num_samples)]
        scheduler = build(
            ids,
            batch_size=4,
            min_pool_batches=batches,
            min_pool_fraction=fraction,
            cooldown_base=100,
        )
        for _ in range(3):
            scheduler.observe([visit(name, 0.0) for name in ids])
        metrics = scheduler.metrics()
        assert num_samples - metrics["lifecycle/cooldown"] == least
        assert len(scheduler.propose(4)) == min(4, num_samples)

    def test_the_least_useful_go_first(self, build, visit):
        scheduler = build("abcd", batch_size=2, min_pool_batches=1, min_visits=3)
        # a and b: .75 .375 .1875; c and d: .25 .125 .0625. All may go, two must stay.
        for useful in (True, False, False):
            scheduler.observe([visit(name, float(useful and name in "ab")) for name in "abcd"])
        assert [name for name, kind in kinds(scheduler) if kind is COOLED] == ["c", "d"]

    def test_passes_starve_nobody(self, build, visit):
        ids = [f"{i:02d}" for i in range(13)]
        scheduler = build(ids, batch_size=4)
        order = []
        for _ in range(13):
            batch = scheduler.propose(4)
            order += batch
            assert len(set(batch)) == 4
            scheduler.observe([visit(name, 1.0) for name in batch])
            visits = [scheduler.snapshot(name).visits for name in ids]
            assert max(visits) - min(visits) <= 1
        assert [sorted(order[i : i + 13]) for i in (0, 13, 26, 39)] == [ids] * 4
        assert order[:13] != order[13:26]  # each pass is shuffled anew

    def test_the_seed_decides(self, build):
        ids = [f"{i:02d}" for i in range(20)]
        first, again, other = (build(ids, seed=seed).propose(8) for seed in (1, 1, 2))
        assert first == again != other


class TestMetrics:
    def test_effective_share_of_the_batch(self, build, visit):
        scheduler = build("abcd", batch_size=4)
        one = visit("a", 1.0)
        quiet = [
            type(one)(**{**fields_of(visit(n, 1.0)), "advantage_abs_mean": 0.0}) for n in "bcd"
        ]
        scheduler.observe([one, *quiet])
        metrics = scheduler.metrics()
        assert metrics["lifecycle/effective_fraction"] == pytest.approx(0.25)
        assert metrics["lifecycle/effective_alarm"] == 1.0
        scheduler.observe([visit(name, 1.0) for name in "abcd"])
        assert scheduler.metrics()["lifecycle/effective_fraction"] == pytest.approx(1.0)
        assert scheduler.metrics()["lifecycle/effective_alarm"] == 0.0

    def test_counts_and_mean_state(self, build, visit):
        scheduler = build("abcd", batch_size=2)
        scheduler.propose(2)
        scheduler.observe([visit("a", 1.0), visit("b", 0.0)])  # .75 and .25
        metrics = scheduler.metrics()
        assert metrics["lifecycle/discover"] == 2
        assert metrics["lifecycle/active"] == 2
        assert metrics["lifecycle/state_mean"] == pytest.approx(0.5)
        assert metrics["lifecycle/round"] == 0
        for _ in range(2):
            scheduler.propose(2)
        assert scheduler.metrics()["lifecycle/round"] == 1


def fields_of(record) -> dict:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


class TestCheckpoint:
    OPTIONS = {  # noqa: RUF012
        "batch_size": 3,
        "probe_probability": 0.4,
        "min_visits": 2,
        "algorithm": {"threshold_warmup": 6},
    }

    @staticmethod
    def utility(name: str, step: int) -> float:
        """Some samples useless, some useful, some in turns."""
        return (0.0, 0.0, 1.0, float(step % 2), 0.3)[int(name) % 5]

    def test_a_split_run_equals_the_unsplit_one(self, build, visit):
        ids = [f"{i:02d}" for i in range(14)]
        whole = build(ids, **self.OPTIONS)
        history = play(whole, self.utility, visit, 40, n=3)
        assert {one.kind for _, moves in history for one in moves} == {
            COOLED,
            REVIVED,
            DECAYED,
            PROBED,
        }
        for split in (0, 1, 7, 13, 26, 39):
            first = build(ids, **self.OPTIONS)
            played = play(first, self.utility, visit, split, n=3)
            saved = json.loads(json.dumps(first.state_dict(), sort_keys=True))
            second = build(ids, **{**self.OPTIONS, "seed": 99})
            second.load_state_dict(saved)
            later = play(
                second,
                lambda name, step, split=split: self.utility(name, step + split),
                visit,
                40 - split,
                n=3,
            )
            assert played + later == history
            assert second.metrics() == whole.metrics()
            assert second.state_dict() == whole.state_dict()

    def test_transitions_not_yet_drained_are_kept(self, build, visit):
        scheduler = build("abcd")
        for _ in range(2):
            scheduler.observe([visit("a", 1.0)])
        saved = json.loads(json.dumps(scheduler.state_dict()))
        other = build("abcd")
        other.load_state_dict(saved)
        assert other.drain_transitions() == scheduler.drain_transitions() != []

    def test_other_samples_are_refused(self, build):
        with pytest.raises(CheckpointError, match="same 3 samples"):
            build("abc").load_state_dict(build("abd").state_dict())
