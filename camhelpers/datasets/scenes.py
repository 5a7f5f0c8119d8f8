"""Picture-book scenes with exact ground truth: which pixels are the object, and which are its ears.

Everything in a scene is a function of its seed, and each thing draws from a random stream of its own. The same scene
without its object, or without one part of it, is therefore the same picture everywhere else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from .drawing.animals import bird, butterfly, cat, dog, fish
from .drawing.scenery import distractors, scenery
from .drawing.shapes import (
    CREAM,
    INK,
    PALETTE,
    Coat,
    Layer,
    Shape,
    choose_coat,
    compose,
    ellipse,
    flat,
    limb,
    mix,
    noise,
    paint,
    rounded,
    smoothstep,
    turned,
)
from .drawing.things import car, house, mushroom, ship, tree

SUBJECTS: dict[str, Callable[[np.random.Generator, Coat], list[Shape]]] = {
    f.__name__: f for f in (cat, dog, bird, fish, butterfly, car, ship, house, tree, mushroom)
}
PARTS: dict[str, tuple[str, ...]] = {
    "cat": ("tail", "body", "legs", "ears", "head", "face"),
    "dog": ("tail", "legs", "body", "collar", "head", "snout", "eye", "ears"),
    "bird": ("legs", "tail", "body", "beak", "head", "eye", "wing"),
    "fish": ("tail", "fins", "body", "eye"),
    "butterfly": ("hindwings", "forewings", "antennae", "body"),
    "car": ("cabin", "windows", "body", "lights", "wheels"),
    "ship": ("mast", "flag", "sails", "hull", "portholes"),
    "house": ("chimney", "walls", "roof", "door", "windows"),
    "tree": ("trunk", "branches", "crown", "fruit"),
    "mushroom": ("stem", "ring", "gills", "cap", "spots"),
}
"""The parts of each subject, from back to front; a fir has no branches and not every tree bears fruit."""


CLASSES: tuple[str, ...] = tuple(SUBJECTS)
SPLIT_SIZE = 10_000_000
SPLITS = {"train": 0, "calibration": SPLIT_SIZE, "test": 2 * SPLIT_SIZE}
"""The first seed of each split."""
MARGIN = 14
"""Pixels around an object that its soft shadow may darken (at 224 pixels)."""

_BACKGROUND, _DISTRACTORS, _OBJECT, _SECOND, _TAG, _NOISE, _CHOICES = range(7)
_FLOATING = ("bird", "butterfly", "fish")


@dataclass(frozen=True)
class Scene:
    """A picture, float32 (H, W, 3) in 0..1, with the visible pixels of its object and of each part as boolean masks."""

    picture: np.ndarray
    label: int
    name: str
    mask: np.ndarray
    parts: dict[str, np.ndarray]
    seed: int
    second_label: int | None = None
    second_mask: np.ndarray | None = None
    tag_mask: np.ndarray | None = None


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((seed, stream))


# The object -----------------------------------------------------------------------------------------------------------


def _pattern(rng: np.random.Generator, size: int) -> np.ndarray | None:
    """How strongly the second colour shows at each pixel of a coat, at twice the size; None if it is plain."""
    kind = rng.choice(["plain", "stripes", "spots", "patches"], p=[0.4, 0.25, 0.15, 0.2])
    if kind == "plain":
        return None
    if kind == "stripes":
        angle, wave = rng.uniform(0, np.pi), 2 * np.pi * rng.uniform(9, 15) / size
        y, x = np.mgrid[:size, :size].astype(np.float32)
        value = np.sin(wave * (x * np.cos(angle) + y * np.sin(angle)) + 1.6 * noise(rng, size, 3, 6))
        shown = smoothstep(value, 0.25, 0.75)
    elif kind == "spots":
        shown = smoothstep(noise(rng, size, 18, 18), 0.75, 1.05)
    else:
        shown = smoothstep(noise(rng, size, 4, 8), 0.35, 0.6)
    strength = np.float32(rng.uniform(0.45, 0.85))
    return cv2.resize(shown.astype(np.float32) * strength, (2 * size, 2 * size), interpolation=cv2.INTER_LINEAR)


def _object(
    rng: np.random.Generator, subject: str, room: tuple[float, float, float, float], avoid: np.ndarray, size: int,
    without: str | None,
) -> Layer:  # fmt: skip
    """Paint a subject somewhere in the room (left, top, right, bottom; as shares of the picture)."""
    coat = choose_coat(rng, avoid)
    shapes = SUBJECTS[subject](rng, coat)
    turn = rng.uniform(-25, 25) if subject in _FLOATING else rng.uniform(-6, 6)
    flip, squeeze = rng.choice([-1, 1]), rng.uniform(0.94, 1.06)
    moved = [turned(s.points * (flip * squeeze, 1 / squeeze), turn) for s in shapes]
    low, high = np.min([p.min(0) for p in moved], 0), np.max([p.max(0) for p in moved], 0)
    left, top, right, bottom = np.array(room) * size
    fit = np.min((right - left, bottom - top) / (high - low))
    scale = fit * rng.uniform(0.68 if right - left < size / 2 else 0.45, 1.0)  # beside another it is small already
    slack = (right - left, bottom - top) - scale * (high - low)
    share = rng.random(2) if subject in _FLOATING else (rng.random(), rng.uniform(0.6, 1.0))
    shift = (left, top) + slack * share - scale * low
    placed = [s._replace(points=p * scale + shift) for s, p in zip(shapes, moved, strict=True)]
    pattern, tint = _pattern(rng, size), mix(coat.second, INK, rng.uniform(0.0, 0.4))
    kept = [s for s in placed if s.part != without]
    return paint(kept, PARTS[subject], size, pattern, tint, line=max(1.0, 0.011 * scale))


def _tag(rng: np.random.Generator, size: int) -> Layer:
    """A small sticker in a corner: a bright round seal on a white label."""
    x, y = (0.115 if side else 0.885 for side in rng.integers(0, 2, 2))
    tone, r = PALETTE[rng.integers(14)], 0.07  # the livelier colours
    tick = [(x - 0.25 * r, y), (x - 0.05 * r, y + 0.22 * r), (x + 0.28 * r, y - 0.25 * r)]
    label = rounded([(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)], 0.03)
    shapes = [
        Shape("tag", label, np.array([0.99, 0.98, 0.96], np.float32), relief=0.3),
        Shape("tag", ellipse(x, y, 0.6 * r), tone, relief=0.5),
        flat("tag", limb(tick, 0.018), CREAM),
    ]  # fmt: skip
    tilt = rng.uniform(-12, 12)
    return paint([s._replace(points=turned(s.points, tilt, (x, y)) * size) for s in shapes], (), size, line=1.0)


def draw(
    seed: int,
    subject: str | None = None,
    *,
    second: str | None = None,
    tag: bool = False,
    without: str | None = None,
    size: int = 224,
) -> Scene:
    """Draw the scene of a seed; `without` leaves out "object", "second" or a part, and nothing else changes.

    The subject is `CLASSES[seed % 10]` unless named; `second` puts another one beside it; `tag` adds a sticker.

    >>> scene = draw(3, "cat")
    >>> scene.picture.shape, bool(scene.mask[scene.parts["ears"]].all())
    ((224, 224, 3), True)
    """
    subject = CLASSES[seed % len(CLASSES)] if subject is None else subject
    for name in (subject, second):
        if name is not None and name not in SUBJECTS:
            raise ValueError(f"There is no subject {name!r}; choose from {', '.join(CLASSES)}.")
    removable = ("object", *(("second",) if second else ()), *PARTS[subject])
    if without is not None and without not in removable:
        raise ValueError(f"There is no {without!r} to leave out of this {subject}; choose from {', '.join(removable)}.")
    if seed < 0 or size < 32:
        raise ValueError(f"A scene needs a seed from 0 up and a size of at least 32 pixels, not {seed} and {size}.")

    picture, colours, horizon, sea = scenery(_rng(seed, _BACKGROUND), size)
    compose(picture, paint(distractors(_rng(seed, _DISTRACTORS), size, horizon, sea), (), size, line=0.8), 0.2)
    rng = _rng(seed, _OBJECT)
    first_left = rng.random() < 0.5
    rooms = [(0.02, 0.14, 0.485, 0.96), (0.515, 0.14, 0.98, 0.96)] if second else [(0.05, 0.05, 0.95, 0.95)]
    first = _object(rng, subject, rooms[0 if first_left else -1], colours, size, without)
    labels = first.labels if without != "object" else np.zeros_like(first.labels)
    other = (
        _object(_rng(seed, _SECOND), second, rooms[-1 if first_left else 0], colours, size, None) if second else None
    )
    if other is not None and without != "second":
        compose(picture, other, 0.45)
    if without != "object":
        compose(picture, first, 0.45)
    sticker = _tag(_rng(seed, _TAG), size) if tag else None
    if sticker is not None:
        compose(picture, sticker, 0.4)

    rng = _rng(seed, _NOISE)
    paper = 0.010 * rng.standard_normal((size, size, 1), np.float32) + 0.006 * noise(rng, size, 24, 96)[..., None]
    picture = np.round(np.clip(picture * (1 + paper) + 0.3 * paper, 0, 1) * 255) / np.float32(255)
    seen = np.ones((size, size), bool) if sticker is None else sticker.labels == 0
    return Scene(
        picture=picture,
        label=CLASSES.index(subject),
        name=subject,
        mask=(labels > 0) & seen,
        parts={part: (labels == i) & seen for i, part in enumerate(PARTS[subject], start=1)},
        seed=seed,
        second_label=None if second is None else CLASSES.index(second),
        second_mask=None if other is None else (other.labels > 0) & seen & (without != "second"),
        tag_mask=None if sticker is None else sticker.labels > 0,
    )


# Sets -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenes:
    """Many scenes, kept small: pictures as uint8, the objects' masks, and what is needed to draw each scene again.

    `scenes[i]` is the whole `Scene` with its parts, drawn anew; `scenes.redraw(i, without="object")` lacks its object.
    """

    pictures: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    recipes: list[dict[str, Any]]

    def __len__(self) -> int:
        """The number of scenes."""
        return len(self.recipes)

    def __getitem__(self, i: int) -> Scene:
        """The scene at `i`, with everything that is known about it."""
        return draw(**self.recipes[i])

    def redraw(self, i: int, **changes: Any) -> Scene:
        """The scene at `i` with other arguments for `draw`."""
        return draw(**{**self.recipes[i], **changes})


def dataset(
    split: str,
    n: int,
    *,
    pairs: bool = False,
    tag: float | Mapping[str, float] | None = None,
    start: int = 0,
    size: int = 224,
    progress: bool = False,
) -> Scenes:
    """The `n` scenes of a split from number `start` on; the classes take turns, so that every ten are balanced.

    `pairs` puts an object of another class beside each object; `tag` is the share of pictures with a spurious sticker,
    for all classes or by class name: `{"car": 1.0}` makes a Clever Hans of whoever trains on it.

    >>> dataset("test", 10).labels.tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; choose from {', '.join(SPLITS)}.")
    if n < 1 or start < 0 or start + n > SPLIT_SIZE:
        raise ValueError(f"A split holds scenes 0 to {SPLIT_SIZE - 1}; {n} scenes from {start} on are not among them.")
    shares = dict(tag) if isinstance(tag, Mapping) else dict.fromkeys(CLASSES, tag or 0.0)
    for name, share in shares.items():
        if name not in CLASSES or not 0 <= share <= 1:
            raise ValueError(f"tag takes a share from 0 to 1 for classes {', '.join(CLASSES)}, not {name!r}: {share}.")
    recipes = []
    for seed in range(SPLITS[split] + start, SPLITS[split] + start + n):
        rng, label = _rng(seed, _CHOICES), seed % len(CLASSES)
        other = CLASSES[(label + rng.integers(1, len(CLASSES))) % len(CLASSES)] if pairs else None
        tagged = bool(rng.random() < shares.get(CLASSES[label], 0.0))
        recipes.append({"seed": seed, "second": other, "tag": tagged, "size": size})
    pictures, masks = np.empty((n, size, size, 3), np.uint8), np.empty((n, size, size), bool)
    for i, recipe in enumerate(tqdm(recipes, desc=f"drawing {split} scenes", disable=None if progress else True)):
        scene = draw(**recipe)
        pictures[i], masks[i] = np.rint(scene.picture * 255), scene.mask
    return Scenes(pictures, np.array([r["seed"] % len(CLASSES) for r in recipes]), masks, recipes)


def gallery(n: int = 20) -> list[Scene]:
    """The first `n` test scenes, two of each class for 20: chosen by rule, never by what a model says of them."""
    if n < 1:
        raise ValueError(f"n is {n}; ask for at least one scene.")
    return [draw(SPLITS["test"] + i) for i in range(n)]
