"""Procedural OCT cubes of the macula with exact ground truth: which voxels are drusen, which are fluid.

An eye is a stack of layers, each a thickness and a reflectivity over the field; a lesion is one layer more. One seed is
the same eye at every shape, and the same cube elsewhere without its lesions. The cube is what a scanner makes of it:
light lost on its way down, blur, speckle, noise, a head that moves between B-scans, and a logarithmic scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..progress import track
from .sets import Drawings, seeds, stream

CLASSES = ("normal", "drusen", "fluid")
FULL, SMALL = (192, 256, 256), (48, 64, 64)
FIELD = (6.0, 2.0, 6.0)  # what a cube covers, in mm: across the B-scans, in depth, along a B-scan
SPLIT_SIZE = 90_000
SPLITS = {"train": 0, "val": SPLIT_SIZE, "test": 2 * SPLIT_SIZE}  # the first seed of each

_EYE, _VESSELS, _CHOROID, _LESIONS, _MOTION, _SCANNER, _SPECKLE = range(7)
_EXTINCTION = 5.0  # per mm and unit of reflectivity: about half of the light comes through the retina
_BLUR = (0.006, 0.014)  # the scanner's resolution, in mm: in depth, along a B-scan
_GRAIN = (0.55, 0.65)  # the least blur, in voxels: speckle of single voxels does not exist
_DARK, _BRIGHT = 0.010, 1.15  # the intensities that become 0 and 1

Field = np.ndarray  # something over the field of view: float32 (Z, X)


@dataclass(frozen=True, eq=False)
class Retina:
    """A cube, float32 (Z, Y, X) in 0..1, with the voxels of its lesions; `draw(**recipe)` draws it again."""

    volume: np.ndarray
    mask: np.ndarray
    label: int
    spacing: tuple[float, float, float]
    recipe: dict[str, Any]

    @property
    def name(self) -> str:
        """A name for files, such as `fluid_000123`."""
        return f"{CLASSES[self.label]}_{self.recipe['seed']:06d}"


@dataclass(frozen=True, eq=False)
class Retinas(Drawings):
    """Many eyes, with their volumes as uint8 (N, Z, Y, X, 1)."""

    volumes: np.ndarray


class _Grid(NamedTuple):
    """The voxel centres over the field in mm, measured from its middle, and the distance between them."""

    z: np.ndarray  # (Z, 1)
    x: np.ndarray  # (1, X)
    step: float

    def waves(self, rng: np.random.Generator, length: float, count: int = 24, *, band: bool = False) -> Field:
        """Smooth noise with deviation 1 and about that wavelength: plane waves, which have a value at every shape."""
        k = 2 * np.pi / length * (rng.uniform(0.75, 1.25, count) if band else np.abs(rng.normal(0, 0.7, count)))
        angle, phase = rng.uniform(0, 2 * np.pi, (2, count))
        down = np.exp(1j * (self.z * (k * np.sin(angle)) + phase)).astype(np.complex64)
        across = np.exp(1j * (self.x.T * (k * np.cos(angle)))).astype(np.complex64)
        return (down @ across.T).real * np.float32((2 / count) ** 0.5)

    def bell(self, width: float, z: float, x: float) -> Field:
        return np.exp(-((self.z - z) ** 2 + (self.x - x) ** 2) / width**2).astype(np.float32)

    def dome(self, rng: np.random.Generator, z: float, x: float, radius: float, power: float) -> Field:
        """A mound of height 1 with a winding outline, and exactly zero beyond it."""
        long = rng.uniform(0.85, 1.2)
        q = ((self.z - z) / (radius * long)) ** 2 + ((self.x - x) * long / radius) ** 2
        q = q * (1 + 0.13 * np.clip(self.waves(rng, 1.6 * radius, 8), -2, 2))
        return (np.clip(1 - q, 0, None) ** power).astype(np.float32)


class _Layer(NamedTuple):
    """One layer of the stack: a thickness in mm, and how much light it sends back."""

    thickness: Field
    reflectivity: float | Field
    lesion: bool = False


class _Eye(NamedTuple):
    """How deep the topmost layer begins, the layers from there down, where shadows begin, and the light they take."""

    top: Field
    layers: list[_Layer]
    shade: Field
    taken: Field

    def rows(self, part: slice) -> "_Eye":
        """Return some B-scans of the eye only."""
        layers = [_Layer(*(v[part] if isinstance(v, np.ndarray) else v for v in layer)) for layer in self.layers]
        return _Eye(self.top[part], layers, self.shade[part], self.taken[part])


def _vessels(rng: np.random.Generator, grid: _Grid, nasal: float) -> tuple[Field, Field]:
    """Retinal vessels, which throw shadows: their thickness in mm, and how much of the light they take."""
    tall, taken = np.zeros((2, grid.z.size, grid.x.size), np.float32)
    paths = []
    for side in (-1, 1):  # two arcades around the macula, and twigs from them towards the fovea
        for _ in range(2):
            high, bend, wave, radius = rng.uniform(1.5, 2.7), rng.uniform(0.02, 0.10), rng.uniform(0, 6.3), 0.062
            line = side * (high - bend * (nasal * grid.x - 0.8) ** 2) + 0.08 * np.sin(1.9 * grid.x + wave)
            paths.append((grid.z - line, np.gradient(line[0], grid.x[0])[None], radius * rng.uniform(0.75, 1.2), 1.0))
        for _ in range(int(rng.integers(2, 5))):
            start, lean, wave, radius = rng.uniform(-2.6, 2.6), rng.uniform(-0.35, 0.35), rng.uniform(0, 6.3), 0.034
            line = start + lean * (grid.z - side * 2) + 0.1 * np.sin(2.6 * grid.z + wave)
            ends = np.clip((side * grid.z - rng.uniform(-1.2, 1.1)) / 0.4, 0, 1)
            slope = np.gradient(line[:, 0], grid.z[:, 0])[:, None]
            paths.append((grid.x - line, slope, radius * rng.uniform(0.8, 1.3), ends))
    spare = np.clip((np.hypot(grid.z, grid.x) - 0.45) / 0.4, 0, 1)  # no vessels in the fovea
    for away, slope, radius, ends in paths:
        seen = np.hypot(radius, 0.4 * grid.step)  # wide voxels see a wide and faint vessel
        half = np.sqrt(np.clip(1 - away**2 / (1 + slope**2) / seen**2, 0, None)) * ends * spare * (radius / seen)
        tall, taken = np.maximum(tall, 0.9 * radius * half), np.maximum(taken, (9 * radius + 0.55) * half)
    return tall.astype(np.float32), taken.astype(np.float32)


def _drusen(rng: np.random.Generator, grid: _Grid) -> Field:
    """Deposits that lift the pigment epithelium: their height in mm."""
    total = np.zeros((grid.z.size, grid.x.size), np.float32)
    for i in range(int(rng.integers(4, 11))):
        radius = rng.uniform(0.42, 0.62) if i == 0 else rng.uniform(0.2, 0.55)
        height = np.clip(radius * rng.uniform(0.26, 0.4), 0.13 if i == 0 else 0.05, 0.2)
        z, x = np.clip(rng.normal(0, 0.95, 2), -2.2, 2.2)
        total += (height * grid.dome(rng, z, x, radius, 0.9)) ** 4  # neighbours flow together
    return total**0.25


def _fluid(rng: np.random.Generator, grid: _Grid) -> tuple[Field, Field, Field, Field, Field]:
    """Fluid, as thicknesses in mm: cysts and swelling of the inner and of the outer nuclear layer, and a blister."""
    inner, outer, swollen, below = np.zeros((4, grid.z.size, grid.x.size), np.float32)
    kind = rng.choice(["cysts", "blister", "both"], p=[0.45, 0.25, 0.3])
    middle = rng.normal(0, 0.45, 2)
    if kind != "blister":
        swollen = grid.dome(rng, *middle, rng.uniform(1.7, 2.4), 1.8)
        for i in range(int(rng.integers(3, 10))):
            radius = rng.uniform(0.3, 0.5) if i == 0 else rng.uniform(0.15, 0.36)
            height = rng.uniform(0.15, 0.22) if i == 0 else radius * rng.uniform(0.4, 0.8)
            z, x = np.clip(middle + (rng.normal(0, 0.6, 2) if i else 0), -2.2, 2.2)
            outer = np.maximum(outer, height * grid.dome(rng, z, x, radius, 0.5))
        for _ in range(int(rng.integers(0, 9))):
            radius, (z, x) = rng.uniform(0.13, 0.26), np.clip(middle + rng.normal(0, 0.8, 2), -2.2, 2.2)
            inner = np.maximum(inner, rng.uniform(0.04, 0.08) * grid.dome(rng, z, x, radius, 0.5))
    if kind != "cysts":
        z, x = middle + rng.normal(0, 0.3, 2)
        below = rng.uniform(0.11, 0.24) * grid.dome(rng, z, x, rng.uniform(0.6, 1.25), 0.8)
    return inner, 0.05 * swollen, outer, rng.uniform(0.1, 0.17) * swollen, below


def _choroid(rng: np.random.Generator, grid: _Grid) -> list[_Layer]:
    """What is under Bruch's membrane: capillaries, rows of ever wider vessels in their stroma, and the sclera."""
    whole = np.clip(rng.uniform(0.2, 0.36) + 0.025 * grid.waves(rng, 3.5), 0.12, None)
    layers = [_Layer(0.014 + 0 * whole, 0.42)]
    for fraction, length, width in ((0.12, 0.35, 0.45), (0.2, 0.6, 0.5), (0.3, 0.9, 0.55), (0.38, 1.3, 0.6)):
        room = fraction * whole * (1 + 0.12 * grid.waves(rng, 0.8, 12))
        stroma = 0.33 + 0.045 * grid.waves(rng, 0.3, 16)
        lumen = 0.95 * room * np.sqrt(np.clip(1 - (grid.waves(rng, length, band=True) / width) ** 2, 0, None))
        above = (room - lumen) * np.clip(0.5 + 0.2 * grid.waves(rng, 1.0, 8), 0.1, 0.9)
        vessel = [_Layer(0.2 * lumen, 0.17), _Layer(0.6 * lumen, 0.085), _Layer(0.2 * lumen, 0.17)]
        layers += [_Layer(above, stroma), *vessel, _Layer(room - lumen - above, stroma)]
    sclera = _Layer(np.full_like(whole, FIELD[1]), 0.19 + 0.022 * grid.waves(rng, 0.9))
    return [*layers, _Layer(0.02 + 0 * whole, 0.3), sclera]


