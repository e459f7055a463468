"""The commands as a user meets them: help, bad input, the demo's choices."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import ConfigError
from degrpo.cli import main
from degrpo.cluster import Cluster
from degrpo.config import TrainConfig
from degrpo.demo import next_run_name, reward_curve
from degrpo.launch import find_policy, train
from degrpo.run_folder import open_run_folder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", ["corpus", "sft", "train", "demo", "chat", "lifecycle"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert len(capsys.readouterr().out.split()) > 20


def test_help_imports_nothing_heavy():
    code = (
        "import sys, degrpo.cli; degrpo.cli.build_parser().format_help();"
        "print(*{'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "learner.lrr=1"], ["learner.lrr", "did you mean learner.lr?"]),
        (["train", "--recipe", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (
            ["train", "--recipe", str(ROOT / "configs/demo.yaml"), "rollouts.group_size=1"],
            ["group_size=1", "at least 2"],
        ),
        (["lifecycle", "/nonexistent"], ["/nonexistent", "run.json"]),
        (["chat", "--clip", "x.mp4", "--question", " "], ["a question has words"]),
        (
            ["chat", "--clip", "x.mp4", "--question", "q", "--policy", "/nonexistent"],
            ["policy folder /nonexistent", "config.json"],
        ),
    ],
)
def test_bad_input_is_one_clear_line(arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    for word in words:
        assert word in message


def test_run_refuses_to_start_a_cluster_of_its_own(monkeypatch, capsys):
    from degrpo.run import main as run_main

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert run_main(["--recipe", str(ROOT / "configs/tiny.yaml")]) == 2
    assert "degrpo train" in capsys.readouterr().err


def test_the_demo_continues_a_cut_off_run_and_never_overwrites_a_finished_one(tmp_path):
    config = TrainConfig(output_dir=str(tmp_path), name="demo")
    assert next_run_name(config) == "demo-1"
    for number in (1, 2, 10):
        with open_run_folder(replace(config, name=f"demo-{number}"), "digest"):
            pass
    assert next_run_name(config) == "demo-10", "cut off: it goes on"
    assert next_run_name(replace(config, num_steps=99)) == "demo-10", "longer is the same recipe"
    assert next_run_name(replace(config, seed=7)) == "demo-11", "another recipe is another run"
    (tmp_path / "demo-10" / "finished.json").write_text("{}")
    assert next_run_name(config) == "demo-11"


def test_reward_curve_averages_equal_stretches(tmp_path):
    from common.metrics import MetricsWriter

    with MetricsWriter(tmp_path) as writer:
        for step in range(16):
            writer.write(step, {"reward/total/mean": float(step)})
    assert reward_curve(tmp_path) == "0.500  2.500  4.500  6.500  8.500  10.500  12.500  14.500"


def test_the_newest_finished_run_is_the_default_policy(tmp_path):
    with pytest.raises(ConfigError, match="no finished run"):
        find_policy(None, tmp_path)
    for name in ("a", "b"):
        (tmp_path / name / "policy").mkdir(parents=True)
        (tmp_path / name / "policy" / "config.json").write_text("{}")
    (tmp_path / "a" / "finished.json").write_text("{}")
    assert find_policy(None, tmp_path) == tmp_path / "a" / "policy"
    assert find_policy(tmp_path / "b") == tmp_path / "b" / "policy"


def test_a_given_address_gets_the_job_without_a_cluster_of_ones_own(monkeypatch):
    jobs = []

    def submit(self, entrypoint, *, submission_id):
        jobs.append((self.address, self.environment, list(entrypoint), submission_id))
        return 3

    monkeypatch.setattr(Cluster, "submit", submit)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    code = train(TrainConfig(), recipe="r.yaml", overrides=["seed=1"], address="http://head:8265")
    ((address, environment, entrypoint, submission_id),) = jobs
    assert (code, address, environment["RAY_AUTH_TOKEN"]) == (3, "http://head:8265", "secret")
    assert entrypoint == ["python", "degrpo/run.py", "--recipe", "r.yaml", "seed=1"]
    assert submission_id.startswith("demo-")
