"""Shapes to draw with: smooth closed curves, one palette for all, and the colours of an individual.

Coordinates are those of a sheet from -1 to 1 with y pointing down; a scene turns, scales and places it.
"""

from typing import NamedTuple

import numpy as np

Curve = np.ndarray
Colour = np.ndarray
INK = np.array([0.17, 0.14, 0.19], np.float32)
CREAM = np.array([0.98, 0.94, 0.85], np.float32)
GLASS = np.array([0.70, 0.87, 0.93], np.float32)

# One palette for all subjects: a colour says nothing about the class.
PALETTE = (
    np.array(
        [
            (224, 108, 84), (238, 150, 78), (243, 190, 88), (201, 168, 110), (160, 108, 72), (120, 82, 66),
            (214, 92, 112), (236, 146, 150), (172, 96, 140), (122, 98, 158), (92, 118, 178), (104, 164, 206),
            (72, 150, 154), (96, 172, 136), (136, 170, 92), (98, 132, 88), (150, 154, 160), (88, 96, 116),
            (232, 214, 182), (205, 72, 66),
        ],
        np.float32,
    )
    / 255
)  # fmt: skip


class Shape(NamedTuple):
    """One closed curve of a part: its colour, whether it bears the coat's pattern or an outline, how round it looks."""

    part: str
    points: Curve
    colour: Colour
    pattern: bool = False
    outline: bool = True
    relief: float = 1.0


class Coat(NamedTuple):
    """The colours of one individual."""

    main: Colour
    second: Colour
    third: Colour
    pale: Colour


def flat(part: str, points: Curve, colour: Colour) -> Shape:
    """A detail without outline or shading: a whisker, a seam, a glint."""
    return Shape(part, points, colour, outline=False, relief=0)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour that lies `share` of the way from `a` to `b`."""
    return a + (b - a) * np.float32(share)


def choose_coat(rng: np.random.Generator, avoid: np.ndarray) -> Coat:
    """Three colours of the palette; the main one stands out against every colour in `avoid`."""
    distance = np.linalg.norm(PALETTE[:, None] - avoid[None], axis=2).min(1)
    order = rng.permutation(np.argsort(distance)[6:])
    jitter = rng.uniform(-0.04, 0.04, (3, 3)).astype(np.float32)
    main, second, third = np.clip(PALETTE[order[:3]] + jitter, 0, 1)
    return Coat(main, second, third, mix(main, CREAM, rng.uniform(0.62, 0.85)))


# Curves ---------------------------------------------------------------------------------------------------------------


def ellipse(x: float, y: float, rx: float, ry: float | None = None, angle: float = 0.0) -> Curve:
    """An ellipse around (x, y), turned by `angle` degrees; a circle if `ry` is left out."""
    t = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    return turned(np.stack([x + rx * np.cos(t), y + (rx if ry is None else ry) * np.sin(t)], 1), angle, (x, y))


def spline(points: list[tuple[float, float]] | Curve, closed: bool = True, steps: int = 8) -> Curve:
    """A smooth curve through the points (Catmull-Rom)."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def limb(points: list[tuple[float, float]], start: float, end: float | None = None) -> Curve:
    """A band along a smooth line, with round ends, from width `start` to width `end`: a tail, a leg, a whisker."""
    line = spline(points, closed=False)
    ahead = np.gradient(line, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True) + 1e-9
    half = np.linspace(start, start if end is None else end, len(line))[:, None] / 2
    side = np.stack([ahead[:, 1], -ahead[:, 0]], 1) * half
    t = np.linspace(0, np.pi, 7)[1:-1, None]
    tip = line[-1] + np.cos(t) * side[-1] + np.sin(t) * ahead[-1] * half[-1]
    root = line[0] - np.cos(t) * side[0] - np.sin(t) * ahead[0] * half[0]
    return np.concatenate([line + side, tip, (line - side)[::-1], root])


def rounded(points: list[tuple[float, float]], radius: float = 0.06) -> Curve:
    """A polygon with soft corners."""
    p = np.asarray(points, np.float64)
    before, after = np.roll(p, 1, 0) - p, np.roll(p, -1, 0) - p
    near, far = (p + v * np.minimum(radius / np.linalg.norm(v, axis=1, keepdims=True), 0.45) for v in (before, after))
    t = np.linspace(0, 1, 6)[None, :, None]
    return ((1 - t) ** 2 * near[:, None] + 2 * t * (1 - t) * p[:, None] + t**2 * far[:, None]).reshape(-1, 2)


def scallops(x: float, y: float, rx: float, ry: float, bumps: int, depth: float = 0.14, phase: float = 0.0) -> Curve:
    """A cloud-like curve with round bumps along its edge."""
    t = np.linspace(0, 2 * np.pi, bumps * 10, endpoint=False)
    r = 1 - depth + depth * np.abs(np.sin((t + phase) * bumps / 2)) ** 0.7
    return np.stack([x + rx * r * np.cos(t), y + ry * r * np.sin(t)], 1)


def turned(points: Curve, angle: float, about: tuple[float, float] = (0.0, 0.0)) -> Curve:
    """The points turned by `angle` degrees, clockwise on the screen."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return (np.asarray(points, np.float64) - about) @ np.array([[c, s], [-s, c]]) + about


def mirrored(points: Curve | list[tuple[float, float]]) -> Curve:
    """The points seen in a mirror along the y axis."""
    return np.asarray(points, np.float64) * (-1, 1)
