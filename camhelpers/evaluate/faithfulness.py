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

from ..cam.capture import Capture, Target, eval_mode, resolve_target
from ..cam.cards import Card
from ..cam.explain import probabilities
from ..cam.nets import folded

Direction = Literal["insertion", "deletion"]


def _blur(x: Tensor, card: Card | None) -> Tensor:
    from scipy.ndimage import gaussian_filter

    sigma = [0, 0, *(n * 10 / 224 for n in x.shape[2:])]
    return torch.from_numpy(gaussian_filter(x.cpu().numpy(), sigma, mode="nearest")).to(x)


BASELINES: dict[str, Callable[[Tensor, Card | None], Tensor]] = {
    "mean": lambda x, card: x.mean(tuple(range(2, x.ndim)), keepdim=True).expand_as(x),  # the picture's own mean colour
    "blur": _blur,  # a Gaussian of 10 pixels in 224
    "black": lambda x, card: card.normalise(torch.zeros_like(x)),  # so it needs a model with a card
    "zero": lambda x, card: torch.zeros_like(x),  # zero in normalised space: the data's mean colour, not black
}
"""Functions of the normalised pictures `(N, C, *spatial)` and the model's card; enter your own under a new name."""


def removal_order(heat: np.ndarray, seed: int = 0) -> np.ndarray:
    """The pixels' flat indices, most relevant first, for one map `(*spatial)`; ties fall as a seeded shuffle says.

    The shuffle depends on nothing but seed and size, so that equal maps get equal orders, whatever made them.

    >>> removal_order(np.array([[0.1, 0.7], [0.9, 0.3]])).tolist()
    [2, 1, 3, 0]
    """
    shuffle = np.random.default_rng(seed).permutation(heat.size)
    # A stable descending sort behind a shuffle, as one sort of plain integers: ten times faster than an argsort. An
    # integer's upper half is the heat, its lower half the place in the shuffle, which breaks the ties.
    bits = (heat.reshape(-1)[shuffle].astype(np.float32) + 0.0).view(np.int32)  # adding 0 turns -0 into 0
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # floats' bits, such that integers compare as the floats do
    keys = np.sort((~rising).astype(np.int64) << 32 | np.arange(heat.size))
    return shuffle[keys & 0xFFFFFFFF]


def masked(
    x: Tensor, heat: np.ndarray, fraction: float, *, direction: Direction = "insertion", baseline: str = "mean",
    card: Card | None = None, seed: int = 0,
) -> Tensor:  # fmt: skip
    """One picture `(C, *spatial)` as the model meets it on the curve where `fraction` is shown, or is taken away."""
    behind = BASELINES[baseline](x[None], card)[0]
    start, end = (behind, x) if direction == "insertion" else (x, behind)
    changed = torch.from_numpy(removal_order(heat, seed)[: round(fraction * heat.size)]).to(x.device)
    out = start.flatten(1).clone()
    out[:, changed] = end.flatten(1)[:, changed]
    return out.view_as(x)


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
    model: nn.Module, x: Tensor, targets: Target, heats: np.ndarray, *, steps: int = 10,
    baselines: Sequence[str] = ("mean",), directions: Sequence[Direction] = ("insertion", "deletion"),
    batch: int = 16, seed: int | Sequence[int] = 0,
) -> Curves:  # fmt: skip
    """Insertion and deletion curves (Petsiuk et al., 2018) of `M` maps for each of `N` pictures.

    `x`: pictures as the model takes them `(N, C, *spatial)`. `targets`: classes as in `explain`, None for the predicted
    ones. `heats`: `(M, N, *spatial)`, any number of methods, alphas and layers. In `steps` steps every pixel gets its
    turn. `batch`: pictures in one forward pass; on a CPU larger ones gain nothing and fall out of the cache.
    `seed` breaks ties; it counts up over the pictures, or give one each.

    >>> from camhelpers.cam.nets import SmallResNet
    >>> x, heats = torch.rand(2, 3, 64, 64), np.random.default_rng(0).random((3, 2, 64, 64))
    >>> curves(SmallResNet(classes=5), x, None, heats, steps=4).probability["deletion", "mean"].shape
    (3, 2, 5)
    """
    if heats.shape[1:] != (len(x), *x.shape[2:]):
        raise ValueError(f"The maps are {heats.shape}; these pictures need (M, {len(x)}, {str([*x.shape[2:]])[1:-1]}).")
    maps, pixels = heats.reshape(*heats.shape[:2], -1), x[0, 0].numel()
    seeds = [seed + i for i in range(len(x))] if isinstance(seed, int) else seed
    counts = np.rint(np.linspace(0, pixels, steps + 1)).astype(int)
    card = getattr(model, "card", None)
    looks = {None: x, **{name: BASELINES[name](x, card) for name in baselines}}
    ways = [(direction, name) for direction in directions for name in baselines]
    ends = {(d, name): (name, None) if d == "insertion" else (None, name) for d, name in ways}  # from look to look
    varied = maps.max(-1) > maps.min(-1)

    def as_pictures(rows: Tensor) -> Tensor:
        return rows.view(len(rows), *x.shape[2:], -1).movedim(-1, 1)

    with eval_mode(model), torch.inference_mode():
        rows = {name: look.movedim(1, -1).contiguous().view(len(x), pixels, -1) for name, look in looks.items()}
        logits = {name: _logits(model, as_pictures(row)) for name, row in rows.items()}
        quick = _quick(model, as_pictures(rows[None]), logits[None])
        classes = Capture({}, logits[None]).classes(resolve_target(targets, card.classes if card else ()))
        found = {way: np.full((*varied.shape, steps + 1), np.nan) for way in ways}
        for way in ways:
            for place, look in zip((0, -1), ends[way], strict=True):
                found[way][..., place] = np.where(varied, _probability(logits[look], classes), np.nan)

        # A lane is one curve: a canvas that starts as one endpoint and at each step takes its next pixels from the
        # other. So a step writes only what changes, and a full batch of lanes goes through the model together.
        queue = _lanes(maps, varied, seeds, counts, ways)
        while lanes := list(islice(queue, batch)):
            canvas = torch.stack([rows[ends[way][0]][i] for way, _, i, _ in lanes])
            other = [rows[ends[way][1]][i] for way, _, i, _ in lanes]
            shown = classes[[i for _, _, i, _ in lanes]]
            for step in range(1, steps):
                for picture, end, (*_, turns) in zip(canvas, other, lanes, strict=True):
                    changed = turns[step - 1].to(x.device)
                    picture.index_copy_(0, changed, end.index_select(0, changed))
                scores = _probability(_logits(quick, as_pictures(canvas)), shown)
                for (way, m, i, _), score in zip(lanes, scores, strict=True):
                    found[way][m, i, step] = score

    forwards = len(looks) * len(x) + int(varied.sum()) * len(ways) * (steps - 1)
    return Curves(counts / pixels, found, forwards)


