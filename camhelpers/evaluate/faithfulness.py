"""Does the model agree with the heatmap? Insertion, deletion, and what a picture's parts matter.

Everything is measured for each picture and each map; means are for the reader to take. One queue serves all maps,
directions, baselines and steps of a batch of pictures: they share the orders, the endpoints and full batches.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..cam.capture import Capture, Target, eval_mode
from ..cam.cards import Card
from ..cam.explain import probabilities, resolve_target
from ..cam.nets import folded

Direction = Literal["insertion", "deletion"]

# What stands in for a pixel that is taken away ------------------------------------------------------------------------


def _mean(x: Tensor, card: Card | None) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True).expand_as(x)


def _blur(x: Tensor, card: Card | None) -> Tensor:
    from scipy.ndimage import gaussian_filter

    sigma = [0, 0, *(n * 10 / 224 for n in x.shape[2:])]
    return torch.from_numpy(gaussian_filter(x.cpu().numpy(), sigma, mode="nearest")).to(x)


def _black(x: Tensor, card: Card | None) -> Tensor:
    if card is None:
        raise ValueError("The black baseline needs a model with a card, which says what black is; see load_model.")
    return card.normalise(torch.zeros_like(x))


def _zero(x: Tensor, card: Card | None) -> Tensor:
    return torch.zeros_like(x)


BASELINES: dict[str, Callable[[Tensor, Card | None], Tensor]] = {
    "mean": _mean,  # the picture's own mean colour
    "blur": _blur,  # a Gaussian of 10 pixels in 224
    "black": _black,
    "zero": _zero,  # zero in normalised space: the data's mean colour, not black
}
"""Functions of the normalised pictures `(N, C, *spatial)` and the model's card; enter your own under a new name."""


# In which order -------------------------------------------------------------------------------------------------------


def removal_order(heat: np.ndarray, seed: int = 0) -> np.ndarray:
    """The pixels' flat indices, most relevant first, for one map `(*spatial)`; ties fall as a seeded shuffle says.

    The shuffle depends on nothing but seed and size, so that equal maps get equal orders, whatever made them.

    >>> removal_order(np.array([[0.1, 0.7], [0.9, 0.3]])).tolist()
    [2, 1, 3, 0]
    """
    flat = np.ascontiguousarray(heat, dtype=np.float32).reshape(-1)
    return _ordered(flat, np.random.default_rng(seed).permutation(flat.size))


def _ordered(flat: np.ndarray, shuffle: np.ndarray) -> np.ndarray:
    """A stable descending sort behind a shuffle, as one sort of plain integers: ten times faster than an argsort.

    An integer's upper half is the heat, its lower half the place in the shuffle, which breaks the ties.
    """
    bits = (flat[shuffle] + 0.0).view(np.int32)  # adding 0 turns -0 into 0
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # floats' bits, such that integers compare as the floats do
    keys = np.sort((~rising).astype(np.int64) << 32 | np.arange(flat.size))
    return shuffle[keys & 0xFFFFFFFF]


def masked(
    x: Tensor,
    heat: np.ndarray,
    fraction: float,
    *,
    direction: Direction = "insertion",
    baseline: str = "mean",
    card: Card | None = None,
    seed: int = 0,
) -> Tensor:
    """One picture `(C, *spatial)` as the model meets it on the curve where `fraction` is shown, or is taken away."""
    behind = BASELINES[baseline](x[None], card)[0]
    start, end = (behind, x) if direction == "insertion" else (x, behind)
    changed = torch.from_numpy(removal_order(heat, seed)[: round(fraction * heat.size)]).to(x.device)
    out = start.flatten(1).clone()
    out[:, changed] = end.flatten(1)[:, changed]
    return out.view_as(x)


