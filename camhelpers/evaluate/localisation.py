"""Heat against masks of any number of axes, and where in a volume heat lies.

Every score is NaN for a blank map or an empty mask, which say nothing.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np


def relevance_mass(heat: np.ndarray, mask: np.ndarray) -> float:
    """The share of all heat that lies inside the mask.

    >>> relevance_mass(np.array([[1.0, 3.0]]), np.array([[False, True]]))
    0.75
    """
    return float(heat[mask].sum()) / float(heat.sum()) if _meet(heat, mask) else float("nan")


def relevance_rank(heat: np.ndarray, mask: np.ndarray) -> float:
    """The share of the hottest pixels inside the mask, as many of them as it has (Arras et al., 2022).

    Where the last places are tied, this is what a random choice among the tied yields on average.

    >>> relevance_rank(np.array([0.9, 0.5, 0.1, 0.0]), np.array([True, False, True, False]))
    0.5
    """
    if not _meet(heat, mask):
        return float("nan")
    k = int(mask.sum())
    last = np.partition(heat, -k, axis=None)[-k]
    above, tied = heat > last, heat == last
    inside = mask[above].sum() + (k - above.sum()) * mask[tied].mean()
    return float(inside / k)


def pointing_hit(
    heat: np.ndarray, mask: np.ndarray, tolerance: float = 15 / 224, spacing: Sequence[float] | None = None
) -> float:
    """The pointing game (Zhang et al., 2018): does the mask meet a disc around the maximum? Tied maxima are averaged.

    `tolerance` is the disc's radius as a share of the height, 15 pixels of 224 in the usual protocol; 0 asks for the
    maximum itself. With `spacing`, the distances of neighbours along each axis, it is a ball's radius in their unit.
    """
    from scipy.spatial import KDTree

    if not _meet(heat, mask):
        return float("nan")
    if tolerance == 0:
        return float(mask[heat == heat.max()].mean())
    steps = np.full(heat.ndim, 1 / len(heat)) if spacing is None else np.asarray(spacing)
    away, _ = KDTree(np.argwhere(mask) * steps).query(np.argwhere(heat == heat.max()) * steps)
    return float((away <= tolerance * (1 + 1e-9)).mean())  # a rounding error is no miss


def iou(heat: np.ndarray, mask: np.ndarray, threshold: float) -> float:
    """Intersection over union of the mask and the pixels with at least `threshold` of the map's maximum.

    >>> iou(np.array([1.0, 0.6, 0.2]), np.array([True, False, False]), 0.5)
    0.5
    """
    if not _meet(heat, mask):
        return float("nan")
    found = heat >= threshold * heat.max()
    return float((found & mask).sum() / (found | mask).sum())


def calibrate_threshold(heats: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float:
    """The threshold with the best mean IoU, of 0.01 to 0.99, on pictures that are kept for choosing it."""
    usable = [(h, m) for h, m in zip(heats, masks, strict=True) if _meet(h, m)]
    if not usable:
        raise ValueError("Every map is blank or every mask empty, so no threshold can be chosen.")
    thresholds = np.arange(1, 100) / 100
    scores = np.zeros(len(thresholds))
    for heat, mask in usable:  # sorted once, a map answers every threshold
        levels = thresholds * heat.max()
        found, hits = (h.size - np.searchsorted(np.sort(h), levels) for h in (heat.ravel(), heat[mask]))
        scores += hits / (found + mask.sum() - hits)
    return float(thresholds[int(scores.argmax())])


def average_precision(heat: np.ndarray, mask: np.ndarray) -> float:
    """The area under precision and recall over the pixels; every distinct heat is a threshold (Choe et al., 2020).

    >>> average_precision(np.array([0.8, 0.4, 0.2]), np.array([True, False, True]))
    0.8333333333333333
    """
    if not _meet(heat, mask):
        return float("nan")
    share = heat.ravel() / heat.max()
    order = np.argsort(-share)
    last = np.append(np.diff(share[order]) != 0, True)  # tied pixels are found together
    hits, found = np.cumsum(mask.ravel()[order])[last], np.flatnonzero(last) + 1
    return float(np.sum(np.diff(hits, prepend=0) * (hits / found)) / hits[-1])


def lift(heat: np.ndarray, mask: np.ndarray) -> float:
    """How many times the heat inside the mask exceeds what a map that is the same everywhere puts there.

    >>> lift(np.array([1.0, 3.0]), np.array([False, True]))
    1.5
    """
    return relevance_mass(heat, mask) / relevance_mass(np.ones(heat.shape), mask)


def grid_cell(shape: Sequence[int], cell: int, side: int = 2) -> np.ndarray:
    """The mask of one cell of a grid of `side` by `side` cells, which are counted row by row."""
    row, column = (np.arange(n) * side // n for n in shape)
    return row[:, None] * side + column == cell


def grid_share(heat: np.ndarray, cell: int, side: int = 2) -> float:
    """The grid pointing game (Rao et al., 2022): the share of positive heat in the cell whose class is explained.

    >>> grid_share(np.array([[1.0, 3.0], [-2.0, 0.0]]), cell=1)
    0.75
    """
    return relevance_mass(np.maximum(heat, 0), grid_cell(heat.shape, cell, side))


def oracle(mask: np.ndarray) -> np.ndarray:
    """The map of someone who knows the mask: hottest in the object's heart, then outward, at last far away from it.

    A bare mask ties half of the pixels, and broken at random they reach the model as dust that it has never met: on
    insertion it then scores below honest methods for reasons that have nothing to do with where the object is. Values
    lie in 0..1, above 0.5 inside; a constant 0 or 1 for a mask that is empty or full.

    >>> oracle(np.array([[False, True, True, True, False, False]])).round(2).tolist()
    [[0.25, 0.75, 1.0, 0.75, 0.25, 0.0]]
    """
    from scipy.ndimage import distance_transform_edt

    if mask.all() or not mask.any():
        return mask.astype(np.float32)
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.where(mask, 0.5 + inside / inside.max() / 2, 0.5 - outside / outside.max() / 2).astype(np.float32)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each pair of maps `(N, ...)`; NaN where a map is constant and so ranks nothing.

    >>> rank_correlation(np.array([[1.0, 2.0, 3.0]]), np.array([[0.1, 0.4, 0.9]])).round(6).tolist()
    [1.0]
    """
    from scipy.stats import ConstantInputWarning, spearmanrho

    with warnings.catch_warnings(action="ignore", category=ConstantInputWarning):
        return spearmanrho(*(m.reshape(len(m), -1) for m in (a, b)), axis=1).statistic


