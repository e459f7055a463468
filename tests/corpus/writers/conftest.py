from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from corpus.attributes import VOCABULARY, Group
from corpus.records import Cut, Features
from corpus.schema import FacialTargets
from corpus.writers.base import Assignment

NUM_VIDEOS = 61007  # over which Table 5 counts


def features_of(present=(), absent=(), targets=None, subject="person", cut_id="a") -> Features:
    return Features(
        cut_id=cut_id,
        targets=targets if targets is not None else VOCABULARY.targets(present),
        present=tuple(present),
        absent=tuple(absent),
        subject=subject,
    )


def assignment_of(present=(), absent=(), *, targets=None, subject="person", cut_id="a", **more):
    cut = Cut(
        cut_id=cut_id,
        clip_id=cut_id,
        first=0,
        last=71,
        face_share=1.0,
        digest="",
        video=f"{cut_id}.mp4",
        method="copied",
        file_sha256="",
    )
    features = features_of(present, absent, targets, subject, cut_id)
    return Assignment(
        cut=cut, features=features, **({"video": Path("none.mp4"), "seed": "0/a"} | more)
    )


def draw(random: Random, odds: float) -> Features:
    """A clip drawn with Table 5's counts, each attribute's odds multiplied by ``odds``."""
    present: list[str] = []
    for item in random.sample(list(VOCABULARY), len(VOCABULARY)):
        share = item.count / NUM_VIDEOS
        share = odds * share / (odds * share + 1 - share)
        if (
            item.group is not Group.EMOTION
            and random.random() < share
            and not set(item.excludes) & set(present)
        ):
            present.append(item.name)
    emotions = VOCABULARY.names(Group.EMOTION)
    weights = [VOCABULARY[name].count for name in emotions]
    present = [name for name in VOCABULARY.names() if name in present]
    present += random.choices(emotions, weights)
    absent = [name for name in VOCABULARY.names() if name not in present]
    return features_of(present, absent)


@pytest.fixture(scope="session")
def features() -> Callable[..., Features]:
    return features_of


@pytest.fixture(scope="session")
def assign() -> Callable[..., Assignment]:
    return assignment_of


@pytest.fixture(scope="session")
def population() -> Callable[[float, int], list[Features]]:
    def clips(odds: float, num: int) -> list[Features]:
        random = Random(0)
        return [draw(random, odds) for _ in range(num)]

    return clips


@pytest.fixture(scope="session")
def no_targets() -> FacialTargets:
    return FacialTargets()
