"""Does the model agree with the heatmap? Insertion, deletion, ROAD, confidence drop and increase, part importance.

Everything is measured for each picture and each map; means are for the reader to take. One queue serves them all:
every map, direction, baseline and step of a batch of pictures shares the orders, the endpoints and full batches.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..cam import methods
from ..cam.capture import Capture, Target, eval_mode
from ..cam.explain import probabilities, resolve_target
from ..cam.models import Card
from ..cam.nets import folded

BATCH = 16
"""Pictures in one forward pass; on a CPU larger ones gain nothing and fall out of the cache."""

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
    direction: Literal["insertion", "deletion"] = "insertion",
    baseline: str = "mean",
    card: Card | None = None,
    seed: int = 0,
) -> Tensor:
    """One picture `(C, *spatial)` as the model meets it on the curve where `fraction` is shown, or is taken away."""
    behind = _baseline(baseline)(x[None], card)[0]
    start, end = (behind, x) if direction == "insertion" else (x, behind)
    changed = torch.from_numpy(removal_order(heat, seed)[: round(fraction * heat.size)]).to(x.device)
    out = start.flatten(1).clone()
    out[:, changed] = end.flatten(1)[:, changed]
    return out.view_as(x)


# The queue ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """The class's score along the way, for each map and picture: `probability["insertion", "mean"]` is `(M, N, S+1)`.

    `fractions` `(S+1,)` are the shares of pixels shown (insertion) or gone. `forwards` counts the pictures that the
    model was shown. A constant map puts no pixel before another and says nothing: its curves are NaN.
    """

    fractions: np.ndarray
    probability: dict[tuple[str, str], np.ndarray]
    logit: dict[tuple[str, str], np.ndarray]
    forwards: int


def curves(
    model: nn.Module,
    x: Tensor,
    targets: Target,
    heats: np.ndarray | Tensor,
    *,
    steps: int = 10,
    baselines: Sequence[str] = ("mean",),
    directions: Sequence[str] = ("insertion", "deletion"),
    batch: int = BATCH,
    dtype: torch.dtype | None = None,
    seed: int | Sequence[int] = 0,
    progress: bool = False,
) -> Curves:
    """Insertion and deletion curves (Petsiuk et al., 2018) of `M` maps for each of `N` pictures.

    `x`: pictures as the model takes them `(N, C, *spatial)`. `targets`: classes as in `explain`, None for the predicted
    ones. `heats`: `(M, N, *spatial)`, any number of methods, alphas and layers. In `steps` steps every pixel gets its
    turn. `seed` breaks ties; it counts up over the pictures, or give one each. `dtype=torch.bfloat16` runs the model
    under autocast. Between the endpoints a copy with folded batch norms answers, once it was seen to agree.

    >>> from camhelpers.nets import SmallResNet
    >>> x, heats = torch.rand(2, 3, 64, 64), np.random.default_rng(0).random((3, 2, 64, 64))
    >>> curves(SmallResNet(classes=5), x, None, heats, steps=4).probability["deletion", "mean"].shape
    (3, 2, 5)
    """
    maps, seeds = _maps(heats, x), _seeds(seed, len(x))
    pixels = maps.shape[-1]
    if not 1 <= steps <= pixels:
        raise ValueError(f"steps is {steps}; it lies between 1 and the number of pixels, {pixels}.")
    _known(directions, ("insertion", "deletion"), "direction")
    _known(baselines, tuple(BASELINES), "baseline")
    counts = np.rint(np.linspace(0, pixels, steps + 1)).astype(int)
    card = getattr(model, "card", None)
    looks = [x, *(BASELINES[name](x, card) for name in baselines)]
    speaks = _speaks(maps)

    def as_pictures(rows: Tensor) -> Tensor:
        return rows.view(len(rows), *x.shape[2:], -1).movedim(-1, 1)

    with eval_mode(model), torch.inference_mode():
        rows = [look.movedim(1, -1).contiguous().view(len(x), pixels, -1) for look in looks]
        copies = [row.clone() for row in rows]
        logits = [torch.cat([_logits(model, p, dtype) for p in as_pictures(c).split(batch)]) for c in copies]
        in_place = not all(torch.equal(c, row) for c, row in zip(copies, rows, strict=True))
        del copies
        quick = _quick(model, as_pictures(rows[0][:batch]), logits[0][:batch], dtype)
        classes = _classes(model, logits[0], targets)
        scores = np.full((2, len(directions), len(baselines), *maps.shape[:2], steps + 1), np.nan)
        ways = {
            (d, b): (b + 1, 0) if direction == "insertion" else (0, b + 1)  # from which look to which
            for d, direction in enumerate(directions)
            for b in range(len(baselines))
        }
        for (d, b), way in ways.items():
            for place, look in zip((0, -1), way, strict=True):
                scores[:, d, b, ..., place] = np.where(speaks, _scores(logits[look], classes)[:, None], np.nan)

        # A lane is one curve: a canvas that starts as one endpoint and at each step takes its next pixels from the
        # other. So a step writes only what changes, and a full batch of lanes goes through the model together.
        queue = _lanes(maps, speaks, seeds, counts, list(ways))
        total = int(speaks.sum()) * len(ways) * (steps - 1)
        with _bar(total, "masked pictures", progress) as bar:
            while lanes := list(islice(queue, batch if steps > 1 else 0)):
                where = tuple(np.array([place for place, _ in lanes]).T)
                canvas = torch.stack([rows[ways[d, b][0]][i] for (d, b, _, i), _ in lanes])
                ends = [rows[ways[d, b][1]][i] for (d, b, _, i), _ in lanes]
                for step in range(1, steps):
                    for picture, end, (_, turns) in zip(canvas, ends, lanes, strict=True):
                        changed = turns[step - 1].to(x.device)
                        picture.index_copy_(0, changed, end.index_select(0, changed))
                    seen = as_pictures(canvas.clone() if in_place else canvas)
                    scores[(slice(None), *where, step)] = _scores(_logits(quick, seen, dtype), classes[where[-1]])
                    bar.update(len(lanes))

    probability, logit = ({(directions[d], baselines[b]): s[d, b] for d, b in ways} for s in scores)
    return Curves(counts / pixels, probability, logit, len(looks) * len(x) + total)


def _lanes(
    maps: np.ndarray, speaks: np.ndarray, seeds: Sequence[int], counts: np.ndarray, ways: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int, int, int], list[Tensor]]]:
    """Every curve to follow: its place (direction, baseline, map, picture), and the pixels that change in each step.

    One order serves all of a map's curves. Within a step order is of no account; sorted, memory is met in sequence.
    """
    for i, seed in enumerate(seeds):
        shuffle = np.random.default_rng(seed).permutation(maps.shape[-1])
        for m in np.flatnonzero(speaks[:, i]):
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


def rescaled_auc(
    curve: np.ndarray, fractions: np.ndarray, direction: Literal["insertion", "deletion"] = "insertion"
) -> np.ndarray:
    """The area with the baseline's score taken as 0 and the whole picture's as 1, so that pictures weigh alike.

    NaN where the baseline scores no less than the picture: there is no evidence to give out then.
    """
    _known([direction], ("insertion", "deletion"), "direction")
    low, high = (curve[..., 0], curve[..., -1]) if direction == "insertion" else (curve[..., -1], curve[..., 0])
    gap = high - low
    return np.where(gap > 0, (auc(curve, fractions) - low) / np.where(gap > 0, gap, 1), np.nan)


# ROAD -----------------------------------------------------------------------------------------------------------------


def road(
    model: nn.Module,
    x: Tensor,
    targets: Target,
    heats: np.ndarray | Tensor,
    *,
    shares: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    directions: Sequence[str] = ("most", "least"),
    noise: float = 0.01,
    batch: int = BATCH,
    dtype: torch.dtype | None = None,
    seed: int | Sequence[int] = 0,
    progress: bool = False,
) -> Curves:
    """ROAD (Rong et al., 2022): take pixels away most or least relevant first, and impute them from their neighbours.

    A filled hole leaves no silhouette for the model to recognise. The fill is the exact solution of the paper's linear
    system plus Gaussian noise of `noise` in normalised space, the same noise for every map. The curves begin with the
    whole picture: `probability["most", "linear"]` is `(M, N, 1 + shares)`. Other arguments as in `curves`.
    """
    maps, seeds = _maps(heats, x), _seeds(seed, len(x))
    pixels = maps.shape[-1]
    _known(directions, ("most", "least"), "direction")
    counts = np.rint(np.asarray(shares, float) * pixels).astype(int)
    if x.ndim != 4:
        raise ValueError(f"ROAD imputes pictures (N, C, H, W), not {tuple(x.shape)}.")
    if counts.size == 0 or not (counts[0] > 0 and (np.diff(counts) > 0).all() and counts[-1] < pixels):
        raise ValueError(f"shares is {tuple(shares)}; they rise and lie between 0 and 1, both excluded.")
    speaks = _speaks(maps)

    def jobs() -> Iterator[tuple[tuple[int, int, int, int], Tensor]]:
        for i, one in enumerate(seeds):
            rng = np.random.default_rng(one)
            shuffle, fuzz = rng.permutation(pixels), noise * rng.standard_normal((pixels, x.shape[1]))
            picture = x[i].movedim(0, -1).double().cpu().numpy()
            for m in np.flatnonzero(speaks[:, i]):
                order = _ordered(maps[m, i], shuffle)
                for d, direction in enumerate(directions):
                    for s, count in enumerate(counts, start=1):
                        gone = order[:count] if direction == "most" else order[-count:]
                        filled = impute(picture, gone).reshape(pixels, -1)
                        filled[gone] += fuzz[gone]
                        yield (d, m, i, s), torch.from_numpy(filled).to(x).view(*x.shape[2:], -1)

    with eval_mode(model), torch.inference_mode():
        logits = torch.cat([_logits(model, part.clone(), dtype) for part in x.split(batch)])
        classes = _classes(model, logits, targets)
        scores = np.full((2, len(directions), *maps.shape[:2], len(counts) + 1), np.nan)
        scores[..., 0] = np.where(speaks, _scores(logits, classes)[:, None, None], np.nan)
        queue, total = jobs(), int(speaks.sum()) * len(directions) * len(counts)
        with _bar(total, "imputed pictures", progress) as bar:
            while some := list(islice(queue, batch)):
                where = tuple(np.array([place for place, _ in some]).T)
                seen = torch.stack([picture for _, picture in some]).movedim(-1, 1)
                scores[(slice(None), *where)] = _scores(_logits(model, seen, dtype), classes[where[2]])
                bar.update(len(some))

    probability, logit = ({(name, "linear"): s[d] for d, name in enumerate(directions)} for s in scores)
    return Curves(np.array([0, *counts]) / pixels, probability, logit, len(x) + total)


def impute(picture: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """Fill the pixels of `(H, W, C)` with flat indices `gone`, so that each is the weighted mean of its neighbours.

    The eight neighbours weigh 1/6 straight and 1/12 across; those outside of the picture are left out, as in the paper.
    """
    from scipy.sparse.linalg import splu

    weights, laplacian = _neighbours(*picture.shape[:2])
    flat = picture.reshape(len(weights.indptr) - 1, -1).astype(np.float64)
    kept = np.ones(len(flat), bool)
    kept[gone] = False
    if not kept.any():
        raise ValueError("Every pixel is gone, so there is nothing to impute from; keep at least one.")
    gone = np.flatnonzero(~kept)  # sorted, which the factorisation likes
    known = weights[gone][:, kept] @ flat[kept]
    # the system is symmetric and diagonally dominant: no pivoting, and half of the fill-in
    system = laplacian[gone][:, gone].tocsc()
    factors = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    flat[gone] = factors.solve(known)
    return flat.reshape(picture.shape)


@lru_cache(maxsize=4)
def _neighbours(height: int, width: int) -> tuple[Any, Any]:
    """The weights of each pixel's neighbours, and their sums on the diagonal minus these weights; both sparse."""
    import scipy.sparse as sp

    beside_y, beside_x = (sp.diags_array([np.ones(n - 1)] * 2, offsets=[-1, 1], shape=(n, n)) for n in (height, width))
    straight = sp.kron(beside_y, sp.eye_array(width)) + sp.kron(sp.eye_array(height), beside_x)
    weights = sp.csr_array(straight / 6 + sp.kron(beside_y, beside_x) / 12)
    return weights, sp.csr_array(sp.diags_array(weights.sum(1)) - weights)


