"""Hair of the head: a mass with many strands on it, behind the shoulders and over the forehead."""

from __future__ import annotations

import numpy as np

from corpus.cards.look import Look
from corpus.cards.pose import moved, surface
from corpus.cards.svg import Colour, Drawing, polylines, shade

CENTRE = np.array([0.0, -12.0])


def bare(look: Look) -> bool:
    """Is there no head of hair?"""
    return look.has("bald") or look.has("shaved_head")


def draw_back_hair(d: Drawing, look: Look) -> None:
    """What falls behind neck and shoulders."""
    if bare(look) or not (look.has("long_hair") or look.has("mullet")):
        return
    if look.has("long_hair"):
        half = [
            (0, -100),
            (44, -92),
            (70, -58),
            (79, -10),
            (83, 50),
            (86, 105),
            (66, 132),
            (30, 128),
        ]
    else:
        half = [(0, 0), (52, 2), (64, 22), (69, 58), (77, 92), (62, 108), (36, 98)]
    points = np.array(half, float)
    around = np.vstack([points, points[::-1] * (-1, 1)])
    around = _wave_outline(around, look, 3.2 if look.has("wavy_hair") else 0.8, "back")
    path = d.outline(np.column_stack([around, np.full(len(around), -18.0)]))
    d.fill(path, shade(look.hair, 0.55))
    low, reach = (112.0, 86.0) if look.has("long_hair") else (92.0, 74.0)
    with d.group(d.clip(path)):
        rng = look.stream("back hair")
        x = rng.uniform(-reach, reach, 80)
        top = np.full(80, -80.0 if look.has("long_hair") else 4.0)
        _strands(
            d, look, _falling(rng, x, top, low + 30, look), (0.4, 0.6, 0.85, 1.1), 1.7, depth=-18.0
        )


def draw_hair(d: Drawing, look: Look, face: str) -> None:
    """What covers the skull, the temples and the forehead; ``face`` is the contour's path."""
    if look.has("bald"):
        d.glow((look.light * 14, -64), (26, 13), (255, 252, 246), 0.55)
        return
    if look.has("shaved_head"):
        _shaved(d, look, face)
        return
    short = look.has("crew_cut")
    outer, inner = _cap(look, short)
    path = d.outline(np.vstack([outer, inner]))
    # The hair's shadow on the forehead.
    with d.group(d.clip(face)):
        for width in (3.0, 6.0, 9.0):
            d.stroke(d.outline(inner, closed=False), shade(look.skin, 0.35), width, 0.13)
    base = shade(look.hair, 0.8)
    d.fill(path, base)
    with d.group(d.clip(path)):
        rng = look.stream("hair")
        if short:
            _bristles(d, look, rng)
        else:
            _strands(d, look, _combed(rng, look), (0.5, 0.7, 1.0, 1.2, 1.4), 1.3)
        d.glow(
            (look.light * 26, -84, 0),
            (34, 13),
            shade(look.hair, 1.55),
            0.5 if look.has("straight_hair") else 0.3,
        )
        d.glow((-look.light * 58, -40, 0), (30, 52), (0, 0, 0), 0.35)
    if look.has("long_hair"):
        _locks(d, look)
    if look.has("bangs"):
        _bangs(d, look)
    if look.has("bald_spot"):
        _spot(d, look)


def draw_sideburns(d: Drawing, look: Look) -> None:
    if not look.has("sideburns"):
        return
    rng = look.stream("sideburns")
    colour = shade(look.brow, 0.8)
    for side in (-1, 1):
        x = side * 54 * look.width
        shape = np.array(
            [
                (x - side * 5, -26),
                (x + side * 5, -26),
                (x + side * 4, 8),
                (x + side * 1, 31),
                (x - side * 13, 35),
                (x - side * 10, 18),
                (x - side * 7, 0),
            ],
            float,
        )
        path = d.outline(np.column_stack([shape, np.full(7, 12.0)]))
        d.fill(path, colour, 0.85)
        start = np.column_stack([x - side * rng.uniform(-4, 11, 46), rng.uniform(-25, 33, 46)])
        stop = start + np.column_stack([-side * rng.uniform(0, 2.5, 46), rng.uniform(3, 7, 46)])
        flat = d.pose.project(
            np.hstack([np.stack([start, stop], 1).reshape(-1, 2), np.full((92, 1), 12.0)])
        )
        d.hairs(polylines(flat.reshape(-1, 2, 2)), shade(colour, 0.55), 1.0, 0.8)


