"""The head without its features: shoulders, neck, ears, the face's form and skin."""

from __future__ import annotations

import numpy as np

from corpus.cards.look import Look
from corpus.cards.motion import Expression
from corpus.cards.svg import Drawing, mix, shade

OUTLINES = {  # the half at the picture's right, from the skull's top to the chin
    "plain": [
        (0, -88),
        (34, -81),
        (55, -57),
        (61, -22),
        (60, 10),
        (55, 40),
        (42, 64),
        (22, 79),
        (0, 83),
    ],
    "oval_face": [
        (0, -92),
        (30, -84),
        (48, -58),
        (53, -22),
        (51, 10),
        (43, 42),
        (29, 68),
        (14, 84),
        (0, 90),
    ],
    "chubby": [
        (0, -87),
        (34, -80),
        (56, -56),
        (63, -20),
        (68, 14),
        (69, 42),
        (57, 68),
        (30, 84),
        (0, 87),
    ],
}


def outline(look: Look, now: Expression) -> np.ndarray:
    """The face's contour [N, 3], clockwise from the top, its jaw moved by the mouth."""
    kind = next((name for name in ("oval_face", "chubby") if look.has(name)), "plain")
    half = np.array(OUTLINES[kind], dtype=float) * (look.width, 1)
    low = np.clip((half[:, 1] - 20) / 60, 0, 1)
    half[:, 1] += low * (9 * max(now.open, 0))
    half[:, 0] += 7 * now.puff * np.exp(-(((half[:, 1] - 42) / 18) ** 2))
    left = half[-2:0:-1] * (-1, 1)
    points = np.vstack([half, left])
    points[:, 0] += 9 * now.jaw * np.clip((points[:, 1] - 30) / 50, 0, 1)
    return np.column_stack([points, np.zeros(len(points))])


def draw_body(d: Drawing, look: Look) -> None:
    """Shoulders, clothes and neck; they stay while the head moves."""
    cloth = look.cloth
    shoulders = np.array(
        [
            (-175, 190),
            (-150, 132),
            (-95, 112),
            (-45, 103),
            (-30, 92),
            (30, 92),
            (45, 103),
            (95, 112),
            (150, 132),
            (175, 190),
        ],
        dtype=float,
    )
    path = d.outline(np.column_stack([shoulders, np.zeros(10)]), body=True)
    top = d.pose.still().project(np.array([(0.0, 95.0, 0.0), (0.0, 190.0, 0.0)]))
    neck = np.array(
        [
            (-36, 30, 0),
            (-33, 80, 0),
            (-40, 103, 0),
            (-26, 116, 0),
            (0, 122, 0),
            (26, 116, 0),
            (40, 103, 0),
            (33, 80, 0),
            (36, 30, 0),
        ],
        dtype=float,
    )
    skin = look.skin
    d.fill(path, d.linear(top[0], top[1], [(0, shade(cloth, 1.1), 1), (1, shade(cloth, 0.6), 1)]))
    neck_path = d.outline(neck, body=True)
    d.fill(neck_path, shade(skin, 0.84))
    d.glow((0, 88, 0), (52, 34), shade(skin, 0.35), 0.75, body=True, core=0.25)
    for side in (-1, 1):
        fold = np.array(
            [(side * 41, 102, 0), (side * 30, 116, 0), (side * 12, 123, 0), (0, 125, 0)], float
        )
        d.stroke(d.outline(fold, closed=False, body=True), shade(cloth, 0.6), 3.5)
        tendon = np.array([(side * 27, 84, 0), (side * 20, 103, 0), (side * 8, 118, 0)], float)
        d.stroke(d.outline(tendon, closed=False, body=True), shade(skin, 0.68), 2.2, 0.5)


