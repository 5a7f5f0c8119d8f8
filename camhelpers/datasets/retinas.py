"""Procedural OCT cubes of the macula with exact ground truth: which voxels are drusen, which are fluid.

An eye is a stack of layers, from the vitreous down to the sclera; each layer is a thickness and a reflectivity over the
field, and a lesion is one layer more. Everything is drawn in millimetres over a field of fixed size, so that one seed
is the same eye at every shape, and each thing has a random stream of its own, so that the same eye without its lesions
is the same cube elsewhere. The cube is what a scanner would make of it: light that is lost on its way down, a blur,
speckle, detector noise, a head that moves between B-scans, and a logarithmic scale.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

CLASSES = ("normal", "drusen", "fluid")
FULL = (192, 256, 256)
SMALL = (48, 64, 64)
FIELD = (6.0, 2.0, 6.0)
"""What a cube covers, in mm: across the B-scans, in depth, along a B-scan."""
SPLIT_SIZE = 90_000
SPLITS = {"train": 0, "val": SPLIT_SIZE, "test": 2 * SPLIT_SIZE}
"""The first seed of each split."""

_EYE, _VESSELS, _CHOROID, _LESIONS, _MOTION, _SCANNER, _SPECKLE = range(7)
_EXTINCTION = 5.0  # per mm and unit of reflectivity: about half of the light comes through the retina
_BLUR = (0.006, 0.014)  # the scanner's resolution, in mm: in depth, along a B-scan
_GRAIN = (0.55, 0.65)  # the least blur, in voxels: speckle of single voxels does not exist
_DARK, _BRIGHT = 0.010, 1.15  # the intensities that become 0 and 1

Field = np.ndarray
"""Something over the field of view: float32 (Z, X)."""


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


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((seed, stream))


# The eye --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Place:
    """The voxel centres over the field in mm, measured from its middle, and the distance between them."""

    z: np.ndarray  # (Z, 1)
    x: np.ndarray  # (1, X)
    step: float

    def waves(self, rng: np.random.Generator, length: float, count: int = 24, *, band: bool = False) -> Field:
        """Smooth noise with deviation 1 and about that wavelength: plane waves, which have a value at every shape."""
        size = rng.uniform(0.75, 1.25, count) if band else np.abs(rng.normal(0, 0.7, count))
        angle, phase = rng.uniform(0, 2 * np.pi, (2, count))
        k = 2 * np.pi / length * size
        down = np.exp(1j * (self.z * (k * np.sin(angle)) + phase)).astype(np.complex64)
        across = np.exp(1j * (self.x.T * (k * np.cos(angle)))).astype(np.complex64)
        return (down @ across.T).real * np.float32((2 / count) ** 0.5)

    def bell(self, width: float, z: float = 0.0, x: float = 0.0) -> Field:
        return np.exp(-((self.z - z) ** 2 + (self.x - x) ** 2) / width**2).astype(np.float32)

    def dome(self, rng: np.random.Generator, z: float, x: float, radius: float, power: float = 1.0) -> Field:
        """A mound of height 1 with a winding outline, and exactly zero beyond it."""
        long = rng.uniform(0.85, 1.2)
        q = ((self.z - z) / (radius * long)) ** 2 + ((self.x - x) * long / radius) ** 2
        q = q * (1 + 0.13 * np.clip(self.waves(rng, 1.6 * radius, 8), -2, 2))
        return (np.clip(1 - q, 0, None) ** power).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer of the stack: a thickness in mm, and how much light it sends back."""

    thickness: Field
    reflectivity: float | Field
    lesion: bool = False

    def rows(self, part: slice) -> "_Layer":
        """Return the layer in some B-scans only."""
        shine = self.reflectivity
        return _Layer(self.thickness[part], shine[part] if isinstance(shine, np.ndarray) else shine, self.lesion)


