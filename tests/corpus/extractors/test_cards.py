"""Extractors on face cards: what is drawn is read, from few cards and in little time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from common.errors import ConfigError
from corpus.cards.render import render
from corpus.cards.spec import draw_spec
from corpus.cards.truth import truth
from corpus.extractors.features import FEATURES, ClipFeatures, FeatureSpec, layout
from corpus.extractors.fit import Example, label_matrix
from corpus.extractors.heads import HeadTable
from corpus.extractors.training import HeadSettings, train_heads

pytestmark = pytest.mark.slow

STREAMS = {stream.name: stream for stream in FEATURES["embedded"].streams}
LOOKS = {
    "wearing_hat": 0.3,
    "wearing_mask": 0.25,
    "sunglasses": 0.3,
    "bangs": 0.4,
    "long_hair": 0.4,
    "pale_skin": 0.4,
}


def cards(
    num: int, spec: FeatureSpec, rates: Mapping[str, float], *, seed: int
) -> tuple[np.ndarray, list[Example]]:
    """Vectors of cards in which a face is found, and what can be known of them."""
    features, vectors, examples = ClipFeatures(spec), [], []
    for index in range(num):
        card = draw_spec(seed, index, rates=rates, hidden_share=0.0)
        vector = features.of_frames(render(card, num_frames=1).frames)
        if vector is None:
            continue
        known = truth(card)
        vectors.append(vector)
        examples.append(
            Example(video="", present=known.present, absent=known.absent, group=str(index))
        )
    return np.stack(vectors), examples


def learned(
    vectors: np.ndarray, labels: np.ndarray, names: Sequence[str], spec: FeatureSpec
) -> HeadTable:
    groups = [str(index) for index in range(len(vectors))]
    settings = HeadSettings(views=("all",), costs=(10.0,))
    return train_heads(vectors, labels, groups, names, layout(spec), settings)[1]


def test_appearance_is_read_and_noise_is_not() -> None:
    parts = tuple(
        replace(STREAMS[name], statistics=("mean",), max_frames=1) for name in ("head", "face")
    )
    spec = FeatureSpec(name="looks", num_frames=1, streams=parts)
    vectors, examples = cards(100, spec, LOOKS, seed=1)
    assert len(vectors) >= 92
    names = [*LOOKS, "smoke", "smile"]
    labels = label_matrix(examples, names)
    rng = np.random.default_rng(0)
    labels[:, -2] = rng.permutation(labels[:, 0])  # the hats of other cards
    table = learned(vectors, labels, names, spec)
    assert "chance" in table.left_out["smoke"]
    assert "smile" in table.left_out  # too rare among so few
    found = {row.name: row for row in table.reports}
    assert found.keys() == LOOKS.keys()
    for row in found.values():
        assert row.f1 > row.chance_f1 + 0.15, row
    assert table.macro_f1 > 0.8, table.markdown()


def test_a_nod_is_seen_in_several_frames_only() -> None:
    spec = FeatureSpec(name="moves", num_frames=16, streams=(STREAMS["expression"],))
    features, moving, one, nods = ClipFeatures(spec), [], [], []
    rates = {"nod": 0.4, "turn": 0.05, "shake_head": 0.1, "head_wagging": 0.05}
    for index in range(50):
        card = draw_spec(2, index, rates=rates, hidden_share=0.0)
        frames = render(card, num_frames=5).frames
        clip, picture = features.of_frames(frames), features.of_frames(frames[2:3])
        if clip is not None and picture is not None:
            moving.append(clip)
            one.append(picture)
            nods.append(["nod" in card.actions])
    labels = np.array(nods, dtype=np.int8)
    assert len(labels) > 45
    seen = learned(np.stack(moving), labels, ["nod"], spec).macro_f1
    try:
        blind = learned(np.stack(one), labels, ["nod"], spec).macro_f1
    except ConfigError:  # not told apart from chance
        blind = 0.0
    assert seen > 0.8
    assert blind < seen - 0.2
