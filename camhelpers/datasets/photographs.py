"""Photographs that scikit-image brings along, and cut-outs of them at known places, for networks that know ImageNet.

Four things are cut out: an interval over many drawings speaks of places, sizes and surroundings, not of other things.
"""

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..files import ROOT
from ..io.images import read_image
from . import scenes
from .sets import stream


def _data(name: str) -> dict[str, Any]:
    return json.loads((ROOT / f"data/{name}.json").read_text(encoding="utf-8"))


class Photograph(NamedTuple):
    """A photograph, whom to credit for it, and its class in ImageNet where it has one."""

    file: str
    title: str
    author: str
    licence: str
    label: str | None = None


PHOTOGRAPHS = {name: Photograph(**about) for name, about in _data("photographs").items()}
# What is cut out, as ImageNet calls it: of which photograph, and the outline (x, y) in its pixels.
CUTOUTS = _data("cutouts")
CLASSES, SPLITS, SPLIT_SIZE = tuple(CUTOUTS), scenes.SPLITS, scenes.SPLIT_SIZE
SIZE, SEEN = 256, 224  # of 256 pixels, networks of ImageNet see the middle 224, and what is placed lies in there
SIDES = (110, 160)  # the geometric mean of a cut-out's height and width; on smaller ones EfficientNet-Lite0 errs
TINTS = {"brick": (0.9, 0.6, 0.5), "grass": (0.7, 0.95, 0.5), "gravel": (1.0, 0.93, 0.82)}  # their files are grey
BLURRED = ("astronaut", "coffee", "cat", "rocket", "camera")
_BACKGROUND, _OBJECT = range(2)  # random streams
_read = cache(lambda name: read_image(path(name)))


def path(name: str) -> Path:
    """The file of a photograph, inside the installed scikit-image."""
    found, file = importlib.util.find_spec("skimage"), PHOTOGRAPHS[name].file
    if found is None or not (Path(found.origin).parent / "data" / file).is_file():
        raise FileNotFoundError(f"No scikit-image that holds {file} is installed: pip install scikit-image==0.26.0.")
    return Path(found.origin).parent / "data" / file


def draw(seed: int) -> scenes.Scene:
    """Place the cut-out `CLASSES[seed % 4]` on a texture or on another photograph, out of focus.

    >>> scene = draw(1)
    >>> scene.name, scene.picture.shape, bool(scene.mask[16:-16, 16:-16].sum() == scene.mask.sum())
    ('espresso', (256, 256, 3), True)
    """
    label, rng = seed % len(CLASSES), stream(seed, _OBJECT)
    source, points = CUTOUTS[CLASSES[label]]["photograph"], np.array(CUTOUTS[CLASSES[label]]["outline"])
    photograph, room, extent = _read(source), SEEN - 16, np.ptp(points, 0)
    scale = min(rng.uniform(*SIDES) / np.sqrt(extent.prod()), 0.96 * room / extent.max())
    angle, flip = np.deg2rad(rng.uniform(-12, 12)), rng.choice([-1, 1])
    turn = scale * np.array([[flip * np.cos(angle), -np.sin(angle)], [flip * np.sin(angle), np.cos(angle)]])
    low, high = (points @ turn.T).min(0), (points @ turn.T).max(0)
    shift = (SIZE - room) / 2 + rng.random(2) * (room - (high - low)) - low
    inside = np.zeros(photograph.shape[:2], np.float32)
    cv2.fillPoly(inside, [points.astype(np.int32)], 1.0)
    layer = np.dstack([photograph * inside[..., None], inside])  # colours times alpha, so that none bleeds in
    layer = cv2.warpAffine(cv2.GaussianBlur(layer, (0, 0), 0.5 / scale), np.c_[turn, shift], (SIZE, SIZE))
    alpha = layer[..., 3:]
    shadow = cv2.GaussianBlur(np.roll(alpha, (5, 4), (0, 1)), (0, 0), 6)[..., None] * np.float32(rng.uniform(0.3, 0.6))
    picture = layer[..., :3] + _background(stream(seed, _BACKGROUND), source) * (1 - shadow) * (1 - alpha)
    picture = np.round(np.clip(picture, 0, 1) * 255) / np.float32(255)
    return scenes.Scene(picture, label, CLASSES[label], alpha[..., 0] > 0.5, {}, seed)


def _background(rng: np.random.Generator, source: str) -> np.ndarray:
    """A square of a texture, or of a photograph other than the cut-out's, out of focus."""
    name = str(rng.choice(list(TINTS) if rng.random() < 0.5 else [name for name in BLURRED if name != source]))
    picture = _read(name)
    side = int(rng.uniform(0.5, 1) * min(picture.shape[:2]))
    top, left = (int(rng.integers(n - side + 1)) for n in picture.shape[:2])
    square = cv2.resize(picture[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    blur = rng.uniform(1, 4) if name in TINTS else rng.uniform(6, 12)
    tint = np.float32(TINTS.get(name, (1, 1, 1)) * rng.uniform(0.9, 1.1, 3))
    return np.minimum(cv2.GaussianBlur(square, (0, 0), blur) * tint, 1)
