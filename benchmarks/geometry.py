"""Where should a cell's heat be drawn? A declared experiment on calibration splits: `python -m benchmarks.geometry`.

Five estimators, each against the plain grid on the same picture, with an interval of 95 %:
- geometric: where strides and paddings centre a cell; effective: the centre of mass of its squared gradients;
- kernel mirror: flip every kernel and the picture; by what shift do the two maps agree best?
- occlusion: cover one small patch after the other; around which place does the cell's answer change?
- mirror: the plain grid, averaged over left-right mirrored inputs.

Three worlds: drawn scenes at layer4, layer3 and layer2; cut-outs of photographs under EfficientNet-Lite0 at blocks.6
and blocks.4; eyes with lesions at the last layer, where each axis is moved or mirrored alone as well. IoU is at each
map's own best threshold; insertion at the scenes' layer4 and layer3.

The rule, declared beforehand: the default is the estimator that is nowhere worse than the grid beyond its interval, and
best in the mean; if none is, the grid stays the default. It counts the rows in which all axes are moved at once.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

import camhelpers as ch
from camhelpers.cam.geometry import upsample
from camhelpers.cam.models import import_torchvision
from camhelpers.datasets import photographs, retinas, scenes
from camhelpers.evaluate import faithfulness, localisation
from camhelpers.evaluate.statistics import paired
from camhelpers.files import results_dir, write_text

SCORES = {"relevance mass": localisation.relevance_mass, "average precision": localisation.average_precision,
          "exact pointing": partial(localisation.pointing_hit, tolerance=0)}  # fmt: skip
FAMILIES = ("resnet18", "resnet50", "vgg16", "densenet121", "efficientnet_b0", "mobilenet_v3_large", "regnet_y_400mf",
            "convnext_tiny", "googlenet", "inception_v3", "video/r3d_18")  # fmt: skip
Key = tuple[str, str, str, str]  # a layer, a method, an axis or "all", an estimator
Shifts = dict[str, dict[str, tuple[float, ...]]]  # for each layer and estimator, pixels off the plain grid on each axis


class World(NamedTuple):
    """A network, what it is shown, and where the objects are."""

    name: str
    model: nn.Module
    layers: tuple[str, ...]
    x: Tensor
    target: list[int]
    masks: list[np.ndarray]
    axes: dict[str, list[int]]
    insertion: tuple[str, ...] = ()


def worlds(n: int, cutouts: int, eyes: int) -> Iterator[World]:
    model, data = ch.load_model("scenes"), scenes.dataset("calibration", n)
    x = torch.stack([model.card.prepare(picture / np.float32(255)) for picture in data.pictures])
    layers, axes = ("layer4", "layer3", "layer2"), {"all": [0, 1]}
    yield World("scenes", model, layers, x, data.labels.tolist(), list(data.masks), axes, layers[:2])

    model = ch.load_model("efficientnet_lite0")
    placed = ch.samples(f"placed:calibration:{cutouts}")
    x = torch.stack([model.card.prepare(shot.pixels) for shot in placed])
    names = [model.card.classes.index(shot.label) for shot in placed]
    edge = (photographs.SIZE - photographs.SEEN) // 2
    masks = [shot.mask[edge:-edge, edge:-edge] for shot in placed]
    yield World("placed", model, ("blocks.6", "blocks.4"), x, names, masks, axes)

    model, data = ch.load_model("retina"), retinas.dataset("val", 3 * eyes // 2)
    chosen = [i for i in range(len(data)) if data.masks[i].any()][:eyes]
    x = torch.stack([model.card.prepare_volume(data.volumes[i, ..., 0] / np.float32(255)) for i in chosen])
    axes = {"all": [0, 1, 2], "z": [0], "y": [1], "x": [2]}
    yield World("retina", model, ("layer4",), x, data.labels[chosen].tolist(), [data.masks[i] for i in chosen], axes)


def activations(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    held = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, out: held.append(out.clone()))
    with torch.inference_mode():
        model(x)
    handle.remove()
    return held[0]


def kernel_mirror(model: nn.Module, layer: str, x: Tensor) -> tuple[float, ...]:
    """The shift that reconciles a layer's maps with those of the mirrored network on the mirrored input.

    A network that sees with mirrored kernels gives the mirrored map, but for cells that strides and paddings displace;
    they do so on the same side in both, so that the two maps lie twice the displacement apart.
    """
    found, where = [], ch.explain(model, x[:1], layers=layer).geometry()
    for axis, (size, (start, jump)) in enumerate(zip(where.size, where.grid, strict=True)):
        twin, dim = deepcopy(model), axis + 2
        for module in twin.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                module.weight.data = module.weight.data.flip(dim)
        both = activations(model, layer, x), activations(twin, layer, x.flip(dim)).flip(dim)
        rows = [A.movedim(dim, -1).flatten(0, -2)[::8] for A in both]
        agreement = {}
        for shift in np.arange(-jump, jump + 0.25, 0.5):
            large = [upsample(row, [size], [(start + by, jump)]) for row, by in zip(rows, (shift, -shift), strict=True)]
            inner = [each[:, size // 4 : -size // 4] for each in large]  # beyond the outermost cells, values are held
            one, other = (each - each.mean(1, keepdim=True) for each in inner)
            agreement[shift] = float((one * other).sum() / (one.norm() * other.norm()))
        found.append(float(max(agreement, key=agreement.get)))
    return tuple(found)


def occlusion(model: nn.Module, layer: str, x: Tensor) -> tuple[float, ...]:
    """The centre of mass of the squared change of a layer's middle cells, when one patch after the other is covered."""
    where, side, dims = ch.explain(model, x[:1], layers=layer).geometry(), 16 if x.ndim == 4 else 8, range(x.ndim - 2)
    corners = list(product(*(range(0, size, side) for size in where.size)))
    centre, offsets = torch.tensor(corners) + (side - 1) / 2, [[] for _ in dims]
    for one in x:
        whole, change = activations(model, layer, one[None]), []
        for start in range(0, len(corners), 32):
            covered = torch.stack([one] * len(corners[start : start + 32]))
            for each, corner in zip(covered, corners[start:], strict=False):
                each[:, *(slice(at, at + side) for at in corner)] = 0  # the mean colour
            change.append((activations(model, layer, covered) - whole).square().sum(1))
        energy = torch.cat(change)
        middle = [np.flatnonzero(abs(np.arange(n) - (n - 1) / 2) <= 1) for n in where.cells]
        for cell, axis in product(product(*middle), dims):
            seen, (start, jump) = energy[:, *cell], where.grid[axis]
            offsets[axis].append(float(seen @ centre[:, axis] / seen.sum()) - start - jump * cell[axis])
    return tuple(float(np.nanmean(off)) for off in offsets)


