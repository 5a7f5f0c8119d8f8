"""How good is a heatmap? Localisation against exact masks."""

import numpy as np


def relevance_mass(heat: np.ndarray, mask: np.ndarray) -> float:
    """The share of all heat that lies inside the mask; NaN for a blank map or an empty mask, which say nothing.

    >>> relevance_mass(np.array([[1.0, 3.0]]), np.array([[False, True]]))
    0.75
    """
    _check(heat, mask)
    total = float(heat.sum())
    return float(heat[mask].sum()) / total if total > 0 and mask.any() else float("nan")


def pointing_hit(heat: np.ndarray, mask: np.ndarray, tolerance: float = 15 / 224) -> float:
    """The pointing game (Zhang et al., 2018): does the mask meet a disc around the maximum? Tied maxima are averaged.

    `tolerance` is the disc's radius as a share of the height, 15 pixels of 224 in the usual protocol; 0 asks for the
    maximum itself. NaN for a blank map or an empty mask.
    """
    from scipy.ndimage import distance_transform_edt

    _check(heat, mask)
    if not (heat.max() > 0 and mask.any()):
        return float("nan")
    away = distance_transform_edt(~mask)
    return float((away[heat == heat.max()] <= tolerance * len(heat)).mean())


def _check(heat: np.ndarray, mask: np.ndarray) -> None:
    if heat.shape != mask.shape or mask.dtype != bool:
        raise ValueError(
            f"The mask must be boolean and of the heat's shape {heat.shape}, not {mask.dtype} {mask.shape}."
        )
