"""degrpo.lifecycle.rollout_log: responses and their rewards, whole after a resume."""

import math

import duckdb
import pandas as pd
import pytest

from degrpo.lifecycle.rollout_log import RolloutLog


def add(log, step, sample_id="a", **changes):
    fields = {
        "policy_version": step, "index": 0, "prompt": "What emotion?", "response": "Happy.",
        "reward": 0.5,
        "parts": {"facial": 0.5, "facial/emotion": 1.0}, "log_prob_sum": -3.5, "tokens": 7,
        "stop_reason": "end",
    }  # fmt: skip
    log.append(step=step, sample_id=sample_id, **{**fields, **changes})


def test_a_row_holds_what_was_appended(tmp_path):
    log = RolloutLog(tmp_path)
    add(log, 2, index=1)
    add(log, 2, phase="before", greedy=True, reward=None, parts={"facial": math.nan})
    log.commit(2)
    rows = duckdb.sql(
        f"select seq, step, index, phase, greedy, response, reward, parts, log_prob_sum, tokens "
        f"from read_parquet('{tmp_path}/*.parquet') order by seq"
    ).fetchall()
    assert rows == [
        (0, 2, 1, "train", False, "Happy.", 0.5, {"facial": 0.5, "facial/emotion": 1.0}, -3.5, 7),
        (1, 2, 0, "before", True, "Happy.", None, {"facial": None}, -3.5, 7),
    ]
    assert pd.read_parquet(tmp_path)["stop_reason"].tolist() == ["end", "end"]


def test_refuses_unknown_phases_and_going_back(tmp_path):
    log = RolloutLog(tmp_path)
    with pytest.raises(ValueError, match="halftime"):
        add(log, 0, phase="halftime")
    add(log, 3)
    with pytest.raises(ValueError, match="steps never go back"):
        add(log, 2)
    with pytest.raises(ValueError, match=r"commit\(2\)"):
        log.commit(2)


def test_rewind_to_the_step_that_comes_next(tmp_path):
    log = RolloutLog(tmp_path)
    add(log, 0, "early", phase="before")
    log.commit(0)
    for step in range(4):
        add(log, step)
        add(log, step, index=1)
        log.commit(step)
    add(log, 4, "late", phase="after")
    log.commit(4)
    add(log, 4, "uncommitted")

    log.rewind(4)  # all four steps are done: the evaluation after them stays
    frame = pd.read_parquet(tmp_path)
    assert frame["step"].tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert frame["phase"].tolist() == ["before"] + ["train"] * 8 + ["after"]

    log = RolloutLog(tmp_path)
    log.rewind(2)
    add(log, 2, response="anew")
    log.commit(2)
    frame = pd.read_parquet(tmp_path)
    assert frame["step"].tolist() == [0, 0, 0, 1, 1, 2]
    assert frame["seq"].tolist() == [0, 1, 2, 3, 4, 5]
    assert frame["response"].tolist()[-1] == "anew"


def test_rewind_to_the_start_keeps_the_evaluation_before(tmp_path):
    log = RolloutLog(tmp_path)
    add(log, 0, "early", phase="before")
    add(log, 0)
    log.commit(0)
    log.rewind(0)
    assert pd.read_parquet(tmp_path)["sample_id"].tolist() == ["early"]


def test_rewind_cuts_within_a_part(tmp_path):
    log = RolloutLog(tmp_path)
    add(log, 0, "kept")
    add(log, 1, "dropped")
    log.commit(1)
    log.rewind(1)
    assert pd.read_parquet(tmp_path)["sample_id"].tolist() == ["kept"]


def test_rewind_before_everything(tmp_path):
    log = RolloutLog(tmp_path)
    add(log, 0)
    log.commit(0)
    log.rewind(0)
    assert list(tmp_path.iterdir()) == []
    add(log, 0)
    assert log.commit(0).name == "part-000000-seq000000000-000000000.parquet"
