from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from corpus.config import CorpusConfig
from corpus.mini import CorpusReport, build_mini_corpus


@pytest.fixture(scope="session")
def small_config() -> Callable[..., CorpusConfig]:
    """Two source clips, 192 frames: two training segments and three held-out ones."""

    def config(path: Path, **changes) -> CorpusConfig:
        clips = ["single_face.mp4", "carphone_pristine.mp4"]
        return CorpusConfig(**{"path": str(path), "clips": clips, "rl_samples": 8} | changes)

    return config


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory, small_config) -> CorpusReport:
    """Built once; tests that change it take a :func:`copied` one."""
    return build_mini_corpus(small_config(tmp_path_factory.mktemp("corpus") / "small"))


@pytest.fixture
def copied(small_corpus: CorpusReport, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_corpus.path, tmp_path / "copy"))
