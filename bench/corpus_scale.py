"""Do duplicates and splits stay near linear? Times for a tenth of FaVChat-170K's clips and for all.

    python bench/corpus_scale.py

Both sizes are measured in one run on made-up clips; comparing all pairs of ten times as many would
take 100 times as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import numpy as np

from corpus.config import SplitConfig
from corpus.duplicates import find_duplicates
from corpus.groups import ClipToSplit
from corpus.partition import partition
from corpus.records import Pair
from corpus.schema import FacialTargets, Level, QuestionKind

CLIPS = 61_000
PER_RECORDING = 20
DISTANCE = 4


def hashes_of(count: int) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Clips of one recording share their looks and differ in motion, as in real data."""
    draw = np.random.default_rng(0)

    def codes() -> tuple[str, ...]:
        return tuple(f"{value:016x}" for value in draw.integers(0, 2**63, 5))

    hashes, recordings, looks = {}, {}, codes()
    for index in range(count):
        looks = codes() if index % PER_RECORDING == 0 else looks
        hashes[str(index)] = (*looks, *codes())
        recordings[str(index)] = str(index // PER_RECORDING)
    return hashes, recordings


def clips_of(count: int) -> list[ClipToSplit]:
    random = Random(0)
    phrases = [f"phrase {index}" for index in range(103)]
    return [
        ClipToSplit(
            cut_id=f"{index:06}",
            clip_id=f"{index:06}",
            recording=f"recording {random.randrange(count // 3)}",
            identity=None,
            held_out=False,
            official_split=None,
            present=("happy",),
            has_summary=True,
            pairs=tuple(
                Pair(
                    question=f"question {level}",
                    answer="answer",
                    kind=QuestionKind.EMOTION,
                    level=level,
                    targets=FacialTargets(
                        attributes=tuple(random.sample(phrases, 3)), emotion=("happy",)
                    ),
                )
                for level in Level
            ),
        )
        for index in range(count)
    ]


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    print("processor seconds            a tenth      all    ratio")
    times = []
    for count in (CLIPS // 10, CLIPS):
        hashes, recordings = hashes_of(count)
        times.append(seconds(lambda: find_duplicates(hashes, DISTANCE, recordings)))  # noqa: B023
    print(f"duplicates               {times[0]:11.1f} {times[1]:8.1f} {times[1] / times[0]:8.1f}")
    times = []
    for count in (CLIPS // 10, CLIPS):
        clips = clips_of(count)
        config = SplitConfig(
            plan="stages_share", rl_samples=count // 6, held_out_samples=count // 30
        )
        times.append(seconds(lambda: partition(clips, config, seed=0)))  # noqa: B023
    print(f"splits, RL by coverage   {times[0]:11.1f} {times[1]:8.1f} {times[1] / times[0]:8.1f}")


if __name__ == "__main__":
    main()