# The queue ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """The class's probability along the way: `probability["insertion", "mean"]` is `(M, N, S+1)`.

    `fractions` `(S+1,)` are the shares of pixels shown (insertion) or gone. `forwards` counts the pictures that the
    model was shown. A constant map puts no pixel before another and says nothing: its curves are NaN.
    """

    fractions: np.ndarray
    probability: dict[tuple[str, str], np.ndarray]
    forwards: int


def curves(
    model: nn.Module,
    x: Tensor,
    targets: Target,
    heats: np.ndarray,
    *,
    steps: int = 10,
    baselines: Sequence[str] = ("mean",),
    directions: Sequence[Direction] = ("insertion", "deletion"),
    batch: int = 16,
    dtype: torch.dtype | None = None,
    seed: int | Sequence[int] = 0,
) -> Curves:
    """Insertion and deletion curves (Petsiuk et al., 2018) of `M` maps for each of `N` pictures.

    `x`: pictures as the model takes them `(N, C, *spatial)`. `targets`: classes as in `explain`, None for the predicted
    ones. `heats`: `(M, N, *spatial)`, any number of methods, alphas and layers. In `steps` steps every pixel gets its
    turn. `batch`: pictures in one forward pass; on a CPU larger ones gain nothing and fall out of the cache.
    `dtype=torch.bfloat16` runs the model under autocast. `seed` breaks ties; it counts up over the pictures, or give
    one each.

    >>> from camhelpers.cam.nets import SmallResNet
    >>> x, heats = torch.rand(2, 3, 64, 64), np.random.default_rng(0).random((3, 2, 64, 64))
    >>> curves(SmallResNet(classes=5), x, None, heats, steps=4).probability["deletion", "mean"].shape
    (3, 2, 5)
    """
    maps, pixels = _flat(heats, x), x[0, 0].numel()
    seeds = [seed + i for i in range(len(x))] if isinstance(seed, int) else seed
    if steps < 1 or len(seeds) != len(x):
        raise ValueError(f"steps is {steps} and there are {len(seeds)} seeds for {len(x)} pictures; give at least one "
                         "step, and one seed or one for each picture.")  # fmt: skip
    _known(directions, ("insertion", "deletion"), "direction")
    _known(baselines, tuple(BASELINES), "baseline")
    counts = np.rint(np.linspace(0, pixels, steps + 1)).astype(int)
    card = getattr(model, "card", None)
    looks = [x, *(BASELINES[name](x, card) for name in baselines)]
    varied = maps.max(-1) > maps.min(-1)

    def as_pictures(rows: Tensor) -> Tensor:
        return rows.view(len(rows), *x.shape[2:], -1).movedim(-1, 1)

    with eval_mode(model), torch.inference_mode():
        rows = [look.movedim(1, -1).contiguous().view(len(x), pixels, -1) for look in looks]
        copies = [row.clone() for row in rows]
        logits = [torch.cat([_logits(model, p, dtype) for p in as_pictures(c).split(batch)]) for c in copies]
        in_place = not all(torch.equal(c, row) for c, row in zip(copies, rows, strict=True))  # the model changes it
        del copies
        quick = _quick(model, as_pictures(rows[0][:batch]), logits[0][:batch], dtype)
        classes = Capture({}, logits[0]).classes(resolve_target(targets, card.classes if card else ()))
        found = np.full((len(directions), len(baselines), *maps.shape[:2], steps + 1), np.nan)
        ways = {
            (d, b): (b + 1, 0) if direction == "insertion" else (0, b + 1)  # from which look to which
            for d, direction in enumerate(directions)
            for b in range(len(baselines))
        }
        for way, ends in ways.items():
            for place, look in zip((0, -1), ends, strict=True):
                found[(*way, ..., place)] = np.where(varied, _probability(logits[look], classes), np.nan)

        # A lane is one curve: a canvas that starts as one endpoint and at each step takes its next pixels from the
        # other. So a step writes only what changes, and a full batch of lanes goes through the model together.
        queue = _lanes(maps, varied, seeds, counts, list(ways))
        while lanes := list(islice(queue, batch if steps > 1 else 0)):
            where = tuple(np.array([place for place, _ in lanes]).T)
            canvas = torch.stack([rows[ways[d, b][0]][i] for (d, b, _, i), _ in lanes])
            ends = [rows[ways[d, b][1]][i] for (d, b, _, i), _ in lanes]
            for step in range(1, steps):
                for picture, end, (_, turns) in zip(canvas, ends, lanes, strict=True):
                    changed = turns[step - 1].to(x.device)
                    picture.index_copy_(0, changed, end.index_select(0, changed))
                seen = as_pictures(canvas.clone() if in_place else canvas)
                found[(*where, step)] = _probability(_logits(quick, seen, dtype), classes[where[-1]])

    forwards = len(looks) * len(x) + int(varied.sum()) * len(ways) * (steps - 1)
    return Curves(counts / pixels, {(directions[d], baselines[b]): found[d, b] for d, b in ways}, forwards)


def _lanes(
    maps: np.ndarray, varied: np.ndarray, seeds: Sequence[int], counts: np.ndarray, ways: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int, int, int], list[Tensor]]]:
    """Every curve to follow: its place (direction, baseline, map, picture), and the pixels that change in each step.

    One order serves all of a map's curves. Within a step the order does not matter; sorted, memory is met in sequence.
    """
    for i, seed in enumerate(seeds):
        shuffle = np.random.default_rng(seed).permutation(maps.shape[-1])
        for m in np.flatnonzero(varied[:, i]):
            order = _ordered(maps[m, i], shuffle)
            turns = [torch.from_numpy(np.sort(order[start:end])) for start, end in pairwise(counts)]
            for d, b in ways:
                yield (d, b, m, i), turns


def auc(curve: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """The area under curves `(..., S+1)` by trapezoids, over the width of `fractions`: the mean height of the curve.

    With S steps a deletion curve that starts at p has at least p / (2 S): that floor is no merit of a map.

    >>> float(auc(np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.5, 1.0])))
    0.75
    """
    return np.trapezoid(curve, fractions, axis=-1) / (fractions[-1] - fractions[0])


def _flat(heats: np.ndarray, x: Tensor) -> np.ndarray:
    """The maps as `(M, N, pixels)`, checked against the pictures."""
    maps, fitting = np.asarray(heats, dtype=np.float32), (len(x), *x.shape[2:])
    if maps.shape[1:] != fitting:
        raise ValueError(
            f"The maps are {maps.shape}; for these pictures they must be (M, {', '.join(map(str, fitting))})."
        )
    if not np.isfinite(maps).all():
        raise ValueError("The maps hold NaN or infinite values; a map without evidence is zero.")
    return maps.reshape(*maps.shape[:2], -1)


def _known(names: Sequence[str], offered: Sequence[str], what: str) -> None:
    if isinstance(names, str) or not names:
        raise ValueError(f"Give a list of one {what} or more: {', '.join(offered)}.")
    for name in names:
        if name not in offered:
            raise ValueError(f"There is no {what} {name!r}; choose from {', '.join(offered)}.")


def _logits(model: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
        logits = model(x)
    return logits if logits.dtype == torch.float64 else logits.float()


def _quick(model: nn.Module, x: Tensor, logits: Tensor, dtype: torch.dtype | None) -> nn.Module:
    """The model with folded batch norms, by which curves on two cores are a sixth faster, where it answers alike."""
    if (copy := folded(model)) is model:
        return model
    with contextlib.suppress(Exception):  # a trace may have followed another way than these pictures take
        answer = _logits(copy, x.clone(), dtype)
        near = 1e-4 if dtype is None else 1e-1  # of the spread of the scores
        if answer.shape == logits.shape and (answer - logits).abs().max() <= near * (logits.max() - logits.min()):
            return copy
    return model


def _probability(logits: Tensor, classes: Tensor) -> np.ndarray:
    """The probability of each picture's class."""
    return probabilities(logits)[torch.arange(len(logits)), classes.to(logits.device)].cpu().numpy()


# Parts ----------------------------------------------------------------------------------------------------------------


def part_importance(model: nn.Module, scene: Any) -> dict[str, float]:
    """How far the logit of a scene's subject drops when a part is left out and the scene is drawn again without it.

    This is a cause, not a guess: nothing else in the picture changes, and what stood behind the part is seen. Parts
    that are not visible in the scene are not listed.
    """
    from ..datasets.scenes import CLASSES, draw

    card = model.card
    parts = [part for part, mask in scene.parts.items() if mask.any()]
    second = None if scene.second_label is None else CLASSES[scene.second_label]
    recipe = {"second": second, "tag": scene.tag_mask is not None, "size": len(scene.picture)}
    redrawn = [draw(scene.seed, scene.name, without=part, **recipe).picture for part in parts]
    with eval_mode(model), torch.inference_mode():
        logits = _logits(model, torch.stack([card.prepare(picture) for picture in [scene.picture, *redrawn]]))
        scores = logits[:, resolve_target(scene.name, card.classes)]
    return {part: float(scores[0] - score) for part, score in zip(parts, scores[1:], strict=True)}
