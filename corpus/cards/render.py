"""From a :class:`~corpus.cards.spec.CardSpec` to frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from corpus.cards import (
    accessories,
    covers,
    eyes,
    facial_hair,
    hair,
    head,
    headwear,
    mouth,
    nose,
    scene,
)
from corpus.cards.look import Look, draw_look
from corpus.cards.motion import Expression, expressions
from corpus.cards.pose import HALF, Pose
from corpus.cards.regions import regions
from corpus.cards.spec import CardSpec
from corpus.cards.svg import Drawing

VERSION = 1  # counts changes to what a card of the same spec looks like
NECK_LINE = 100.0  # what is worn around the neck lies below this; see accessories


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A rendered card."""

    frames: np.ndarray  # [T, H, W, 3] uint8 RGB
    regions: Mapping[str, np.ndarray]  # attribute -> [T, 4] left, top, right, bottom as fractions


def poses(spec: CardSpec, num_frames: int) -> list[tuple[Pose, Expression]]:
    """Where the head is and what the face does in each frame."""
    base = spec.variation
    zoom, dy = base.zoom, base.dy
    if spec.hidden == "neck":
        zoom = 1.24 * base.zoom
        dy = NECK_LINE * (1 - zoom) + (HALF + 12 - NECK_LINE)
    return [
        (
            Pose(
                yaw=base.yaw + now.yaw,
                pitch=base.pitch + now.pitch,
                roll=base.roll + now.roll,
                zoom=zoom,
                dx=base.dx,
                dy=dy,
            ),
            now,
        )
        for now in expressions(spec.emotion, spec.actions, num_frames, fading=spec.fading)
    ]


def render(spec: CardSpec, *, num_frames: int = 8, size: int = 224) -> Card:
    """The card's frames and where in them each attribute is, or would be, drawn.

    The same spec gives the same bytes wherever the same versions of resvg, OpenCV and NumPy run.
    """
    names = frozenset(spec.appearance)
    look = draw_look(spec.seed, names, spec.variation.light)
    states = poses(spec, num_frames)
    sigma = spec.variation.softness + (scene.BLURRY if "blurry" in names else 0)
    frames = []
    for index, (pose, now) in enumerate(states):
        picture = draw_frame(spec, look, pose, now).render(size)
        frames.append(scene.film(picture, spec.variation, spec.seed, index, sigma=sigma))
    boxes = regions([pose for pose, _ in states], size=size, sigma=sigma)
    return Card(frames=np.stack(frames), regions=boxes)


def draw_frame(spec: CardSpec, look: Look, pose: Pose, now: Expression) -> Drawing:
    """One picture, painted from the back to the front."""
    d = Drawing(pose)
    drop = 9.0 * max(now.open, 0)
    scene.draw_background(d, spec.seed)
    hair.draw_back_hair(d, look)
    head.draw_body(d, look)
    accessories.draw_necktie(d, look)
    accessories.draw_necklace(d, look)
    head.draw_ears(d, look)
    accessories.draw_double_chin(d, look, drop)
    face = head.draw_face(d, look, now)
    accessories.draw_skin_marks(d, look)
    eyes.draw_bags(d, look)
    facial_hair.draw_facial_hair(d, look, now, face)
    mouth.draw_mouth(d, look, now)
    nose.draw_nose(d, look, now)
    eyes.draw_eyes(d, look, now)
    eyes.draw_brows(d, look, now)
    eyes.draw_tears(d, look, now)
    hair.draw_sideburns(d, look)
    hair.draw_hair(d, look, face)
    accessories.draw_earrings(d, look)
    accessories.draw_mask(d, look, drop)
    accessories.draw_glasses(d, look)
    headwear.draw_hat(d, look)
    covers.draw_cover(d, spec.seed, spec.hidden)
    return d
