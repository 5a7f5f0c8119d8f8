"""Does a heatmap depend on what it claims to explain? Randomised weights, other classes, and a spurious tag."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import entropy
from torch import Tensor, nn

from ..cam.capture import resolve_target
from ..cam.explain import Explanation, explain, predict
from ..datasets.scenes import Scene, Scenes
from .controls import judge
from .faithfulness import part_importance
from .localisation import part_correlation, rank_correlation, relevance_mass

BATCH = 32
METHODS = ("gradcam", "layercam", "hybrid")
SEEDS = (0, 1, 2)
"""Of the random weights: one draw may leave a map alone by chance."""
Maps = dict[tuple[str, str], np.ndarray]  # of a batch in 0..1, by method and layer


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
    return children[::-1]


def _with_parameters(model: nn.Module, name: str) -> list[str]:
    prefix = f"{name}." if name else ""
    return [prefix + n for n, m in model.get_submodule(name).named_children() if any(True for _ in m.parameters())]


def randomised(model: nn.Module, names: Sequence[str], seed: int = 0) -> nn.Module:
    """A copy of `model` whose parts `names` have fresh weights; `model` itself is never touched.

    A part's weights depend on its name and the seed alone, whatever else is randomised beside it.
    """
    order, device = parts(model), next(model.parameters()).device
    net = copy.deepcopy(model).cpu()  # one generator, and so the same weights, whatever the device
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name in names:
            torch.manual_seed(1000 * seed + order.index(name))
            for module in net.get_submodule(name).modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
                else:  # weights of a home-made module: nobody knows how they began, so they change places
                    for weight in module.parameters(recurse=False):
                        weight.copy_(weight.flatten()[torch.randperm(weight.numel())].view_as(weight))
    return net.to(device)


def randomisation(
    model: nn.Module, inputs: Any, names: Sequence[str] = METHODS, *, layers: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """Each method's map after parts of the model lost what they had learned, against its map before (Adebayo, 2018).

    Parts are randomised from the head down, each step with all steps before it; the class explained stays the one that
    the model predicted. `inputs`: a list of pictures, or a tensor `(N, C, *spatial)`. The `spearman` of the two maps,
    at the layer's own resolution, for each picture, method, layer, seed and step. A method that explains the model must
    lose its map; one whose correlation stays near 1 draws edges.
    """
    order, before, rows = parts(model), [], []
    for start, ex in explained(model, inputs, layers):
        asked = {"layers": ex.layers, "target": ex.target}
        before.append((start, ex.inputs, asked, maps(ex, names, ex.target, start)))
    for seed in SEEDS:
        for step, part in enumerate(order, 1):
            net = randomised(model, order[:step], seed)
            for start, x, asked, old in before:
                new = explain(net, x, **asked)
                for key, heat in maps(new, names, new.target, start).items():
                    found = {"seed": seed, "step": step, "part": part, "spearman": rank_correlation(old[key], heat)}
                    rows.append(tidy(start, key, found))
    return pd.concat(rows, ignore_index=True)


def efficient_mprt(
    model: nn.Module, inputs: Any, names: Sequence[str] = METHODS, *, layers: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """How much more complex each map gets when all weights are random (eMPRT; Hedström et al., 2023), as a share.

    The complexity is the entropy of the map's histogram of 100 bins, at the size of the model's input. A method that
    explains the model should show more disorder in a random one, a `rise` above 0. NaN where either map is flat.
    """
    order, rows = parts(model), []
    nets = {seed: randomised(model, order, seed) for seed in SEEDS}
    for start, ex in explained(model, inputs, layers):
        old = maps(ex, names, ex.target, start, size="model")
        for seed, net in nets.items():
            new = explain(net, ex.inputs, layers=ex.layers, target=ex.target)
            for key, heat in maps(new, names, ex.target, start, size="model").items():
                rise = _disorder(heat) / _disorder(old[key]) - 1
                rows.append(tidy(start, key, {"seed": seed, "rise": rise}))
    return pd.concat(rows, ignore_index=True)


def _disorder(heats: np.ndarray) -> np.ndarray:
    return entropy([np.histogram(heat, 100)[0] if np.ptp(heat) else [np.nan] * 100 for heat in heats], axis=1)


def class_sensitivity(
    model: nn.Module, inputs: Any, names: Sequence[str] = METHODS, *, layers: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """The rank correlation of the maps for the most and for the least likely class, for each picture.

    Near 1, the method draws the same map whatever it is asked. NaN where either map is blank.
    """
    rows = []
    for start, ex in explained(model, inputs, layers):
        most = maps(ex, names, ex.capture.logits.argmax(1), start)
        least = maps(ex, names, ex.capture.logits.argmin(1), start)
        rows += [tidy(start, key, {"spearman": rank_correlation(heat, least[key])}) for key, heat in most.items()]
    return pd.concat(rows, ignore_index=True)


# A spurious tag -------------------------------------------------------------------------------------------------------


def reliance(model: nn.Module, scenes: Scenes, tag_class: int | str) -> pd.DataFrame:
    """What the model says of each scene with the tag and of the same scene without it.

    Two rows for each picture: its `class`, `tag`, whether the prediction is `right`, and the `probability` of
    `tag_class`, which the tag went with in training. Nothing but the tag differs, so that a change is the tag's doing.
    """
    names, true = model.card.classes, np.asarray(scenes.labels)
    rows = []
    for tag in (True, False):
        p = predict(model, [scenes.redraw(i, tag=tag).picture for i in range(len(scenes))])
        rows.append(pd.DataFrame({
            "picture": range(len(scenes)), "class": [names[i] for i in true], "tag": tag, "right": p.argmax(1) == true,
            "probability": p[:, resolve_target(tag_class, names)],
        }))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def tag_mass(
    model: nn.Module, scenes: Scenes, tag_class: int | str, names: Sequence[str] = METHODS, *,
    layers: str | Sequence[str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The share of each method's heat for `tag_class` that lies on the tag, in scenes that all have it.

    With everything that a method must beat, so that `gate` can judge it. NaN for a blank map.
    """
    drawn = [scenes.redraw(i, tag=True) for i in range(len(scenes))]
    masks = [scene.tag_mask for scene in drawn]
    return judge(
        model, [scene.picture for scene in drawn], "tag_mass", lambda heat, i: relevance_mass(heat, masks[i]),
        methods=names, layers=layers, target=tag_class, oracle=lambda i: masks[i].astype(np.float32),
    )  # fmt: skip