def _lanes(
    maps: np.ndarray, varied: np.ndarray, seeds: Sequence[int], counts: np.ndarray, ways: Sequence[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], int, int, list[Tensor]]]:
    """Every curve to follow: its direction and baseline, map, picture, and the pixels that change in each step.

    One order serves all of a map's curves. Within a step the order does not matter; sorted, memory is met in sequence.
    """
    for i, seed in enumerate(seeds):
        for m in np.flatnonzero(varied[:, i]):
            order = removal_order(maps[m, i], seed)
            turns = [torch.from_numpy(np.sort(order[start:end])) for start, end in pairwise(counts)]
            for way in ways:
                yield way, m, i, turns


def auc(curve: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """The area under curves `(..., S+1)` by trapezoids, over the width of `fractions`: the mean height of the curve.

    With S steps a deletion curve that starts at p has at least p / (2 S): that floor is no merit of a map.

    >>> float(auc(np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.5, 1.0])))
    0.75
    """
    return np.trapezoid(curve, fractions, axis=-1) / (fractions[-1] - fractions[0])


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    logits = model(x.clone(memory_format=torch.channels_last if x.ndim == 4 else torch.preserve_format))  # its own
    return logits if logits.dtype == torch.float64 else logits.float()


def _quick(model: nn.Module, x: Tensor, logits: Tensor) -> nn.Module:
    """The model with folded batch norms, where it answers alike: without, curves take 1.15 times as long on a core."""
    copy = folded(model)
    with contextlib.suppress(Exception):  # a trace may have followed another way than these pictures take
        error = 0 if copy is model else (_logits(copy, x) - logits).abs().max()
        if error <= 1e-4 * (logits.max() - logits.min()):
            return copy
    return model


def _probability(logits: Tensor, classes: Tensor) -> np.ndarray:
    """The probability of each picture's class."""
    return probabilities(logits)[torch.arange(len(logits)), classes.to(logits.device)].cpu().numpy()


VIEWS = [(flip, down, right) for flip in (False, True) for down, right in ((0, 0), (8, 0), (0, 8), (-8, -8))]
"""Ways to look at a picture: left and right exchanged or not, and moved by so many pixels."""


def part_importance(model: nn.Module, scene: Any) -> dict[str, float]:
    """How far the logit of a scene's subject drops when a part is left out and the scene is drawn again without it.

    Nothing else in the picture changes, and what stood behind the part is seen. The drop is a mean over `VIEWS`, since
    a single logit also changes with where the edges meet the network's grid. Parts that are not visible are not listed.
    """
    from ..datasets.scenes import CLASSES, draw

    card = model.card
    parts = [part for part, mask in scene.parts.items() if mask.any()]
    second = None if scene.second_label is None else CLASSES[scene.second_label]
    recipe = {"second": second, "tag": scene.tag_mask is not None, "size": len(scene.picture)}
    redrawn = [draw(scene.seed, scene.name, without=part, **recipe).picture for part in parts]
    x = torch.stack([card.prepare(picture) for picture in [scene.picture, *redrawn]])
    wide = nn.functional.pad(x, [8] * 4, mode="replicate")
    index, (height, width) = resolve_target(scene.name, card.classes), x.shape[2:]
    with eval_mode(model), torch.inference_mode():
        scores = torch.stack([
            _logits(model, (view.flip(3) if flip else view))[:, index]
            for flip, down, right in VIEWS
            for view in [wide[:, :, 8 + down : 8 + down + height, 8 + right : 8 + right + width]]
        ]).mean(0)  # fmt: skip
    return {part: float(scores[0] - score) for part, score in zip(parts, scores[1:], strict=True)}