def _cap(look: Look, short: bool) -> tuple[np.ndarray, np.ndarray]:
    """Outer edge from the left temple over the top to the right one, and the hairline back.

    Both [N, 3]: the outer one on the rim of the head, the hairline moving with the forehead.
    """
    swell = 3.0 if short else 13.0
    if look.has("wavy_hair"):
        swell += 5
    if look.has("straight_hair"):
        swell -= 3
    w = look.width
    half = np.array([(66, 4), (67, -24), (62, -54), (45, -80), (22, -92), (0, -95)], float)
    if short or look.has("mullet"):
        half[0] = (62, -16)
    away = half - CENTRE
    half = half + away / np.linalg.norm(away, axis=1, keepdims=True) * swell
    half[0] = (64 if not short else 62, half[0, 1] - swell * 0.2)
    half[:, 0] *= w
    outer = np.vstack([half * (-1, 1), half[-2::-1]])
    outer = _wave_outline(outer, look, 3.0 if look.has("wavy_hair") else 0.6, "cap")
    if look.has("receding_hairline"):
        line = [(57, -10), (55, -36), (50, -60), (38, -80), (24, -76), (11, -67), (0, -63)]
    elif short:
        line = [(56, -22), (53, -44), (44, -58), (30, -62), (15, -63), (0, -63)]
    else:
        line = [(57, -6), (54, -30), (45, -48), (30, -57), (15, -60), (0, -61)]
    inner = np.array(line, float) * (w, 1)
    inner = np.vstack([inner, inner[-2::-1] * (-1, 1)])
    depth = 0.45 * surface(inner)
    return np.column_stack([outer, np.zeros(len(outer))]), np.column_stack([inner, depth])


def _wave_outline(points: np.ndarray, look: Look, size: float, purpose: str) -> np.ndarray:
    rng = look.stream(f"outline {purpose}")
    dense = np.repeat(points, 3, axis=0)[: 3 * len(points) - 2]
    for step in (1, 2):
        dense[step::3] += (points[1:] - points[:-1]) * step / 3
    away = dense - CENTRE
    away = away / np.linalg.norm(away, axis=1, keepdims=True)
    phase = np.where(np.arange(len(dense)) % 2, 1.0, -0.6)
    bumps = size * (phase if look.has("wavy_hair") else 1.0) * rng.uniform(0.3, 1.2, len(dense))
    bumps[[0, -1]] = 0
    return dense + away * bumps[:, None]


def _combed(rng: np.random.Generator, look: Look) -> np.ndarray:
    """Arcs [N, 8, 3] about the skull, from a parting to either side."""
    count, points = 140, 6
    side = np.where(rng.uniform(size=count) < 0.5, -1.0, 1.0)
    radius = rng.uniform(40, 104, count)
    start = rng.uniform(-0.1, 0.9, count)
    reach = start + rng.uniform(0.5, 1.2, count)
    angle = start[:, None] + (reach - start)[:, None] * np.linspace(0, 1, points)
    r = radius[:, None] + 0.0 * angle
    if look.has("wavy_hair"):
        r = r + 4.2 * np.sin(angle * 10 + rng.uniform(0, 6.3, (count, 1)))
    elif not look.has("straight_hair"):
        r = r + rng.uniform(-5, 5, (count, 1)) * np.linspace(-1, 1, points) ** 2
    x = CENTRE[0] + side[:, None] * 0.74 * r * np.sin(angle) + 8 * look.light * np.cos(angle)
    y = CENTRE[1] - r * np.cos(angle) * 0.97
    z = 30 * np.clip(1 - (radius[:, None] - 40) / 50, 0, 1) + 0 * x
    return np.stack([x, y, z], axis=-1)


def _falling(
    rng: np.random.Generator, x: np.ndarray, top: np.ndarray, low: float, look: Look
) -> np.ndarray:
    """Strands [N, 8, 2] that hang from ``top`` to about ``low``."""
    t = np.linspace(0, 1, 8)
    length = (low - top) * rng.uniform(0.7, 1, len(x))
    y = top[:, None] + length[:, None] * t
    out = x[:, None] * (1 + 0.1 * t)
    if look.has("wavy_hair"):
        out = out + 6.0 * np.sin(
            y / 9.5 + 0.35 * np.sign(x)[:, None] + rng.uniform(-0.7, 0.7, (len(x), 1))
        )
    elif not look.has("straight_hair"):
        out = out + rng.uniform(-4, 4, (len(x), 1)) * np.sin(np.pi * t)
    return np.stack([out, y], axis=-1)


def _strands(
    d: Drawing,
    look: Look,
    lines: np.ndarray,
    tones: tuple[float, ...],
    width: float,
    depth: float = 0.0,
) -> None:
    """Draw lines [N, K, 2 or 3], dealt out to shades of the hair's colour."""
    count, points = lines.shape[:2]
    if lines.shape[2] == 2:
        lines = np.concatenate([lines, np.full((count, points, 1), depth)], axis=2)
    flat = d.pose.project(lines.reshape(-1, 3)).reshape(count, points, 2)
    for index, tone in enumerate(tones):
        d.hairs(polylines(flat[index :: len(tones)]), _tone(look.hair, tone), width, 0.75)


def _tone(hair: Colour, tone: float) -> Colour:
    # Shades of black hair would all be black: light ones get a floor.
    return shade(hair, tone) if tone <= 1 else shade(hair, 1 + (tone - 1) * 0.55)


