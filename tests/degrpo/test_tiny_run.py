"""The whole loop with the real sampler on Ray: reproducible, resumable, and complete in its log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import psutil
import pytest

from common.config import load_config
from corpus.build import build_corpus
from degrpo.cli import main
from degrpo.config import TrainConfig
from degrpo.lifecycle.queries import audit
from tests.degrpo.tiny_run import ROOT, launch, start, trajectory

pytestmark = [pytest.mark.engine, pytest.mark.slow]

GOLDEN = Path(__file__).parent / "golden" / "tiny.json"
NUM_STEPS = 6  # the golden trajectory covers the first three
TIMEOUT = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    recipe = load_config(TrainConfig, ROOT / "configs/tiny.yaml", [f"corpus.path={path}/corpus"])
    build_corpus(recipe.corpus)
    return path


@pytest.fixture(scope="module")
def whole_run(folder) -> Path:
    """An uninterrupted run."""
    code = start(folder, "whole", f"num_steps={NUM_STEPS}").wait(timeout=TIMEOUT)
    assert code == 0, (folder / "whole.log").read_text()[-3000:]
    return folder / "whole"


def test_golden_trajectory(whole_run):
    golden = json.loads(GOLDEN.read_text())
    found = trajectory(whole_run, len(golden))
    for step, (expected, row) in enumerate(zip(golden, found, strict=True)):
        assert row["states"] == pytest.approx(expected["states"], abs=1e-6), f"step {step}"
        for name in expected.keys() - {"states"}:
            close = pytest.approx(expected[name], rel=1e-3, abs=1e-6)
            assert row[name] == close, f"step {step}, {name}"


def test_every_visit_has_its_end_and_the_policy_moved(whole_run):
    assert audit(whole_run) == []
    events = f"'{whole_run}/lifecycle/*.parquet'"
    counts = dict(duckdb.sql(f"select event, count(*) from {events} group by event").fetchall())
    assert counts["proposed"] == counts["generated"] == counts["scored"] == counts["trained"] == 12
    # A step's responses come from the policy that the step before it left.
    versions = duckdb.sql(f"select distinct step, policy_version from {events}").fetchall()
    assert sorted(versions) == [(step, step) for step in range(NUM_STEPS)]
    evaluation = json.loads((whole_run / "evaluation.json").read_text())
    assert evaluation["before"]["answers"].keys() == evaluation["after"]["answers"].keys()
    assert (whole_run / "policy" / "config.json").exists()
    assert (whole_run / "lifecycle.html").stat().st_size > 10_000


def test_a_killed_run_continues_as_if_nothing_had_happened(folder, whole_run):
    cut = folder / "cut"
    run = start(folder, "cut", f"num_steps={NUM_STEPS}")
    _wait_for(cut / "checkpoints" / "step-2", run)
    family = psutil.Process(run.pid).children(recursive=True)
    driver = next(one for one in family if "degrpo/run.py" in one.cmdline()[1:2])
    driver.send_signal(signal.SIGKILL)
    assert run.wait(timeout=TIMEOUT) != 0
    assert not (cut / "finished.json").exists(), "killed too late to test anything"
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == [], "the killed run left processes behind"

    code = start(folder, "cut", f"num_steps={NUM_STEPS}").wait(timeout=TIMEOUT)
    assert code == 0, (folder / "cut.log").read_text()[-3000:]
    assert trajectory(cut, NUM_STEPS) == trajectory(whole_run, NUM_STEPS)
    assert audit(cut) == []
    columns = "seq, step, policy_version, sample_id, event, reason, visits, rewards, state, utility"
    assert _rows(cut, columns) == _rows(whole_run, columns)


def test_ctrl_c_ends_everything_and_the_same_command_finishes(folder, whole_run):
    """In the middle of training; then the command given again does what was left."""
    cut = folder / "interrupted"
    run = start(folder, "interrupted", f"num_steps={NUM_STEPS}")
    _wait_for(cut / "checkpoints" / "step-1", run)
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=TIMEOUT) == 130
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    assert "Traceback" not in (folder / "interrupted.log").read_text()
    code = start(folder, "interrupted", f"num_steps={NUM_STEPS}").wait(timeout=TIMEOUT)
    assert code == 0, (folder / "interrupted.log").read_text()[-3000:]
    assert trajectory(cut, NUM_STEPS) == trajectory(whole_run, NUM_STEPS)


def test_ctrl_c_in_the_stages_leaves_nothing_that_looks_finished(folder):
    stages = folder / "sft"
    own = [f"corpus.path={folder}/corpus", f"sft.output_dir={stages}", "sft.stage_1.epochs=500"]
    recipe = ["--recipe", str(ROOT / "configs/tiny.yaml"), "--stage", "1"]
    run = launch([sys.executable, "-m", "degrpo.cli", "sft", *recipe, *own], folder / "sft.log")
    _wait_for(stages / "stage-1.partial", run)
    time.sleep(5)  # into the training
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=TIMEOUT) == 130
    assert not (stages / "stage-1").exists()
    again = _degrpo("sft", *recipe, *own, "sft.stage_1.epochs=1")
    assert again.returncode == 0, again.stderr[-2000:]
    assert (stages / "stage-1" / "stage.json").exists()
    assert not (stages / "stage-1.partial").exists()


def test_chat_answers_from_the_run_and_shows_the_streams(folder, whole_run):
    clip = next((folder / "corpus" / "clips").glob("*.mp4"))
    done = _degrpo("chat", "--policy", str(whole_run), "--clip", str(clip), "--question", "Who?")
    assert done.returncode == 0, done.stderr
    general, facial = done.stdout.split("general ")[1].split("   ")[0].split(", facial ")
    assert float(general) + float(facial) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("content", [None, b"", b"not a video at all" * 100])
def test_chat_refuses_what_is_no_video_in_one_line(whole_run, tmp_path, capsys, content):
    clip = tmp_path / "clip.mp4"
    if content is not None:
        clip.write_bytes(content)
    words = ["chat", "--policy", str(whole_run), "--clip", str(clip), "--question", "Who?"]
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert "VideoError" in errors
    assert "clip.mp4" in errors
    assert "Traceback" not in errors


def _degrpo(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "degrpo.cli", *arguments],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def _rows(run: Path, columns: str) -> list[tuple]:
    found = duckdb.sql(f"select {columns} from '{run}/lifecycle/*.parquet' order by seq").fetchall()
    assert [row[0] for row in found] == list(range(len(found)))
    return found


def _wait_for(path: Path, run: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not path.exists():
        assert run.poll() is None, "the run ended early"
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)