def _vessels(rng: np.random.Generator, at: _Place, nasal: float) -> tuple[Field, Field]:
    """Retinal vessels, which throw shadows: their thickness in mm, and how much of the light they take."""
    tall, taken = np.zeros((2, at.z.size, at.x.size), np.float32)
    paths = []
    for side in (-1, 1):  # two arcades around the macula, and twigs from them towards the fovea
        for _ in range(2):
            high, bend, wave, radius = rng.uniform(1.5, 2.7), rng.uniform(0.02, 0.10), rng.uniform(0, 6.3), 0.062
            towards = nasal * at.x
            line = side * (high - bend * (towards - 0.8) ** 2) + 0.08 * np.sin(1.9 * at.x + wave)
            paths.append((at.z - line, np.gradient(line[0], at.x[0])[None], radius * rng.uniform(0.75, 1.2), 1.0))
        for _ in range(int(rng.integers(2, 5))):
            start, lean, wave, radius = rng.uniform(-2.6, 2.6), rng.uniform(-0.35, 0.35), rng.uniform(0, 6.3), 0.034
            line = start + lean * (at.z - side * 2) + 0.1 * np.sin(2.6 * at.z + wave)
            ends = np.clip((side * at.z - rng.uniform(-1.2, 1.1)) / 0.4, 0, 1)
            paths.append(
                (at.x - line, np.gradient(line[:, 0], at.z[:, 0])[:, None], radius * rng.uniform(0.8, 1.3), ends)
            )
    spare = np.clip((np.hypot(at.z, at.x) - 0.45) / 0.4, 0, 1)  # no vessels in the fovea
    for away, slope, radius, ends in paths:
        seen = np.hypot(radius, 0.4 * at.step)  # wide voxels see a wide and faint vessel
        half = np.sqrt(np.clip(1 - away**2 / (1 + slope**2) / seen**2, 0, None)) * ends * spare * (radius / seen)
        tall, taken = np.maximum(tall, 0.9 * radius * half), np.maximum(taken, (9 * radius + 0.55) * half)
    return tall.astype(np.float32), taken.astype(np.float32)


def _drusen(rng: np.random.Generator, at: _Place) -> Field:
    """Deposits that lift the pigment epithelium: their height in mm."""
    total = np.zeros((at.z.size, at.x.size), np.float32)
    for i in range(int(rng.integers(4, 11))):
        radius = rng.uniform(0.42, 0.62) if i == 0 else rng.uniform(0.2, 0.55)
        height = np.clip(radius * rng.uniform(0.26, 0.4), 0.13 if i == 0 else 0.05, 0.2)
        z, x = np.clip(rng.normal(0, 0.95, 2), -2.2, 2.2)
        total += (height * at.dome(rng, z, x, radius, 0.9)) ** 4  # neighbours flow together
    return total**0.25


def _fluid(rng: np.random.Generator, at: _Place) -> tuple[Field, Field, Field, Field, Field]:
    """Fluid, as thicknesses in mm: cysts and swelling of the inner and of the outer nuclear layer, and a blister."""
    inner, outer, swollen, below = np.zeros((4, at.z.size, at.x.size), np.float32)
    kind = rng.choice(["cysts", "blister", "both"], p=[0.45, 0.25, 0.3])
    middle = rng.normal(0, 0.45, 2)
    if kind != "blister":
        swollen = at.dome(rng, *middle, rng.uniform(1.7, 2.4), 1.8)
        for i in range(int(rng.integers(3, 10))):
            radius = rng.uniform(0.3, 0.5) if i == 0 else rng.uniform(0.15, 0.36)
            height = rng.uniform(0.15, 0.22) if i == 0 else radius * rng.uniform(0.4, 0.8)
            z, x = np.clip(middle + (rng.normal(0, 0.6, 2) if i else 0), -2.2, 2.2)
            outer = np.maximum(outer, height * at.dome(rng, z, x, radius, 0.5))
        for _ in range(int(rng.integers(0, 9))):
            radius, (z, x) = rng.uniform(0.13, 0.26), np.clip(middle + rng.normal(0, 0.8, 2), -2.2, 2.2)
            inner = np.maximum(inner, rng.uniform(0.04, 0.08) * at.dome(rng, z, x, radius, 0.5))
    if kind != "cysts":
        z, x = middle + rng.normal(0, 0.3, 2)
        below = rng.uniform(0.11, 0.24) * at.dome(rng, z, x, rng.uniform(0.6, 1.25), 0.8)
    return inner, 0.05 * swollen, outer, rng.uniform(0.1, 0.17) * swollen, below


def _choroid(rng: np.random.Generator, at: _Place) -> list[_Layer]:
    """What lies under Bruch's membrane: capillaries, storeys of vessels in their stroma, ever wider, and the sclera."""
    whole = np.clip(rng.uniform(0.2, 0.36) + 0.025 * at.waves(rng, 3.5), 0.12, None)
    layers = [_Layer(0.014 + 0 * whole, 0.42)]
    for share, length, width in ((0.12, 0.35, 0.45), (0.2, 0.6, 0.5), (0.3, 0.9, 0.55), (0.38, 1.3, 0.6)):
        room = share * whole * (1 + 0.12 * at.waves(rng, 0.8, 12))
        stroma = 0.33 + 0.045 * at.waves(rng, 0.3, 16)
        lumen = 0.95 * room * np.sqrt(np.clip(1 - (at.waves(rng, length, band=True) / width) ** 2, 0, None))
        above = (room - lumen) * np.clip(0.5 + 0.2 * at.waves(rng, 1.0, 8), 0.1, 0.9)
        layers += [
            _Layer(above, stroma),
            _Layer(0.2 * lumen, 0.17),
            _Layer(0.6 * lumen, 0.085),
            _Layer(0.2 * lumen, 0.17),
        ]
        layers += [_Layer(room - lumen - above, stroma)]
    return [
        *layers,
        _Layer(0.02 + 0 * whole, 0.3),
        _Layer(np.full_like(whole, FIELD[1]), 0.19 + 0.022 * at.waves(rng, 0.9)),
    ]


