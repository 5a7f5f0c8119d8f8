"""Picture-book scenes with exact ground truth: which pixels are the object, and which are its ears.

Each thing draws from a random stream of its own, so that a scene without its object, or a part, is the same elsewhere.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..progress import track
from .drawing.animals import bird, butterfly, cat, dog, fish
from .drawing.scenery import distractors, scenery
from .drawing.things import car, house, mushroom, ship, tree
from .sets import Drawings, seeds, stream

from .drawing.shapes import (  # isort: skip
    CREAM, INK, PALETTE, Layer, Shape, box, choose_coat, compose, ellipse, mix, noise, paint, rgb, smoothstep,
    stroke, tilted, turned,
)  # fmt: skip

SUBJECTS = {f.__name__: f for f in (cat, dog, bird, fish, butterfly, car, ship, house, tree, mushroom)}
CLASSES: tuple[str, ...] = tuple(SUBJECTS)
# The parts of each subject, from back to front; a fir has no branches, and not every tree has fruit.
PARTS: dict[str, tuple[str, ...]] = {
    "cat": ("tail", "body", "legs", "ears", "head", "face"), "fish": ("tail", "fins", "body", "eye"),
    "dog": ("tail", "legs", "body", "collar", "head", "snout", "eye", "ears"),
    "bird": ("legs", "tail", "body", "beak", "head", "eye", "wing"),
    "butterfly": ("hindwings", "forewings", "antennae", "body"), "tree": ("trunk", "branches", "crown", "fruit"),
    "car": ("cabin", "windows", "body", "lights", "wheels"), "ship": ("mast", "flag", "sails", "hull", "portholes"),
    "house": ("chimney", "walls", "roof", "door", "windows"), "mushroom": ("stem", "ring", "gills", "cap", "spots"),
}  # fmt: skip
SIZE = 224
SPLIT_SIZE = 10_000_000
SPLITS = {"train": 0, "calibration": SPLIT_SIZE, "test": 2 * SPLIT_SIZE}  # the first seed of each
MARGIN = 14  # pixels around an object that its soft shadow may darken (at 224 pixels)

_BACKGROUND, _DISTRACTORS, _OBJECT, _SECOND, _TAG, _NOISE = range(6)
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
    kind: str = ""  # what makes a hard scene hard


@dataclass(frozen=True, eq=False)
class Scenes(Drawings):
    """Many scenes, with their pictures as uint8 (N, H, W, 3)."""

    pictures: np.ndarray


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
    shown = shown.astype(np.float32) * np.float32(rng.uniform(0.45, 0.85))
    return cv2.resize(shown, (2 * size, 2 * size), interpolation=cv2.INTER_LINEAR)


def _subject(rng: np.random.Generator, name: str, room: tuple[float, ...], avoid: np.ndarray, size: int,
             without: str | None) -> Layer:  # fmt: skip
    """Paint a subject somewhere in the room (left, top, right, bottom; as fractions of the picture)."""
    coat = choose_coat(rng, avoid)
    shapes = SUBJECTS[name](rng, coat)
    turn = rng.uniform(-25, 25) if name in _FLOATING else rng.uniform(-6, 6)
    flip, squeeze = rng.choice([-1, 1]), rng.uniform(0.94, 1.06)
    moved = [turned(s.points * (flip * squeeze, 1 / squeeze), turn) for s in shapes]
    low, high = np.min([p.min(0) for p in moved], 0), np.max([p.max(0) for p in moved], 0)
    left, top, right, bottom = np.array(room) * size
    fit = np.min((right - left, bottom - top) / (high - low))
    scale = fit * rng.uniform(0.68 if right - left < size / 2 else 0.45, 1.0)  # beside another it is small already
    place = rng.random(2) if name in _FLOATING else (rng.random(), rng.uniform(0.6, 1.0))
    shift = (left, top) + ((right - left, bottom - top) - scale * (high - low)) * place - scale * low
    pattern, tint = _pattern(rng, size), mix(coat.second, INK, rng.uniform(0.0, 0.4))
    placed = [s._replace(points=p * scale + shift) for s, p in zip(shapes, moved, strict=True) if s.part != without]
    return paint(placed, PARTS[name], size, pattern, tint, line=max(1.0, 0.011 * scale))


def _sticker(rng: np.random.Generator, size: int) -> Layer:
    """A small sticker in a corner: a bright round seal on a white label."""
    x, y = (0.115 if side else 0.885 for side in rng.integers(0, 2, 2))
    tone, r = PALETTE[rng.integers(14)], 0.07  # the livelier colours
    tick = [(x - 0.25 * r, y), (x - 0.05 * r, y + 0.22 * r), (x + 0.28 * r, y - 0.25 * r)]
    label = Shape("tag", box(x - r, y - r, x + r, y + r, 0.03), rgb(0.99, 0.98, 0.96), relief=0.3)
    shapes = [label, Shape("tag", ellipse(x, y, 0.6 * r), tone, relief=0.5), stroke("tag", tick, CREAM, 0.018)]
    shapes = tilted(shapes, rng.uniform(-12, 12), (x, y))
    return paint([s._replace(points=s.points * size) for s in shapes], (), size, line=1.0)


def draw(seed: int, subject: str | None = None, *, second: str | None = None, tag: bool = False,
         without: str | None = None, size: int = SIZE) -> Scene:  # fmt: skip
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

    picture, colours, horizon, sea = scenery(stream(seed, _BACKGROUND), size)
    compose(picture, paint(distractors(stream(seed, _DISTRACTORS), size, horizon, sea), (), size, line=0.8), 0.2)
    rng = stream(seed, _OBJECT)
    rooms = [(0.02, 0.14, 0.485, 0.96), (0.515, 0.14, 0.98, 0.96)] if second else [(0.05, 0.05, 0.95, 0.95)]
    if rng.random() >= 0.5:  # the object on the right
        rooms.reverse()
    first = _subject(rng, subject, rooms[0], colours, size, without)
    labels = first.labels if without != "object" else np.zeros_like(first.labels)
    other = _subject(stream(seed, _SECOND), second, rooms[-1], colours, size, None) if second else None
    if other and without != "second":
        compose(picture, other, 0.45)
    if without != "object":
        compose(picture, first, 0.45)
    if sticker := _sticker(stream(seed, _TAG), size) if tag else None:
        compose(picture, sticker, 0.4)

    rng = stream(seed, _NOISE)
    paper = 0.010 * rng.standard_normal((size, size, 1), np.float32) + 0.006 * noise(rng, size, 24, 96)[..., None]
    picture = np.round(np.clip(picture * (1 + paper) + 0.3 * paper, 0, 1) * 255) / np.float32(255)
    seen = sticker.labels == 0 if sticker else np.ones((size, size), bool)
    parts = {part: (labels == i) & seen for i, part in enumerate(PARTS[subject], start=1)}
    scene = Scene(picture, CLASSES.index(subject), subject, (labels > 0) & seen, parts, seed)
    if other:
        there = (other.labels > 0) & seen & (without != "second")
        scene = replace(scene, second_label=CLASSES.index(second), second_mask=there)
    return replace(scene, tag_mask=sticker.labels > 0) if sticker else scene


def dataset(
    split: str, n: int, *, tag: str | None = None, start: int = 0, size: int = SIZE, progress: bool = False
) -> Scenes:
    """The `n` scenes of a split from number `start` on, classes in turns; those of the class `tag` get a sticker."""
    chosen = seeds(SPLITS, SPLIT_SIZE, split, n, start)
    labels = np.array(chosen) % len(CLASSES)
    recipes = [{"seed": s, "second": None, "tag": CLASSES[s % len(CLASSES)] == tag, "size": size} for s in chosen]
    pictures, masks = np.empty((n, size, size, 3), np.uint8), np.empty((n, size, size), bool)
    for i, recipe in enumerate(track(recipes, f"drawing {split} scenes", "scene", progress)):
        scene = draw(**recipe)
        pictures[i], masks[i] = np.rint(scene.picture * 255), scene.mask
    return Scenes(draw, recipes, labels, masks, pictures)


def gallery(n: int = 20) -> list[Scene]:
    """The first `n` test scenes, two of each class for 20: chosen by rule, never by what a model says of them."""
    return [draw(SPLITS["test"] + i) for i in range(n)]
