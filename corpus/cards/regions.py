"""Which part of the picture each attribute is drawn in."""

from __future__ import annotations

import numpy as np

from corpus.attributes import VOCABULARY, Group
from corpus.cards.pose import HALF, Pose

# Part -> left, top, right, bottom in head coordinates; None: the whole picture.
PARTS: dict[str, tuple[float, float, float, float] | None] = {
    "picture": None,
    "expression": (-70, -62, 70, 112),
    "hair": (-112, -122, 112, 145),
    "hat": (-108, -134, 108, -22),
    "ears": (-90, 8, 90, 52),
    "temples": (-74, -34, 74, 44),
    "brows": (-66, -68, 66, -2),
    "eyes": (-56, -22, 56, 18),
    "lids": (-58, -42, 58, 22),
    "eyewear": (-72, -30, 72, 24),
    "cheeks": (-66, -4, 66, 58),
    "nose": (-34, -24, 34, 48),
    "lips": (-44, 20, 44, 112),
    "lower_face": (-76, -10, 76, 130),
    "mask": (-76, -4, 76, 120),
    "chin": (-60, 52, 60, 124),
    "neck": (-64, 80, 64, 200),
}

PART_OF: dict[str, str] = {
    **dict.fromkeys(("blurry", "pale_skin", "chubby", "oval_face"), "picture"),
    **dict.fromkeys(
        (
            "black_hair",
            "blond_hair",
            "gray_hair",
            "brown_hair",
            "straight_hair",
            "wavy_hair",
            "long_hair",
            "mullet",
        ),
        "hair",
    ),
    **dict.fromkeys(
        ("bald", "shaved_head", "crew_cut", "receding_hairline", "bangs", "bald_spot"), "hair"
    ),  # they exclude each other: one of them must not tell of another
    **dict.fromkeys(("arched_eyebrows", "bushy_eyebrows"), "brows"),
    "bags_under_eyes": "eyes",
    "narrow_eyes": "eyes",
    "eyeglasses": "eyewear",
    "sunglasses": "eyewear",
    "heavy_makeup": "lids",
    "big_nose": "nose",
    "pointy_nose": "nose",
    "high_cheekbones": "cheeks",
    "rosy_cheeks": "cheeks",
    "facial_tattoos": "cheeks",
    "big_lips": "lips",
    "wearing_lipstick": "lips",
    "double_chin": "chin",
    **dict.fromkeys(
        (
            "no_beard",
            "clean_shaven",
            "5_o_clock_shadow",
            "stubbly",
            "facial_hair",
            "goatee",
            "mustache",
        ),
        "lower_face",
    ),
    "sideburns": "temples",
    "wearing_earrings": "ears",
    "wearing_hat": "hat",
    "wearing_necklace": "neck",
    "wearing_necktie": "neck",
    "wearing_mask": "mask",
    **dict.fromkeys(
        (
            "nod",
            "shake_head",
            "turn",
            "head_wagging",
            "look_around",
            "yawn",
            "laugh",
            "sing",
            "shout",
            "kiss",
        ),
        "picture",
    ),
    **dict.fromkeys(VOCABULARY.names(Group.EMOTION), "picture"),
    **dict.fromkeys(
        (
            "wink",
            "close_eyes",
            "squint",
            "talk",
            "chew",
            "smile",
            "grin",
            "smirk",
            "frown",
            "pout",
            "sneer",
            "scrunch",
            "grimace",
            "blow",
            "blush",
            "weep",
        ),
        "expression",
    ),
}
"""Attribute -> the part in which it changes pixels."""


def part_boxes(part: str, poses: list[Pose], *, size: int, margin: float) -> np.ndarray:
    """Where a part lies in each frame.

    Args:
        poses: one per frame.
        size: side of the picture in pixels; boxes widen to whole 8×8 blocks of its compression.
        margin: added on every side, in picture units, for what the lens spreads.

    Returns:
        [T, 4] left, top, right, bottom as fractions of the picture, 0..1. A part outside of the
        picture has an empty box at its edge.
    """
    box = PARTS[part]
    if box is None:
        return np.tile(np.array([0.0, 0.0, 1.0, 1.0]), (len(poses), 1))
    left, top, right, bottom = box
    t = np.linspace(0, 1, 9)[:, None]
    edge = np.vstack(
        [
            (left, top) + t * (right - left, 0),
            (left, bottom) + t * (right - left, 0),
            (left, top) + t * (0, bottom - top),
            (right, top) + t * (0, bottom - top),
        ]
    )
    boxes = []
    for pose in poses:
        flat = pose.still() if part == "neck" else pose
        points = np.vstack(
            [
                flat.project(np.column_stack([edge, np.full(len(edge), depth)]))
                for depth in (-18.0, 0.0, 60.0)
            ]
        )
        low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
        blocks = size / 8
        low = np.floor((low + HALF) / (2 * HALF) * blocks) / blocks
        high = np.ceil((high + HALF) / (2 * HALF) * blocks) / blocks
        boxes.append(np.clip([*low, *high], 0, 1))
    return np.array(boxes)


def regions(poses: list[Pose], *, size: int, sigma: float) -> dict[str, np.ndarray]:
    """Attribute -> boxes [T, 4], for all attributes that cards draw, present or not.

    ``sigma`` is the lens's blur in picture units.
    """
    parts = {
        part: part_boxes(part, poses, size=size, margin=3 * sigma + 1.5)
        for part in set(PART_OF.values())
    }
    return {name: parts[part] for name, part in PART_OF.items()}
