"""degrpo.lifecycle.log: complete, in order, and whole after any crash."""

import dataclasses
import math
import shutil
import typing

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from common.errors import CheckpointError
from degrpo.lifecycle.events import Event
from degrpo.lifecycle.log import EVENT_SCHEMA, LifecycleLog


def fill(log, steps, per_step=3):
    """``per_step`` events in each of ``steps``, one part a step."""
    for step in steps:
        for index in range(per_step):
            log.append(event="proposed", step=step, policy_version=step, sample_id=f"s{index}")
        log.commit(step)


def seqs(folder):
    table = pq.read_table(folder)
    return list(zip(table["seq"].to_pylist(), table["step"].to_pylist(), strict=True))


def test_schema_is_the_event():
    assert EVENT_SCHEMA.names == [field.name for field in dataclasses.fields(Event)]
    hints = typing.get_type_hints(Event)
    optional = {name for name, hint in hints.items() if type(None) in typing.get_args(hint)}
    assert {field.name for field in EVENT_SCHEMA if field.nullable} == optional


def test_a_part_holds_what_was_appended(tmp_path):
    log = LifecycleLog(tmp_path, "demo", clock=lambda: 1796.5)
    given = {
        "event": "trained", "step": 3, "policy_version": 4, "sample_id": "3f9c", "reason": "why",
        "round": 1, "visits": 2, "rewards": (0.61, 0.35), "reward_mean": 0.48,
        "separability": 0.26, "sensitivity": 2.5, "utility": 0.65, "threshold": 0.12,
        "state": 0.68, "weight": 1.0, "value": 0.5, "advantage_abs_mean": 0.11,
        "response_tokens": 88, "generate_seconds": 1.9, "learn_seconds": 2.4,
        "flags": ("no_face",), "detail": "d",
    }  # fmt: skip
    assert log.append(**given) == 0
    path = log.commit(3)
    assert path.name == "part-000003-seq000000000-000000000.parquet"
    table = pq.read_table(path)
    assert table.schema.equals(EVENT_SCHEMA)
    expected = {"run_id": "demo", "seq": 0, "time": 1796.5, **given}
    expected |= {"rewards": [0.61, 0.35], "flags": ["no_face"]}
    assert table.to_pylist() == [expected]


def test_unknown_numbers_are_null_and_lists_empty(tmp_path):
    log = LifecycleLog(tmp_path, "demo")
    log.append(event="proposed", step=0, policy_version=0, sample_id="a")
    (row,) = pq.read_table(log.commit(0)).to_pylist()
    assert row["reward_mean"] is None
    assert row["response_tokens"] is None
    assert row["rewards"] == []
    assert row["flags"] == []


def test_numpy_numbers_are_numbers(tmp_path):
    log = LifecycleLog(tmp_path, "demo")
    log.append(
        event="scored", step=np.int64(0), policy_version=0, sample_id="a",
        rewards=np.array([0.5, 0.25], dtype=np.float32), reward_mean=np.float32(0.375),
    )  # fmt: skip
    (row,) = pq.read_table(log.commit(0)).to_pylist()
    assert row["rewards"] == [0.5, 0.25]
    assert row["reward_mean"] == 0.375


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_is_null_and_flagged(tmp_path, bad):
    log = LifecycleLog(tmp_path, "demo")
    log.append(
        event="scored", step=0, policy_version=0, sample_id="a",
        rewards=(0.5, bad), utility=bad, state=0.5, flags=("no_face",),
    )  # fmt: skip
    (row,) = pq.read_table(log.commit(0)).to_pylist()
    assert row["rewards"] == [0.5, None]
    assert row["utility"] is None
    assert row["state"] == 0.5
    assert row["flags"] == ["no_face", "non_finite:rewards", "non_finite:utility"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"event": "teleported"}, ValueError),
        ({"sample_id": ""}, ValueError),
        ({"step": -1}, ValueError),
        ({"step": 1.5}, TypeError),
        ({"sample_id": 7}, TypeError),
        ({"rewards": "0.5"}, TypeError),
        ({"utility": "0.5"}, TypeError),
        ({"detail": None}, TypeError),
        ({"seq": 3}, TypeError),
        ({"mood": "good"}, TypeError),
    ],
)
def test_refuses_what_is_no_event(tmp_path, fields, error):
    log = LifecycleLog(tmp_path, "demo")
    valid = {"event": "scored", "step": 0, "policy_version": 0, "sample_id": "a"}
    with pytest.raises(error):
        log.append(**{**valid, **fields})
    assert log.append(**valid) == 0  # the refused event took no number


def test_steps_never_go_back(tmp_path):
    log = LifecycleLog(tmp_path, "demo")
    fill(log, [4])
    with pytest.raises(ValueError, match="step 3 after one of step 4"):
        log.append(event="scored", step=3, policy_version=0, sample_id="a")


def test_commit_refuses_events_of_a_later_step(tmp_path):
    log = LifecycleLog(tmp_path, "demo")
    log.append(event="scored", step=5, policy_version=0, sample_id="a")
    with pytest.raises(ValueError, match=r"commit\(4\) was given events of step 5"):
        log.commit(4)
    assert log.commit(5) is not None


def test_nothing_is_on_disk_before_commit(tmp_path):
    log = LifecycleLog(tmp_path, "demo")
    log.append(event="proposed", step=0, policy_version=0, sample_id="a")
    assert list(tmp_path.iterdir()) == []
    assert log.next_seq == 1
    assert LifecycleLog(tmp_path, "demo").next_seq == 0


