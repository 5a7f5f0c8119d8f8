"""Shapes, and how they become soft-edged layers with exact masks, and layers a picture."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

Points = Sequence[tuple[float, float]] | np.ndarray
Curve = Colour = np.ndarray


def rgb(red: float, green: float, blue: float) -> Colour:
    """A colour of three numbers in 0..1."""
    return np.array((red, green, blue), np.float32)


INK, CREAM, GLASS = rgb(0.17, 0.14, 0.19), rgb(0.98, 0.94, 0.85), rgb(0.70, 0.87, 0.93)
# One palette for all subjects: a colour says nothing about the class.
PALETTE = np.array([
    (224, 108, 84), (238, 150, 78), (243, 190, 88), (201, 168, 110), (160, 108, 72), (120, 82, 66), (214, 92, 112),
    (236, 146, 150), (172, 96, 140), (122, 98, 158), (92, 118, 178), (104, 164, 206), (72, 150, 154), (96, 172, 136),
    (136, 170, 92), (98, 132, 88), (150, 154, 160), (88, 96, 116), (232, 214, 182), (205, 72, 66),
], np.float32) / 255  # fmt: skip


class Coat(NamedTuple):
    """The colours of one individual."""

    main: Colour
    second: Colour
    third: Colour
    pale: Colour


class Shape(NamedTuple):
    """One closed curve of a part: colour, whether it has the coat's pattern, an outline, and how round it looks."""

    part: str
    points: Curve
    colour: Colour
    pattern: bool = False
    outline: bool = True
    relief: float = 1.0


class Layer(NamedTuple):
    """Colours multiplied by their opacity, the opacity, and at each pixel the number of the part (0: none)."""

    colours: np.ndarray
    opacity: np.ndarray
    labels: np.ndarray


def mix(a: Colour, b: Colour, fraction: float) -> Colour:
    """The colour at a `fraction` of the way from `a` to `b`."""
    return a + (b - a) * np.float32(fraction)


def choose_coat(rng: np.random.Generator, avoid: np.ndarray) -> Coat:
    """Three colours of the palette; the main one stands out against every colour in `avoid`."""
    distance = np.linalg.norm(PALETTE[:, None] - avoid[None], axis=2).min(1)
    three = PALETTE[rng.permutation(np.argsort(distance)[6:])[:3]]
    main, second, third = np.clip(three + rng.uniform(-0.04, 0.04, (3, 3)).astype(np.float32), 0, 1)
    return Coat(main, second, third, mix(main, CREAM, rng.uniform(0.62, 0.85)))


def ellipse(x: float, y: float, rx: float, ry: float | None = None, angle: float = 0.0) -> Curve:
    """An ellipse around (x, y), turned by `angle` degrees; a circle if `ry` is left out."""
    t = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    return turned(np.stack([x + rx * np.cos(t), y + (rx if ry is None else ry) * np.sin(t)], 1), angle, (x, y))


def spline(points: Points, closed: bool = True, steps: int = 8) -> Curve:
    """A smooth curve through the points (Catmull-Rom)."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def limb(points: Points, start: float, end: float | None = None) -> Curve:
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


def rounded(points: Points, radius: float = 0.06) -> Curve:
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


def box(left: float, top: float, right: float, bottom: float, radius: float) -> Curve:
    """An upright rectangle with soft corners."""
    return rounded([(left, top), (right, top), (right, bottom), (left, bottom)], radius)


def turned(points: Points, angle: float, about: tuple[float, float] = (0.0, 0.0)) -> Curve:
    """The points turned by `angle` degrees, clockwise on the screen."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return (np.asarray(points, np.float64) - about) @ np.array([[c, s], [-s, c]]) + about


def symmetric(points: Points) -> Curve:
    """A closed outline from its right half, which begins and ends on the y axis."""
    return np.concatenate([points, np.array(points[-2:0:-1]) * (-1, 1)])


def flat(part: str, points: Curve, colour: Colour) -> Shape:
    """A detail without outline or shading: a spot, a glint."""
    return Shape(part, points, colour, outline=False, relief=0)


def stroke(part: str, points: Points, colour: Colour, start: float, end: float | None = None) -> Shape:
    """A line without outline or shading, from width `start` to width `end`: a whisker, a seam."""
    return flat(part, limb(points, start, end), colour)


def tilted(shapes: list[Shape], angle: float, about: tuple[float, float]) -> list[Shape]:
    """The shapes turned together, by `angle` degrees."""
    return [s._replace(points=turned(s.points, angle, about)) for s in shapes]


