"""Eyes, eyebrows and what lies about them."""

from __future__ import annotations

import numpy as np

from corpus.cards.look import Look
from corpus.cards.motion import Expression
from corpus.cards.pose import moved
from corpus.cards.svg import Drawing, mix, polylines, shade

EYE_Y = -4.0
HALF_EYE = 13.5


def draw_eyes(d: Drawing, look: Look, now: Expression) -> None:
    for side in (-1, 1):
        shut = min(max(now.lid + (now.wink if side < 0 else 0), 0.0), 1.0)
        _eye(d, look, now, side, shut)


def _eye(d: Drawing, look: Look, now: Expression, side: int, shut: float) -> None:
    narrow = look.has("narrow_eyes")
    up = (
        (3.0 if narrow else 7.4)
        * (1 + 0.5 * max(now.wide, 0))
        * (1 - shut)
        * (1 - 0.3 * now.squint)
    )
    low = (2.2 if narrow else 4.8) * (1 + 0.25 * max(now.wide, 0)) * (1 - 0.62 * now.squint)
    low = low * (1 - 0.6 * shut) + 1.6 * shut
    x, y = side * look.gap, EYE_Y + 1.5 * shut
    across = np.array([-1, -0.55, 0.05, 0.6, 1]) * side * -1  # from the outer corner inwards
    outer_up = -1.2 if not narrow else -1.0
    upper = np.column_stack(
        [
            x + across * HALF_EYE,
            y
            + np.array(
                [
                    outer_up,
                    -0.78 * up + low * shut,
                    -up + 1.2 * low * shut,
                    -0.72 * up + low * shut,
                    1.4,
                ]
            ),
        ]
    )
    lower = np.column_stack(
        [x + across * HALF_EYE, y + np.array([outer_up, 0.85 * low, low, 0.8 * low, 1.4])]
    )
    shape = d.outline(np.vstack([upper, lower[-2:0:-1]]), lift=-3)
    skin = look.skin
    _lids(d, look, now, x, y, up, upper, lower, shut)
    if shut < 0.86:
        d.fill(shape, (242, 238, 234))
        with d.group(d.clip(shape)):
            d.glow((x - side * 11, y + 1), (6, 8), (206, 150, 140), 0.6, lift=-3)
            d.glow((x + side * 12, y), (6, 9), (120, 100, 96), 0.5, lift=-3)
            _iris(d, look, x + 5.2 * now.gaze_x, y - 0.8 + 4.2 * now.gaze_y)
            top = d.outline(moved(upper, 0, 0.6), closed=False, lift=-3)
            d.stroke(top, (40, 24, 24), 4.2, 0.42)
        d.stroke(d.outline(lower, closed=False, lift=-3), mix(skin, (120, 60, 56), 0.55), 1.1, 0.8)
    lash = (34, 24, 22)
    edge = d.outline(upper, closed=False, lift=-3)
    d.stroke(edge, lash, 2.3 if shut < 0.86 else 2.6, 0.92)


def _lids(
    d: Drawing,
    look: Look,
    now: Expression,
    x: float,
    y: float,
    up: float,
    upper: np.ndarray,
    lower: np.ndarray,
    shut: float,
) -> None:
    """Upper lid with its crease, lower lid with its fold."""
    skin = look.skin
    crease = upper - (0, 4.4 + 3.2 * shut)
    crease[0, 1] += 3.2
    crease[-1, 1] += 3.6
    lid = d.outline(np.vstack([crease, upper[::-1]]), lift=-2)
    d.fill(lid, shade(skin, 0.88), 0.85)
    if look.has("heavy_makeup"):
        _shadow(d, look, crease, upper, lower)
    d.stroke(d.outline(crease, closed=False, lift=-2), shade(skin, 0.42), 1.3, 0.75)
    d.stroke(
        d.outline(moved(lower, 0, 3.4), closed=False, lift=-2),
        shade(skin, 0.5),
        1.2,
        0.25 + 0.5 * now.squint,
    )
    if now.squint > 0.2:
        for step in (-3.0, 1.5, 6.0):  # crow's feet
            outer = upper[0]
            out = np.sign(x) * 9
            line = np.array(
                [moved(outer, out * 0.45, step * 0.4), moved(outer, out * 1.33, step * 1.3)]
            )
            d.stroke(d.outline(line, closed=False), shade(skin, 0.45), 1.1, 0.7 * now.squint)