def _stack(seed: int, kind: str, at: _Place, lesions: bool) -> tuple[Field, list[_Layer], Field, Field]:
    """How deep the topmost layer begins, the layers from there down, where shadows begin, and the light they take."""
    rng = _rng(seed, _EYE)
    u = rng.uniform
    nasal, fz, fx = rng.choice([-1.0, 1.0]), *rng.normal(0, 0.12, 2)
    r2 = (at.z - fz) ** 2 + (at.x - fx) ** 2
    towards = nasal * (at.x - fx)
    membrane = u(1.22, 1.34) + u(-0.028, 0.004) * r2 + u(-0.03, 0.03) * at.x + u(-0.015, 0.015) * at.z
    membrane = (membrane + 0.012 * at.waves(rng, 4.0, 8)).astype(np.float32)
    pit, floor = at.bell(u(0.42, 0.62), fz, fx), at.bell(u(0.55, 0.75), fz, fx)
    far = np.exp(-r2 / u(3.0, 4.2) ** 2).astype(np.float32)
    size, wavy = u(0.92, 1.1), 1 + 0.05 * at.waves(rng, 1.8)
    fibres = (0.012 + 0.034 / (1 + np.exp(-(towards - 0.8) / 0.7)) + 0.006 * at.z**2 / 4) * (1 - 0.97 * floor)

    nothing = np.zeros_like(membrane)
    lift, inner, inner_more, outer, outer_more, below = (nothing,) * 6
    if lesions and kind == "drusen":
        lift = _drusen(_rng(seed, _LESIONS), at)
    elif lesions and kind == "fluid":
        inner, inner_more, outer, outer_more, below = _fluid(_rng(seed, _LESIONS), at)
    tall, taken = _vessels(_rng(seed, _VESSELS), at, nasal)
    tall, taken = tall * (1 - pit), taken * (1 - pit)

    onl = size * (0.066 + 0.036 * pit) * wavy
    ganglia = size * 0.106 * (1 - 0.97 * floor) * far
    thinned = np.minimum(0.55 * lift, 0.62 * onl)  # a druse thins what it lifts, and
    pressed = np.minimum(0.5 * (lift - thinned) + 0.7 * tall, 0.45 * ganglia)  # what lies on it makes room
    onl, ganglia = onl - thinned + outer_more, ganglia - pressed
    inl = size * 0.040 * (1 - 0.93 * floor) * (2 - wavy) + inner_more
    raised = tall + lift - thinned - pressed + inner_more + outer_more + below
    ghost, gap = u() < 0.4, u(0.03, 0.16) + 0.05 * at.waves(rng, 4.0, 8) + 0.012 * r2
    gap = np.clip(gap - raised, 0.015, None)  # the vitreous has no part in what goes on below
    sheen = 1 + 0.08 * at.waves(rng, 2.5)
    down = [
        _Layer(nothing + 0.008 * ghost, 0.05),  # the detached face of the vitreous
        _Layer(gap * ghost, 0.003),
        _Layer(nothing + 0.007, 0.78 * sheen),  # ILM
        _Layer(size * fibres, 0.72 * sheen),  # RNFL
        _Layer(tall, 0.85),
        _Layer(ganglia * 0.5 * wavy, 0.30),  # GCL
        _Layer(ganglia * (1 - 0.5 * wavy), 0.40),  # IPL
        *_hollowed(inl, inner, 0.5 + 0.2 * at.waves(rng, 0.9, 8), 0.165, 0.165),  # INL
        _Layer(size * 0.024 * (1 - 0.7 * pit), 0.36 * sheen),  # OPL
        *_hollowed(onl, outer, 0.5 + 0.2 * at.waves(rng, 0.9, 8), 0.095, 0.075),  # ONL
        _Layer(nothing + 0.008, 0.2),  # ELM
        _Layer(size * (0.022 + 0.010 * pit), 0.13),
        _Layer(nothing + 0.014, 0.86 * sheen),  # EZ
        _Layer(size * (0.017 + 0.016 * pit), 0.26),
        _Layer(below, 0.004, lesion=True),
        _Layer(nothing + 0.027, 1.6 * sheen),  # RPE
        _Layer(lift, 0.2 + 0.025 * at.waves(rng, 0.4), lesion=True),
        _Layer(nothing + 0.006, 0.55),  # Bruch's membrane
    ]
    top = membrane - np.sum([layer.thickness for layer in down], axis=0)
    shade = top + np.sum([layer.thickness for layer in down[:5]], axis=0)
    return top, [*down, *_choroid(_rng(seed, _CHOROID), at)], shade, taken


