"""Procedural echocardiograms with exact ground truth: apical four-chamber clips, one beat or so, begun at an R wave.

A scanner sees a beating heart along lines that fan out from the probe. What it shows are echoes: speckle that moves
with the tissue, blurred more sideways than in depth, lost on its way down, and drawn on a logarithmic scale. One seed
is the same heart at every shape, and the same clip elsewhere without its artefact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..io.clips import Clip
from ..progress import track
from .drawing.chambers import REGIONS, Moment, heart, moment, volume
from .sets import Drawings, seeds, stream

CLASSES = ("clean", "blurred", "checkered", "flickering")
FULL, SMALL = (32, 112, 112), (16, 64, 64)
SECONDS = 0.8  # that a clip lasts
SPLIT_SIZE = 90_000
SPLITS = {"train": 0, "val": SPLIT_SIZE, "test": 2 * SPLIT_SIZE}  # the first seed of each

_HEART, _CYCLE, _SPECKLE, _SCANNER, _ARTEFACT = range(5)
_LINES, _DEPTHS, _HALF = 104, 152, 0.60  # of the fan: its lines, its samples along each, half its angle
_SIDE, _TOP = 1.16, -0.06  # of the square picture, in units of the depth seen
_TILE, _SPACING = 320, 0.0055  # of the field of scatterers


@dataclass(frozen=True, eq=False)
class Heart:
    """A grey clip, float32 (T, H, W) in 0..1, with what is where in it; `draw(**recipe)` draws it again.

    `regions` (T, H, W) counts in `REGIONS`, `mask` is the artefact's place and time, `volume` (T,) the left ventricle's
    over its largest, and `ejection` the ejection fraction.
    """

    frames: np.ndarray
    regions: np.ndarray
    mask: np.ndarray
    label: int
    volume: np.ndarray
    ejection: float
    recipe: dict[str, Any]

    @property
    def name(self) -> str:
        """A name for files, such as `clean_000123`."""
        return f"{CLASSES[self.label]}_{self.recipe['seed']:06d}"

    @property
    def clip(self) -> Clip:
        """The clip in colour, with its frames per second."""
        return Clip(np.repeat(self.frames[..., None], 3, -1), len(self.frames) / SECONDS, self.name)

    def region(self, name: str) -> np.ndarray:
        """Where the myocardium, the ventricle, the whole sector or its outside is in each frame."""
        return self.regions > 0 if name == "sector" else self.regions == REGIONS.index(name)


@dataclass(frozen=True, eq=False)
class Hearts(Drawings):
    """Many small clips, with their frames as uint8 (N, T, H, W, 1)."""

    frames: np.ndarray


def _echoes(seed: int, beat: list[Moment], depth: np.ndarray) -> np.ndarray:
    """What the scanner makes of a heart: grey values 0..1 along its lines, (T, R, A)."""
    rng, scanner = stream(seed, _SPECKLE), stream(seed, _SCANNER)
    gain, noise, lost = scanner.uniform(-2, 3), scanner.uniform(0.0025, 0.005), scanner.uniform(0.3, 0.9)
    lines = cv2.GaussianBlur(scanner.normal(0, 1, (1, _LINES)), (0, 0), 7, borderType=cv2.BORDER_REFLECT)
    shade = np.exp(0.4 * lines / lines.std() - lost * depth).astype(np.float32)  # ribs, lungs, depth
    field = rng.standard_normal((_TILE, _TILE, 2), np.float32)
    haze = 0.05 * np.exp(-depth / 0.07)  # reverberation near the probe
    out = np.empty((len(beat), _DEPTHS, _LINES), np.float32)
    still = rng.standard_normal((*out.shape[1:], 2), np.float32)
    for t, now in enumerate(beat):
        places = [np.mod(part / _SPACING, _TILE - 1) for part in (now.across, now.along)]
        grain = cv2.remap(field, *places, cv2.INTER_LINEAR)
        grain[now.blood] = rng.standard_normal((int(now.blood.sum()), 2), np.float32)
        echo = grain * np.sqrt(now.power)[..., None] * shade[..., None] + still * haze[..., None]
        echo = cv2.GaussianBlur(echo, (0, 0), sigmaX=1.2, sigmaY=0.8)
        hiss = rng.standard_normal((*out.shape[1:], 2), np.float32) * noise
        out[t] = np.hypot(*np.moveaxis(echo + hiss, -1, 0))
    decibel = 20 * np.log10(out + 1e-5) + 9 * depth + gain
    return np.clip((decibel + 42) / 42, 0, 1) ** 1.15


def _fan(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of a picture lies on the fan: the line, and the sample along it; outside is negative."""
    y, x = (((np.arange(n) + 0.5) / n * _SIDE).astype(np.float32) for n in size)
    y, x = (y + _TOP)[:, None], (x - _SIDE / 2)[None]
    line = (np.arctan2(x, y) / _HALF + 1) / 2 * (_LINES - 1)
    depth = np.hypot(x, y)
    seen = (depth > 0.05) & (depth < 1) & (line >= 0) & (line <= _LINES - 1)
    return (np.where(seen, part, -9).astype(np.float32) for part in (line, depth * _DEPTHS - 0.5))


