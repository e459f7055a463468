"""Hair of the face: shadow, stubble, moustache, goatee, beard."""

from __future__ import annotations

import numpy as np

from corpus.cards.look import Look
from corpus.cards.motion import Expression
from corpus.cards.mouth import MOUTH_Y
from corpus.cards.pose import moved
from corpus.cards.svg import Drawing, polylines, shade

# The bearded part of the face, at the picture's right: along the jaw and back above the lips.
JAW = [(59, 14), (58, 38), (46, 64), (24, 82), (0, 88)]
CHEEK = [(51, 16), (44, 30), (32, 40), (24, 40), (10, 36), (0, 36)]


def draw_facial_hair(d: Drawing, look: Look, now: Expression, face: str) -> None:
    """Below the lips' colour, above the skin; ``face`` is the contour's path."""
    drop = 16 * max(now.open, 0)
    if look.has("5_o_clock_shadow"):
        with d.group(d.clip(face)):
            _field(d, drop, (58, 66, 78), 0.55)
    if look.has("stubbly"):
        _stubble(d, look, face, drop)
    if look.has("facial_hair"):
        _beard(d, look, face, drop)
    if look.has("goatee"):
        _goatee(d, look, drop)
    if look.has("mustache"):
        _mustache(d, look, now)


def _region(drop: float, reach: float = 1.0) -> np.ndarray:
    jaw, cheek = np.array(JAW, float), np.array(CHEEK, float)
    jaw[:, 1] += drop * np.clip((jaw[:, 1] - 10) / 60, 0, 1)
    half = np.vstack([jaw * (reach, 1), cheek[::-1]])
    return np.vstack([half[:5], half[3::-1] * (-1, 1), cheek * (-1, 1), cheek[-2::-1]])


def _field(d: Drawing, drop: float, colour: tuple[float, float, float], opacity: float) -> None:
    path = d.outline(_region(drop, 1.08))
    d.fill(path, colour, opacity * 0.75)
    d.glow((0, 72 + drop * 0.7), (44, 26), colour, opacity * 0.6)


def _stubble(d: Drawing, look: Look, face: str, drop: float) -> None:
    """Single short hairs, sparse enough to see the skin."""
    rng = look.stream("stubble")
    region = d.outline(_region(drop, 1.05))
    count = 480
    spots = np.column_stack([rng.uniform(-60, 60, count), rng.uniform(14, 90 + drop, count)])
    turn = rng.uniform(-0.5, 0.5, count)
    ends = spots + 2.6 * np.column_stack([np.sin(turn), np.cos(turn)])
    flat = d.pose.project(np.stack([spots, ends], 1).reshape(-1, 2)).reshape(-1, 4)
    with d.group(d.clip(face)), d.group(d.clip(region)):
        d.fill(region, shade(look.skin, 0.4), 0.12)
        d.hairs(polylines(flat.reshape(-1, 2, 2)), shade(look.brow, 0.5), 1.05, 0.9)


def _hairs(
    d: Drawing,
    look: Look,
    path: str,
    purpose: str,
    box: tuple[float, float, float, float],
    count: int,
    length: float,
) -> None:
    """Strands that run down and outward within ``path``."""
    rng = look.stream(purpose)
    left, top, right, low = box
    start = np.column_stack([rng.uniform(left, right, count), rng.uniform(top, low, count)])
    way = np.column_stack([0.016 * start[:, 0] + rng.uniform(-0.3, 0.3, count), np.ones(count)])
    stop = start + way * rng.uniform(0.6, 1.2, (count, 1)) * length
    flat = d.pose.project(np.stack([start, stop], 1).reshape(-1, 2), lift=2).reshape(-1, 4)
    with d.group(d.clip(path)):
        for index, tone in enumerate((0.5, 0.8, 1.25)):
            d.hairs(polylines(flat[index::3].reshape(-1, 2, 2)), shade(look.brow, tone), 1.2, 0.8)


def _beard(d: Drawing, look: Look, face: str, drop: float) -> None:
    half = np.array([(60, 12), (64, 38), (55, 70), (34, 96), (0, 104)], float)
    half[:, 1] += drop * np.clip(half[:, 1] / 70, 0, 1)
    cheek = np.array([(51, 13), (45, 31), (33, 43), (25, 47), (22, 56), (12, 60), (0, 61)], float)
    cheek[4:, 1] += drop * 0.8
    points = np.vstack([half, half[-2::-1] * (-1, 1), cheek * (-1, 1), cheek[-2::-1]])
    # Along the jaw a beard hangs from the rim of the head: no depth there.
    depth = np.concatenate([np.zeros(9), 30 * np.ones(13)])
    depth[9], depth[21] = 8.0, 8.0
    path = d.outline(np.column_stack([points, depth]))
    d.fill(path, shade(look.brow, 0.9), 0.95)
    _hairs(d, look, path, "beard", (-62, 14, 62, 100 + drop), 260, 10)
    with d.group(d.clip(path)):
        d.glow((0, 104 + drop, 0), (60, 22), (0, 0, 0), 0.35)


def _goatee(d: Drawing, look: Look, drop: float) -> None:
    shape = np.array(
        [(-13, 62), (0, 60), (13, 62), (19, 72), (15, 90), (0, 103), (-15, 90), (-19, 72)], float
    )
    shape[:, 1] += drop * 0.85
    path = d.outline(np.column_stack([shape, np.linspace(42, 42, 8)]))
    d.fill(path, shade(look.brow, 0.85), 0.95)
    _hairs(d, look, path, "goatee", (-19, 56 + drop * 0.85, 19, 100 + drop), 90, 10)


def _mustache(d: Drawing, look: Look, now: Expression) -> None:
    up = -3 * max(now.smile, 0) - 2 * now.teeth - 3 * max(now.open, 0)
    wide = 1 + 0.12 * now.stretch + 0.1 * max(now.smile, 0) - 0.25 * now.pucker
    half = np.array([(0, 37), (10, 35), (22, 40), (31, 50), (25, 50.5), (14, 46.5), (0, 45)], float)
    half[:, 0] *= wide
    half[3:5, 1] -= 5 * now.smile
    shape = moved(np.vstack([half, half[-2:0:-1] * (-1, 1)]), 0, up)
    path = d.outline(shape, lift=4)
    d.fill(path, shade(look.brow, 0.8), 0.97)
    _hairs(d, look, path, "mustache", (-30, 33 + up, 30, MOUTH_Y + up), 110, 8)
