"""Scenes that are hard to see, where the shipped model errs: noise, blur, fog, a thing in front, a second subject."""

from dataclasses import replace

import cv2
import numpy as np

from . import scenes
from .drawing.shapes import CREAM, PALETTE, Layer, Shape, box, compose, mix, paint, rgb, scallops, turned
from .scenes import CLASSES, Scene
from .sets import stream

KINDS = ("noise", "blur", "contrast", "hidden", "second")
_HARD = 6  # the random stream after those of the scenes


def kind(seed: int) -> str:
    """What makes the scene of a seed hard: kinds take turns, and within 50 scenes each class meets every kind.

    >>> [kind(seed) for seed in range(5)]
    ['noise', 'blur', 'contrast', 'hidden', 'second']
    """
    return KINDS[(seed + seed // len(CLASSES)) % len(KINDS)]


def draw(seed: int) -> Scene:
    """Draw the scene of a seed as `scenes.draw` does, and make it hard; the class is that of the first subject.

    Its mask and parts are what is still visible.

    >>> scene = draw(4)
    >>> scene.kind, scene.name, CLASSES[scene.second_label]
    ('second', 'butterfly', 'fish')
    """
    rng, how = stream(seed, _HARD), kind(seed)
    other = str(rng.choice([name for name in CLASSES if name != CLASSES[seed % len(CLASSES)]]))
    scene = scenes.draw(seed, second=other if how == "second" else None)
    picture = scene.picture
    if how == "noise":
        picture = picture + np.float32(rng.uniform(0.06, 0.18)) * rng.standard_normal(picture.shape, np.float32)
    elif how == "blur":
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(3, 10))
    elif how == "contrast":
        picture = mix(picture.mean((0, 1)), picture, rng.uniform(0.15, 0.4))
    elif how == "hidden":
        front = _in_front(rng, scene)
        compose(picture, front, 0.45)
        seen = front.labels == 0
        scene = replace(scene, mask=scene.mask & seen, parts={k: part & seen for k, part in scene.parts.items()})
    picture = np.round(np.clip(picture, 0, 1) * 255) / np.float32(255)
    return replace(scene, picture=picture, kind=how)


def _in_front(rng: np.random.Generator, scene: Scene) -> Layer:
    """What hides a part of the object: a leaning post, or a bush at its foot; what flies is behind a cloud."""
    size, points = len(scene.mask), np.argwhere(scene.mask)[:, ::-1]
    share, flies = rng.uniform(0.3, 0.6), scene.name in ("bird", "butterfly")
    if rng.random() < 0.5:
        lean, start = rng.uniform(-12, 12), rng.uniform(0, 1 - share)
        left, right = np.quantile(turned(points, -lean)[:, 0], (start, start + share))
        tone = mix(PALETTE[rng.integers(3, 6)], CREAM, rng.uniform(0, 0.4))
        return paint([Shape("", turned(box(left, -size, right, 2 * size, 1), lean), tone, relief=0.6)], (), size)
    x, y = rng.choice(points if flies else points[len(points) // 2 :])  # they are sorted from the top down
    r = np.quantile(np.hypot((points[:, 0] - x) / 1.25, points[:, 1] - y), share)
    puff = scallops(x, y, 1.3 * r, 1.05 * r, int(rng.integers(9, 14)), 0.14, rng.uniform(0, 6))
    tone = mix(CREAM, rgb(1, 1, 1), 0.6) if flies else mix(PALETTE[14], PALETTE[15], rng.random())
    return paint([Shape("", puff, tone, outline=not flies, relief=0.7)], (), size)