def _spoil(frames: np.ndarray, regions: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Put an artefact into the frames, and return where and when it is."""
    count, high, wide = frames.shape
    ys, xs = np.nonzero((regions[0] >= 1) & (_ball(high, wide, 0.55, 0.5) < 0.36))
    pick, radius = rng.uniform(), rng.uniform(0.10, 0.15)
    i = int(pick * len(ys))
    away = _ball(high, wide, (ys[i] + 0.5) / high, (xs[i] + 0.5) / wide)
    span = rng.uniform(0.4, 0.7)
    first = round(rng.uniform(0, 1 - span) * count)
    when = slice(first, first + round(span * count))
    mask = np.zeros(frames.shape, bool)
    mask[when] = (away < radius) & (regions[when] > 0)
    soft = np.clip((radius - away) * high / 2 + 0.5, 0, 1)
    cell = max(round(high / 64), 1)
    checks = (np.indices((high, wide)) // cell).sum(0) % 2 * 2 - 1
    for t in range(count)[when]:
        if kind == "blurred":
            other = cv2.GaussianBlur(frames[t], (0, 0), high / 40)
        elif kind == "checkered":
            other = frames[t] + 0.11 * checks
        else:
            other = frames[t] + (0.14 if t % 2 else -0.14)
        mixed = frames[t] + soft * (other - frames[t])
        frames[t] = np.where(regions[t] > 0, np.clip(mixed, 0, 1), frames[t])
    return mask


def _ball(high: int, wide: int, y: float, x: float) -> np.ndarray:
    """The distance of each pixel from a point, in fractions of the picture's side."""
    return np.hypot(((np.arange(high) + 0.5) / high - y)[:, None], (np.arange(wide) + 0.5) / wide - x)


def draw(seed: int, kind: str | None = None, shape: Sequence[int] = FULL, *, artefact: bool = True) -> Heart:
    """Draw the clip of a seed; `artefact=False` leaves its artefact out, and nothing else.

    The kind is `CLASSES[seed % 4]` unless named. The same heart beats in every kind.

    >>> heart = draw(7, "blurred", (16, 112, 112))
    >>> heart.frames.shape, heart.clip.fps, bool(heart.region("ventricle").any(0).any())
    ((16, 112, 112), 20.0, True)
    """
    kind = CLASSES[seed % len(CLASSES)] if kind is None else kind
    if kind not in CLASSES:
        raise ValueError(f"There is no kind of clip {kind!r}; choose from {', '.join(CLASSES)}.")
    count, *size = shape
    drawn, phase = heart(stream(seed, _HEART)), np.arange(count) / count * stream(seed, _CYCLE).uniform(0.85, 1.2)
    depth = (np.arange(_DEPTHS, dtype=np.float32) + 0.5)[:, None] / _DEPTHS
    angle = np.linspace(-_HALF, _HALF, _LINES, dtype=np.float32)
    beat = [moment(drawn, depth * np.sin(angle), depth * np.cos(angle), p) for p in phase.tolist()]
    lines = _echoes(seed, beat, depth)
    fine, coarse = tuple(_fan([2 * n for n in size])), tuple(_fan(size))
    frames, regions = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    for t in range(count):
        frame = cv2.remap(lines[t], *fine, cv2.INTER_LINEAR)
        frames[t] = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
        regions[t] = cv2.remap(beat[t].regions, *coarse, cv2.INTER_NEAREST)
    mask = np.zeros(shape, bool)
    if artefact and kind != "clean":
        mask = _spoil(frames, regions, kind, stream(seed, _ARTEFACT))
    frames = np.rint(frames * 255) / np.float32(255)
    recipe = {"seed": seed, "kind": kind, "shape": list(shape), "artefact": artefact}
    return Heart(frames, regions, mask, CLASSES.index(kind), volume(phase, drawn["ejected"]), drawn["ejected"], recipe)


def dataset(split: str, n: int, *, kind: str | None = None, start: int = 0, progress: bool = False) -> Hearts:
    """The `n` small clips of a split from number `start` on, of one kind or of all in turn."""
    chosen = seeds(SPLITS, SPLIT_SIZE, split, n, start)
    frames, masks, recipes = np.empty((n, *SMALL, 1), np.uint8), np.empty((n, *SMALL), bool), []
    for i, seed in enumerate(track(chosen, f"drawing {split} clips", "clip", progress)):
        heart = draw(seed, kind, SMALL)
        frames[i, ..., 0], masks[i] = np.rint(heart.frames * 255), heart.mask
        recipes.append(heart.recipe)
    return Hearts(draw, recipes, np.array([CLASSES.index(r["kind"]) for r in recipes]), masks, frames)