def _eye(seed: int, kind: str, grid: _Grid, lesions: bool) -> _Eye:
    """The layers of an eye, with the lesions of its kind unless they are left out."""
    rng = stream(seed, _EYE)
    u = rng.uniform
    nasal, fz, fx = rng.choice([-1.0, 1.0]), *rng.normal(0, 0.12, 2)
    r2 = (grid.z - fz) ** 2 + (grid.x - fx) ** 2
    towards = nasal * (grid.x - fx)
    membrane = u(1.22, 1.34) + u(-0.028, 0.004) * r2 + u(-0.03, 0.03) * grid.x + u(-0.015, 0.015) * grid.z
    membrane = (membrane + 0.012 * grid.waves(rng, 4.0, 8)).astype(np.float32)
    pit, floor = grid.bell(u(0.42, 0.62), fz, fx), grid.bell(u(0.55, 0.75), fz, fx)
    far = np.exp(-r2 / u(3.0, 4.2) ** 2).astype(np.float32)
    size, wavy = u(0.92, 1.1), 1 + 0.05 * grid.waves(rng, 1.8)
    fibres = (0.012 + 0.034 / (1 + np.exp(-(towards - 0.8) / 0.7)) + 0.006 * grid.z**2 / 4) * (1 - 0.97 * floor)

    nothing = np.zeros_like(membrane)
    lift, inner, inner_more, outer, outer_more, below = (nothing,) * 6
    if lesions and kind == "drusen":
        lift = _drusen(stream(seed, _LESIONS), grid)
    elif lesions and kind == "fluid":
        inner, inner_more, outer, outer_more, below = _fluid(stream(seed, _LESIONS), grid)
    tall, taken = (field * (1 - pit) for field in _vessels(stream(seed, _VESSELS), grid, nasal))

    onl = size * (0.066 + 0.036 * pit) * wavy
    ganglia = size * 0.106 * (1 - 0.97 * floor) * far
    thinned = np.minimum(0.55 * lift, 0.62 * onl)  # a druse thins what it lifts, and
    pressed = np.minimum(0.5 * (lift - thinned) + 0.7 * tall, 0.45 * ganglia)  # what is above makes room
    onl, ganglia = onl - thinned + outer_more, ganglia - pressed
    inl = size * 0.040 * (1 - 0.93 * floor) * (2 - wavy) + inner_more
    raised = tall + lift - thinned - pressed + inner_more + outer_more + below
    ghost, gap = u() < 0.4, u(0.03, 0.16) + 0.05 * grid.waves(rng, 4.0, 8) + 0.012 * r2
    gap = np.clip(gap - raised, 0.015, None)  # the vitreous has no part in what goes on below
    sheen = 1 + 0.08 * grid.waves(rng, 2.5)
    down = [
        _Layer(nothing + 0.008 * ghost, 0.05),  # the detached face of the vitreous
        _Layer(gap * ghost, 0.003),
        _Layer(nothing + 0.007, 0.78 * sheen),  # ILM
        _Layer(size * fibres, 0.72 * sheen),  # RNFL
        _Layer(tall, 0.85),
        _Layer(ganglia * 0.5 * wavy, 0.30),  # GCL
        _Layer(ganglia * (1 - 0.5 * wavy), 0.40),  # IPL
        *_hollowed(inl, inner, 0.5 + 0.2 * grid.waves(rng, 0.9, 8), 0.165, 0.165),  # INL
        _Layer(size * 0.024 * (1 - 0.7 * pit), 0.36 * sheen),  # OPL
        *_hollowed(onl, outer, 0.5 + 0.2 * grid.waves(rng, 0.9, 8), 0.095, 0.075),  # ONL
        _Layer(nothing + 0.008, 0.2),  # ELM
        _Layer(size * (0.022 + 0.010 * pit), 0.13),
        _Layer(nothing + 0.014, 0.86 * sheen),  # EZ
        _Layer(size * (0.017 + 0.016 * pit), 0.26),
        _Layer(below, 0.004, lesion=True),
        _Layer(nothing + 0.027, 1.6 * sheen),  # RPE
        _Layer(lift, 0.2 + 0.025 * grid.waves(rng, 0.4), lesion=True),
        _Layer(nothing + 0.006, 0.55),  # Bruch's membrane
    ]
    top = membrane - np.sum([layer.thickness for layer in down], axis=0)
    shade = top + np.sum([layer.thickness for layer in down[:5]], axis=0)
    return _Eye(top, [*down, *_choroid(stream(seed, _CHOROID), grid)], shade, taken)


