"""Where should a cell's heat be drawn? A declared experiment on calibration splits: `python -m benchmarks.geometry`.

The plain grid; the geometric and the effective centre; the mean over left-right mirrored inputs, on the grid: each
against the grid on the same picture, with an interval of 95 %. Calibration scenes at layer4, layer3 and layer2, and
validation eyes with lesions at the last layer, where each axis is moved or mirrored alone as well. IoU is at each
map's own best threshold; insertion at the scenes' layer4 and layer3.

The rule, declared beforehand: the default is the estimator that is nowhere worse than the grid beyond its interval, and
best in the mean; if none is, the grid stays the default. It counts the rows in which all axes are moved at once.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import camhelpers as ch
from camhelpers.cam.geometry import upsample
from camhelpers.datasets import retinas, scenes
from camhelpers.evaluate import faithfulness, localisation
from camhelpers.evaluate.statistics import paired
from camhelpers.files import results_dir, write_text

SCORES = {"relevance mass": localisation.relevance_mass, "average precision": localisation.average_precision,
          "exact pointing": partial(localisation.pointing_hit, tolerance=0)}  # fmt: skip
Key = tuple[str, str, str, str]  # a layer, a method, an axis or "all", an estimator


def maps(ex: ch.Explanation, axes: dict[str, list[int]]) -> Iterator[tuple[Key, np.ndarray]]:
    """Every map of an explanation at the model's size, moved along some axes, on the grid along the others."""
    size = tuple(ex.inputs.shape[2:])
    for layer, method in product(ex.layers, ("gradcam", "layercam")):
        where = ex.geometry(layer, measure=True)
        raw = torch.from_numpy(ex.heat(method, layer=layer, size="native").raw)
        for axis, moved in axes.items():
            for place in ("grid", "geometric", "effective"):
                lines = None if place == "grid" else where.centres(place, {*range(len(size))} - {*moved}, size)
                yield (layer, method, axis, place), upsample(raw, size, lines).numpy()
            options = {"layer": layer, "smooth": "mirror", "mirrors": (-1,) if axis == "all" else moved}
            yield (layer, method, axis, "mirror"), ex.heatmap(method, size="model", normalize=False, **options)


def scored(found: dict[Key, list[np.ndarray]], masks: list[np.ndarray]) -> Iterator[tuple[Key, str, list[float]]]:
    """The scores of localisation for each map and picture."""
    for key, heats in tqdm(found.items(), "scoring", disable=None):
        iou = partial(localisation.iou, threshold=localisation.calibrate_threshold(heats, masks))
        for score, judge in {**SCORES, "IoU": iou}.items():
            yield key, score, [judge(heat, mask) for heat, mask in zip(heats, masks, strict=True)]


def of_scenes(n: int) -> Iterator[tuple[Key, str, list[float]]]:
    model, data = ch.load_model("scenes"), scenes.dataset("calibration", n)
    found, areas = defaultdict(list), defaultdict(list)
    for start in tqdm(range(0, n, 10), "scenes", disable=None):
        x = torch.stack([model.card.prepare(p / np.float32(255)) for p in data.pictures[start : start + 10]])
        ex = ch.explain(model, x, layers=["layer4", "layer3", "layer2"])
        some = dict(maps(ex, {"all": [0, 1]}))
        for key, heats in some.items():
            found[key].extend(heats)
        keys = [key for key in some if key[0] != "layer2"]
        stack = np.stack([some[key] for key in keys])
        curves = faithfulness.curves(model, x, ex.target, stack, directions=("insertion",), seed=start)
        for key, lines in zip(keys, curves.probability["insertion", "mean"], strict=True):
            areas[key].extend(faithfulness.auc(lines, curves.fractions))
    yield from scored(found, list(data.masks))
    yield from ((key, "insertion", values) for key, values in areas.items())


def of_eyes(n: int) -> Iterator[tuple[Key, str, list[float]]]:
    model, data, found = ch.load_model("retina"), retinas.dataset("val", 3 * n // 2), defaultdict(list)
    chosen = [i for i in range(len(data)) if data.masks[i].any()][:n]
    for i in tqdm(chosen, "eyes", disable=None):
        ex = ch.explain(model, [data.volumes[i, ..., 0] / np.float32(255)], target=int(data.labels[i]))
        for key, heats in maps(ex, {"all": [0, 1, 2], "z": [0], "y": [1], "x": [2]}):
            found[key].extend(heats)
    yield from scored(found, [data.masks[i] for i in chosen])


def compared(world: str, rows: Iterator[tuple[Key, str, list[float]]]) -> list[dict]:
    """Each estimator against the grid, paired by picture."""
    values, result = {(key, score): values for key, score, values in rows}, []
    for (key, score), some in values.items():
        if key[-1] != "grid":
            told = paired(some, values[(*key[:-1], "grid"), score])
            names = dict(zip(("layer", "method", "axis", "estimator"), key, strict=True))
            numbers = {name: told[name] for name in ("difference", "low", "high")}
            result.append({"world": world, **names, "score": score, "grid": told["mean_second"], **numbers})
    return result


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
    parser.add_argument("--eyes", type=int, default=30)
    asked = parser.parse_args()
    found = pd.DataFrame(compared("scenes", of_scenes(asked.scenes)) + compared("retina", of_eyes(asked.eyes)))
    write_text(results_dir("bench") / "geometry.csv", found.to_csv(index=False, float_format="%.5f"))
    print(found.to_string(index=False, float_format="%.3f"))
    judged = found[found.axis == "all"]
    print("Everywhere:", ruling(judged), "Last layers:", ruling(judged[judged.layer == "layer4"]), sep="\n")


if __name__ == "__main__":
    main()