def _iris(d: Drawing, look: Look, x: float, y: float) -> None:
    pose = d.pose
    cx, cy = pose.project(np.array([(x, y)]), lift=-3)[0]
    r = 6.3 * pose.zoom
    paint = d.radial(
        (cx, cy + 0.25 * r),
        r,
        [(0, shade(look.iris, 1.25), 1), (0.75, look.iris, 1), (1, shade(look.iris, 0.35), 1)],
    )
    d.raw(f'<circle cx="{cx:.2f}" cy="{cy:.2f}" r="{r:.2f}" fill="{paint}"/>')
    d.raw(f'<circle cx="{cx:.2f}" cy="{cy:.2f}" r="{0.44 * r:.2f}" fill="#0c0808"/>')
    gx, gy = cx + 0.36 * r * look.light, cy - 0.36 * r
    d.raw(f'<circle cx="{gx:.2f}" cy="{gy:.2f}" r="{0.25 * r:.2f}" fill="#ffffff" opacity="0.95"/>')


def _shadow(
    d: Drawing, look: Look, crease: np.ndarray, upper: np.ndarray, lower: np.ndarray
) -> None:
    """Eye shadow to the brow, liner with a wing, long lashes."""
    tint = ((96, 40, 128), (30, 84, 130), (150, 40, 90))[look.seed % 3]
    high = crease - (0, 6.5)
    high[0] += (np.sign(upper[0, 0]) * 5, -1)
    d.fill(d.outline(np.vstack([high, upper[::-1]]), lift=-2), tint, 0.62)
    d.fill(d.outline(np.vstack([crease, upper[::-1]]), lift=-2), tint, 0.75)
    out = np.sign(upper[0, 0])
    wing = np.vstack([upper[0] + (out * 8, -5), upper])
    d.stroke(d.outline(wing, closed=False, lift=-2), (12, 8, 12), 3.2)
    d.stroke(d.outline(lower, closed=False, lift=-2), (12, 8, 12), 1.8)
    for share, start in zip((1.0, 0.75, 0.5, 0.2), upper, strict=False):
        lash = np.array([start, moved(start, out * 5 * share, -6.5)])
        d.stroke(d.outline(lash, closed=False, lift=-1), (12, 8, 12), 1.3)


def draw_bags(d: Drawing, look: Look) -> None:
    if not look.has("bags_under_eyes"):
        return
    skin = look.skin
    for side in (-1, 1):
        x = side * look.gap
        d.glow((x, 8), (15, 7.5), mix(shade(skin, 0.42), (70, 30, 74), 0.45), 0.85, core=0.25)
        d.glow((x, 7.5), (10, 3.4), shade(skin, 1.15), 0.5)
        pouch = np.array([(x - 13, 5), (x - 7, 12), (x + 1, 14), (x + 8, 12), (x + 13, 5)], float)
        d.stroke(d.outline(pouch, closed=False), mix(shade(skin, 0.3), (60, 20, 50), 0.4), 2.0, 0.9)


