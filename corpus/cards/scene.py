"""Everything about a picture that is not the person: background, light, camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corpus.cards.look import stream
from corpus.cards.svg import Drawing, css, mix, shade

WALLS = (
    (150, 162, 176),
    (196, 186, 168),
    (92, 104, 96),
    (128, 104, 92),
    (72, 80, 100),
    (178, 150, 150),
    (206, 210, 214),
)

BLURRY = 2.6  # standard deviation in picture units that makes a picture a blurry one


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """How a card is posed, lit and filmed; independent of what it shows.

    Example:
        >>> Variation(yaw=0.1, zoom=1.05, light=-0.8, noise=4.0)
    """

    yaw: float = 0.0  # radians; see corpus.cards.pose
    pitch: float = 0.0
    roll: float = 0.0
    zoom: float = 1.0
    dx: float = 0.0
    dy: float = 0.0
    light: float = 0.6  # -1 from the picture's left, 1 from its right
    exposure: float = 1.0
    warmth: float = 0.0  # -1 bluish, 1 yellowish
    falloff: float = 0.2  # how much darker the side away from the light is
    noise: float = 3.0  # standard deviation in grey levels
    softness: float = 0.3  # standard deviation of the lens's blur in picture units
    quality: int = 80  # of the camera's JPEG compression


def draw_variation(seed: int) -> Variation:
    rng = stream(seed, "variation")
    side = -1.0 if rng.uniform() < 0.5 else 1.0
    return Variation(
        yaw=float(rng.uniform(-0.22, 0.22)),
        pitch=float(rng.uniform(-0.09, 0.09)),
        roll=float(rng.uniform(-0.09, 0.09)),
        zoom=float(rng.uniform(0.94, 1.12)),
        dx=float(rng.uniform(-10, 10)),
        dy=float(rng.uniform(-4, 8)),
        light=side * float(rng.uniform(0.4, 1.0)),
        exposure=float(rng.uniform(0.9, 1.1)),
        warmth=float(rng.uniform(-1, 1)),
        falloff=float(rng.uniform(0.05, 0.35)),
        noise=float(rng.uniform(0.5, 4.0)),
        softness=float(rng.uniform(0.35, 0.7)),
        quality=int(rng.integers(70, 95)),
    )


def draw_background(d: Drawing, seed: int) -> None:
    """A wall in a gradient, with out-of-focus things before it."""
    rng = stream(seed, "background")
    wall = WALLS[int(rng.integers(len(WALLS)))]
    tint = mix(wall, tuple(rng.uniform(40, 220, 3)), 0.25)
    angle = rng.uniform(-80, 80)
    paint = d.linear(
        (-angle, -128), (angle, 128), [(0, shade(tint, 1.12), 1), (1, shade(tint, 0.62), 1)]
    )
    d.raw(f'<rect x="-128" y="-128" width="256" height="256" fill="{paint}"/>')
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(-128, 128, 2)
        colour = mix(tint, tuple(rng.uniform(20, 240, 3)), 0.4)
        width, height = rng.uniform(14, 60, 2)
        if rng.uniform() < 0.5:
            d.raw(
                f'<rect x="{x - width:.1f}" y="{y - height:.1f}" width="{2 * width:.1f}" '
                f'height="{2 * height:.1f}" rx="6" fill="{css(colour)}" fill-opacity="0.5"/>'
            )
        else:
            d.raw(
                f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{width:.1f}" ry="{height:.1f}" '
                f'fill="{css(colour)}" fill-opacity="0.45"/>'
            )


def film(
    picture: np.ndarray, variation: Variation, seed: int, frame: int, *, sigma: float
) -> np.ndarray:
    """Light, lens, sensor and compression over a drawn picture [S, S, 3] uint8.

    ``sigma`` is the lens's blur in picture units.
    """
    import cv2

    size = picture.shape[0]
    across = np.linspace(-1, 1, size, dtype=np.float32)[None, :, None] * np.sign(variation.light)
    gain = variation.exposure * (1 - variation.falloff * (0.5 - 0.5 * across))
    tint = np.array([1 + 0.07 * variation.warmth, 1.0, 1 - 0.07 * variation.warmth], np.float32)
    image = picture.astype(np.float32) * gain * tint
    image = cv2.GaussianBlur(image, (0, 0), max(sigma * size / 256, 0.05))
    noise = stream(seed, f"noise-{frame}").standard_normal((size, size, 1), dtype=np.float32)
    image = np.clip(image + variation.noise * noise + 0.5, 0, 255).astype(np.uint8)
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        variation.quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    coded = cv2.imencode(".jpg", image[..., ::-1], options)[1]
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])
