"""The verdicts of bench/sft_stages.py on hand-made evaluations."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from sft.evaluation.records import AblationScores, Estimate, Evaluation, Scores

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench" / "sft_stages.py"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # what Python does for a script
    spec = importlib.util.spec_from_file_location("bench_sft_stages", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=None, high=None, count=10)


def evaluation(loss: float, accuracy: float, **without: tuple[float, float]) -> Evaluation:
    """Args: without: loss without something, and how much higher that is."""
    return Evaluation(
        overall=Scores(
            num_answers=10,
            num_clips=5,
            num_truncated=0,
            loss=estimate(loss),
            token_accuracy=estimate(accuracy),
            parts={},
        ),
        levels={},
        kinds={},
        strata={},
        ablations={
            name: AblationScores(
                num_answers=4,
                loss=estimate(lost),
                loss_increase=estimate(increase),
                token_accuracy=estimate(0.0),
            )
            for name, (lost, increase) in without.items()
        },
        answers=(),
    )


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_a_gain_is_clear_beyond_the_larger_deviation_and_a_loss_gains_by_falling(bench, capsys):
    # Standard deviations: losses 0.1, 0.1, 0.3; accuracies 0.02, 0.02, 0.02.
    losses = [(2.0, 1.8, 1.65), (2.1, 1.9, 1.95), (2.2, 2.0, 1.35)]
    accuracies = [(0.5, 0.51, 0.61), (0.52, 0.53, 0.63), (0.54, 0.55, 0.65)]
    bench.print_stages(
        [
            [evaluation(loss, right) for loss, right in zip(*pair, strict=True)]
            for pair in zip(losses, accuracies, strict=True)
        ]
    )
    assert rows(capsys.readouterr().out) == [
        ["loss a token", "2.100 ± 0.100", "1.900 ± 0.100", "1.650 ± 0.300", "yes", "no"],
        ["token accuracy", "0.520 ± 0.020", "0.530 ± 0.020", "0.630 ± 0.020", "no", "yes"],
    ]


def test_an_increase_is_compared_with_its_own_spread_and_with_the_loss_s(bench, capsys):
    # The whole policy's losses on these questions are 1.0, 1.2 and 1.4: deviation 0.2.
    bench.print_ablations(
        [
            evaluation(1.0, 0.5, no_prompt=(1.10, 0.10), swapped_clips=(1.5, 0.5)),
            evaluation(1.2, 0.5, no_prompt=(1.31, 0.11), swapped_clips=(1.5, 0.3)),
            evaluation(1.4, 0.5, no_prompt=(1.52, 0.12), swapped_clips=(2.1, 0.7)),
        ]
    )
    assert rows(capsys.readouterr().out) == [
        ["swapped clips", "4", "1.200 ± 0.200", "0.500 ± 0.200", "yes", "yes"],
        ["no prompt", "4", "1.200 ± 0.200", "0.110 ± 0.010", "yes", "no"],
    ]


def test_one_seed_has_no_spread_to_compare_with(bench, capsys):
    bench.print_ablations([evaluation(1.0, 0.5, no_prompt=(1.1, 0.1))])
    assert rows(capsys.readouterr().out) == [["no prompt", "4", "1.000", "0.100", "–", "–"]]


def test_a_recipe_that_does_not_evaluate_is_refused():
    command = [sys.executable, str(SCRIPT), "--recipe", "configs/demo.yaml", "--seeds", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("ConfigError: got sft.evaluate=false;")
