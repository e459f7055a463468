"""A run's folder is never silently taken over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import ConfigError, MachineError
from degrpo.checkpoint import save_checkpoint
from degrpo.config import AlgorithmConfig, TrainConfig
from degrpo.run_folder import existing_run, open_run_folder, same_recipe, write_json
from rollouts.config import RolloutConfig


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    return TrainConfig(output_dir=str(tmp_path), name="r")


@pytest.fixture
def begun(config) -> str:
    """A run with a checkpoint; its id."""
    with open_run_folder(config, "weights") as folder:
        save_checkpoint(folder.checkpoints, 1, save_learner=lambda path: None, state={}, keep=1)
        return folder.run_id


def test_a_run_is_recognised_and_keeps_its_id(config, begun, tmp_path):
    longer = replace(config, num_steps=99, rollouts=RolloutConfig(kv_cache_gib=0.1, num_workers=2))
    with open_run_folder(longer, "weights") as folder:
        assert folder.run_id == begun
    folder, loaded = existing_run(tmp_path / "r")
    assert (folder.run_id, loaded) == (begun, config)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["seed"] == 0


def test_another_recipe_is_refused_by_its_key(config, begun):
    other = replace(config, algorithm=AlgorithmConfig(smoothing=0.5))
    assert not same_recipe(other, Path(config.output_dir, "r"))
    rule = r"algorithm\.smoothing=0\.5; .*algorithm\.smoothing=0\.8; choose another name"
    with pytest.raises(ConfigError, match=rule), open_run_folder(other, "weights"):
        pass


def test_another_policy_to_start_from_is_refused(config, begun):
    with pytest.raises(ConfigError, match="digest other"), open_run_folder(config, "other"):
        pass


def test_resume_off_is_refused_where_there_is_a_run(config, begun):
    off = replace(config, resume=False)
    with pytest.raises(ConfigError, match="resume=false"), open_run_folder(off, "weights"):
        pass


def test_a_run_without_a_checkpoint_begins_anew_with_whatever_recipe(config, tmp_path):
    with open_run_folder(config, "weights") as folder:
        folder.lifecycle.mkdir()
        (folder.lifecycle / "part-0.parquet").write_text("half a step")
        folder.write_evaluation({"before": {}})
    with open_run_folder(replace(config, seed=9), "other weights") as folder:
        assert not folder.lifecycle.exists()
        assert folder.read_evaluation() == {}
    assert existing_run(tmp_path / "r")[1].seed == 9


def test_two_processes_cannot_write_one_run(config):
    with (
        open_run_folder(config, "weights"),
        pytest.raises(ConfigError, match="another run is writing"),
        open_run_folder(config, "weights"),
    ):
        pass


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    config = TrainConfig(output_dir=str(tmp_path / "file"), name="r")
    with pytest.raises(MachineError, match="created and written"), open_run_folder(config, "w"):
        pass


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.json"):
        existing_run(tmp_path)


def test_json_is_replaced_whole(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    write_json(tmp_path / "a.json", {"x": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
