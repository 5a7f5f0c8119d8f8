"""Is a map stable, does it foretell what a removal costs, and how few pixels does it need? Scores without masks.

None is a merit alone: a map that never looks at the picture has no sensitivity at all, so measure the controls beside.
The class explained is the one that the model predicted; a blank map, which says nothing, has NaN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import entr
from torch import nn

from ..cam.capture import eval_mode
from ..cam.explain import explain
from .faithfulness import BASELINES
from .sanity import METHODS, explained, maps, noisy, tidy


def max_sensitivity(
    model: nn.Module, inputs: Any, names: Sequence[str] = METHODS, *, layers: str | Sequence[str] | None = None,
    samples: int = 10, radius: float = 0.02,
) -> pd.DataFrame:  # fmt: skip
    """The largest relative change of each map, in 0..1 at its layer's resolution, under noise (Yeh et al., 2019).

    The noise is uniform and reaches up to `radius` of the input's own value range: 0.02 are five grey levels of 255 in
    a picture from black to white. All methods and layers share the `samples` noisy passes.
    """
    rows = []
    for start, ex in explained(model, inputs, layers):
        clean, most = maps(ex, names, ex.target, start), {}
        for x in noisy(ex.inputs, lambda *n, **how: 2 * torch.rand(*n, **how) - 1, radius, samples, start):
            other = explain(model, x, layers=ex.layers, target=ex.target)
            for key, heat in maps(other, names, ex.target, start).items():
                change, whole = (np.linalg.norm(_flat(h), axis=1) for h in (heat - clean[key], clean[key]))
                most[key] = np.maximum(most.get(key, 0), change / _positive(whole))
        rows += [tidy(start, key, {"max_sensitivity": found}) for key, found in most.items()]
    return pd.concat(rows, ignore_index=True)


def infidelity(
    model: nn.Module, inputs: Any, names: Sequence[str] = METHODS, *, layers: str | Sequence[str] | None = None,
    samples: int = 50, side: float = 0.25, baseline: str = "mean", seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """How badly a map foretells what the score loses when a square of the input is removed (Yeh et al., 2019).

    `samples` squares, with sides of `side` of the input's, are replaced by `baseline` (as for curves), one at a time
    and the same for all methods and layers. `infidelity` is the mean squared difference of the heat in a square and the
    logit's loss, with the best scale for each map, since a CAM has none of its own. Heat says how much lies where, so
    it is not multiplied by the values removed. `share` is the infidelity over the variance of the losses: 0 foretells
    every loss, and 1 is what a flat map gets, which foretells the same loss for every square.
    """
    rows = []
    for start, ex in explained(model, inputs, layers):
        x, rng, boxes, losses = ex.inputs, np.random.default_rng(seed), [], []
        behind, size = BASELINES[baseline](x, getattr(model, "card", None)), np.array(x.shape[2:])
        sides = np.rint(size * side).astype(int).clip(1)
        with eval_mode(model), torch.inference_mode():
            for _ in range(samples):
                at, without = rng.integers(size - sides + 1), x.clone()
                boxes.append((..., *map(slice, at, at + sides)))
                without[boxes[-1]] = behind[boxes[-1]]
                losses.append((ex.capture.logits - model(without)).double().cpu().gather(1, ex.target[:, None]))
        lost = torch.cat(losses, 1).numpy()
        for key, heat in maps(ex, names, ex.target, start, size="model").items():
            inside = np.stack([_flat(heat[box]).sum(1) for box in boxes], 1)
            scale = (inside * lost).sum(1, keepdims=True) / _positive((inside**2).sum(1, keepdims=True))
            error = ((scale * inside - lost) ** 2).mean(1)
            rows.append(tidy(start, key, {"infidelity": error, "share": error / _positive(lost.var(1))}))
    return pd.concat(rows, ignore_index=True)


def complexity(
    model: nn.Module, inputs: Any, names: Sequence[str] = METHODS, *, layers: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """Over how many pixels a map spreads, at the size of the model's input.

    `complexity` is the entropy of the pixels' shares of the heat, in nats (Bhatt et al., 2020), and `sparseness` the
    Gini index of the heat (Chalasani et al., 2020): 0 where all pixels are alike, near 1 where one has all.
    """
    rows = []
    for start, ex in explained(model, inputs, layers):
        for key, heat in maps(ex, names, ex.target, start, size="model").items():
            share = np.sort(_flat(heat), axis=1)
            share /= _positive(share.sum(1, keepdims=True))
            ranks = np.arange(1, share.shape[1] + 1) / share.shape[1]
            found = {"complexity": entr(share).sum(1), "sparseness": share @ (2 * ranks) - 1 - ranks[0]}
            rows.append(tidy(start, key, found))
    return pd.concat(rows, ignore_index=True)


def _flat(heats: np.ndarray) -> np.ndarray:
    return heats.reshape(len(heats), -1).astype(float)


def _positive(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.nan)