def _bristles(d: Drawing, look: Look, rng: np.random.Generator) -> None:
    count = 320
    angle = rng.uniform(-1.9, 1.9, count)
    radius = rng.uniform(44, 92, count)
    start = np.column_stack([0.73 * radius * np.sin(angle), CENTRE[1] - radius * np.cos(angle)])
    away = (start - CENTRE) / np.linalg.norm(start - CENTRE, axis=1, keepdims=True)
    lines = np.stack([start, start + away * rng.uniform(2, 5, (count, 1))], axis=1)
    _strands(d, look, lines, (0.45, 0.7, 1.1, 1.35), 1.0)


def _shaved(d: Drawing, look: Look, face: str) -> None:
    """A shadow of stubble over the skull, with its hairline."""
    outer, inner = _cap(look, short=True)
    # Mid-grey brown whatever the hair's colour: stubble this short shows none.
    tint = shade(look.skin, 0.3)
    path = d.outline(np.vstack([outer, inner]))
    with d.group(d.clip(face)):
        d.fill(path, tint, 0.62)
        rng = look.stream("shaved")
        angle, radius = rng.uniform(-1.8, 1.8, 420), rng.uniform(46, 90, 420)
        spots = np.column_stack([0.72 * radius * np.sin(angle), CENTRE[1] - radius * np.cos(angle)])
        spots = spots[spots[:, 1] < -52 + 0.2 * np.abs(spots[:, 0])]
        flat = d.pose.project(np.column_stack([spots, np.zeros(len(spots))]))
        dots = np.stack([flat, moved(flat, 0, 1)], axis=1)
        d.hairs(polylines(dots), (30, 26, 28), 1.0, 0.7)
        d.glow((look.light * 18, -74), (26, 11), (255, 255, 255), 0.2)


def _locks(d: Drawing, look: Look) -> None:
    """Long hair that falls before the ears on both sides."""
    rng = look.stream("locks")
    for side in (-1, 1):
        half = np.array(
            [
                (40, -66),
                (60, -58),
                (76, -20),
                (82, 40),
                (86, 104),
                (70, 122),
                (54, 112),
                (58, 60),
                (55, 20),
                (53, -10),
                (51, -36),
            ],
            float,
        ) * (side, 1)
        shape = _wave_outline(half, look, 3.0 if look.has("wavy_hair") else 0.6, f"lock {side}")
        path = d.outline(np.column_stack([shape, np.zeros(len(shape))]))
        d.fill(path, shade(look.hair, 0.78))
        with d.group(d.clip(path)):
            x = side * rng.uniform(44, 84, 60)
            _strands(
                d,
                look,
                _falling(rng, x, np.full(60, -62.0), 150, look),
                (0.45, 0.7, 1.0, 1.2, 1.4),
                1.5,
            )
            d.glow((side * 54, 40, 0), (14, 84), (0, 0, 0), 0.3)


def _bangs(d: Drawing, look: Look) -> None:
    """A fringe to the eyebrows, its lower edge in points."""
    rng = look.stream("bangs")
    x = np.linspace(-50, 50, 17) * look.width
    jag = np.where(np.arange(17) % 2, 0.0, -6.0) + rng.uniform(-2, 2, 17)
    edge = np.column_stack([x, -33 + jag - 0.0035 * x**2])
    top = np.array([(55, -58), (36, -78), (0, -84), (-36, -78), (-55, -58)], float)
    path = d.outline(np.vstack([edge, top]), lift=3)
    d.stroke(d.outline(moved(edge, 0, 2), closed=False), shade(look.skin, 0.3), 4.0, 0.3)
    d.fill(path, shade(look.hair, 0.85))
    with d.group(d.clip(path)):
        x = rng.uniform(-54, 54, 70)
        lines = _falling(rng, x, rng.uniform(-90, -66, 70), -28, look)
        lines[:, :, 0] = (
            lines[:, :1, 0] * (0.75 + 0.3 * np.linspace(0, 1, 8))
            + (lines[:, :, 0] - lines[:, :1, 0]) * 0.6
        )
        _strands(
            d,
            look,
            np.concatenate([lines, np.full((70, 8, 1), 40.0)], 2),
            (0.5, 0.75, 1.0, 1.25, 1.4),
            1.4,
        )


def _spot(d: Drawing, look: Look) -> None:
    """Bare scalp where the crown's hair is gone."""
    side = -1.0 if look.seed % 2 else 1.0
    place = np.array([side * 18, -82.0])
    around = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    rng = look.stream("spot")
    r = rng.uniform(0.88, 1.1, 14)
    ring = place + np.column_stack([24 * np.cos(around) * r, 13.5 * np.sin(around) * r])
    path = d.outline(np.column_stack([ring, np.full(14, 12.0)]))
    d.fill(path, shade(look.skin, 0.98))
    with d.group(d.clip(path)):
        d.glow((place[0] + look.light * 5, place[1] - 3, 12), (15, 8), (255, 250, 244), 0.55)
    d.stroke(path, shade(look.hair, 0.6), 1.6, 0.7)