def _hollowed(whole: Field, cyst: Field, above: Field, upper: float, lower: float) -> list[_Layer]:
    """A layer with bright-walled hollows in it: a fraction `above` of the tissue is above them, the rest below."""
    cyst = np.minimum(cyst, 0.85 * whole)
    bright = _Layer(np.minimum(0.3 * cyst, 0.007), 0.42)
    rest = np.clip(whole - cyst - 2 * bright.thickness, 0, None)
    above = rest * np.clip(above, 0.15, 0.85)
    return [_Layer(above, upper), bright, _Layer(cyst, 0.004, lesion=True), bright, _Layer(rest - above, lower)]


def _scan(eye: _Eye, depth: int, looks: float, rng: np.random.Generator, noise: float, gain: float) -> list[np.ndarray]:
    """Some B-scans `(z, depth, x)` as the scanner shows them, and the voxels of their lesions."""
    z, x = eye.top.shape
    step = FIELD[1] / depth
    column = np.arange(z)[:, None] * (depth + 2) * x + np.arange(x)

    def put(volume: np.ndarray, where: Field, what: float | Field) -> None:
        """Add an impulse to each column, shared by two voxels, so that a running sum is a step at that very depth."""
        place = np.clip(where / step, 0, depth)
        row = place.astype(np.intp)
        flat, index, part = volume.reshape(-1), column + row * x, (place - row) * what
        flat[index] += what - part
        flat[index + x] += part

    light, mask = np.zeros((z, depth + 2, x), np.float32), np.zeros((z, depth, x), bool)
    centres = ((np.arange(depth, dtype=np.float32) + 0.5) * step)[:, None]
    top, before = eye.top, 0.0
    for layer in eye.layers:
        put(light, top, layer.reflectivity - before)
        before, end = layer.reflectivity, top + layer.thickness
        if layer.lesion and layer.thickness.any():
            mask |= (centres >= top[:, None]) & (centres < end[:, None])
        top = end
    light = np.cumsum(light, axis=1)
    lost = light * np.float32(_EXTINCTION * step)
    put(lost, eye.shade, eye.taken)
    light *= np.exp(-np.cumsum(lost, axis=1))
    light = light[:, :depth] * np.exp(-0.5 * centres)
    light += np.float32(noise)
    light *= rng.standard_gamma(looks, light.shape, np.float32) * np.float32(gain / looks)
    down, across = (max(b / s, g) for b, s, g in zip(_BLUR, (step, FIELD[2] / x), _GRAIN, strict=True))
    for i, page in enumerate(light):
        light[i] = cv2.GaussianBlur(page, (0, 0), sigmaX=across, sigmaY=down, borderType=cv2.BORDER_REFLECT)
    light = np.log(light) - np.float32(np.log(_DARK))
    light *= np.float32(255 / np.log(_BRIGHT / _DARK))
    return [np.rint(np.clip(light, 0, 255, out=light), out=light), mask]