# Confidence -----------------------------------------------------------------------------------------------------------


def confidence(
    model: nn.Module,
    x: Tensor,
    targets: Target,
    heats: np.ndarray | Tensor,
    *,
    baseline: str = "zero",
    batch: int = BATCH,
    dtype: torch.dtype | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Drop and increase of the class's probability when only the heat is shown (Chattopadhay et al., 2018), `(M, N)`.

    The map, divided by its maximum, fades the picture into the baseline. Drop is `max(0, p - q) / p` and increase is 1
    where `q > p`, with p for the whole picture and q for the faded one; the paper's figures are their means. NaN for a
    blank map.
    """
    maps = _maps(heats, x)
    unit = methods.unit(torch.from_numpy(maps).flatten(0, 1)).view(*maps.shape[:2], 1, *x.shape[2:])
    behind = _baseline(baseline)(x, getattr(model, "card", None))
    with eval_mode(model), torch.inference_mode():
        logits = torch.cat([_logits(model, part.clone(), dtype) for part in x.split(batch)])
        classes = _classes(model, logits, targets)
        whole, faded = _scores(logits, classes)[0], np.empty(maps.shape[:2])
        jobs = [(m, i) for i in range(len(x)) for m in range(len(maps))]
        for start in range(0, len(jobs), batch):
            m, i = np.array(jobs[start : start + batch]).T
            seen = torch.lerp(behind[i], x[i], unit[m, i].to(x).expand_as(x[i]))
            faded[m, i] = _scores(_logits(model, seen, dtype), classes[i])[0]
    blank = maps.max(-1) <= 0
    drop = np.maximum(whole - faded, 0) / np.maximum(whole, np.finfo(float).tiny)
    return np.where(blank, np.nan, drop), np.where(blank, np.nan, faded > whole)


# Parts ----------------------------------------------------------------------------------------------------------------


def part_importance(
    model: nn.Module, scene: Any, *, output: Literal["logit", "probability"] = "logit"
) -> dict[str, float]:
    """How far the score of a scene's subject drops when a part is left out and the scene is drawn again without it.

    This is a cause, not a guess: nothing else in the picture changes, and what stood behind the part is seen. Parts
    that are not visible in the scene are not listed.
    """
    from ..datasets.scenes import CLASSES, draw

    _known([output], ("logit", "probability"), "output")
    card = model.card
    target = resolve_target(scene.name, card.classes)
    parts = [part for part, mask in scene.parts.items() if mask.any()]
    second = None if scene.second_label is None else CLASSES[scene.second_label]
    recipe = {"second": second, "tag": scene.tag_mask is not None, "size": len(scene.picture)}
    redrawn = [draw(scene.seed, scene.name, without=part, **recipe).picture for part in parts]
    with eval_mode(model), torch.inference_mode():
        logits = _logits(model, torch.stack([card.prepare(picture) for picture in [scene.picture, *redrawn]]), None)
        scores = _scores(logits, torch.full((len(logits),), target))[int(output == "logit")]
    return {part: float(scores[0] - score) for part, score in zip(parts, scores[1:], strict=True)}


# Shared ---------------------------------------------------------------------------------------------------------------


def _logits(model: nn.Module, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
        logits = model(x)
    return logits if logits.dtype == torch.float64 else logits.float()


def _quick(model: nn.Module, x: Tensor, logits: Tensor, dtype: torch.dtype | None) -> nn.Module:
    """The model with folded batch norms where it answers as the model does; else the model."""
    copy = folded(model)
    if copy is model:
        return model
    with contextlib.suppress(Exception):
        answer = _logits(copy, x.clone(), dtype)
        near = 1e-4 if dtype is None else 1e-1  # of the spread of the scores
        if answer.shape == logits.shape and (answer - logits).abs().max() <= near * (logits.max() - logits.min()):
            return copy
    return model


def _classes(model: nn.Module, logits: Tensor, targets: Target) -> Tensor:
    if callable(targets):
        raise TypeError("These metrics follow the score of a class; give classes, or None for the predicted ones.")
    card = getattr(model, "card", None)
    return Capture({}, logits).classes(resolve_target(targets, card.classes if card else ()))


def _scores(logits: Tensor, classes: Tensor) -> np.ndarray:
    """Probability and logit of each sample's class, `(2, N)`."""
    both = torch.stack([probabilities(logits), logits])
    return both[:, torch.arange(len(logits)), classes.to(logits.device)].cpu().numpy()


def _maps(heats: np.ndarray | Tensor, x: Tensor) -> np.ndarray:
    """The maps as `(M, N, pixels)`, checked against the pictures."""
    if not isinstance(x, Tensor) or x.ndim < 3 or not x.is_floating_point():
        raise TypeError("The pictures must be a floating-point tensor (N, C, *spatial), as the model takes them.")
    maps = np.asarray(heats.detach().cpu() if isinstance(heats, Tensor) else heats, dtype=np.float32)
    fitting = (len(x), *x.shape[2:])
    if maps.ndim != x.ndim or maps.shape[1:] != fitting or maps.size == 0:
        raise ValueError(
            f"The maps are {maps.shape}; for these pictures they must be (M, {', '.join(map(str, fitting))}), "
            "with M of 1 or more."
        )
    if not np.isfinite(maps).all():
        raise ValueError("The maps hold NaN or infinite values; a map without evidence is zero.")
    return maps.reshape(*maps.shape[:2], -1)


def _speaks(maps: np.ndarray) -> np.ndarray:
    """Which maps put any pixel before another."""
    speaks = maps.max(-1) > maps.min(-1)
    if not speaks.all():
        warnings.warn(
            f"{(~speaks).sum()} of {speaks.size} maps are constant and put no pixel before another: "
            "their scores are NaN.",
            stacklevel=3,
        )
    return speaks


def _seeds(seed: int | Sequence[int], n: int) -> list[int]:
    seeds = [seed + i for i in range(n)] if isinstance(seed, int) else [int(s) for s in seed]
    if len(seeds) != n:
        raise ValueError(f"{len(seeds)} seeds for {n} pictures; give one number, or one for each picture.")
    return seeds


def _baseline(name: str) -> Callable[[Tensor, Card | None], Tensor]:
    _known([name], tuple(BASELINES), "baseline")
    return BASELINES[name]


def _known(names: Sequence[str], offered: Sequence[str], what: str) -> None:
    if isinstance(names, str) or not names:
        raise ValueError(f"Give a list of one {what} or more: {', '.join(offered)}.")
    for name in names:
        if name not in offered:
            raise ValueError(f"There is no {what} {name!r}; choose from {', '.join(offered)}.")


def _bar(total: int, what: str, progress: bool) -> tqdm:
    return tqdm(total=total, desc=what, unit="picture", disable=None if progress else True)
