"""Every recipe that ships is one that loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import load_config
from corpus.adapters import find_adapter
from degrpo.config import TrainConfig

RECIPES = sorted(Path(__file__).parents[1].glob("configs/**/*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_it_loads_and_its_sources_are_known(recipe: Path) -> None:
    config = load_config(TrainConfig, recipe)
    assert config.corpus.sources
    for source in config.corpus.sources:
        adapter = find_adapter(source.adapter)(Path(source.root), source.options)
        assert adapter.name == source.adapter


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 4
