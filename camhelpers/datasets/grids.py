"""Grids of pictures of different classes, on which the grid pointing game is played (Rao, Böhle and Schiele, 2022)."""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..cam.explain import predict
from ..cam.inputs import prepare
from .samples import Sample
from .sets import stream


class Grids(NamedTuple):
    """Prepared grids `(N, C, 2 H, 2 W)`; of each, the class that is explained and its cell, counted row by row."""

    inputs: Tensor
    targets: list[int]
    cells: list[int]


def grids(model: nn.Module, samples: Sequence[Sample], n: int, seed: int = 0) -> Grids:
    """Make `n` grids of 2 x 2 pictures of four classes: of those that the model gets right, the most confident first.

    Each picture fills a cell at the model's own size and is used once. In the paper every cell of a grid is explained;
    here it is one, so that the grids are independent of each other.
    """
    classes, rng, ranked = model.card.classes, stream(seed, 0), {}
    for sample in samples:
        (said,) = predict(model, [sample.read()[0]])
        if sample.label == classes[said.argmax()]:
            bisect.insort(ranked.setdefault(said.argmax(), []), (said.max(), sample.name, sample))
    inputs, targets, cells = [], [], []
    for made in range(n):
        left = rng.permutation([target for target in ranked if ranked[target]]).tolist()
        if len(left) < 4:
            raise ValueError(f"These give {made} grids, not {n}; each takes four classes that the model gets right.")
        placed = rng.permutation(sorted(left, key=lambda target: -len(ranked[target]))[:4]).tolist()
        a, b, c, d = prepare(model, [ranked[target].pop()[-1].read()[0] for target in placed]).tensor
        inputs.append(torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1))
        cells.append(int(rng.integers(4)))
        targets.append(placed[cells[-1]])
    return Grids(torch.stack(inputs), targets, cells)
