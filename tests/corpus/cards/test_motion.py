from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from corpus.cards.motion import ACTIONS, EMOTIONS, SWINGS, Expression, expressions
from corpus.cards.spec import EYE_ACTIONS, FACE_ACTIONS, HEAD_ACTIONS, SKIN_ACTIONS

NAMES = sorted({*HEAD_ACTIONS, *EYE_ACTIONS, *FACE_ACTIONS, *SKIN_ACTIONS})
LASTING = {"turn", "blush", "weep"}  # do not end before the clip does


def curves(emotion: str, actions: tuple[str, ...], num_frames: int) -> np.ndarray:
    """[T, muscles]"""
    frames = expressions(emotion, actions, num_frames)
    return np.array([[getattr(now, item.name) for item in fields(Expression)] for now in frames])


def test_every_drawable_action_has_a_motion() -> None:
    assert set(NAMES) == ACTIONS.keys() | SWINGS.keys()


@pytest.mark.parametrize("num_frames", [4, 5, 6, 7, 8, 16])
@pytest.mark.parametrize("name", NAMES)
def test_actions_start_neutral_and_move(name: str, num_frames: int) -> None:
    curve = curves("neutral", (name,), num_frames)
    assert np.abs(curve[0]).max() < 1e-9
    if name not in LASTING:
        assert np.abs(curve[-1]).max() < 1e-6
    assert np.ptp(curve, axis=0).max() > 0.15, "the motion is lost between the frames"


@pytest.mark.parametrize("name", [name for name in EMOTIONS if name != "neutral"])
def test_emotions_rise_to_an_apex_and_stay(name: str) -> None:
    curve = curves(name, (), 11)
    assert np.abs(curve[0]).max() == 0
    strength = np.abs(curve).sum(axis=1)
    assert (np.diff(strength) >= -1e-9).all()
    assert strength[5] == pytest.approx(strength[-1])
    assert strength[-1] > 1


@pytest.mark.parametrize("num_frames", [4, 5, 8, 16])
@pytest.mark.parametrize("name", [name for name in EMOTIONS if name != "neutral"])
def test_a_fading_emotion_is_a_rising_one_backwards(name: str, num_frames: int) -> None:
    fading = expressions(name, (), num_frames, fading=True)
    assert fading == expressions(name, (), num_frames)[::-1]
    assert fading[0] == Expression(**EMOTIONS[name])  # the apex
    assert fading[-1] == Expression()


def test_actions_run_forwards_on_a_fading_face() -> None:
    now = expressions("happy", ("turn",), 8, fading=True)
    assert [frame.yaw for frame in now] == [f.yaw for f in expressions("neutral", ("turn",), 8)]
    assert [frame.smile for frame in now] == [f.smile for f in expressions("happy", (), 8)[::-1]]


def test_emotions_differ_at_their_apex() -> None:
    apexes = {name: curves(name, (), 5)[-1] for name in EMOTIONS}
    for first in apexes:
        for second in apexes:
            if first != second:
                assert np.abs(apexes[first] - apexes[second]).max() >= 0.4, (first, second)


def test_nodding_and_shaking_differ_in_direction_only_over_time() -> None:
    index = [item.name for item in fields(Expression)].index
    nod, shake = curves("neutral", ("nod",), 8), curves("neutral", ("shake_head",), 8)
    assert np.ptp(nod[:, index("pitch")]) > 0.4
    assert np.ptp(nod[:, index("yaw")]) == 0
    assert np.ptp(shake[:, index("yaw")]) > 0.6
    assert np.ptp(shake[:, index("pitch")]) == 0
    # To both sides and twice: a head held to one side is neither.
    for curve in (nod[:, index("pitch")], shake[:, index("yaw")]):
        assert curve.min() == pytest.approx(-curve.max(), rel=0.3)
        assert (np.diff(np.sign(curve[np.abs(curve) > 1e-9])) != 0).sum() == 3


def test_actions_and_emotions_add_up() -> None:
    together = curves("happy", ("nod",), 8)
    expected = np.clip(curves("happy", (), 8) + curves("neutral", ("nod",), 8), -1, 1)
    np.testing.assert_allclose(together, expected, atol=1e-12)
