"""What hides a part of the face, so that nobody can answer a question about it.

A scarf hides the lower face, a cloth band the eyes, a hood the hair; for the neck the picture ends
above it (see :func:`corpus.cards.render.poses`). Covers are opaque and drawn last, and their
edges move with the skin below them, so that nothing peeks out in any pose.
"""

from __future__ import annotations

import numpy as np

from corpus.cards.look import stream
from corpus.cards.pose import surface
from corpus.cards.svg import Colour, Drawing, shade

CLOTHS: tuple[Colour, ...] = (
    (98, 60, 66),
    (62, 84, 98),
    (118, 104, 84),
    (72, 90, 66),
    (90, 76, 104),
)


def draw_cover(d: Drawing, seed: int, hidden: str | None) -> None:
    """Cover the part ``hidden`` of :data:`corpus.cards.spec.HIDEABLE`; nothing for the others."""
    if hidden not in COVERS:
        return
    rng = stream(seed, "cover")
    COVERS[hidden](d, CLOTHS[int(rng.integers(len(CLOTHS)))])


def _scarf(d: Drawing, cloth: Colour) -> None:
    """Wound about mouth, jaw and neck, up to the middle of the nose."""
    half = np.array([(80, -5), (64, -5), (48, 4), (28, 15), (0, 25)], float)
    # Beards begin on the rim of the head, moustaches in front of its middle.
    depth = np.array([0.0, 0.0, 14.0, 44.0, 64.0])
    half = np.column_stack([half, depth])
    edge = np.vstack([half * (-1, 1, 1), half[-2::-1]])
    low = np.array(
        [
            (80, 60),
            (82, 96),
            (98, 124),
            (60, 144),
            (0, 150),
            (-60, 144),
            (-98, 124),
            (-82, 96),
            (-80, 60),
        ],
        float,
    )
    points = np.vstack([edge, np.column_stack([low, np.zeros(9)])])
    path = d.outline(points)
    d.fill(path, cloth)
    with d.group(d.clip(path)):
        for y, tone in (
            (26, 0.7),
            (38, 1.15),
            (52, 0.65),
            (68, 1.12),
            (86, 0.6),
            (102, 1.15),
            (122, 0.6),
        ):
            fold = np.array(
                [(-96, y - 12), (-50, y - 3), (0, y + 2), (50, y - 1), (96, y - 12)], float
            )
            d.stroke(d.outline(fold, closed=False), shade(cloth, tone), 3.0, 0.7)
        for side in (-1, 1):
            d.glow((side * 76, 60, 0), (34, 70), (0, 0, 0), 0.45)
        d.glow((0, 40), (22, 20), (255, 255, 255), 0.14)
    d.stroke(path, shade(cloth, 0.5), 1.6)


def _band(d: Drawing, cloth: Colour) -> None:
    """A cloth tied over eyes and glasses."""
    shape = np.array(
        [
            (-76, -34, 0),
            (-60, -40, 58),
            (0, -42, 62),
            (60, -40, 58),
            (76, -34, 0),
            (76, 20, 0),
            (60, 29, 58),
            (0, 26, 62),
            (-60, 29, 58),
            (-76, 20, 0),
        ],
        float,
    )
    path = d.outline(shape)
    d.fill(path, cloth)
    with d.group(d.clip(path)):
        for y in (-30, -18, -6, 7):
            fold = np.array([(-70, y + 2, 0), (0, y - 3, 60), (70, y + 2, 0)], float)
            d.stroke(d.outline(fold, closed=False), shade(cloth, 0.62), 2.4, 0.7)
        d.glow((0, -14), (30, 14), (255, 255, 255), 0.12)
    d.stroke(path, shade(cloth, 0.5), 1.6)


def _hood(d: Drawing, cloth: Colour) -> None:
    outer = np.array(
        [(0, -138), (56, -128), (98, -88), (112, -20), (112, 50), (116, 112), (130, 200)], float
    )
    inner = np.array([(0, -25), (24, -24), (38, -14), (42, 10), (38, 36), (24, 60), (0, 72)], float)
    around = np.vstack([outer, outer[::-1] * (-1, 1)])
    rim = d.outline(np.column_stack([around, np.zeros(14)]))
    holes = [_opening(d, inner, grow) for grow in (1.0, 1.09, 1.22, 1.4)]
    d.fill(f"{rim}{d.outline(holes[0])}", cloth, rule="evenodd")
    for hole, tone in zip(holes, (0.5, 1.15, 0.68, 1.12), strict=True):
        d.stroke(d.outline(hole), shade(cloth, tone), 2.6, 0.75)


def _opening(d: Drawing, half: np.ndarray, grow: float) -> np.ndarray:
    """The hood's opening [N, 3]; its edge is the one further in of skin and rim on either side."""
    edge = np.vstack([half, half[-2:0:-1] * (-1, 1)]) * grow
    near = np.abs(edge[:, 0]) < 30
    near |= np.sign(edge[:, 0]) == -np.sign(d.pose.yaw)
    near &= edge[:, 1] < 20  # below, what is behind the jaw must not show
    return np.column_stack([edge, np.where(near, surface(edge), 0)])


COVERS = {"lower_face": _scarf, "eyes": _band, "hair": _hood}
