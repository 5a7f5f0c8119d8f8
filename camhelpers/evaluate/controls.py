"""What a method must beat: noise, a bell in the middle, its own map mirrored, and its own map of another class.

A table in the form of `run.COLUMNS` holds all of them, so that `gate` can judge any score.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..cam.capture import resolve_target
from ..cam.explain import Explanation, explain
from ..cam.methods import controls, variants

ALPHA = 0.7
ORACLE = "oracle"
"""The truth itself as heat: what a perfect map would score. Where pixels are ranked, see `localisation.oracle`."""
MIRRORED, OTHER_CLASS, HOLLOW = "mirrored", "other class", "hollow"
COPIES = (MIRRORED, OTHER_CLASS, HOLLOW)


def variant(method: str, alpha: float) -> str:
    """A method with its alpha, as comparisons name it.

    >>> variant("hybrid", 0.7), variant("gradcam", float("nan"))
    ('hybrid@0.7', 'gradcam')
    """
    return method if np.isnan(alpha) else f"{method}@{alpha:g}"


def copy_of(method: str, kind: str) -> str:
    """The name of a copy of a method's map.

    >>> copy_of("hybrid@0.7", "mirrored")
    'hybrid mirrored@0.7'
    """
    plain, at, alpha = method.partition("@")
    return f"{plain} {kind}{at}{alpha}"


def is_copy(method: str) -> bool:
    """Whether a name is that of a copy."""
    return method.partition("@")[0].endswith(COPIES)


def measured(names: Sequence[str], alphas: Sequence[float]) -> list[tuple[str, float]]:
    """What is measured, as pairs of name and alpha: the methods, and behind them the controls."""
    return variants([name for name in names if name not in controls()], alphas) + variants(controls(), ())


def copies(ex: Explanation, name: str, heat: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
    """The copies of a method's map `(N, *spatial)`: left and right exchanged, and for the least likely other class.

    A control has none, and a model with one score has no other class. `options` are those of `heatmap`.
    """
    if name in controls():
        return {}
    found = {MIRRORED: np.flip(heat, -1)}
    if ex.capture.logits.shape[1] > 1:
        others = ex.capture.logits.clone()
        others[torch.arange(len(others)), ex.capture.classes(ex.target)] = torch.inf
        found[OTHER_CLASS] = ex.heatmap(name, target=others.argmin(1), **options)
    return found


def hollow(heat: np.ndarray) -> np.ndarray:
    """A map whose hottest tenth is made the coldest: whatever scores it as high as the map itself is no score.

    >>> hollow(np.arange(10.0)).tolist()
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 0.0]
    """
    found, tenth = heat + 1, max(1, heat.size // 10)
    found.flat[np.argpartition(heat, -tenth, axis=None)[-tenth:]] = 0
    return found


def judge(
    model: nn.Module, pictures: Sequence[Any], metric: str, score: Callable[[np.ndarray, int], float], *,
    methods: Sequence[str], layers: Sequence[str] | str | None = None, target: Any = None,
    oracle: Callable[[int], np.ndarray] | None = None, seed: int = 0, batch: int = 32,
) -> pd.DataFrame:  # fmt: skip
    """Any score of a map, `score(heat, i)` on picture `i`, for the methods with all that they must beat: see `gate`.

    `oracle(i)` is the map that would be right. Maps have the size of the pictures.
    """
    rows = []
    target = resolve_target(target, model.card.classes)
    for start in range(0, len(pictures), batch):
        asked = target[start : start + batch] if isinstance(target, (list, torch.Tensor)) else target
        ex = explain(model, pictures[start : start + batch], layers=layers, target=asked)
        here = range(start, start + len(ex.inputs))
        for layer in ex.layers:
            stack = {}
            for name, alpha in measured(methods, [ALPHA]):
                options = {"layer": layer, "alpha": ALPHA, "seed": [seed + i for i in here]}
                heat = stack[name, alpha] = ex.heatmap(name, **options)
                for kind, copied in copies(ex, name, heat, **options).items():
                    stack[copy_of(name, kind), alpha] = copied
            if oracle:
                right = [oracle(i) for i in here]
                stack |= {(ORACLE, np.nan): right, (copy_of(ORACLE, HOLLOW), np.nan): [hollow(h) for h in right]}
            rows += [(i, name, alpha, layer, metric, "none", score(h, i))
                     for (name, alpha), heats in stack.items() for i, h in zip(here, heats, strict=True)]  # fmt: skip
    return pd.DataFrame(rows, columns=["picture", "method", "alpha", "layer", "metric", "baseline", "value"])
