from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from corpus.config import CorpusConfig, FilterConfig, SourceConfig, SplitConfig, TrimConfig

if TYPE_CHECKING:
    from corpus.build import CorpusReport


@pytest.fixture(scope="session")
def small_config() -> Callable[..., CorpusConfig]:
    """Two source clips, 192 frames: two training segments and three held-out ones."""

    def config(
        path: Path,
        clips: tuple[str, ...] = ("single_face.mp4", "carphone_pristine.mp4"),
        rl_samples: int = 8,
        min_frames: int = 36,
        **changes,
    ) -> CorpusConfig:
        return CorpusConfig(
            path=str(path),
            sources=[SourceConfig(adapter="embedded", options={"clips": list(clips)})],
            filter=FilterConfig(min_share=0),
            trim=TrimConfig(encoding="compact", min_frames=min_frames),
            split=SplitConfig(plan="shared", rl_samples=rl_samples),
            **changes,
        )

    return config


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory, small_config) -> CorpusReport:
    """Built once; tests that change it take a :func:`copied` one."""
    from corpus.build import build_corpus

    return build_corpus(small_config(tmp_path_factory.mktemp("corpus") / "small"))


@pytest.fixture
def copied(small_corpus: CorpusReport, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_corpus.path, tmp_path / "copy"))
