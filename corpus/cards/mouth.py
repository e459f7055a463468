"""The mouth: lips, teeth and tongue, shaped by the expression."""

from __future__ import annotations

import numpy as np

from corpus.cards.look import Look
from corpus.cards.motion import Expression
from corpus.cards.pose import moved
from corpus.cards.svg import Drawing, shade

MOUTH_Y = 49.0
LIPSTICKS = ((196, 16, 44), (170, 10, 66), (214, 34, 30))


def draw_mouth(d: Drawing, look: Look, now: Expression) -> None:
    big = 2.2 if look.has("big_lips") else 1.0
    colour = LIPSTICKS[look.seed % 3] if look.has("wearing_lipstick") else look.lip
    top, line_up, line_low, low = _lines(now, big)
    skin = look.skin
    inside = np.vstack([line_up, line_low[-2:0:-1]])
    gap = float(np.max(line_low[:, 1] - line_up[:, 1]))
    upper = d.outline(np.vstack([top, line_up[-2:0:-1]]), lift=3)
    lower = d.outline(np.vstack([line_low, low[-2:0:-1]]), lift=3)
    if gap > 1.2:
        shape = d.outline(inside, lift=1)
        d.fill(shape, (58, 14, 16))
        with d.group(d.clip(shape)):
            _inner(d, now, line_up, line_low, gap)
    if now.press > 0.1 and gap < 1.2:
        d.glow((0, MOUTH_Y), (26, 9), shade(skin, 0.5), 0.3 * now.press)
    d.fill(upper, shade(colour, 0.84))
    d.fill(lower, colour)
    with d.group(d.clip(lower)):
        y = float(low[3, 1] + line_low[3, 1]) / 2
        d.glow((look.light * 4, y), (11, 2.6 * big), (255, 240, 236), 0.5, lift=3)
        d.glow((0, float(low[3, 1])), (24, 3), shade(colour, 0.5), 0.6, lift=3)
    seam = (64, 20, 20)
    if gap <= 1.2:
        d.stroke(d.outline(line_up, closed=False, lift=2), seam, 2.0, 0.9)
    else:
        d.stroke(d.outline(line_up, closed=False, lift=2), seam, 1.0, 0.8)
    for index in (0, -1):
        corner = line_up[index]
        d.glow(corner, (4.5, 4), shade(skin, 0.35), 0.65)
    if now.sneer > 0.1:
        fold = np.array([(15, 26), (22, 32), (25, 42)], float)
        d.stroke(d.outline(fold, closed=False), shade(skin, 0.35), 2.4, 0.8 * now.sneer)


def _lines(now: Expression, big: float) -> tuple[np.ndarray, ...]:
    """Upper edge, both edges of the opening and lower edge, each [7, 2] from left to right."""
    open_ = max(now.open, 0)
    wide = 21 + 4.5 * now.stretch + 3.5 * max(now.smile, 0) - 10 * now.pucker - 3.5 * open_
    wide = max(wide, 8.5)
    t = np.linspace(-1, 1, 7)
    x = wide * t + 7 * now.jaw + 3 * now.skew * np.clip(t, 0, 1)
    corners = -8.5 * now.smile * np.abs(t) ** 1.7
    corners = corners - 10 * now.skew * np.clip(t, 0, 1) ** 1.5
    middle = MOUTH_Y + 2.6 * max(now.smile, 0) + corners
    round_ = np.sqrt(np.clip(1 - t**2, 0, 1))
    lift = 8 * now.sneer * np.exp(-(((t - 0.45) / 0.4) ** 2))
    parted = 3.4 * now.teeth * (1 - 0.4 * open_)
    line_up = middle - (parted + 5 * open_) * round_ - lift * round_
    drop = (parted * 1.1 + 27 * open_) * round_
    line_low = middle + drop + 1.2 * open_
    bow = np.array([0, 2.9, 4.6, 3.7, 4.6, 2.9, 0]) * (1 - 0.75 * max(now.press, 0)) * big
    bow = bow * (1 + 0.7 * now.pucker) * (1 - 0.3 * now.teeth)
    full = np.array([0, 3.6, 5.8, 6.7, 5.8, 3.6, 0]) * (1 - 0.7 * max(now.press, 0)) * big
    full = full * (1 + 0.6 * now.pucker + 0.75 * now.pout) * (1 - 0.25 * now.teeth)
    low = line_low + full + 1.5 * now.pout * round_
    return tuple(np.column_stack([x, y]) for y in (line_up - bow, line_up, line_low, low))  # type: ignore[return-value]


def _inner(d: Drawing, now: Expression, up: np.ndarray, low: np.ndarray, gap: float) -> None:
    """Upper teeth, tongue, and lower teeth when the jaw is nearly closed."""
    white = (240, 234, 224)
    height = min(7.5, gap) if now.open > 0.12 else gap
    if now.pucker < 0.55:
        teeth = np.vstack([moved(up, 0, -1), moved(up, 0, height)[::-1]])
        d.fill(d.outline(teeth, lift=0), white)
        middle = float(up[3, 0])
        for step in (-10.5, -6.5, -2.4, 2.4, 6.5, 10.5):
            gapline = np.array(
                [(middle + step, float(up[3, 1]) - 6), (middle + step, float(up[3, 1]) + height)]
            )
            d.stroke(d.outline(gapline, closed=False), (150, 128, 120), 0.7, 0.6)
    if now.open > 0.25:
        d.glow((float(low[3, 0]), float(low[3, 1]) - 2), (14, 10), (206, 88, 92), 0.95, core=0.5)