def measured(world: World) -> Shifts:
    """How far off the plain grid each estimator puts the middle cell of a layer."""
    few, found = world.x[:: max(1, len(world.x) // 8)][:8], {}
    for layer in tqdm(world.layers, f"{world.name}: where cells look", disable=None):
        where = ch.explain(world.model, few[:1], layers=layer).geometry(measure=True)
        middle = [
            start + jump * (n - 1) / 2 - (size - 1) / 2
            for (start, jump), n, size in zip(where.lines, where.cells, where.size, strict=True)
        ]
        mirrored = kernel_mirror(world.model, layer, few if few.ndim == 4 else few[:2])
        covered = occlusion(world.model, layer, few[:4] if few.ndim == 4 else few[:1])
        found[layer] = {"geometric": tuple(middle), "effective": where.effective, "kernel mirror": mirrored,
                        "occlusion": covered}  # fmt: skip
    return found


def maps(ex: ch.Explanation, axes: dict[str, list[int]], shifts: Shifts) -> Iterator[tuple[Key, np.ndarray]]:
    """Every map of an explanation at the model's size, moved along some axes, on the grid along the others."""
    size = tuple(ex.inputs.shape[2:])
    for layer, method in product(ex.layers, ("gradcam", "layercam")):
        where = ex.geometry(layer)
        raw = torch.from_numpy(ex.heat(method, layer=layer, size="native").raw)
        for axis, moved in axes.items():
            still = {*range(len(size))} - {*moved}
            lines = {"grid": None, "geometric": where.centres("geometric", still, size)}
            for name in ("effective", "kernel mirror", "occlusion"):
                lines[name] = replace(where, effective=shifts[layer][name]).centres("effective", still, size)
            for name, centres in lines.items():
                yield (layer, method, axis, name), upsample(raw, size, centres).numpy()
            options = {"layer": layer, "smooth": "mirror", "mirrors": (-1,) if axis == "all" else moved}
            yield (layer, method, axis, "mirror"), ex.heatmap(method, size="model", normalize=False, **options)


def scored(world: World, shifts: Shifts) -> Iterator[tuple[Key, str, list[float]]]:
    """Every score of each map, picture by picture."""
    found, areas = defaultdict(list), defaultdict(list)
    batch = 10 if world.x.ndim == 4 else 1
    for start in tqdm(range(0, len(world.x), batch), world.name, disable=None):
        x, target = world.x[start : start + batch], world.target[start : start + batch]
        ex = ch.explain(world.model, x, layers=list(world.layers), target=target)
        some = dict(maps(ex, world.axes, shifts))
        for key, heats in some.items():
            found[key].extend(heats)
        if keys := [key for key in some if key[0] in world.insertion]:
            stack = np.stack([some[key] for key in keys])
            curves = faithfulness.curves(world.model, x, ex.target, stack, directions=("insertion",), seed=start)
            for key, lines in zip(keys, curves.probability["insertion", "mean"], strict=True):
                areas[key].extend(faithfulness.auc(lines, curves.fractions))
    for key, heats in tqdm(found.items(), "scoring", disable=None):
        iou = partial(localisation.iou, threshold=localisation.calibrate_threshold(heats, world.masks))
        for score, judge in {**SCORES, "IoU": iou}.items():
            yield key, score, [judge(heat, mask) for heat, mask in zip(heats, world.masks, strict=True)]
    yield from ((key, "insertion", values) for key, values in areas.items())


def compared(world: World, shifts: Shifts) -> list[dict]:
    """Each estimator against the grid, paired by picture."""
    values, result = {(key, score): values for key, score, values in scored(world, shifts)}, []
    for (key, score), some in values.items():
        if key[-1] != "grid":
            told = paired(some, values[(*key[:-1], "grid"), score])
            names = dict(zip(("layer", "method", "axis", "estimator"), key, strict=True))
            numbers = {name: told[name] for name in ("difference", "low", "high")}
            result.append({"world": world.name, **names, "score": score, "grid": told["mean_second"], **numbers})
    return result


def families() -> pd.DataFrame:
    """Where the last layer's cells of known networks look, off the plain grid, by strides and paddings alone."""
    models, rows = import_torchvision().models, []
    for name in (*FAMILIES, "efficientnet_lite0"):
        side = (16, 112, 112) if "video" in name else (299, 299) if "inception" in name else (224, 224)
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3", "vgg16") else {}
        ours = name == "efficientnet_lite0"
        net = ch.load_model(name) if ours else models.get_model(name.split("/")[-1], weights=None, **extra)
        ex = ch.explain(net.eval(), torch.zeros(1, 3, *side))
        where = ex.geometry()
        (start, jump), (plain, step), cells = where.lines[-1], where.grid[-1], where.cells[-1]
        away = [start + jump * i - plain - step * i for i in (0, (cells - 1) / 2, cells - 1)]
        rows.append([name.split("/")[-1], ex.layers[-1], side[-1], cells, *away, where.agree])
    columns = ["network", "layer", "pixels", "cells", "first cell", "middle cell", "last cell", "paths agree"]
    return pd.DataFrame(rows, columns=columns)


def ruling(found: pd.DataFrame) -> str:
    """What the declared rule says of these rows."""
    told, fit = "", {"grid": 0.0}
    for name, group in found.groupby("estimator", sort=False):
        better, worse, mean = (group.low > 0).sum(), (group.high < 0).sum(), group.difference.mean()
        told += f"{name}: {mean:+.4f}, better in {better}, worse in {worse} of {len(group)}; "
        fit |= {} if worse else {name: mean}
    return f"{told}the rule says {max(fit, key=fit.get)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.geometry", description=__doc__.split("\n\n")[0])
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--cutouts", type=int, default=40)
    parser.add_argument("--eyes", type=int, default=30)
    asked, out = parser.parse_args(), results_dir("bench")
    rows, shifts = [], []
    for world in worlds(asked.scenes, asked.cutouts, asked.eyes):
        off = measured(world)
        rows += compared(world, off)
        for layer, name in product(off, ("geometric", "effective", "kernel mirror", "occlusion")):
            axes = dict(zip("xyz", reversed(off[layer][name]), strict=False))
            shifts += [{"world": world.name, "layer": layer, "estimator": name, **axes}]
    found = pd.DataFrame(rows)
    for name, table in {"geometry": found, "geometry_shifts": pd.DataFrame(shifts), "families": families()}.items():
        write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.5f"))
        print(table.to_string(index=False, float_format="%.3f"))
    judged = found[found.axis == "all"]
    last = judged[judged.layer.isin(["layer4", "blocks.6"])]
    print("Everywhere:", ruling(judged), "Last layers:", ruling(last), sep="\n")


if __name__ == "__main__":
    main()
