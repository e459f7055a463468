"""What a person wears, and what lies on the skin: glasses, hat, mask, jewellery, tie, tattoos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corpus.cards.look import Look
from corpus.cards.pose import moved
from corpus.cards.svg import Drawing, mix, shade

GOLD = (222, 178, 74)


def draw_skin_marks(d: Drawing, look: Look) -> None:
    """Rosy cheeks, high cheekbones, a double chin, tattoos."""
    skin = look.skin
    if look.has("rosy_cheeks"):
        for side in (-1, 1):
            d.glow((side * 36, 23), (24, 19), mix(skin, (228, 30, 60), 0.9), 0.92, core=0.4)
    if look.has("high_cheekbones"):
        for side in (-1, 1):
            d.glow((side * 41, 13), (17, 8), shade(skin, 1.65), 0.8, core=0.2)
            hollow = np.array(
                [
                    (side * 57, 16),
                    (side * 49, 27),
                    (side * 38, 37),
                    (side * 31, 46),
                    (side * 36, 50),
                    (side * 47, 42),
                    (side * 56, 30),
                ],
                float,
            )
            d.fill(d.outline(hollow), shade(skin, 0.28), 0.4)
            d.glow((side * 45, 35), (15, 13), shade(skin, 0.3), 0.5)
    if look.has("facial_tattoos"):
        _tattoo(d, look)


def draw_double_chin(d: Drawing, look: Look, drop: float) -> None:
    """A second roll below the chin, over the neck."""
    if not look.has("double_chin"):
        return
    skin = look.skin
    half = np.array([(0, 104), (20, 101), (35, 88), (41, 70), (38, 54)], float)
    half[:, 0] *= {"oval": 0.8, "chubby": 1.25}.get(_form(look), 1.0)
    shape = np.vstack([half[:0:-1] * (-1, 1), half])
    shape[:, 1] += drop
    line = np.column_stack([shape, np.zeros(len(shape))])
    path = d.outline(line)
    d.fill(path, shade(skin, 0.84))
    with d.group(d.clip(path)):
        d.glow((0, 93 + drop, 0), (26, 8), shade(skin, 1.15), 0.8)
    d.stroke(d.outline(line, closed=False), shade(skin, 0.42), 2.4, 0.8)


def _form(look: Look) -> str:
    return "oval" if look.has("oval_face") else ("chubby" if look.has("chubby") else "plain")


def _tattoo(d: Drawing, look: Look) -> None:
    """A tribal curve beside one eye and a small star under the other."""
    side = -1 if look.stream("tattoo").uniform() < 0.5 else 1
    ink = (26, 36, 58)
    sweep = np.array(
        [(34, 12), (44, 16), (50, 26), (48, 38), (40, 46), (43, 36), (42, 28), (38, 20)], float
    )
    centre = np.array([41.0, 28.0])
    grown = (sweep - centre) * 1.3 + centre
    d.fill(d.outline(grown * (side, 1)), ink, 0.92)
    for start, stop in (((40, 20), (29, 27)), ((43, 28), (31, 34)), ((43, 37), (34, 42))):
        spike = np.array([start, ((start[0] + stop[0]) / 2, start[1] + 1), stop], float) * (side, 1)
        d.stroke(d.outline(spike, closed=False), ink, 3.4, 0.92)
    angle = np.linspace(0, 2 * np.pi, 10, endpoint=False) - np.pi / 2
    reach = np.where(np.arange(10) % 2, 4.6, 11.0)
    star = np.column_stack([reach * np.cos(angle), reach * np.sin(angle)])
    star = moved(star, -side * 36, 28)
    corners = d.pose.project(star)
    d.fill("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "Z", ink, 0.88)


def draw_necklace(d: Drawing, look: Look) -> None:
    if not look.has("wearing_necklace"):
        return
    t = np.linspace(-1, 1, 17)
    beads = np.column_stack([40 * t, 130 - 25 * t**2, np.zeros(17)])
    path = d.outline(beads, closed=False, body=True)
    d.stroke(path, (96, 66, 16), 3.4, 0.8)
    d.stroke(path, GOLD, 2.0)
    for x, y in d.pose.still().project(beads):
        r = 3.3 * d.pose.zoom
        paint = d.radial(
            (x - r / 3, y - r / 3),
            1.4 * r,
            [(0, (255, 244, 196), 1), (0.5, GOLD, 1), (1, (120, 80, 20), 1)],
        )
        d.raw(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{paint}"/>')


def draw_necktie(d: Drawing, look: Look) -> None:
    """A tie under the flaps of a white collar."""
    if not look.has("wearing_necktie"):
        return
    rng = look.stream("necktie")
    cloth = ((150, 24, 36), (28, 46, 112), (22, 92, 74), (92, 34, 104))[int(rng.integers(4))]
    for side in (-1, 1):
        flap = [(side * 40, 104), (side * 47, 113), (side * 29, 138), (side * 4, 118)]
        d.fill(_polygon(d, flap), (240, 240, 242))
        d.stroke(_polygon(d, flap), (150, 150, 158), 1.2, 0.9)
    knot = [(-11, 114), (11, 114), (7, 128), (-7, 128)]
    blade = [(-7, 128), (7, 128), (19, 190), (-19, 190)]
    d.fill(_polygon(d, blade), cloth)
    for y in range(131, 200, 11):
        stripe = [(-20, y), (20, y - 13), (20, y - 9), (-20, y + 4)]
        with d.group(d.clip(_polygon(d, blade))):
            d.fill(_polygon(d, stripe), shade(cloth, 1.5), 0.8)
    d.fill(_polygon(d, knot), shade(cloth, 0.85))
    d.stroke(_polygon(d, knot), shade(cloth, 0.5), 1.4)


def _polygon(d: Drawing, corners: Sequence[tuple[float, float]]) -> str:
    points = np.column_stack([np.array(corners, float), np.zeros(len(corners))])
    flat = d.pose.still().project(points)
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in flat) + "Z"


def draw_earrings(d: Drawing, look: Look) -> None:
    if not look.has("wearing_earrings"):
        return
    for side in (-1, 1):
        x = side * 65 * look.width
        cx, cy = d.pose.project(np.array([(x, 31.0, 0.0)]))[0]
        z = d.pose.zoom
        hoop = f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{9 * z:.1f}" fill="none"'
        d.raw(
            f'{hoop} stroke="#6e4c12" stroke-width="{4.2 * z:.1f}"/>'
            f'{hoop} stroke="#f2cf74" stroke-width="{2.6 * z:.1f}"/>'
            f'<circle cx="{cx:.1f}" cy="{cy - 10 * z:.1f}" r="{2.8 * z:.1f}" fill="#fff4d0"/>'
        )


def draw_glasses(d: Drawing, look: Look) -> None:
    dark = look.has("sunglasses")
    if not (dark or look.has("eyeglasses")):
        return
    rng = look.stream("glasses")
    frame = (
        ((28, 26, 30), (86, 48, 30), (52, 56, 70))[int(rng.integers(3))]
        if not dark
        else (16, 16, 18)
    )
    wide, high = (21.5, 17.5) if dark else (19.5, 15.5)
    for side in (-1, 1):
        x = side * (look.gap + 0.5)
        t = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        # Between an ellipse and a rectangle.
        ring = np.column_stack(
            [
                x + wide * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.7,
                -2 + high * np.sign(np.sin(t)) * np.abs(np.sin(t)) ** 0.7,
            ]
        )
        path = d.outline(np.column_stack([ring, np.full(12, 56.0)]))
        centre = d.pose.project(np.array([(x, -2.0, 56.0)]))[0]
        if dark:
            d.fill(
                path,
                d.linear(
                    (centre[0], centre[1] - high),
                    (centre[0], centre[1] + high),
                    [(0, (12, 12, 16), 1), (1, (58, 54, 60), 1)],
                ),
            )
            with d.group(d.clip(path)):
                d.glow((x + 8 * look.light, -9, 56), (9, 5), (255, 255, 255), 0.4)
        else:
            d.fill(path, (226, 238, 255), 0.1)
            glint = np.array([(x - 9, 6, 56), (x - 2, -12, 56)], float)
            d.stroke(d.outline(glint, closed=False), (255, 255, 255), 2.2, 0.35)
        d.stroke(path, frame, 3.2 if not dark else 2.6)
        temple = np.array([(x + side * wide, -8, 54), (side * 60 * look.width, -9, 0)], float)
        d.stroke(d.outline(temple, closed=False), frame, 2.8)
    inner = look.gap + 0.5 - wide
    bridge = np.array([(-inner, -5, 58), (0, -9, 60), (inner, -5, 58)], float)
    d.stroke(d.outline(bridge, closed=False), frame, 3.0)


def draw_mask(d: Drawing, look: Look, drop: float) -> None:
    """A pleated surgical mask over nose, mouth and chin."""
    if not look.has("wearing_mask"):
        return
    rng = look.stream("mask")
    cloth = ((126, 176, 206), (228, 232, 236), (44, 46, 52), (160, 196, 176))[int(rng.integers(4))]
    half = np.array(
        [
            (0, 8, 66),
            (16, 15, 52),
            (40, 21, 34),
            (58, 19, 6),
            (60, 44, 0),
            (46, 74, 0),
            (24, 93, 0),
            (0, 98, 4),
        ],
        float,
    )
    half[:, 0] *= look.width * (1.07 if look.has("chubby") else 1)
    half[4:, 1] += drop
    half[4:, 0] *= 1.05
    shape = np.vstack([half, half[-2:0:-1] * (-1, 1, 1)])
    path = d.outline(shape)
    for side in (-1, 1):
        for y, end in ((21, 2), (56, 16)):
            strap = np.array([(side * 56, y, 6), (side * 63, end, -4)], float)
            d.stroke(d.outline(strap, closed=False), shade(cloth, 0.85), 1.8)
    d.fill(path, cloth)
    with d.group(d.clip(path)):
        d.glow((-look.light * 52, 55, 0), (48, 70), (0, 0, 0), 0.32)
        d.glow((look.light * 8, 30), (20, 18), (255, 255, 255), 0.3)
        for y in (36, 49, 62):
            pleat = np.array([(-56, y - 5), (0, y + 3), (56, y - 5)], float)
            d.stroke(d.outline(pleat, closed=False, lift=4), shade(cloth, 0.66), 1.6, 0.8)
    d.stroke(path, shade(cloth, 0.6), 1.4, 0.9)
