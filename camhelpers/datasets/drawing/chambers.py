"""The apical four-chamber view of a beating heart: where its muscle, blood, valves and pericardium are in each frame.

Lengths are fractions of the depth that the scanner sees; x runs to the patient's left (the right of the picture), z
away from the probe. The apex stays where it is and the base moves towards it, as in a living heart.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

# The cardiac cycle from one R wave to the next: how full the left ventricle is (0 at its smallest), and how far the
# mitral valve is open. Ejection, relaxation, rapid filling, diastasis, the kick of the atria.
_FULL = PchipInterpolator([0, 0.05, 0.33, 0.41, 0.58, 0.78, 0.95, 1], [1, 0.97, 0, 0, 0.74, 0.79, 1, 1])
_OPEN = PchipInterpolator([0, 0.38, 0.45, 0.50, 0.62, 0.78, 0.86, 0.96, 1], [0, 0, 0.9, 1, 0.35, 0.35, 0.8, 0, 0])

REGIONS = ("outside", "sector", "myocardium", "ventricle")  # of the left heart; the sector is all that remains of it
# The smallest and the largest heart: what it ejects, sizes at its fullest, where it lies, how it is bent.
_SIZES = {
    "ejected": (0.35, 0.70), "length": (0.45, 0.52), "width": (0.120, 0.145), "wall": (0.046, 0.060),
    "apex": (0.14, 0.18), "middle": (0.06, 0.11), "tilt": (-0.02, 0.16), "right": (0.095, 0.125), "bend": (-0.03, 0.03),
    "wave": (0.0, 6.3),
}  # fmt: skip
_BLOOD, _MUSCLE, _THIN = 0.0012, 0.20, 0.11  # the power that they send back; blood is nearly black


class Moment(NamedTuple):
    """A heart at one time, each `(R, A)`: the power sent back, regions, where in the tissue a place is, blood."""

    power: np.ndarray
    regions: np.ndarray
    across: np.ndarray
    along: np.ndarray
    blood: np.ndarray


def heart(rng: np.random.Generator) -> dict[str, float]:
    """A random heart."""
    return dict(zip(_SIZES, rng.uniform(*zip(*_SIZES.values(), strict=True)).tolist(), strict=True))


def volume(phase: float | np.ndarray, ejected: float) -> np.ndarray:
    """The volume of the left ventricle over its largest, at phases 0..1 of the cardiac cycle."""
    return 1 - ejected * (1 - _FULL(phase % 1))


def _bullet(x: np.ndarray, z: np.ndarray, base: float, length: float, width: float) -> np.ndarray:
    """How far sideways `x` is in a chamber that is widest near its base: 1 on its wall, large beyond base and apex."""
    u = (base - z) / length
    half = width * np.sqrt(np.clip(1 - np.abs(u) ** 2.3, 1e-9, None)) * (1 - 0.17 * np.clip(1 - u, 0, 1) ** 4)
    return np.where((u > 0) & (u < 1), np.abs(x) / half, 99.0)


def _stroke(x: np.ndarray, z: np.ndarray, start: tuple, end: tuple, thick: float) -> np.ndarray:
    """A soft line between two points, 1 along its middle."""
    (x0, z0), (x1, z1) = start, end
    dx, dz = x1 - x0, z1 - z0
    t = np.clip(((x - x0) * dx + (z - z0) * dz) / (dx**2 + dz**2), 0, 1)
    return np.exp(-((x - x0 - t * dx) ** 2 + (z - z0 - t * dz) ** 2) / thick**2)


def moment(heart: dict[str, float], x: np.ndarray, z: np.ndarray, phase: float) -> Moment:
    """A heart at the places `x` and `z` `(R, A)` and a phase of its cycle."""
    _, long, wide, wall, apex, middle, tilt, right, bend, wave = heart.values()
    v, opened = float(volume(phase, heart["ejected"])), float(_OPEN(phase % 1))
    X = (x - middle) * math.cos(tilt) - (z - 0.4) * math.sin(tilt)
    Z = (x - middle) * math.sin(tilt) + (z - 0.4) * math.cos(tilt) + 0.4

    length = long * (1 - 0.28 * (1 - v))
    width = wide * math.sqrt(v * long / length)
    thick = wall * min((wide / width) ** 0.8, 1.7)  # the wall keeps its volume
    base = apex + length
    X = X - bend * np.sin(np.pi * np.clip((base - Z) / length, 0, 1)) - 0.004 * np.sin(22 * Z + wave)
    inner, outer = _bullet(X, Z, base, length, width), _bullet(X, Z, base, length + thick, width + thick)

    right_wide = right * (1 - 0.3 * (1 - v))
    place = -(width + thick + 0.62 * right_wide)  # of the right heart's middle
    lean = X - place * (1 - 0.42 * np.clip((base - Z) / (0.85 * length), 0, 1) ** 1.5)
    r_inner = _bullet(lean, Z, base, 0.83 * length, right_wide)
    r_outer = _bullet(lean, Z, base, 0.83 * length + 0.02, right_wide + 0.02)

    ventricle, wall_left = inner < 1, (outer < 1) & (inner >= 1)
    chamber_right = (r_inner < 1) & (outer >= 1)
    swell = 1 + 0.22 * (1 - v)
    rooms = [(-0.01, 1.0 * wide, 0.125), (place, 1.1 * right, 0.118)]  # the atria, larger while the ventricles eject
    blood = ventricle | chamber_right
    thin = (r_outer < 1) & (outer >= 1) & ~chamber_right
    for centre, half, tall in rooms:
        down, aside = (Z - base - 0.008 - tall * swell) / (tall * swell), (X - centre) / (half * swell)
        q = np.sqrt(np.abs(down) ** 2.4 + np.abs(aside + 0.1 * down) ** 2.4)
        inside = (q < 1) & (outer >= 1) & (base + 0.004 < Z)
        thin |= (q < 1.15) & ~inside & ~blood & (outer >= 1)
        blood |= inside
    between = (np.abs(X - 0.5 * place - 0.004) < 0.009) & (base + 0.004 < Z)
    thin, blood = (thin | (between & blood)), blood & ~between

    ring = 0.86 * width
    valves = np.zeros_like(inner)
    for centre, half in ((0.0, ring), (place, 0.8 * right_wide)):
        reach = 0.78 * half + 0.03
        for side in (-1, 1):
            tip = (centre + side * half * (0.08 + 0.62 * opened), base + 0.012 - reach * (0.15 + 0.85 * opened))
            valves = np.maximum(valves, _stroke(X, Z, (centre + side * half, base), tip, 0.0075))
            hinge = (X - centre - side * half * 1.08) ** 2 + (Z - base) ** 2
            valves = np.maximum(valves, np.exp(-hinge / 0.016**2))

    shell = np.minimum(np.abs(outer - 1 - 0.035), 9) * (width + thick) / 0.011
    sheath = np.exp(-(shell**2)) * (-0.2 * width < X)
    shell_right = np.exp(-((np.minimum(np.abs(r_outer - 1.04), 9) * right_wide / 0.012) ** 2)) * (outer >= 1.1)
    around = 0.004 + 0.016 * np.exp(-(((X + 0.1) / 0.24) ** 2))  # lungs beside the heart are dark
    behind = 0.05 * np.exp(-(((Z - base - 0.31) / 0.05) ** 2) - ((X + 0.1) / 0.25) ** 2)
    power = np.where(thin, _THIN, np.where(wall_left, _MUSCLE, around + behind)) + 0.9 * sheath + 0.28 * shell_right
    power = np.where(blood, _BLOOD, power) + 0.55 * valves
    regions = np.where(ventricle, 3, np.where(wall_left, 2, 1)).astype(np.uint8)

    # Speckle moves with the tissue: the more, the nearer it is to the muscle that pulls.
    pull = np.exp(-np.clip(np.abs(X) - width - thick, 0, None) / 0.12) * np.exp(-np.clip(Z - base, 0, None) / 0.15)
    across = X * (1 + pull * ((wide + wall) / (width + thick) - 1))
    along = Z + pull * (np.clip(Z, apex, base) - apex) * (long / length - 1)
    return Moment(power, regions, across, along, blood)
