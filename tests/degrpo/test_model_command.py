"""`degrpo model`: sizes of whole policies, against published totals and sums by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from degrpo.cli import main

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture
def table(monkeypatch, capsys):
    """``table(recipe, *overrides)``: the printed table's cells by part, and all that is printed."""
    monkeypatch.chdir(ROOT)

    def call(recipe: str, *overrides: str) -> tuple[dict[str, list[str]], str]:
        status = main(["model", "--recipe", f"configs/{recipe}.yaml", *overrides])
        text, errors = capsys.readouterr()
        assert status == 0, errors
        rows = [re.split(r"\s{2,}", line) for line in text.splitlines()]
        return {row[0]: row[1:] for row in rows if len(row) == 6}, text

    return call


def test_paper_scale_in_parts_and_phases(table):
    cells, text = table("favchat_qwen2_5_7b")
    # Published sizes: UMT-L/16 without its last block, Swin-B, 7.62 billion of Qwen2.5-7B.
    assert cells["part"] == ["total", "stage 1", "stage 2", "stage 3", "RL"]
    assert cells["general_encoder"] == ["290.5M", "290.5M", "–", "–", "–"]
    assert cells["facial_encoder"][:2] == ["86.7M", "86.7M"]
    assert cells["language_model"][0] == cells["language_model"][3] == "7.62B"
    # rank · (in + out) of q, k, v, o, gate, up, down: 3584 wide, 512 for keys, 18944 inside
    sides = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert cells["language_model"][4] == f"{64 * 28 * sides / 1e6:.1f}M"
    # 3584 -> 128 -> 1 behind a LayerNorm
    assert cells["value_critic"][4] == f"{(2 * 3584 + 3584 * 128 + 128 + 129) / 1e3:.1f}K"
    assert "25,088 / 6,272 / 1,568 / 392 tokens" in text
    assert "general: maps 14×14×1024 a frame; 1,568 tokens" in text
    assert "96 visual rows, 3584 wide" in text
    assert "bfloat16" in text


def test_the_older_papers_table(table):
    cells, text = table("favchat_v1_mistral_7b")
    assert cells["language_model"][0] == "7.24B"
    assert cells["language_model"][1] == "–"
    assert cells["language_model"][2] == cells["language_model"][3] == cells["language_model"][4]
    assert cells["high_level"][3] != "–"
    assert cells["middle_level"][3] == "–"
    assert "freeze table v1" in text


def test_an_ablation_is_an_override_of_the_demo(table):
    cells, text = table("demo", "policy.facial_source=general", "policy.fusion=concat")
    assert "facial_encoder" not in cells
    assert "16 visual rows" in text
