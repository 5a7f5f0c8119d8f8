"""Painting: shapes become soft-edged layers with exact masks, and layers a picture."""

from typing import NamedTuple

import cv2
import numpy as np

from .shapes import INK, Shape, mix


class Layer(NamedTuple):
    """Colours multiplied by their opacity, the opacity, and at each pixel the number of the part (0: none)."""

    colours: np.ndarray
    opacity: np.ndarray
    labels: np.ndarray


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


def paint(
    shapes: list[Shape], parts: tuple[str, ...], size: int, coat: np.ndarray | None = None, tint: np.ndarray = INK,
    line: float = 1.5,
) -> Layer:  # fmt: skip
    """Paint shapes, whose points are in pixels, from back to front: at twice the size, then averaged, for soft edges.

    `coat` says how strongly `tint` shows through at each pixel of a patterned shape, at twice the size.
    """
    full = 2 * size
    canvas = np.zeros((4, full, full), np.float32)  # red, green, blue, opacity; planes, which is the faster order
    labels = np.zeros((full, full), np.uint8)
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
        cover = inside.astype(np.float32) / 255
        ink = np.zeros_like(cover)
        if shape.outline:
            edge = np.zeros_like(inside)
            cv2.polylines(edge, curve, True, 255, max(round(2 * line), 1), cv2.LINE_AA, 4)
            ink = edge.astype(np.float32) / 255
        total = np.maximum(cover, ink)
        flat = total - ink
        # A shape is a sum of tones, each with a map of weights: one small matrix product instead of many passes.
        maps, tones = [flat, ink], [(*shape.colour, 1), (*mix(shape.colour, INK, 0.72), 1)]
        if shape.pattern and coat is not None:
            maps.append(flat * coat[y0:y1, x0:x1])
            tones.append((*(tint - shape.colour), 0))
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
    """Lay the layer over the picture, in place, upon a soft shadow that falls a little below it."""
    if shadow:
        unit = len(picture) / 224
        kernel = (int(19 * unit) | 1, int(9 * unit) | 1)
        dark = cv2.blur(np.roll(layer.opacity, round(4 * unit), 0), kernel, borderType=cv2.BORDER_REPLICATE)
        dark[: round(4 * unit)] = 0
        picture *= 1 - shadow * dark[..., None] * (1 - 0.4 * INK)
    picture *= 1 - layer.opacity[..., None]
    picture += layer.colours
