"""Does a heatmap depend on what it claims to explain? Randomised weights, other classes, and a spurious tag."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn

from ..cam.explain import Explanation, explain, predict, resolve_target, upsample
from ..cam.methods import variants
from ..datasets.scenes import CLASSES, Scenes
from ..progress import track
from .localisation import relevance_mass

SIDE = 64
"""Pixels a side at which maps are compared by SSIM; a map of 7 to 28 cells holds nothing finer."""
BATCH = 32
METHODS = ("gradcam", "layercam", "hybrid")

Kind = Literal["cascading", "independent"]


# How alike two maps are -----------------------------------------------------------------------------------------------


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each pair of maps `(N, ...)`; NaN where a map is constant and so ranks nothing.

    >>> rank_correlation(np.array([[1.0, 2.0, 3.0]]), np.array([[0.1, 0.4, 0.9]])).round(6).tolist()
    [1.0]
    """
    x, y = (stats.rankdata(m.reshape(len(m), -1), axis=1) for m in (a, b))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    norm = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), norm, out=np.full(len(a), np.nan), where=norm > 0)


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity of each pair of maps `(N, *spatial)` in 0..1, as in Wang et al. (2004).

    >>> ssim(np.ones((1, 11, 11)), np.ones((1, 11, 11))).tolist()
    [1.0]
    """
    from skimage.metrics import structural_similarity

    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    pairs = zip(a.astype(np.float64), b.astype(np.float64), strict=True)
    return np.array([structural_similarity(one, two, **window) for one, two in pairs])


# Randomised weights ---------------------------------------------------------------------------------------------------


def parts(model: nn.Module) -> list[str]:
    """The pieces of a model that are randomised one after the other, from the head down.

    >>> from camhelpers.cam.nets import SmallResNet
    >>> parts(SmallResNet(classes=2))
    ['fc', 'layer4', 'layer3', 'layer2', 'layer1', 'stem']
    """
    children = _with_parameters(model, "")
    if len(children) < 3:  # a trunk in one Sequential: its members, and the head's
        children = [inner for name in children for inner in _with_parameters(model, name) or [name]]
    if not children:
        raise ValueError("The model has no parts with parameters, so there is nothing to randomise.")
    return children[::-1]


def _with_parameters(model: nn.Module, name: str) -> list[str]:
    prefix = f"{name}." if name else ""
    return [prefix + n for n, m in model.get_submodule(name).named_children() if any(True for _ in m.parameters())]


def randomised(model: nn.Module, names: Sequence[str], seed: int = 0) -> nn.Module:
    """A copy of `model` whose parts `names` have fresh weights; `model` itself is never touched.

    A part's weights depend on its name and the seed alone, whatever else is randomised beside it.
    """
    order = parts(model)
    if unknown := [name for name in names if name not in order]:
        raise ValueError(f"The model has no part {unknown[0]!r}; it has {', '.join(order)}.")
    net = copy.deepcopy(model)
    for name in names:
        _reset(net.get_submodule(name), 1000 * seed + order.index(name))
    return net


def _reset(part: nn.Module, seed: int) -> None:
    device = next(part.parameters()).device
    part.cpu()  # one generator, and so the same weights, whatever the device
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in part.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif hasattr(module, "_reset_parameters"):  # attention has it under this name
                module._reset_parameters()
            else:  # weights of a home-made module: nobody knows how they began, so they change places
                for weight in module.parameters(recurse=False):
                    weight.copy_(weight.flatten()[torch.randperm(weight.numel())].view_as(weight))
    part.to(device)


def randomisation(
    model: nn.Module,
    inputs: Any,
    names: Sequence[str] = METHODS,
    *,
    alphas: Sequence[float] = (0.7,),
    layers: str | Sequence[str] | None = None,
    kinds: Sequence[Kind] = ("cascading", "independent"),
    seeds: Sequence[int] = (0, 1, 2),
    progress: bool = False,
) -> pd.DataFrame:
    """Each method's map after parts of the model lost what they had learned, against its map before (Adebayo, 2018).

    "cascading" randomises from the head down, each step with all steps before it; "independent" one part at a time.
    The class explained stays the one that the model predicted. `inputs`: a list of pictures, or a tensor
    `(N, C, *spatial)`. One row for each picture, method, alpha (the hybrid's), layer, kind, seed and part: `spearman`
    at the layer's own resolution, `ssim` at 64 pixels a side, and whether the new map is `blank`. A method that
    explains the model must lose its map; one whose correlation stays near 1 draws edges.
    """
    asked, order, before = variants(names, alphas), parts(model), []
    for start, ex in _explained(model, inputs, layers):
        before.append((start, ex.inputs, ex.layers, ex.target, _maps(ex, asked, ex.target, start)))
    plan = [(kind, seed, step) for kind in kinds for seed in seeds for step in range(len(order))]
    rows = []
    for kind, seed, step in track(plan, "randomising", "network", progress):
        net = randomised(model, order[: step + 1] if kind == "cascading" else [order[step]], seed)
        labels = {"kind": kind, "seed": seed, "step": step + 1, "part": order[step]}
        for start, x, captured, classes, old in before:
            new = _maps(explain(net, x, layers=captured, target=classes), asked, classes, start)
            for key, heat in new.items():
                found = {
                    "spearman": rank_correlation(old[key], heat),
                    "ssim": ssim(_shown(old[key]), _shown(heat)),
                    "blank": _blank(heat),
                }
                rows.append(_rows(start, key, {**labels, **found}))
    return pd.concat(rows, ignore_index=True)


def class_sensitivity(
    model: nn.Module,
    inputs: Any,
    names: Sequence[str] = METHODS,
    *,
    alphas: Sequence[float] = (0.7,),
    layers: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """The rank correlation of the maps for the most and for the least likely class, for each picture.

    Near 1, the method draws the same map whatever it is asked. NaN where either map is blank, which is told apart in
    `blank_most` and `blank_least`.
    """
    asked, rows = variants(names, alphas), []
    for start, ex in _explained(model, inputs, layers):
        most = _maps(ex, asked, ex.capture.logits.argmax(1), start)
        least = _maps(ex, asked, ex.capture.logits.argmin(1), start)
        for key, heat in most.items():
            found = {
                "spearman": rank_correlation(heat, least[key]),
                "blank_most": _blank(heat),
                "blank_least": _blank(least[key]),
            }
            rows.append(_rows(start, key, found))
    return pd.concat(rows, ignore_index=True)


# A spurious tag -------------------------------------------------------------------------------------------------------


def reliance(model: nn.Module, scenes: Scenes, tag_class: int | str) -> pd.DataFrame:
    """What the model says of each scene with the tag and of the same scene without it.

    Two rows for each picture: its `class`, `tag`, the class `predicted`, whether that is `right`, and the
    `probability` of `tag_class`, which the tag went with in training. Nothing but the tag differs, so that a change is
    the tag's doing.
    """
    index, names = _tag_class(model, tag_class), model.card.classes
    rows = []
    for start in range(0, len(scenes), BATCH):
        batch = range(start, min(start + BATCH, len(scenes)))
        true = scenes.labels[batch.start : batch.stop]
        for tag in (True, False):
            p = predict(model, [scenes.redraw(i, tag=tag).picture for i in batch])
            best = p.argmax(1)
            found = {
                "class": [names[i] for i in true],
                "tag": tag,
                "predicted": [names[i] for i in best],
                "right": best == true,
                "probability": p[:, index],
            }
            rows.append(pd.DataFrame({"picture": list(batch), **found}))
    return pd.concat(rows, ignore_index=True)


def tag_mass(
    model: nn.Module,
    scenes: Scenes,
    tag_class: int | str,
    names: Sequence[str] = METHODS,
    *,
    alphas: Sequence[float] = (0.7,),
    layers: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """How much of each method's heat for `tag_class` lies on the tag, in scenes that all bear it.

    `tag_mass` and `object_mass` are shares of all heat (NaN for a blank map); `tag_area` is the tag's share of the
    picture, which heat spread evenly would score.
    """
    index, asked, rows = _tag_class(model, tag_class), variants(names, alphas), []
    for start in range(0, len(scenes), BATCH):
        drawn = [scenes.redraw(i, tag=True) for i in range(start, min(start + BATCH, len(scenes)))]
        ex = explain(model, [scene.picture for scene in drawn], layers=layers, target=index)
        for key, heat in _maps(ex, asked, index, start, size="input").items():
            found = {
                "class": [scene.name for scene in drawn],
                "tag_mass": [relevance_mass(h, scene.tag_mask) for h, scene in zip(heat, drawn, strict=True)],
                "object_mass": [relevance_mass(h, scene.mask) for h, scene in zip(heat, drawn, strict=True)],
                "tag_area": [scene.tag_mask.mean() for scene in drawn],
            }
            rows.append(_rows(start, key, found))
    return pd.concat(rows, ignore_index=True)


# What they share ------------------------------------------------------------------------------------------------------


def _tag_class(model: nn.Module, tag_class: int | str) -> int:
    if getattr(model, "card", None) is None or model.card.classes != CLASSES:
        raise ValueError(f"The model must be one of the scenes' classes: {', '.join(CLASSES)}.")
    return resolve_target(tag_class, CLASSES)


def _explained(model: nn.Module, inputs: Any, layers: str | Sequence[str] | None) -> Iterator[tuple[int, Explanation]]:
    """The inputs explained batch by batch, each with the number of its first picture."""
    if len(inputs) == 0:
        raise ValueError("There is no picture to examine; give at least one.")
    for start in range(0, len(inputs), BATCH):
        yield start, explain(model, inputs[start : start + BATCH], layers=layers)


def _maps(
    ex: Explanation, asked: list[tuple[str, float]], target: Any, seed: int, size: Literal["input", "native"] = "native"
) -> dict[tuple[str, float, str], np.ndarray]:
    """The maps `(N, *spatial)` in 0..1 by method, alpha and layer."""
    return {
        (name, alpha, layer): ex.heatmap(
            name, layer=layer, target=target, alpha=0.5 if np.isnan(alpha) else alpha, seed=seed, size=size
        )
        for layer in ex.layers
        for name, alpha in asked
    }


def _shown(heat: np.ndarray) -> np.ndarray:
    """Maps at the size at which SSIM looks at them."""
    return upsample(torch.from_numpy(heat), [max(n, SIDE) for n in heat.shape[1:]]).numpy()


def _blank(heat: np.ndarray) -> np.ndarray:
    return heat.reshape(len(heat), -1).max(1) <= 0


def _rows(start: int, key: tuple[str, float, str], found: dict[str, Any]) -> pd.DataFrame:
    """Tidy rows, one for each picture of a batch."""
    count = next(len(v) for v in found.values() if isinstance(v, (list, np.ndarray)))
    method, alpha, layer = key
    named = {"picture": range(start, start + count), "method": method, "alpha": alpha, "layer": layer}
    return pd.DataFrame({**named, **found})
