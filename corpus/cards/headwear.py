"""Hats: a brimmed one and a knitted cap, both down to the upper forehead."""

from __future__ import annotations

import numpy as np

from corpus.cards.look import Look
from corpus.cards.svg import Colour, Drawing, shade

CLOTHS: tuple[Colour, ...] = (
    (52, 58, 84),
    (134, 44, 44),
    (92, 78, 58),
    (60, 92, 76),
    (32, 32, 36),
    (196, 160, 70),
)
# Halves at the picture's right, [N, 3], from the middle outwards and back.
CROWN = ((0, -124, 0), (46, -116, 0), (68, -84, 0), (70, -46, 0), (36, -52, 34), (0, -54, 44))
BRIM = ((0, -64, 36), (60, -60, 18), (98, -44, 0), (60, -42, 44), (0, -40, 66))
BAND = ((0, -80, 36), (69, -72, 0), (70, -52, 0), (0, -60, 40))
CUFF = ((0, -70, 36), (36, -68, 24), (72, -62, 0), (73, -42, 0), (36, -47, 36), (0, -49, 46))


def draw_hat(d: Drawing, look: Look) -> None:
    if not look.has("wearing_hat"):
        return
    rng = look.stream("hat")
    cloth = CLOTHS[int(rng.integers(len(CLOTHS)))]
    brimmed = rng.uniform() < 0.5
    crown = d.outline(_whole(CROWN))
    top, low = d.pose.project(np.array([(0, -124.0, 0), (0, -46.0, 0)]))
    d.glow((0, -42), (58, 14), shade(look.skin, 0.25), 0.55)
    d.fill(crown, d.linear(top, low, [(0, shade(cloth, 1.25), 1), (1, shade(cloth, 0.75), 1)]))
    with d.group(d.clip(crown)):
        d.glow((-look.light * 66, -80, 0), (60, 60), (0, 0, 0), 0.4)
        if brimmed:
            d.fill(d.outline(_whole(BAND)), shade(cloth, 0.45))
        else:
            _ribs(d, cloth)
    edge = d.outline(_whole(BRIM if brimmed else CUFF))
    d.fill(edge, shade(cloth, 0.8 if brimmed else 0.9))
    d.stroke(edge, shade(cloth, 0.5), 1.5)


def _ribs(d: Drawing, cloth: Colour) -> None:
    for x in range(-66, 67, 9):
        rib = np.array([(x * 0.75, -118, 0), (x, -90, 12), (x, -50, 20)], float)
        d.stroke(d.outline(rib, closed=False), shade(cloth, 0.62), 1.8, 0.7)


def _whole(half: tuple[tuple[float, float, float], ...]) -> np.ndarray:
    """A closed shape [N, 3] of its right half; both ends lie in the middle."""
    right = np.array(half, float)
    return np.vstack([right, right[-2:0:-1] * (-1, 1, 1)])
