"""The examples of docs/face_cards.md, as they are printed there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from corpus.adapters import find_adapter
from corpus.cards.questions import DEFAULT_SHARES

PAGE = (Path(__file__).parents[3] / "docs" / "face_cards.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    match = re.search(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    assert match, language
    return match[1]


def test_the_library_example(capsys) -> None:
    found: dict = {}
    exec(block("python"), found)
    assert found["card"].frames.shape == (8, 224, 224, 3)
    assert found["hat"].shape == (8, 4)
    assert str(found["spec"].appearance[0]) in capsys.readouterr().out


def test_the_recipe(tmp_path: Path) -> None:
    (source,) = yaml.safe_load(block("yaml"))["corpus"]["sources"]
    adapter = find_adapter(source["adapter"])(tmp_path, source["options"])
    assert len(adapter.list().clips) == source["options"]["count"]


def test_the_table_of_strata_states_the_shares() -> None:
    rows = dict(re.findall(r"^\| (\w+) \| (0\.\d\d) \|", PAGE, flags=re.MULTILINE))
    assert {name: float(share) for name, share in rows.items()} == DEFAULT_SHARES
