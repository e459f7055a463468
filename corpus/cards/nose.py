"""The nose: its bridge in light and shade, its tip, wings and nostrils."""

from __future__ import annotations

import numpy as np

from corpus.cards.look import Look
from corpus.cards.motion import Expression
from corpus.cards.svg import Drawing, mix, shade

LIFT = 13.0  # how far the tip stands out of the face


def draw_nose(d: Drawing, look: Look, now: Expression) -> None:
    skin, dark, bright = look.skin, shade(look.skin, 0.38), shade(look.skin, 1.5)
    big, pointy = look.has("big_nose"), look.has("pointy_nose")
    half = 25.0 if big else 12.5
    if pointy:
        half *= 0.72
    tip = (35.0 if pointy else 27.0) + (3 if big else 0) - 3.5 * now.wrinkle
    base = (25.0 if pointy else 27.0) + (4 if big else 0) - 3.5 * now.wrinkle
    lit = -1 if look.light < 0 else 1
    # The bridge: a lit ridge, a shadow on the side away from the light.
    side = np.array(
        [
            (-lit * 5, -14),
            (-lit * 6, 2),
            (-lit * (0.62 * half), base - 8),
            (-lit * half, base),
            (-lit * 2, tip),
            (-lit * 1, 0),
        ],
        float,
    )
    d.fill(d.outline(side, lift=LIFT * 0.6), dark, 0.3)
    edge = np.array([(-lit * 5.5, -12), (-lit * 5.5, 4), (-lit * 0.55 * half, base - 9)], float)
    d.stroke(d.outline(edge, closed=False, lift=LIFT * 0.5), dark, 1.6, 0.35)
    d.glow((lit * 1.5, 4), (5 if not big else 7, 22), bright, 0.3, lift=LIFT)
    if big:
        d.glow((0, base - 5), (24, 17), mix(skin, (190, 80, 66), 0.5), 0.5, lift=LIFT, core=0.3)
    for s in (-1, 1):
        _wing(d, look, now, s * half, base)
    d.glow((0, tip + 7), (half * 1.15, 5.5), dark, 0.45, lift=2)  # shadow on the upper lip
    if pointy:
        _point(d, look, tip, base)
    else:
        _round(d, look, half, tip, base)


def _wing(d: Drawing, look: Look, now: Expression, half: float, base: float) -> None:
    """A wing with its nostril; ``half`` is the nose's half width, negative at the left."""
    big, pointy, dark = look.has("big_nose"), look.has("pointy_nose"), shade(look.skin, 0.38)
    x = np.array([0.72, 1.05, 1.02, 0.7]) * half
    wing = np.column_stack([x, base + np.array([-9, -5, 2, 4])])
    d.stroke(d.outline(wing, closed=False, lift=LIFT * 0.5), dark, 2.4 if big else 1.9, 0.8)
    size = (8.0, 4.8) if big else ((3.0, 2.4) if pointy else (4.5, 3.1))
    d.glow((half * 0.4, base + 3), size, (38, 16, 14), 0.95, lift=LIFT * 0.7, core=0.5)
    if now.wrinkle > 0.15:
        side = np.sign(half)
        for step in (0, 5.5, 11):
            line = np.array([(side * 2, -8 + step), (side * 9, -12 + step)], float)
            path = d.outline(line, closed=False, lift=LIFT * 0.4)
            d.stroke(path, dark, 1.6, 0.85 * now.wrinkle)


def _round(d: Drawing, look: Look, half: float, tip: float, base: float) -> None:
    """A blunt tip with a soft light on it."""
    big, lit = look.has("big_nose"), -1 if look.light < 0 else 1
    x = np.array([-0.62, -0.3, 0, 0.3, 0.62]) * half
    under = np.column_stack([x, [base + 2, base + 4.4, tip + 5.5, base + 4.4, base + 2]])
    path = d.outline(under, closed=False, lift=LIFT * 0.8)
    d.stroke(path, shade(look.skin, 0.38), 1.6, 0.7)
    d.glow((lit * 2, tip - 4), (8, 6) if big else (5, 4.2), (255, 250, 244), 0.5, lift=LIFT)


def _point(d: Drawing, look: Look, tip: float, base: float) -> None:
    """A narrow tip that hangs below the nostrils, sharply lit."""
    dark, bright = shade(look.skin, 0.3), shade(look.skin, 1.6)
    under = np.array(
        [(-8.5, base + 1), (-4, base + 5), (0, tip + 5), (4, base + 5), (8.5, base + 1)], float
    )
    x, y = d.pose.project(under[:1], lift=LIFT)[0], d.pose.project(under[2:3], lift=LIFT + 4)[0]
    z = d.pose.project(under[4:], lift=LIFT)[0]
    d.stroke(f"M{x[0]:.1f} {x[1]:.1f}L{y[0]:.1f} {y[1]:.1f}L{z[0]:.1f} {z[1]:.1f}", dark, 1.9, 0.8)
    ridge = np.array(
        [(-2.2, -12), (2.2, -12), (3.6, tip - 3), (0, tip + 3), (-3.6, tip - 3)], float
    )
    d.fill(d.outline(ridge, lift=LIFT), bright, 0.26)
    d.glow((0, tip - 5), (4, 7), bright, 0.6, lift=LIFT)
