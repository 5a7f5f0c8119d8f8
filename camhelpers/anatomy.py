"""Where in a volume a model looks: along each axis, slice by slice, in millimetres, and against a lesion."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import metrics

AXES = ("slice", "depth", "width")
"""What the axes of `(Z, Y, X)` are called: the slices, and within a slice its rows and columns."""

TOLERANCE = 0.15
"""Millimetres by which the hottest voxel may miss a lesion in the pointing game."""


def profile(heat: np.ndarray, axis: int = 0) -> np.ndarray:
    """The share of all heat at each place along one axis; zeros for a blank map.

    >>> profile(np.array([[[1.0, 1.0]], [[0.0, 6.0]]])).tolist()
    [0.25, 0.75]
    """
    _check(heat)
    if axis not in (0, 1, 2):
        raise ValueError(f"axis is {axis!r}; it is 0 ({AXES[0]}), 1 ({AXES[1]}) or 2 ({AXES[2]}).")
    found = heat.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
    return found / found.sum() if found.sum() > 0 else found


def attention(heat: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Where the heat is, in a few numbers: its hottest slice, its middle along each axis in mm, how focused it is.

    `focus` is the smallest share of the volume that holds half of all heat: small for a spot, 0.5 for a haze. NaN for a
    blank map, which is nowhere.
    """
    _check(heat, spacing)
    shares = [profile(heat, axis) for axis in range(3)]
    blank = not heat.any()
    found = {
        "hottest_slice": float("nan") if blank else float(shares[0].argmax()),
        "share_of_hottest_slice": float("nan") if blank else float(shares[0].max()),
    }
    for name, share, step in zip(AXES, shares, spacing, strict=True):
        found[f"{name}_mm"] = float("nan") if blank else float((share * (np.arange(len(share)) + 0.5)).sum() * step)
    return {**found, "focus": float("nan") if blank else _focus(heat)}


def _focus(heat: np.ndarray) -> float:
    """The share of voxels that holds half of all heat, hottest first; counted in 4096 levels, for sorting is slow."""
    levels = np.minimum(np.ceil(heat * (4095 / heat.max())), 4095).astype(np.uint16)  # rounding may reach 4096
    count = np.bincount(levels.ravel(), minlength=4096)[::-1]
    total = np.cumsum(count * np.arange(4095, -1, -1.0))
    last = int(np.searchsorted(total, total[-1] / 2))
    before = total[last - 1] if last else 0.0
    within = (total[-1] / 2 - before) / (total[last] - before)  # of the level in which the half is reached
    return float((count[:last].sum() + within * count[last]) / heat.size)


def lesion(
    heat: np.ndarray, mask: np.ndarray, spacing: Sequence[float], tolerance: float = TOLERANCE
) -> dict[str, float]:
    """How heat meets a lesion, voxel by voxel; NaN where the map is blank or there is no lesion.

    The pointing game (within `tolerance` millimetres of the lesion, and exactly), the relevance mass and rank, the
    average precision over voxels, the lift over the lesion's share of the volume, and by how many millimetres the
    middle of the heat misses that of the lesion in depth.
    """
    _check(heat, spacing)
    if mask.shape != heat.shape or mask.dtype != bool:
        raise ValueError(f"The mask must be boolean and {heat.shape} as the heat is, not {mask.dtype} {mask.shape}.")
    depth = (np.arange(heat.shape[1]) + 0.5) * spacing[1]
    missed = float(profile(heat, 1) @ depth - profile(mask.astype(np.float32), 1) @ depth)
    return {
        "pointing_game": metrics.pointing_hit(heat, mask, tolerance, spacing),
        "pointing_exact": metrics.pointing_hit(heat, mask, 0),
        "relevance_mass": metrics.relevance_mass(heat, mask),
        "relevance_rank": metrics.relevance_rank(heat, mask),
        "average_precision": metrics.pxap([heat], [mask]),
        "lift": metrics.lift(heat, mask),
        "depth_error_mm": missed if heat.any() and mask.any() else float("nan"),
    }


def _check(heat: Any, spacing: Sequence[float] = (1, 1, 1)) -> None:
    if not isinstance(heat, np.ndarray) or heat.ndim != 3 or not np.isfinite(heat).all() or heat.min() < 0:
        raise ValueError("The heat must be an array (Z, Y, X) of finite numbers that are not negative.")
    if len(spacing) != 3 or not all(np.isfinite(step) and step > 0 for step in spacing):
        raise ValueError(f"The spacing is {spacing}; give three lengths above 0 in mm: (z, y, x).")
