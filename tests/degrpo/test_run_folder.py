"""A run's folder is never silently taken over."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from common.errors import ConfigError, MachineError
from degrpo.config import AlgorithmConfig, TrainConfig
from degrpo.run_folder import existing_run, open_run_folder, write_json


def test_a_run_is_recognised_and_keeps_its_id(tmp_path):
    config = TrainConfig(output_dir=str(tmp_path), name="r")
    first = open_run_folder(config)
    assert open_run_folder(replace(config, num_steps=99)).run_id == first.run_id
    folder, loaded = existing_run(tmp_path / "r")
    assert (folder.run_id, loaded) == (first.run_id, config)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["seed"] == 0


def test_another_recipe_or_no_resume_is_refused(tmp_path):
    config = TrainConfig(output_dir=str(tmp_path), name="r")
    open_run_folder(config)
    with pytest.raises(ConfigError, match=r"algorithm.*another name"):
        open_run_folder(replace(config, algorithm=AlgorithmConfig(smoothing=0.5)))
    with pytest.raises(ConfigError, match="resume=false"):
        open_run_folder(replace(config, resume=False))


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be written"):
        open_run_folder(TrainConfig(output_dir=str(tmp_path / "file"), name="r"))


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.json"):
        existing_run(tmp_path)


def test_json_is_replaced_whole(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    write_json(tmp_path / "a.json", {"x": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
