"""How well are face cards' attributes read? Renders cards, trains the extractor, prints the table.

    OMP_NUM_THREADS=1 python bench/extractors.py --cards 1500 --out outputs/extractor-cards

Labels are what a viewer can know of a card (`corpus.cards.truth`): what is covered or unclear
counts neither way. Clips and features of an earlier, interrupted run in the folder are used again.
"""

from __future__ import annotations

import argparse
import functools
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from common.errors import NoFaceError
from common.progress import progress
from corpus.attributes import VOCABULARY, Group
from corpus.cards.render import render
from corpus.cards.spec import (
    EMOTION_RATES,
    EYE_ACTIONS,
    FACE_ACTIONS,
    CardSpec,
    draw_spec,
    drawn_names,
)
from corpus.cards.truth import truth
from corpus.cut import write_clip
from corpus.extractors.features import FEATURES, ClipFeatures
from corpus.extractors.fit import Example, FitReport, fit
from corpus.extractors.training import HeadSettings
from policy.feature_cache import FeatureCache
from policy.video import Clip

FPS = 8.0
CACHE_BYTES = 64 * 2**30
# Emotions exclude movements of mouth and eyes, and those each other: at the default rates most are
# too rare to learn. Of five cards two show an emotion, two move the mouth, one moves the eyes.
STILL = dict.fromkeys(EMOTION_RATES, 0.0) | {"neutral": 1.0} | dict.fromkeys(FACE_ACTIONS, 0.0)
EMOTIONAL = dict.fromkeys(EMOTION_RATES, 1 / len(EMOTION_RATES))
MOUTH = STILL | dict.fromkeys(FACE_ACTIONS, 1 / len(FACE_ACTIONS))
EYES = STILL | dict.fromkeys(EYE_ACTIONS, 1 / len(EYE_ACTIONS))
RATES = (EMOTIONAL, MOUTH, EYES, EMOTIONAL, MOUTH)


def spec_of(seed: int, index: int) -> CardSpec:
    return draw_spec(seed, index, rates=RATES[index % len(RATES)], hidden_share=0.0)


@functools.cache
def features_in(cache: Path) -> ClipFeatures:
    import torch

    torch.set_num_threads(1)
    return ClipFeatures(FEATURES["embedded"], cache=FeatureCache(cache, max_bytes=CACHE_BYTES))


def make(seed: int, index: int, folder: Path, cache: Path) -> tuple[Path, bool]:
    """A card's clip, its features already in the cache; and whether a face was found in it."""
    path = folder / f"{seed}-{index}.mp4"
    if not path.exists():
        frames = render(spec_of(seed, index)).frames
        times = np.arange(len(frames)) / FPS
        write_clip(Clip(frames=frames, times=times, fps=FPS, path=""), 0, len(frames) - 1, path)
    try:
        features_in(cache)(path)
    except NoFaceError:
        return path, False
    return path, True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cards", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/extractor-cards"))
    options = parser.parse_args()
    clips, cache = options.out / "clips", options.out / "features"
    clips.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with ProcessPoolExecutor(options.jobs) as pool:
        indices = range(options.cards)
        work = functools.partial(make, options.seed, folder=clips, cache=cache)
        done = pool.map(work, indices, chunksize=8)
        made = list(progress(done, "making cards", total=options.cards, unit="card"))
    seen = time.monotonic()
    examples = []
    for index, (path, _) in enumerate(made):
        known = truth(spec_of(options.seed, index))
        examples.append(
            Example(
                video=str(path),
                present=known.present,
                absent=known.absent,
                group=str(index),
                source="face cards",
            )
        )
    report = fit(
        examples,
        drawn_names(),
        options.out / "extractor",
        name="cards",
        settings=HeadSettings(num_jobs=options.jobs),
        cache_folder=cache,
    )
    show(report, faces=sum(found for _, found in made))
    print(f"making cards {seen - started:.0f} s, training {time.monotonic() - seen:.0f} s")


def show(report: FitReport, *, faces: int) -> None:
    print(report.table.markdown())
    print(f"{report.num_clips} cards; a face was found in {faces}")
    for group in Group:
        rows = [row for row in report.table.reports if VOCABULARY[row.name].group == group]
        if rows:
            reached = sum(row.f1 > 0.9 for row in rows)
            mean = np.mean([row.f1 for row in rows])
            print(f"{group}: macro F1 {mean:.3f} of {len(rows)}, {reached} above 0.9")


if __name__ == "__main__":
    main()
