"""The embedded extractor against what people saw in the real clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import NoFaceError
from corpus.adapters.embedded import locate
from corpus.attributes import VOCABULARY
from corpus.extractors import Extractor, load_extractor, read
from corpus.extractors.expression import Expression, emotions_in_order, moving_mean
from corpus.labels import load_labels
from policy.video import read_clip

LEAST_FRAMES = 12  # shorter stretches are mostly the change from one emotion to the next
TRAINING = {name: clip for name, clip in load_labels().clips.items() if not clip.held_out}


@pytest.fixture(scope="module")
def expression() -> Expression:
    found = load_extractor("expression")
    assert isinstance(found, Expression)
    assert isinstance(found, Extractor)
    return found


@pytest.mark.parametrize("name", [name for name, clip in TRAINING.items() if clip.emotion])
def test_clear_stretches(name: str, expression: Expression, tmp_path: Path, write_frames) -> None:
    labels = TRAINING[name]
    frames = read_clip(locate(labels)).frames
    checked = 0
    for stretch in labels.emotion:
        label = VOCABULARY.find(stretch.phrases[0])
        if label not in expression.names or stretch.last - stretch.first < LEAST_FRAMES:
            continue
        part = frames[stretch.first : stretch.last + 1 : 4]
        path = write_frames(part, tmp_path / f"{stretch.first}.mp4")
        scores = expression.extract(path)
        assert expression.present(scores) == (label,)
        assert set(scores) == set(expression.names)
        checked += 1
    assert checked >= 2


def test_emotions_keep_their_order(expression: Expression) -> None:
    for name, expected in {
        "single_face.mp4": ("neutral", "happy"),
        "WolfgangLanger_Pexels.mp4": ("sad", "happy"),
    }.items():
        (reading,) = read([expression], locate(TRAINING[name]))
        assert reading.present == reading.emotion_order == expected
        assert reading.extractor == "expression"


def test_no_face_is_an_error(expression: Expression) -> None:
    with pytest.raises(NoFaceError):
        expression.extract(locate(TRAINING["no_face.mp4"]))


def test_scores_by_hand() -> None:
    # 12 frames: 2 of b, 1 of a, 9 of c; smoothing covers round(12 / 12) = 1 frame.
    b, a, c = [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.0, 0.1, 0.9]
    found = emotions_in_order(np.array([b, b, a, *[c] * 9]), ("a", "b", "c"))
    assert list(found) == ["b", "c", "a"]  # a leads for less than a sixth: it does not count
    assert found["b"] == pytest.approx(0.8)
    assert found["c"] == pytest.approx(0.9)
    assert found["a"] == pytest.approx((2 * 0.1 + 0.6) / 12 * (1 / 12))


def test_moving_mean_by_hand() -> None:
    values = np.array([[0.0], [3], [6], [0]])
    assert moving_mean(values, 3)[:, 0].tolist() == [1.5, 3, 3, 3]
    assert moving_mean(values, 2)[:, 0].tolist() == [1.5, 4.5, 3, 0]
    np.testing.assert_array_equal(moving_mean(values, 1), values)
