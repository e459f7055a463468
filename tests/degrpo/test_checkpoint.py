"""Checkpoints are whole or absent."""

from __future__ import annotations

import pytest

from common.errors import CheckpointError
from degrpo.checkpoint import load_state, newest_checkpoint, save_checkpoint


def _save(root, step, keep=2, text="weights"):
    return save_checkpoint(
        root,
        step,
        save_learner=lambda folder: (folder / "learner.txt").write_text(text),
        state={"seq": step * 10},
        keep=keep,
    )


def test_newest_is_by_step_not_by_name_and_old_ones_go(tmp_path):
    for step in (8, 9, 10):
        _save(tmp_path, step)
    assert newest_checkpoint(tmp_path).name == "step-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-9"]
    assert load_state(tmp_path / "step-10") == {"step": 10, "seq": 100}
    assert (tmp_path / "step-10" / "learner.txt").read_text() == "weights"


def test_a_save_that_dies_half_way_leaves_the_one_before(tmp_path):
    _save(tmp_path, 1)

    def die(folder):
        (folder / "learner.txt").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 2, save_learner=die, state={}, keep=2)
    assert newest_checkpoint(tmp_path).name == "step-1"
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"], (
        "the partial folder is cleared away"
    )
    _save(tmp_path, 2, text="whole")
    assert (newest_checkpoint(tmp_path) / "learner.txt").read_text() == "whole"


def test_saving_the_same_step_again_replaces_it(tmp_path):
    _save(tmp_path, 3, text="old")
    _save(tmp_path, 3, text="new")
    assert (tmp_path / "step-3" / "learner.txt").read_text() == "new"


def test_damage_is_named(tmp_path):
    folder = _save(tmp_path, 4)
    (folder / "run_state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"step-4.*delete the folder"):
        load_state(folder)