def draw_ears(d: Drawing, look: Look) -> None:
    """Behind the face: the far one vanishes when the head turns."""
    for side in (-1, 1):
        x = side * 60 * look.width
        ear = np.array(
            [
                (x - side * 4, -14, -8),
                (x + side * 8, -18, -14),
                (x + side * 11, -4, -14),
                (x + side * 7, 12, -12),
                (x + side * 1, 20, -8),
                (x - side * 5, 10, -6),
            ],
            float,
        )
        d.fill(d.outline(ear), shade(look.skin, 0.86))
        fold = np.array(
            [
                (x + side * 1, -9, -10),
                (x + side * 6, -10, -12),
                (x + side * 6, 2, -12),
                (x + side * 1, 10, -10),
            ],
            float,
        )
        d.stroke(d.outline(fold, closed=False), shade(look.skin, 0.6), 1.8, 0.8)


def draw_face(d: Drawing, look: Look, now: Expression) -> str:
    """Skin with the shadows of its form; returns the contour's path for clipping."""
    skin, pose = look.skin, d.pose
    path = d.outline(outline(look, now))
    centre = pose.project(np.array([(look.light * 22.0, -18.0)]))[0]
    d.fill(
        path,
        d.radial(
            centre,
            112 * pose.zoom,
            [
                (0, shade(skin, 1.07), 1),
                (0.42, skin, 1),
                (0.68, shade(skin, 0.9), 1),
                (0.86, shade(skin, 0.7), 1),
                (1, shade(skin, 0.56), 1),
            ],
        ),
    )
    with d.group(d.clip(path)):
        dark, bright, warm = shade(skin, 0.42), shade(skin, 1.4), mix(skin, (196, 70, 60), 0.5)
        d.glow((-look.light * 66, 22, 0), (48, 88), dark, 0.5, core=0.1)
        for side in (-1, 1):
            d.glow((side * 26, -7), (23, 15), dark, 0.42)  # eye sockets
            d.glow((side * 11, -10), (8, 15), dark, 0.34)  # beside the bridge
            d.glow((side * 33, 22), (17, 13), bright, 0.26)  # cheeks
            d.glow((side * 37, 20), (20, 14), warm, 0.2)
            d.glow((side * 46, 45), (20, 26), dark, 0.26)  # hollows of the cheeks
        d.glow((0, -52), (44, 24), bright, 0.24)  # forehead
        d.glow((0, 68 + 8 * now.open), (14, 8), bright, 0.22)  # chin
        d.glow((0, 61 + 8 * now.open), (19, 7), dark, 0.34)  # below the lower lip
        d.glow((0, 92 + 6 * now.open, 0), (48, 15), dark, 0.45)  # below the chin
        _cheeks(d, look, now)
    return path


def _cheeks(d: Drawing, look: Look, now: Expression) -> None:
    dark = shade(look.skin, 0.4)
    fold = 0.16 + 0.5 * max(now.cheek, now.smile, now.wrinkle * 0.8, 0)
    for side in (-1, 1):
        lines = np.array(
            [
                (side * 15, 28),
                (side * (22 + 4 * now.stretch), 37),
                (side * (29 + 4 * now.smile), 49),
            ],
            float,
        )
        d.stroke(d.outline(lines, closed=False), dark, 2.2, min(fold, 0.6))
        if now.cheek > 0.05:
            d.glow(
                (side * 36, 20 - 4 * now.cheek), (17, 12), shade(look.skin, 1.4), 0.35 * now.cheek
            )
            d.glow((side * 38, 31 - 3 * now.cheek), (17, 7), dark, 0.35 * now.cheek)
        if now.puff > 0.05:
            d.glow((side * 42, 44), (17, 18), shade(look.skin, 1.35), 0.6 * now.puff)
            d.glow((side * 24, 52), (7, 14), dark, 0.35 * now.puff)
        if now.blush > 0.02:
            d.glow((side * 36, 22), (28, 22), (214, 30, 40), 0.62 * now.blush, core=0.2)
    if now.blush > 0.02:
        d.glow((0, 18), (22, 14), (214, 30, 40), 0.45 * now.blush)
