from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from corpus.attributes import VOCABULARY, Group
from corpus.cards import Card, CardSpec, draw_spec, render
from corpus.cards.regions import PART_OF, PARTS
from corpus.cards.spec import CHOICES, DERIVED, EMOTION_RATES, EXCLUDES, drawn_names
from corpus.cards.truth import HIDDEN

SIZE = 128
NAMES = [name for name in drawn_names() if name not in (*DERIVED, "neutral")]
APPEARANCE = [name for name in NAMES if VOCABULARY[name].group == Group.APPEARANCE]
# What would cover the attribute itself.
BARE = {
    "wearing_hat": 0.0,
    "wearing_mask": 0.0,
    "sunglasses": 0.0,
    "facial_hair": 0.0,
    "blurry": 0.0,
}


def compatible(names: Iterable[str], added: str) -> tuple[str, ...]:
    """``names`` without the ones that cannot stand beside ``added``."""
    rivals = {n for choice in CHOICES if added in choice for n in choice} | {*DERIVED}
    rivals |= {n for n in names if added in EXCLUDES.get(n, ())} | EXCLUDES.get(added, frozenset())
    return tuple(n for n in names if n not in rivals and n not in VOCABULARY[added].excludes)


def pair(name: str, spec: CardSpec) -> tuple[CardSpec, CardSpec]:
    """``spec`` without attribute ``name``, and with it."""
    if name in EMOTION_RATES:
        plain = replace(spec, emotion="neutral", actions=())
        return plain, replace(plain, emotion=name)
    if name not in APPEARANCE:
        plain = replace(spec, emotion="neutral", actions=())
        return plain, replace(plain, actions=(name,))
    plain = replace(spec, appearance=compatible(spec.appearance, name))
    return plain, replace(plain, appearance=(*plain.appearance, name))


def changes(first: Card, second: Card) -> np.ndarray:
    """[T, H, W] largest difference of a pixel's channels."""
    return np.abs(first.frames.astype(int) - second.frames).max(axis=-1)


def inside(boxes: np.ndarray) -> np.ndarray:
    """[T, H, W] bool of boxes [T, 4]."""
    mask = np.zeros((len(boxes), SIZE, SIZE), bool)
    for frame, box in zip(mask, np.round(boxes * SIZE).astype(int), strict=True):
        left, top, right, bottom = box
        frame[top:bottom, left:right] = True
    return mask


def test_the_same_spec_gives_the_same_bytes_in_another_process() -> None:
    spec = draw_spec(1, 2)
    code = (
        "import hashlib; from corpus.cards import draw_spec, render; "
        "print(hashlib.sha256(render(draw_spec(1, 2), num_frames=4, size=96).frames).hexdigest())"
    )
    frames = render(spec, num_frames=4, size=96).frames
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(frames).hexdigest()
    assert frames.shape == (4, 96, 96, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, render(spec, num_frames=4, size=96).frames)


def test_cards_differ() -> None:
    first, second = (render(draw_spec(1, index), num_frames=1, size=96) for index in (0, 1))
    assert changes(first, second).mean() > 20


@pytest.mark.parametrize("name", NAMES)
def test_an_attribute_changes_pixels_in_its_region_only(name: str) -> None:
    spec = draw_spec(21, NAMES.index(name), rates=BARE, hidden_share=0.0)
    spec = replace(spec, actions=("turn",))
    without, with_ = pair(name, spec)
    first, second = (render(s, num_frames=4, size=SIZE) for s in (without, with_))
    changed = changes(first, second)
    region = inside(second.regions[name])
    assert changed[~region].max(initial=0) == 0
    # And there a viewer sees it.
    clearly = (changed > 16).sum(axis=(1, 2)).max()
    assert clearly > 0.002 * SIZE * SIZE, clearly


def test_regions_are_anatomical() -> None:
    """Boxes do not swallow the picture, and lie above and below one another as faces are made."""
    spec = CardSpec(seed=5, variation=draw_spec(0, 0).variation)
    regions = render(spec, num_frames=1, size=SIZE).regions
    assert regions.keys() == PART_OF.keys() >= set(NAMES)
    middle = {name: (boxes[0, 1] + boxes[0, 3]) / 2 for name, boxes in regions.items()}
    order = ("wearing_hat", "bushy_eyebrows", "eyeglasses", "rosy_cheeks", "big_lips")
    assert [middle[name] for name in order] == sorted(middle[name] for name in order)
    for name, boxes in regions.items():
        left, top, right, bottom = boxes[0]
        assert 0 <= left < right <= 1, name
        assert 0 <= top < bottom <= 1, name
        if PARTS[PART_OF[name]] is not None and PART_OF[name] != "hair":
            assert (right - left) * (bottom - top) < 0.6, name


ACTIONS = [(), ("nod",), ("turn",), ("head_wagging",), ("laugh", "shake_head"), ("shout", "nod")]


@pytest.mark.parametrize(
    ("part", "name"), [(p, n) for p, names in HIDDEN.items() for n in names if n not in DERIVED]
)
def test_what_is_hidden_leaves_no_trace(part: str, name: str) -> None:
    number = NAMES.index(name)
    spec = draw_spec(31, number, rates=BARE, hidden=part)
    assert spec.hidden == part
    spec = replace(spec, emotion="neutral", actions=ACTIONS[number % len(ACTIONS)])
    without, with_ = pair(name, spec)
    first, second = (render(s, num_frames=4, size=SIZE) for s in (without, with_))
    np.testing.assert_array_equal(first.frames, second.frames)


@pytest.mark.parametrize("action", ["nod", "smile", "talk", "wink", "shake_head"])
def test_one_end_of_a_clip_does_not_tell_the_action(action: str) -> None:
    still = CardSpec(seed=8, variation=draw_spec(0, 3).variation)
    plain, moving = (render(s, size=SIZE) for s in (still, replace(still, actions=(action,))))
    changed = changes(plain, moving).mean(axis=(1, 2))
    assert changed[0] == changed[-1] == 0
    assert (changed > 0.1).sum() >= 3


@pytest.mark.parametrize("emotion", ["happy", "fear"])
def test_a_fading_face_ends_where_a_rising_one_starts(emotion: str) -> None:
    """Noise is drawn by frame: where two cards show the same face, they are the same bytes."""
    plain = CardSpec(seed=3, appearance=("brown_hair",))
    rising = replace(plain, emotion=emotion)
    neutral, grown, faded = (
        render(spec, num_frames=8, size=96).frames.astype(int)
        for spec in (plain, rising, replace(rising, fading=True))
    )
    assert (grown[0] == neutral[0]).all()
    assert (faded[-1] == neutral[-1]).all()
    # Of eight frames the fourth and fifth show the apex either way.
    assert (faded[3:5] == grown[3:5]).all()
    assert np.abs(faded[0] - neutral[0]).max() > 60
    assert np.abs(grown[-1] - neutral[-1]).max() > 60