def noise(rng: np.random.Generator, size: int, coarsest: int = 2, finest: int = 32, stretch: float = 1.0) -> np.ndarray:
    """Smooth 1/f noise of about unit spread; `stretch` > 1 draws it out sideways."""
    total, cells, power = np.zeros((size, size), np.float32), coarsest, 0.0
    while cells <= finest:
        grid = rng.standard_normal((cells + 2, max(int(cells / stretch), 1) + 2), np.float32)
        total += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * np.float32(coarsest / cells)
        power += (coarsest / cells) ** 2
        cells *= 2
    return total / np.float32(0.75 * power**0.5)


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth in between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def paint(shapes: list[Shape], parts: tuple[str, ...], size: int, coat: np.ndarray | None = None,
          tint: np.ndarray = INK, line: float = 1.5) -> Layer:  # fmt: skip
    """Paint shapes, whose points are in pixels, from back to front: at twice the size, then averaged, for soft edges.

    `coat` says how strongly `tint` shows through at each pixel of a patterned shape, at twice the size.
    """
    full = 2 * size  # below: red, green, blue and opacity as planes, which is the faster order
    canvas, labels = np.zeros((4, full, full), np.float32), np.zeros((full, full), np.uint8)
    for shape in shapes:
        points = shape.points * 2
        pad = int(2 * line) + 3
        x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - pad, 0)
        x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + pad, full)
        if x0 >= x1 or y0 >= y1:
            continue
        curve = [np.round((points - (x0, y0)) * 16).astype(np.int32)]
        inside = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(inside, curve, 255, cv2.LINE_AA, 4)
        edge = np.zeros_like(inside)
        if shape.outline:
            cv2.polylines(edge, curve, True, 255, max(round(2 * line), 1), cv2.LINE_AA, 4)
        cover, ink = inside.astype(np.float32) / 255, edge.astype(np.float32) / 255
        total = np.maximum(cover, ink)
        flat = total - ink
        # A shape is a sum of tones, each with a map of weights: one small matrix product instead of many passes.
        maps, tones = [flat, ink], [(*shape.colour, 1), (*mix(shape.colour, INK, 0.72), 1)]
        if shape.pattern and coat is not None:
            maps, tones = [*maps, flat * coat[y0:y1, x0:x1]], [*tones, (*(tint - shape.colour), 0)]
        if shape.relief:
            # Light from the upper left: the mean to the lower right less the mean to the upper left of each pixel.
            k = int(np.clip(min(inside.shape) * 0.3, 5, 60))
            light = cv2.blur(cover, (k, k), anchor=(0, 0)) - cv2.blur(cover, (k, k), anchor=(k - 1, k - 1))
            light = cv2.blur(light, (k // 2 + 1, k // 2 + 1)) * flat * np.float32(0.42 * shape.relief)
            maps += [np.maximum(light, 0), np.minimum(light, 0)]
            tones += [(*(1.1 * (1 - shape.colour)), 0), (*(shape.colour - 0.35 * INK), 0)]
        window = canvas[:, y0:y1, x0:x1]
        window *= 1 - total
        window += (np.array(tones, np.float32).T @ np.stack(maps).reshape(len(maps), -1)).reshape(window.shape)
        labels[y0:y1, x0:x1][total > 0.5] = parts.index(shape.part) + 1 if parts else 1
    a, b, c, d = labels[::2, ::2], labels[1::2, ::2], labels[::2, 1::2], labels[1::2, 1::2]
    # The second largest of the four: a pixel belongs to the object where at least half of it does.
    half = np.maximum(np.minimum(np.maximum(a, b), np.maximum(c, d)), np.maximum(np.minimum(a, b), np.minimum(c, d)))
    red, green, blue, opacity = (cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in canvas)
    return Layer(cv2.merge((red, green, blue)), opacity, half)


def compose(picture: np.ndarray, layer: Layer, shadow: float = 0.0) -> None:
    """Lay the layer over the picture, in place, on a soft shadow that falls a little below it."""
    if shadow:
        unit = len(picture) / 224
        kernel = (int(19 * unit) | 1, int(9 * unit) | 1)
        dark = cv2.blur(np.roll(layer.opacity, round(4 * unit), 0), kernel, borderType=cv2.BORDER_REPLICATE)
        dark[: round(4 * unit)] = 0
        picture *= 1 - shadow * dark[..., None] * (1 - 0.4 * INK)
    picture *= 1 - layer.opacity[..., None]
    picture += layer.colours
