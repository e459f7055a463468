"""How tests run ``configs/tiny.yaml`` as a user does, and what of a run must be reproducible."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb

from common.metrics import read_metrics

ROOT = Path(__file__).parents[2]
METRICS = ("loss/policy", "loss/critic", "reward/total/mean", "optim/grad_norm")


def command(folder: Path, name: str, *overrides: str) -> list[str]:
    """``degrpo train`` on the tiny recipe, with everything it writes under ``folder``."""
    own = [f"output_dir={folder}", f"corpus.path={folder}/corpus", f"name={name}"]
    recipe = ["--recipe", str(ROOT / "configs/tiny.yaml")]
    return [sys.executable, "-m", "degrpo.cli", "train", *recipe, *own, *overrides]


def start(folder: Path, name: str, *overrides: str) -> subprocess.Popen:
    """Start a run; its output goes to ``folder/name.log``."""
    return launch(command(folder, name, *overrides), folder / f"{name}.log")


def launch(words: list[str], log_file: Path) -> subprocess.Popen:
    """Start a command that can be interrupted, even when the tests run in the background, where
    shells let processes ignore Ctrl-C."""
    log = log_file.open("a")
    return subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=log,
        stderr=log,
        env=dict(os.environ),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def trajectory(run: Path, num_steps: int) -> list[dict[str, Any]]:
    """Per step: loss, reward, gradient norm, and the state of every sample that trained."""
    states = duckdb.sql(
        f"select step, sample_id, state from '{run}/lifecycle/*.parquet' "
        "where event = 'trained' order by step, sample_id"
    ).fetchall()
    return [
        {
            **{name: row[name] for name in METRICS},
            "states": {sample: state for step, sample, state in states if step == row["step"]},
        }
        for row in read_metrics(run)[:num_steps]
    ]


if __name__ == "__main__":
    # After a change that is meant to move the trajectory:
    # degrpo train --recipe configs/tiny.yaml && python -m tests.degrpo.tiny_run outputs/tiny
    golden = Path(__file__).parent / "golden" / "tiny.json"
    golden.write_text(json.dumps(trajectory(Path(sys.argv[1]), 3), indent=1) + "\n")
