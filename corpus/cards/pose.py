"""Where a point of the head lies in the picture.

Head coordinates: x to the right of the picture, y down, z toward the viewer; the origin lies
between the eyes, the chin near y = 80, the skull's top near y = -88, its sides near x = ±62. The
picture spans -128..128 both ways before zoom.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

HALF = 128.0  # half a picture's side
HEAD = (68.0, 96.0, 58.0)  # half axes of the ellipsoid that carries the features
PIVOT = np.array([0.0, 70.0, -15.0])  # the head turns about the top of the neck


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Orientation of the head and framing of the picture."""

    yaw: float = 0.0  # radians; positive looks to the picture's right
    pitch: float = 0.0  # positive looks down
    roll: float = 0.0  # positive leans to the picture's right
    zoom: float = 1.0
    dx: float = 0.0  # of the head's origin, in picture units
    dy: float = 0.0

    def still(self) -> Pose:
        """The same framing without rotation: where the shoulders are."""
        return replace(self, yaw=0.0, pitch=0.0, roll=0.0)

    def project(self, points: np.ndarray, *, lift: float = 0.0) -> np.ndarray:
        """Points [N, 2] on the head's surface, or [N, 3] anywhere, to the picture [N, 2].

        ``lift`` adds depth to surface points: noses stand out, eyes lie deeper.
        """
        points = np.asarray(points, dtype=np.float64)
        if points.shape[-1] == 2:
            points = np.column_stack([points, surface(points) + lift])
        x, y = (points - PIVOT)[:, :2].T
        # An ellipsoid's outline stays where it is while it turns: what lies on the rim (depth 0)
        # is not foreshortened.
        rim = np.clip(1 - points[:, 2] / HEAD[2], 0, 1)
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        depth = points[:, 2]
        x = x * (cos + (1 - cos) * rim) + depth * sin
        cos, sin = np.cos(self.pitch), np.sin(self.pitch)
        y = y * (cos + (1 - cos) * rim) + depth * sin
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        x, y = x * cos - y * sin, x * sin + y * cos
        placed = np.column_stack([x + PIVOT[0], y + PIVOT[1]])
        return placed * self.zoom + (self.dx, self.dy)


def moved(points: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """Points [..., 2] a little to the right and down."""
    return points + np.array([dx, dy])


def surface(points: np.ndarray) -> np.ndarray:
    """Depth [N] of the head's surface over points [N, 2]; 0 outside of its outline."""
    inside = 1 - (points[:, 0] / HEAD[0]) ** 2 - ((points[:, 1] + 6) / HEAD[1]) ** 2
    return HEAD[2] * np.sqrt(np.clip(inside, 0, None))