def test_empty_commit_writes_nothing(tmp_path):
    assert LifecycleLog(tmp_path, "demo").commit(0) is None
    assert list(tmp_path.iterdir()) == []


def test_reopening_continues_the_numbers(tmp_path):
    fill(LifecycleLog(tmp_path, "demo"), [0, 1])
    log = LifecycleLog(tmp_path, "demo")
    assert log.next_seq == 6
    fill(log, [2])
    assert seqs(tmp_path) == [(i, i // 3) for i in range(9)]


def test_opens_in_duckdb_and_pandas_as_it_is(tmp_path):
    fill(LifecycleLog(tmp_path, "demo"), range(12))
    frame = pd.read_parquet(tmp_path)
    assert frame["seq"].tolist() == list(range(36))
    counted = duckdb.sql(
        f"select step, count(*) from read_parquet('{tmp_path}/*.parquet') group by 1 order by 1"
    ).fetchall()
    assert counted == [(step, 3) for step in range(12)]


@pytest.mark.parametrize("next_seq", range(10))
def test_rewind_to_any_event(tmp_path, next_seq):
    log = LifecycleLog(tmp_path, "demo")
    fill(log, [0, 1, 2])
    log.append(event="proposed", step=3, policy_version=3, sample_id="uncommitted")
    log.rewind(next_seq)
    assert log.next_seq == next_seq
    assert LifecycleLog(tmp_path, "demo").next_seq == next_seq
    fill(log, [3])
    expected = [(i, i // 3) for i in range(next_seq)] + [(next_seq + i, 3) for i in range(3)]
    assert seqs(tmp_path) == expected
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".parquet"]


def test_rewind_past_the_end_is_refused(tmp_path):
    log = LifecycleLog(tmp_path, "demo")
    fill(log, [0])
    with pytest.raises(CheckpointError, match=r"row 4 of .* which has 3 rows"):
        log.rewind(4)


def test_a_rewind_cut_short_is_finished_on_opening(tmp_path):
    """The straddling part was replaced by its beginning, but not yet renamed."""
    rewound, torn = tmp_path / "rewound", tmp_path / "torn"
    fill(LifecycleLog(torn, "demo"), [0, 1])
    shutil.copytree(torn, rewound)
    LifecycleLog(rewound, "demo").rewind(5)
    (shortened,) = rewound.glob("*seq000000003*")
    (whole,) = torn.glob("*seq000000003*")
    shortened.replace(whole)
    assert LifecycleLog(torn, "demo").next_seq == 5
    assert sorted(path.name for path in torn.iterdir()) == [
        "part-000000-seq000000000-000000002.parquet",
        "part-000001-seq000000003-000000004.parquet",
    ]


def test_leftover_temporary_files_are_ignored_and_cleaned(tmp_path):
    fill(LifecycleLog(tmp_path, "demo"), [0])
    leftover = tmp_path / ".part-000001-seq000000003-000000005.tmp"
    leftover.write_bytes(b"PAR1 half a part")
    assert len(pd.read_parquet(tmp_path)) == 3
    assert LifecycleLog(tmp_path, "demo").next_seq == 3
    assert not leftover.exists()


def part(folder, number):
    return sorted(folder.glob("*.parquet"))[number]


@pytest.mark.parametrize("damage", ["truncated", "empty", "nonsense"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_damaged_part_is_named_with_the_fix(tmp_path, damage, number):
    fill(LifecycleLog(tmp_path, "demo"), [0, 1, 2])
    path = part(tmp_path, number)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-20], "empty": b"", "nonsense": b"x" * 500}[damage])
    with pytest.raises(CheckpointError, match="restore the file") as caught:
        LifecycleLog(tmp_path, "demo")
    assert path.name in caught.value.received


def test_a_missing_part_is_noticed(tmp_path):
    fill(LifecycleLog(tmp_path, "demo"), [0, 1, 2])
    part(tmp_path, 1).unlink()
    with pytest.raises(CheckpointError, match="rows 3 to 5 are missing before it"):
        LifecycleLog(tmp_path, "demo")


def test_a_part_that_appears_twice_is_noticed(tmp_path):
    fill(LifecycleLog(tmp_path, "demo"), [0, 1])
    shutil.copy(part(tmp_path, 1), tmp_path / "part-000002-seq000000003-000000005.parquet")
    with pytest.raises(CheckpointError, match="rows 3 to 5 appear twice"):
        LifecycleLog(tmp_path, "demo")


def test_a_part_under_another_parts_name_is_noticed(tmp_path):
    fill(LifecycleLog(tmp_path, "demo"), [0, 1, 2])
    shutil.copy(part(tmp_path, 0), part(tmp_path, 1))
    with pytest.raises(CheckpointError, match=r"seq \(0, 2\), not those in its name"):
        LifecycleLog(tmp_path, "demo")


def test_other_columns_are_refused(tmp_path):
    fill(LifecycleLog(tmp_path, "demo"), [0])
    path = part(tmp_path, 0)
    pq.write_table(pq.read_table(path).drop_columns(["utility"]), path)
    with pytest.raises(CheckpointError, match=r"other columns \(utility\)"):
        LifecycleLog(tmp_path, "demo")


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / "mine.parquet").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"mine\.parquet"):
        LifecycleLog(tmp_path, "demo")