def _motion(rng: np.random.Generator, z: np.ndarray) -> np.ndarray:
    """How far the head moved between B-scans, in mm: a breath, and a jitter from one coarse slice to the next."""
    knots = FIELD[0] * ((np.arange(SMALL[0]) + 0.5) / SMALL[0] - 0.5)
    breath = rng.uniform(0, 0.018) * np.sin(2 * np.pi * z / rng.uniform(1.5, 4.0) + rng.uniform(0, 6.3))
    return (breath + np.interp(z, knots, rng.normal(0, 0.005, len(knots)))).astype(np.float32)


def draw(seed: int, kind: str | None = None, shape: Sequence[int] = SMALL, *, lesions: bool = True,
         looks: float | None = None) -> Retina:  # fmt: skip
    """Draw the eye of a seed; `lesions=False` leaves its lesions out, and what they lift or swell, and nothing else.

    The kind is `CLASSES[seed % 3]` unless named. `looks` is how many speckle patterns are averaged: more make a
    smoother cube; unless given, each eye has its own.

    >>> eye = draw(7, "drusen")
    >>> eye.volume.shape, eye.spacing, bool(eye.mask.any())
    ((48, 64, 64), (0.125, 0.03125, 0.09375), True)
    """
    kind = CLASSES[seed % len(CLASSES)] if kind is None else kind
    if kind not in CLASSES:
        raise ValueError(f"There is no kind of retina {kind!r}; choose from {', '.join(CLASSES)}.")
    rng = stream(seed, _SCANNER)
    own, noise, gain = rng.uniform(1.3, 4.0), rng.uniform(0.008, 0.018), rng.uniform(0.85, 1.25)

    spacing = tuple(field / n for field, n in zip(FIELD, shape, strict=True))
    z, x = (field * ((np.arange(n) + 0.5) / n - 0.5) for field, n in zip(FIELD[::2], shape[::2], strict=True))
    eye = _eye(seed, kind, _Grid(z[:, None], x[None], float(np.hypot(spacing[0], spacing[2]))), lesions)
    moved = _motion(stream(seed, _MOTION), z)[:, None]
    eye = eye._replace(top=eye.top + moved, shade=eye.shade + moved)

    volume, mask = np.empty(shape, np.float32), np.empty(shape, bool)
    speckle, pages = stream(seed, _SPECKLE), max(1, 200_000 // (shape[1] * shape[2]))  # what fits into a core's cache
    for start in range(0, shape[0], pages):
        part = slice(start, start + pages)
        volume[part], mask[part] = _scan(eye.rows(part), shape[1], looks or own, speckle, noise, gain)
    volume /= 255
    recipe = {"seed": seed, "kind": kind, "shape": list(shape), "lesions": lesions, "looks": looks}
    return Retina(volume, mask, CLASSES.index(kind), spacing, recipe)


def dataset(split: str, n: int, *, looks: float | None = None, start: int = 0, progress: bool = False) -> Retinas:
    """The `n` small eyes of a split from number `start` on; the classes take turns, so every three are balanced."""
    chosen = seeds(SPLITS, SPLIT_SIZE, split, n, start)
    volumes, masks, recipes = np.empty((n, *SMALL, 1), np.uint8), np.empty((n, *SMALL), bool), []
    for i, seed in enumerate(track(chosen, f"drawing {split} eyes", "eye", progress)):
        eye = draw(seed, looks=looks)
        volumes[i, ..., 0], masks[i] = np.rint(eye.volume * 255), eye.mask
        recipes.append(eye.recipe)
    return Retinas(draw, recipes, np.array(chosen) % len(CLASSES), masks, volumes)