def part_correlation(drops: Mapping[str, float], heat: np.ndarray, parts: Mapping[str, np.ndarray]) -> float:
    """Spearman's correlation, within one picture, of how the score depends on each part and how hot the part is.

    Hot for each pixel: large parts matter more and hold more of any heat, so that their sum would reward an even haze.
    `drops` comes from `faithfulness.part_importance`, `parts` are the masks. NaN with fewer than three parts (two
    always agree or disagree entirely), and where all parts are alike.
    """
    if len(drops) < 3:
        return float("nan")
    given = [float(heat[parts[name]].mean()) for name in drops]
    return float(rank_correlation(np.array([list(drops.values())]), np.array([given]))[0])


def _meet(heat: np.ndarray, mask: np.ndarray) -> bool:
    """Whether there is heat and something to find."""
    if heat.shape != mask.shape or mask.dtype != bool or not 0 <= heat.min() <= heat.max() < np.inf:
        raise ValueError("Heat must be finite and not negative, and its mask boolean and of the same shape.")
    return bool(heat.max() > 0 and mask.any())


# Where in a volume heat lies ------------------------------------------------------------------------------------------

AXES = ("slice", "depth", "width")
"""What the axes of `(Z, Y, X)` are called: the slices, and within a slice its rows and columns."""


def profile(heat: np.ndarray, axis: int = 0) -> np.ndarray:
    """The share of all heat at each place along one axis; zeros for a blank map.

    >>> profile(np.array([[[1.0, 1.0]], [[0.0, 6.0]]])).tolist()
    [0.25, 0.75]
    """
    found = heat.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
    return found / found.sum() if found.sum() > 0 else found


def heat_summary(heat: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Where the heat is, in a few numbers: its hottest slice, its middle along each axis in mm, how focused it is.

    `focus` is the smallest share of the volume that holds half of all heat: small for a spot, 0.5 for a haze. NaN for a
    blank map, which is nowhere.
    """
    shares = [profile(heat, axis) for axis in range(3)]
    found = {"hottest_slice": float(shares[0].argmax()), "share_of_hottest_slice": float(shares[0].max())}
    for name, share, step in zip(AXES, shares, spacing, strict=True):
        found[f"{name}_mm"] = float((share * (np.arange(len(share)) + 0.5)).sum() * step)
    return {**found, "focus": _focus(heat)} if heat.any() else dict.fromkeys([*found, "focus"], float("nan"))


def _focus(heat: np.ndarray) -> float:
    total = np.cumsum(np.sort(heat, axis=None)[::-1], dtype=np.float64)
    return float((np.searchsorted(total, total[-1] / 2) + 1) / heat.size)


def lesion_scores(heat: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """How heat meets a lesion, voxel by voxel.

    The pointing game (within 0.15 millimetres of the lesion, and exactly), the relevance mass and rank, the average
    precision over voxels, the lift, and by how many millimetres the middle of the heat misses that of the lesion in
    depth.
    """
    depth = (np.arange(heat.shape[1]) + 0.5) * spacing[1]
    missed = float(profile(heat, 1) @ depth - profile(mask.astype(np.float32), 1) @ depth)
    return {
        "pointing_game": pointing_hit(heat, mask, 0.15, spacing), "pointing_exact": pointing_hit(heat, mask, 0),
        "relevance_mass": relevance_mass(heat, mask), "relevance_rank": relevance_rank(heat, mask),
        "average_precision": average_precision(heat, mask), "lift": lift(heat, mask),
        "depth_error_mm": missed if _meet(heat, mask) else float("nan"),
    }  # fmt: skip
