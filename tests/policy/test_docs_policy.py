"""The examples of docs/policy.md, as they are printed there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from common.config import load_config
from policy.config import PolicyConfig
from policy.freezing import FREEZE_TABLES

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
def test_python_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "docs/policy.md", "exec"), names)
    (answer,) = names["answer"]  # type: ignore[misc]
    assert isinstance(answer, str)
    assert capsys.readouterr().out.endswith("(8, 576) ()\n")


def test_every_override_is_one():
    cells = re.findall(r"^\| [^|]+ \| (.*) \|$", PAGE, flags=re.MULTILINE)
    overrides = [
        text.split()
        for cell in cells
        for text in re.findall(r"`([^`]*)`", cell)
        if text.startswith("policy.") and "=" in text
    ]
    assert len(overrides) == 8
    for texts in overrides:
        load_config(PolicyConfig, overrides=[text.removeprefix("policy.") for text in texts])


def test_the_recipe_snippet_is_one(tmp_path):
    recipe = tmp_path / "policy.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(blocks("yaml")[0])["policy"]))
    config = load_config(PolicyConfig, recipe)
    assert config.published.umt_l16_qformer


def test_the_freeze_table_is_the_codes():
    words = {
        "general_encoder": "encoders",
        "facial_encoder": "encoders",
        "low_level": "low level",
        "middle_level": "Q-Formers",
        "high_level": "weight adapters",
        "projector": "projector",
        "language_model": "language model",
    }
    (row,) = re.findall(r"^\| v4 \| (.*) \|$", PAGE, flags=re.MULTILINE)
    printed = [{part.split(" (")[0] for part in cell.split(", ")} for cell in row.split(" | ")]
    assert printed == [{words[part] for part in parts} for parts in FREEZE_TABLES["v4"].values()]
