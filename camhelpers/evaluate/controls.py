"""What a method must beat: noise, a bell in the middle, its own map mirrored, and its own map of another class.

A table in the form of `run.COLUMNS` holds all of them, so that `gate` can judge any score.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..cam.capture import resolve_target
from ..cam.explain import Explanation, Size, explain
from ..cam.geometry import Place
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


def maps(
    ex: Explanation, methods: Sequence[str], alphas: Sequence[float], seeds: Sequence[int], *, rivals: bool = True,
    place: Place = "grid", size: Size = "model", **more: Any,
) -> Iterator[tuple[str, float, str, np.ndarray]]:  # fmt: skip
    """Every map that takes part, as name, alpha, layer and heat `(N, *spatial)`.

    Behind each method come its copies: its map with left and right exchanged, and its map for the least likely other
    class, if there is one. Without `rivals` there are neither copies nor controls. `place` moves no control: a bell is
    in the centre of the picture, wherever cells look.
    """
    found: dict[Any, np.ndarray] = {}

    def drawn(name: str, **options: Any) -> np.ndarray:
        # Maps that are equal at the layer are drawn once: the hybrid's ends are its parents to the last bit.
        key = options["layer"], ex.heatmap(name, **options, size="native").tobytes()
        if key not in found:
            found[key] = ex.heatmap(name, **options, size=size, place="grid" if name in controls() else place)
        return found[key]

    others = ex.capture.logits.clone()
    others[torch.arange(len(others)), ex.capture.classes(ex.target)] = torch.inf
    for layer in ex.layers:
        for name, alpha in measured(methods, alphas) if rivals else variants(methods, alphas):
            options = {"layer": layer, "alpha": ALPHA if np.isnan(alpha) else alpha, "seed": seeds, **more}
            heat = drawn(name, **options)
            yield name, alpha, layer, heat
            if rivals and name not in controls():
                yield copy_of(name, MIRRORED), alpha, layer, np.flip(heat, -1)
                if others.shape[1] > 1:
                    yield copy_of(name, OTHER_CLASS), alpha, layer, drawn(name, **options, target=others.argmin(1))


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
    oracle: Callable[[int], np.ndarray] | None = None, seed: int = 0, batch: int = 32, **more: Any,
) -> pd.DataFrame:  # fmt: skip
    """Any score of a map, `score(heat, i)` on picture `i`, for the methods with all that they must beat: see `gate`.

    `oracle(i)` is the map that would be right; `more` are options of `heatmap`, such as `place`. Maps have the size of
    the pictures.
    """
    rows = []
    target = resolve_target(target, model.card.classes)
    for start in range(0, len(pictures), batch):
        asked = target[start : start + batch] if isinstance(target, (list, torch.Tensor)) else target
        ex = explain(model, pictures[start : start + batch], layers=layers, target=asked)
        here = range(start, start + len(ex.inputs))
        found = [*maps(ex, methods, [ALPHA], [seed + i for i in here], size="input", **more)]
        if oracle:
            right = [oracle(i) for i in here]
            two = {ORACLE: right, copy_of(ORACLE, HOLLOW): [hollow(heat) for heat in right]}
            found += [(who, np.nan, layer, heats) for layer in ex.layers for who, heats in two.items()]
        rows += [(i, name, alpha, layer, metric, "none", score(heat, i))
                 for name, alpha, layer, heats in found for i, heat in zip(here, heats, strict=True)]  # fmt: skip
    return pd.DataFrame(rows, columns=["picture", "method", "alpha", "layer", "metric", "baseline", "value"])
