"""A drawing in SVG, built in head coordinates and rendered by resvg."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from corpus.cards.pose import HALF, Pose

Colour = tuple[float, float, float]


class Drawing:
    """Shapes in the order in which they are painted, projected through one pose."""

    def __init__(self, pose: Pose) -> None:
        self.pose = pose
        self._defs: list[str] = []
        self._body: list[str] = []

    # -- paint ------------------------------------------------------------------------------

    def linear(self, start: Sequence[float], stop: Sequence[float], colours: Iterable) -> str:
        """A linear gradient between two picture points; ``colours``: (offset, colour, opacity)."""
        (x1, y1), (x2, y2) = start, stop
        return self._gradient(
            f'linearGradient x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"', colours
        )

    def radial(self, centre: Sequence[float], radius: float, colours: Iterable) -> str:
        """A radial gradient about a picture point."""
        return self._gradient(
            f'radialGradient cx="{centre[0]:.1f}" cy="{centre[1]:.1f}" r="{radius:.1f}"', colours
        )

    def _gradient(self, head: str, colours: Iterable) -> str:
        name = f"g{len(self._defs)}"
        tag = head.split()[0]
        stops = "".join(
            f'<stop offset="{offset:.2f}" stop-color="{css(colour)}" stop-opacity="{opacity:.3f}"/>'
            for offset, colour, opacity in colours
        )
        units = 'gradientUnits="userSpaceOnUse"'
        self._defs.append(f'<{head} id="{name}" {units}>{stops}</{tag}>')
        return f"url(#{name})"

    def clip(self, *paths: str) -> str:
        """A clip region of path data; hand the result to :meth:`group`."""
        name = f"g{len(self._defs)}"
        shapes = "".join(f'<path d="{path}"/>' for path in paths)
        self._defs.append(f'<clipPath id="{name}">{shapes}</clipPath>')
        return name

    # -- shapes -----------------------------------------------------------------------------

    def outline(
        self, points: np.ndarray, *, lift: float = 0.0, closed: bool = True, body: bool = False
    ) -> str:
        """Path data of a smooth curve through head points (``body``: through unmoved ones)."""
        pose = self.pose.still() if body else self.pose
        return curve(pose.project(points, lift=lift), closed=closed)

    def fill(
        self, path: str, paint: str | Colour, opacity: float = 1.0, *, rule: str = "nonzero"
    ) -> None:
        colour = paint if isinstance(paint, str) else css(paint)
        self._body.append(
            f'<path d="{path}" fill="{colour}" fill-opacity="{opacity:.3f}" fill-rule="{rule}"/>'
        )

    def stroke(self, path: str, paint: str | Colour, width: float, opacity: float = 1.0) -> None:
        colour = paint if isinstance(paint, str) else css(paint)
        self._body.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-opacity="{opacity:.3f}" '
            f'stroke-width="{width * self.pose.zoom:.2f}" stroke-linecap="round" '
            f'stroke-linejoin="round"/>'
        )

    def hairs(self, path: str, paint: Colour, width: float, opacity: float) -> None:
        """Many fine lines at once: without antialiasing, which would take half of the time."""
        self._body.append(
            f'<path d="{path}" fill="none" stroke="{css(paint)}" stroke-opacity="{opacity:.3f}" '
            f'stroke-width="{width * self.pose.zoom:.2f}" shape-rendering="optimizeSpeed"/>'
        )

    def glow(
        self,
        centre: Sequence[float],
        size: tuple[float, float],
        colour: Colour,
        opacity: float,
        *,
        lift: float = 0.0,
        core: float = 0.0,
        body: bool = False,
    ) -> None:
        """A soft spot: full ``opacity`` to ``core`` of its half axes, nothing at their end."""
        pose = self.pose.still() if body else self.pose
        x, y = pose.project(np.array([centre]), lift=lift)[0]
        paint = self._unit_glow(colour, opacity, core)
        width, height = size[0] * pose.zoom, size[1] * pose.zoom
        turn = np.degrees(pose.roll)
        self._body.append(
            f'<circle r="1" shape-rendering="optimizeSpeed" fill="{paint}" '
            f'transform="translate({x:.2f} {y:.2f}) '
            f'rotate({turn:.1f}) scale({width:.2f} {height:.2f})"/>'
        )

    def _unit_glow(self, colour: Colour, opacity: float, core: float) -> str:
        middle = (1 + core) / 2
        stops = [(core, colour, opacity), (middle, colour, opacity * 0.45), (1, colour, 0)]
        return self._gradient('radialGradient cx="0" cy="0" r="1"', stops)

    def group(self, clip: str) -> Group:
        """Everything drawn in ``with drawing.group(clip):`` shows only inside the clip region."""
        return Group(self, clip)

    def raw(self, markup: str) -> None:
        self._body.append(markup)

    def render(self, size: int) -> np.ndarray:
        """The picture [size, size, 3] uint8 RGB."""
        import cv2
        import resvg_py

        box = f"{-HALF} {-HALF} {2 * HALF} {2 * HALF}"
        markup = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{size}" '
            f'height="{size}"><defs>{"".join(self._defs)}</defs>{"".join(self._body)}</svg>'
        )
        data = resvg_py.svg_to_bytes(svg_string=markup, skip_system_fonts=True)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class Group:
    """Context of :meth:`Drawing.group`."""

    def __init__(self, drawing: Drawing, clip: str) -> None:
        self.drawing, self.clip = drawing, clip

    def __enter__(self) -> None:
        self.drawing.raw(f'<g clip-path="url(#{self.clip})">')

    def __exit__(self, *_: object) -> None:
        self.drawing.raw("</g>")


def curve(points: np.ndarray, *, closed: bool = True) -> str:
    """Path data of a Catmull-Rom spline through picture points [N, 2]."""
    if closed:
        around = np.vstack([points[-1], points, points[0], points[1]])
    else:
        around = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    # A cubic Bézier from p1 to p2 with its handles a sixth of the neighbours' chord away.
    first = around[1:-2] + (around[2:-1] - around[:-3]) / 6
    second = around[2:-1] - (around[3:] - around[1:-2]) / 6
    pieces = np.column_stack([first, second, around[2:-1]])
    start = f"M{points[0, 0]:.1f} {points[0, 1]:.1f}"
    steps = ("C%.1f %.1f %.1f %.1f %.1f %.1f" * len(pieces)) % tuple(pieces.ravel().tolist())
    return start + steps + ("Z" if closed else "")


def polylines(lines: np.ndarray) -> str:
    """Path data of many open lines of straight pieces through picture points [N, K, 2]."""
    form = "M%.1f %.1f" + "L%.1f %.1f" * (lines.shape[1] - 1)
    return (form * len(lines)) % tuple(lines.ravel().tolist())


def css(colour: Colour) -> str:
    return "#" + "".join(f"{min(max(round(c), 0), 255):02x}" for c in colour)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``first`` with ``share`` of ``second`` in it."""
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def shade(colour: Colour, factor: float) -> Colour:
    """Darker below 1, lighter above."""
    return (
        mix(colour, (0, 0, 0), 1 - factor)
        if factor <= 1
        else mix(colour, (255, 255, 255), factor - 1)
    )