# Causes ---------------------------------------------------------------------------------------------------------------


def causes(
    model: nn.Module, drawn: Sequence[Scene], names: Sequence[str] = METHODS, *,
    layers: str | Sequence[str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Whether parts of drawn scenes are hot because the score depends on them: `part_correlation` for each map.

    With everything that a method must beat, so that `gate` can judge it; the oracle paints each part with its drop.
    """
    drops = [part_importance(model, scene) for scene in drawn]

    def painted(i: int) -> np.ndarray:
        least = min(drops[i].values(), default=0)
        painted = [(drop - least) * drawn[i].parts[part] for part, drop in drops[i].items()]
        return np.sum([np.zeros(drawn[i].mask.shape), *painted], 0, np.float32)

    return judge(
        model, [scene.picture for scene in drawn], "part_correlation",
        lambda heat, i: part_correlation(drops[i], heat, drawn[i].parts), methods=names, layers=layers, oracle=painted,
    )  # fmt: skip


# What they share ------------------------------------------------------------------------------------------------------


def explained(model: nn.Module, inputs: Any, layers: str | Sequence[str] | None) -> Iterator[tuple[int, Explanation]]:
    """The inputs explained batch by batch, each with the number of its first picture."""
    for start in range(0, len(inputs), BATCH):
        yield start, explain(model, inputs[start : start + BATCH], layers=layers)


def maps(ex: Explanation, names: Sequence[str], target: Any, seed: int, size: str = "native") -> Maps:
    """Every method's map at every layer."""
    return {
        (name, layer): ex.heatmap(name, layer=layer, target=target, seed=seed, size=size)
        for layer in ex.layers
        for name in names
    }


def tidy(start: int, key: tuple[str, str], found: dict[str, Any]) -> pd.DataFrame:
    """Tidy rows, one for each picture of a batch."""
    table = pd.DataFrame({"method": key[0], "layer": key[1], **found})
    table.insert(0, "picture", table.index + start)
    return table


def noisy(x: Tensor, draw: Callable[..., Tensor], scale: float, samples: int, start: int) -> Iterator[Tensor]:
    """Copies of a batch with noise, `scale` of an input's value range; it depends on the input's number alone."""
    generators = [torch.Generator().manual_seed(start + i) for i in range(len(x))]
    widths = scale * (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, *[1] * (x.ndim - 1))
    for _ in range(samples):
        yield x + widths * torch.stack([draw(x.shape[1:], generator=g) for g in generators]).to(x)