def _hollowed(whole: Field, cyst: Field, above: Field, upper: float, lower: float) -> Iterator[_Layer]:
    """A layer with hollows in it, which have bright walls; the tissue lies in a share `above` and the rest below."""
    cyst = np.minimum(cyst, 0.85 * whole)
    wall = np.minimum(0.3 * cyst, 0.007)
    rest = np.clip(whole - cyst - 2 * wall, 0, None)
    above = rest * np.clip(above, 0.15, 0.85)
    yield _Layer(above, upper)
    yield _Layer(wall, 0.42)
    yield _Layer(cyst, 0.004, lesion=True)
    yield _Layer(wall, 0.42)
    yield _Layer(rest - above, lower)


# The scanner ----------------------------------------------------------------------------------------------------------


def _scan(
    top: Field, layers: list[_Layer], shade: Field, taken: Field, depth: int, looks: float, rng: np.random.Generator,
    noise: float, gain: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Some B-scans `(z, depth, x)` of a stack, as the scanner shows them, and the voxels of its lesions."""
    z, x = top.shape
    step = FIELD[1] / depth
    column = np.arange(z)[:, None] * (depth + 2) * x + np.arange(x)

    def put(volume: np.ndarray, at: Field, what: float | Field) -> None:
        """Add an impulse to each column, shared by two voxels, so that a running sum is a step at that very depth."""
        place = np.clip(at / step, 0, depth)
        row = place.astype(np.intp)
        index, part = column + row * x, (place - row) * what
        flat = volume.reshape(-1)
        flat[index] += what - part
        flat[index + x] += part

    light = np.zeros((z, depth + 2, x), np.float32)
    mask = np.zeros((z, depth, x), bool)
    centres = ((np.arange(depth, dtype=np.float32) + 0.5) * step)[:, None]
    before: float | Field = 0.0
    for layer in layers:
        put(light, top, layer.reflectivity - before)
        before, end = layer.reflectivity, top + layer.thickness
        if layer.lesion and layer.thickness.any():
            mask |= (centres >= top[:, None]) & (centres < end[:, None])
        top = end
    light = np.cumsum(light, axis=1)
    lost = light * np.float32(_EXTINCTION * step)
    put(lost, shade, taken)
    light *= np.exp(-np.cumsum(lost, axis=1))
    light = light[:, :depth]
    light *= np.exp(-0.5 * centres)
    light += np.float32(noise)
    light *= rng.standard_gamma(looks, light.shape, np.float32) * np.float32(gain / looks)
    spread = [max(b / s, g) for b, s, g in zip(_BLUR, (step, FIELD[2] / x), _GRAIN, strict=True)]
    for i, page in enumerate(light):
        light[i] = cv2.GaussianBlur(page, (0, 0), sigmaX=spread[1], sigmaY=spread[0], borderType=cv2.BORDER_REFLECT)
    light = np.log(light) - np.float32(np.log(_DARK))
    light *= np.float32(255 / np.log(_BRIGHT / _DARK))
    return np.rint(np.clip(light, 0, 255, out=light), out=light), mask


def _motion(rng: np.random.Generator, z: np.ndarray) -> np.ndarray:
    """How far the head moved between B-scans, in mm: a breath, and a jitter from one coarse slice to the next."""
    knots = FIELD[0] * ((np.arange(SMALL[0]) + 0.5) / SMALL[0] - 0.5)
    breath = rng.uniform(0, 0.018) * np.sin(2 * np.pi * z / rng.uniform(1.5, 4.0) + rng.uniform(0, 6.3))
    return (breath + np.interp(z, knots, rng.normal(0, 0.005, len(knots)))).astype(np.float32)


def draw(
    seed: int,
    kind: str | None = None,
    shape: Sequence[int] = SMALL,
    *,
    lesions: bool = True,
    looks: float | None = None,
) -> Retina:
    """Draw the eye of a seed; `lesions=False` leaves its lesions out, and changes nothing away from them.

    What a lesion lifts or swells belongs to it, and so changes too. The kind is `CLASSES[seed % 3]` unless named.
    `looks` is how many independent speckle patterns are averaged: more looks make a smoother cube, and unless given
    each eye has its own.

    >>> eye = draw(7, "drusen")
    >>> eye.volume.shape, eye.spacing, bool(eye.mask.any())
    ((48, 64, 64), (0.125, 0.03125, 0.09375), True)
    """
    if int(seed) != seed or seed < 0:
        raise ValueError(f"A retina's seed is a whole number from 0 up, not {seed}.")
    seed = int(seed)
    kind = CLASSES[seed % len(CLASSES)] if kind is None else kind
    if kind not in CLASSES:
        raise ValueError(f"There is no kind of retina {kind!r}; choose from {', '.join(CLASSES)}.")
    shape = tuple(int(n) for n in shape)
    if len(shape) != 3 or min(shape) < 16:
        raise ValueError(f"A retina's shape is three numbers (Z, Y, X) of at least 16 voxels, not {shape}.")
    if looks is not None and not looks >= 0.5:  # with less, there would be voxels without any light
        raise ValueError(f"looks is {looks}; it is how many speckle patterns are averaged, 0.5 or more.")
    rng = _rng(seed, _SCANNER)
    own, noise, gain = rng.uniform(1.3, 4.0), rng.uniform(0.008, 0.018), rng.uniform(0.85, 1.25)
    count = looks or own

    spacing = tuple(field / n for field, n in zip(FIELD, shape, strict=True))
    z, x = (field * ((np.arange(n) + 0.5) / n - 0.5) for field, n in zip(FIELD[::2], shape[::2], strict=True))
    at = _Place(z[:, None], x[None], float(np.hypot(spacing[0], spacing[2])))
    top, layers, shade, taken = _stack(seed, kind, at, lesions)
    moved = _motion(_rng(seed, _MOTION), z)[:, None]
    top, shade = top + moved, shade + moved

    volume, mask = np.empty(shape, np.float32), np.empty(shape, bool)
    speckle, pages = _rng(seed, _SPECKLE), max(1, 200_000 // (shape[1] * shape[2]))  # what fits into a core's cache
    for start in range(0, shape[0], pages):
        part = slice(start, start + pages)
        rows = [layer.rows(part) for layer in layers]
        light = (top[part], rows, shade[part], taken[part])
        volume[part], mask[part] = _scan(*light, shape[1], count, speckle, noise, gain)
    volume /= 255
    recipe = {"seed": seed, "kind": kind, "shape": list(shape), "lesions": bool(lesions), "looks": looks}
    return Retina(volume, mask, CLASSES.index(kind), spacing, recipe)


# Sets -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Retinas:
    """Many eyes, kept small: volumes as uint8 (N, Z, Y, X, 1), the masks, and what is needed to draw each eye again."""

    volumes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    recipes: list[dict[str, Any]]

    def __len__(self) -> int:
        """The number of eyes."""
        return len(self.recipes)

    def __getitem__(self, i: int) -> Retina:
        """The eye at `i`, drawn again."""
        return draw(**self.recipes[i])

    def redraw(self, i: int, **changes: Any) -> Retina:
        """The eye at `i` with other arguments for `draw`."""
        return draw(**{**self.recipes[i], **changes})


def dataset(
    split: str,
    n: int,
    shape: Sequence[int] = SMALL,
    *,
    looks: float | None = None,
    start: int = 0,
    progress: bool = False,
) -> Retinas:
    """The `n` eyes of a split from number `start` on; the classes take turns, so that every three are balanced.

    >>> dataset("test", 6, (16, 32, 32)).labels.tolist()
    [0, 1, 2, 0, 1, 2]
    """
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; choose from {', '.join(SPLITS)}.")
    if n < 1 or start < 0 or start + n > SPLIT_SIZE:
        raise ValueError(f"A split holds eyes 0 to {SPLIT_SIZE - 1}; {n} eyes from {start} on are not among them.")
    volumes, labels, masks, recipes = [], [], [], []
    first = SPLITS[split] + start
    for seed in tqdm(range(first, first + n), desc=f"drawing {split} eyes", disable=None if progress else True):
        eye = draw(seed, shape=shape, looks=looks)
        volumes.append(np.rint(eye.volume * 255).astype(np.uint8)[..., None])
        labels.append(eye.label)
        masks.append(eye.mask)
        recipes.append(eye.recipe)
    return Retinas(np.stack(volumes), np.array(labels), np.stack(masks), recipes)
