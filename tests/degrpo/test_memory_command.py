"""`degrpo model --memory`: tables against counted parameters, verdicts, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.config import load_config
from degrpo.cli import main
from degrpo.config import TrainConfig
from degrpo.model_command import training_phases

ROOT = Path(__file__).parents[2]
COLUMNS = ("weights", "gradients", "optimiser", "buffers", "batch", "activations", "temporary",
           "update", "peak")  # fmt: skip


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command; its exit status, the cells of its table by stage and column, its text."""
    monkeypatch.chdir(ROOT)

    def call(*arguments: str) -> tuple[int, dict[str, dict[str, float]], str]:
        status = main(["model", "--memory", *arguments])
        text = capsys.readouterr().out
        rows = [re.split(r"\s{2,}", line) for line in text.splitlines()]
        cells = {
            row[0]: {name: gib(cell) for name, cell in zip(COLUMNS, row[1:], strict=True)}
            for row in rows
            if row[0].startswith("stage ") and len(row) == 10
        }
        return status, cells, text

    return call


def gib(cell: str) -> float:
    return 0.0 if cell == "–" else float(cell.removeprefix("<"))


def test_a_recipe_that_fits(run):
    status, cells, text = run("--recipe", "configs/tiny.yaml", "--ranks", "2")
    assert status == 0
    assert list(cells) == ["stage 1", "stage 2", "stage 3"]
    assert text.count("fits in 80 GiB, of which 72.0 may be filled") == 3
    assert "each of 2 ranks: no sharding, float32, without gradient checkpointing" in text


def test_a_deepspeed_config_says_the_stage_of_zero(run, tmp_path):
    options = ["--recipe", "configs/tiny.yaml", "--ranks", "2"]
    _, _, text = run(*options, "--deepspeed", "configs/deepspeed/zero2.json")
    assert "each of 2 ranks: ZeRO 2, float32" in text
    zero3 = "sft.deepspeed=configs/deepspeed/zero3.json"
    _, _, text = run(*options, zero3)
    assert "each of 2 ranks: ZeRO 3, float32" in text
    _, _, text = run(*options, "--zero", "0", zero3)
    assert "each of 2 ranks: no sharding, float32" in text
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"zero_optimization": {"stage": 7}}')
    assert main(["model", "--memory", *options, "--deepspeed", str(wrong)]) == 2


def test_two_answers_on_what_is_sharded_are_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["model", "--memory", "--zero", "2", "--deepspeed", "configs/deepspeed/zero3.json"])
    assert end.value.code == 2
    assert "--deepspeed: not allowed with argument --zero" in capsys.readouterr().err


def test_a_recipe_that_does_not_fit_says_what_helps(run):
    options = ["--recipe", "configs/tiny.yaml", "--zero", "0", "--answer-tokens", "500"]
    status, cells, text = run(*options, "--ranks", "1", "--gib", "0.6")
    assert status == 1
    assert cells["stage 3"]["peak"] > 0.54
    assert "stage 3: needs" in text
    assert re.search(r"stage 3: .*; fits with .*one clip at a time.*: 0\.\d\d GiB", text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ranks", "0"], "ranks=0"),
        (["--gib", "-1"], "gib=-1"),
        (["--answer-tokens", "0"], "0 answer tokens"),
    ],
)
def test_numbers_that_cannot_be(arguments, words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["model", "--memory", "--recipe", "configs/tiny.yaml", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_paper_scale_on_eight_small_gpus(run):
    from policy.build import build_policy_on_meta
    from policy.parameter_table import count_parameters

    recipe = "configs/favchat_qwen2_5_7b.yaml"
    status, cells, text = run("--recipe", recipe, "--ranks", "8", "--zero", "2", "--gib", "32")
    config = load_config(TrainConfig, recipe, [])
    counts = count_parameters(build_policy_on_meta(config.policy), training_phases(config))
    total = sum(count.total for count in counts)
    for name, row in cells.items():
        learns = sum(count.trainable[name] for count in counts)
        assert row["weights"] == pytest.approx(2 * total / 2**30, abs=0.02)
        assert row["gradients"] == pytest.approx(2 * learns / 8 / 2**30, abs=0.02)
        assert row["optimiser"] == pytest.approx(12 * learns / 8 / 2**30, abs=0.02)
    assert "2/1/1 clips at a time in stages 1/2/3, 8 frames" in text
    assert status == 1
    assert "stage 1: fits" in text
    # The update is the peak, so that gradient checkpointing would not help.
    assert cells["stage 3"]["update"] == pytest.approx(6 * learns / 8 / 2**30, abs=0.02)
    assert re.search(r"stage 3: needs .*; fits with ZeRO 3: \d", text)