def draw_brows(d: Drawing, look: Look, now: Expression) -> None:
    """Tapered brows of hairs; arched and bushy ones differ in line and in thickness."""
    arch, bushy = look.has("arched_eyebrows"), look.has("bushy_eyebrows")
    rng = look.stream("brows")
    hairs = rng.uniform(size=(2, 60 if bushy else 26, 3))
    for side in (-1, 1):
        t = np.linspace(0, 1, 6)  # inner to outer end
        x = side * (look.gap - 13.5 + 32 * t)
        bend = np.sin(np.pi * np.clip(t * 0.9 + 0.08, 0, 1))
        bow = -11.5 * np.exp(-(((t - 0.56) / 0.3) ** 2)) + 1.5 * t if arch else -2.8 * bend
        y = EYE_Y - 18.5 + bow + 1.5 * t
        y = y - 8.5 * now.brow_raise - 8 * now.brow_skew * side
        y = y - 8.5 * now.brow_inner * (1 - t) + 4.5 * now.brow_inner * t
        y = y + 9.5 * now.brow_lower * (1 - 0.9 * t) - 1.5 * now.brow_lower * t
        x = x - side * 4.0 * now.brow_lower * (1 - t)
        thick = (11.0 if bushy else 3.7) * (
            0.62 + 0.55 * np.sin(np.pi * np.clip(0.2 + 0.75 * t, 0, 1))
        )
        thick = thick * np.where(t > 0.85, 0.4, 1)
        top = np.column_stack([x, y - thick / 2])
        low = np.column_stack([x, y + thick / 2])
        d.fill(d.outline(np.vstack([top, low[::-1]])), look.brow, 0.88 if bushy else 0.8)
        lines = _hairs(hairs[(side + 1) // 2], np.column_stack([x, y]), thick, side, bushy)
        flat = d.pose.project(lines.reshape(-1, 2)).reshape(-1, 2, 2)
        d.stroke(polylines(flat), shade(look.brow, 0.65), 1.0, 0.85)
    if now.brow_lower > 0.25:
        for side in (-1, 1):
            crease = np.array([(side * 5, -28), (side * 4.2, -21), (side * 6, -14)], float)
            d.stroke(
                d.outline(crease, closed=False), shade(look.skin, 0.35), 1.7, 0.8 * now.brow_lower
            )
    lines_up = max(now.brow_raise, now.brow_inner * 0.8, abs(now.brow_skew) * 0.5)
    if lines_up > 0.3:
        for height in (-42, -49):
            crease = np.array([(-26, height + 2), (0, height), (26, height + 2)], float)
            d.stroke(d.outline(crease, closed=False), shade(look.skin, 0.45), 1.3, 0.45 * lines_up)


def _hairs(
    draws: np.ndarray, line: np.ndarray, thick: np.ndarray, side: int, bushy: bool
) -> np.ndarray:
    """Short hairs [N, 2 points, 2] across a brow's ``line`` [6, 2]."""
    place = draws[:, 0] * (len(line) - 1.01)
    index = place.astype(int)
    rest = (place - index)[:, None]
    start = line[index] * (1 - rest) + line[index + 1] * rest
    spread = thick[index] * (draws[:, 1] - 0.4)
    start = start + np.column_stack([np.zeros(len(draws)), spread])
    length = 3.0 + (4.5 if bushy else 2.0) * draws[:, 2]
    slope = np.column_stack(
        [side * length * (0.3 + 0.7 * draws[:, 0]), -length * (1 - 0.75 * draws[:, 0])]
    )
    return np.stack([start, start + slope], axis=1)


def draw_tears(d: Drawing, look: Look, now: Expression) -> None:
    """Streams down the cheeks with a drop at their end."""
    if now.tears <= 0:
        return
    for side in (-1, 1):
        x = side * (look.gap + 1)
        end = 8 + 46 * now.tears
        track = np.array([(x, 4), (x + side * 2, 4 + (end - 4) * 0.5), (x + side * 3, end)], float)
        d.stroke(d.outline(track, closed=False), (196, 224, 246), 4.4, 0.75)
        d.stroke(d.outline(track, closed=False), (255, 255, 255), 1.3, 0.9)
        drop = np.array(
            [
                (x + side * 3, end - 7),
                (x + side * 3 + 3.8, end + 1),
                (x + side * 3, end + 5),
                (x + side * 3 - 3.8, end + 1),
            ],
            float,
        )
        d.fill(d.outline(drop), (208, 232, 250), 0.95)
        d.glow((x + side * 3 - 1, end), (1.8, 2.4), (255, 255, 255), 1.0, core=0.4)
        d.glow((x, 5), (11, 4), (214, 236, 255), 0.7)
