"""What an evaluation costs beside bare forwards and the peers: `python -m benchmarks.evaluate [--quick]`.

The shipped model of the scenes and a ResNet-50, on test pictures with a Grad-CAM, a LayerCAM and a hybrid map each;
zero in normalised space as the baseline, since that is the one that all of them know. Every round times every
contestant once, in an order that turns, so that a busy moment hits all alike; a ratio is the median over rounds of
ratios within a round. The contestants show the model different numbers of pictures, so the time for each picture shown
stands beside the total. Bare forwards are as many as our queue's, over tensors that are ready, in whichever batch and
layout is the fastest.
"""

import argparse
import contextlib
import copy
import csv
import importlib.util
import statistics
import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import camhelpers as ch
from camhelpers.cam.models import import_torchvision
from camhelpers.datasets import scenes
from camhelpers.evaluate import faithfulness
from camhelpers.files import atomic, results_dir

BATCHES = (8, 16, 32, 64)
METHODS = ("gradcam", "layercam", "hybrid")
STEPS = 10
OVER_BARE, FASTER = 1.15, 3  # what our queue promises

Result = tuple[int, float, float]  # pictures shown to the model, mean insertion and deletion AUC


# contestants: (network, pictures, classes, maps, steps) -> Result -----------------------------------------------------


def ours(net: nn.Module, x: Tensor, classes: Tensor, heats: np.ndarray, steps: int) -> Result:
    found = faithfulness.curves(net, x, classes, heats, steps=steps, baselines=["zero"])
    areas = [faithfulness.auc(found.probability[d, "zero"], found.fractions) for d in ("insertion", "deletion")]
    return found.forwards, *(float(area.mean()) for area in areas)


def guide(net: nn.Module, x: Tensor, classes: Tensor, heats: np.ndarray, steps: int) -> Result:
    """One picture, one map, one direction and one step at a time, as the guide's evaluator does it."""
    areas: dict[str, list[float]] = {"insertion": [], "deletion": []}
    shown = 0
    for maps in heats:
        for picture, target, heat in zip(x, classes, maps, strict=True):
            order = np.argsort(-heat.ravel())
            for direction, found in areas.items():
                scores = []
                for count in np.linspace(0, heat.size, steps + 1).astype(int):
                    masked = picture.clone() if direction == "deletion" else torch.zeros_like(picture)
                    pixels = torch.from_numpy(order[:count])
                    source = torch.zeros_like(picture) if direction == "deletion" else picture
                    masked.flatten(1)[:, pixels] = source.flatten(1)[:, pixels]
                    with torch.no_grad():
                        scores.append(net(masked[None]).softmax(1)[0, target].item())
                    shown += 1
                found.append(np.trapezoid(scores) / steps)
    return shown, float(np.mean(areas["insertion"])), float(np.mean(areas["deletion"]))


class Given:
    """An extractor as torch-cam wants one, which hands out maps that exist already."""

    def __init__(self, model: nn.Module, heat: Tensor):
        self.model, self.heat = model, heat

    def __call__(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Return the map, whatever is asked for."""
        return [self.heat]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        """Return the only map."""
        return cams[0]

    def _hooks_off(self) -> contextlib.nullcontext:
        return contextlib.nullcontext()


def torchcam(net: nn.Module, x: Tensor, classes: Tensor, heats: np.ndarray, steps: int) -> Result:
    from torchcam.metrics import DeletionInsertionMetric

    found = []
    for maps in heats:
        metric = DeletionInsertionMetric(Given(net, torch.from_numpy(maps)), lambda z: z.softmax(-1), steps=steps)
        with torch.inference_mode():
            metric.update(x, classes.tolist())
        found.append(metric.summary())
    shown = len(heats) * len(x) * (2 + 2 * (steps - 1))
    return shown, *(float(np.mean([f[key] for f in found])) for key in ("insertion_auc", "deletion_auc"))


def quantus(net: nn.Module, x: Tensor, classes: Tensor, heats: np.ndarray, steps: int) -> Result:
    """Pixel flipping: deletion only, by single values of colour, and its curve leaves the whole picture out."""
    from quantus import PixelFlipping

    values = x[0, 0].numel() // 4  # the step must divide the pixels; times three channels, so it takes twelve
    metric = PixelFlipping(features_in_step=values, perturb_baseline=0.0, disable_warnings=True)
    areas = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for maps in heats:
            curves = metric(net, x.numpy(), classes.numpy(), maps[:, None], softmax=True, channel_first=True)
            areas.append(np.trapezoid(np.array(curves), axis=1).mean() / (len(curves[0]) - 1))
    return len(heats) * len(x) * len(curves[0]), np.nan, float(np.mean(areas))


CONTESTANTS: dict[str, tuple[str, Callable[..., Result]]] = {
    "ours": ("camhelpers: one queue", ours),
    "guide": ("the guide: one at a time", guide),
    "torchcam": ("torch-cam: insertion and deletion", torchcam),
    "quantus": ("Quantus: pixel flipping (deletion only)", quantus),
}


# measuring ------------------------------------------------------------------------------------------------------------


def bare(net: nn.Module, ready: Tensor, forwards: int) -> Result:
    with torch.inference_mode():
        for _ in range(forwards // len(ready)):
            net(ready)
        if rest := forwards % len(ready):
            net(ready[:rest])
    return forwards, np.nan, np.nan


def measure(
    name: str,
    net: nn.Module,
    x: Tensor,
    layer: str,
    contestants: dict[str, tuple[str, Callable[..., Result]]],
    rounds: int,
    batches: tuple[int, ...],
) -> dict[str, dict[str, Any]]:
    """A row of the table for each contestant on one network, and one for bare forwards."""
    ex = ch.explain(net, x, layers=layer)
    classes, heats = ex.capture.classes(), np.stack([ex.heatmap(method) for method in METHODS])
    calls: dict[str, Callable[[], Result]] = {
        key: lambda f=f: f(net, x, classes, heats, STEPS) for key, (_, f) in contestants.items()
    }
    forwards = calls["ours"]()[0]
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    for batch in batches:
        ready = x.repeat(-(-batch // len(x)), 1, 1, 1)[:batch]
        packed = ready.contiguous(memory_format=torch.channels_last)
        calls[f"bare {batch}, as it is"] = lambda r=ready: bare(net, r, forwards)
        calls[f"bare {batch}, channels last"] = lambda r=packed: bare(last, r, forwards)

    seconds: dict[str, list[float]] = {key: [] for key in calls}
    results: dict[str, Result] = {}
    for i in tqdm(range(-1, rounds), desc=f"{name}, rounds", disable=None):
        order = list(calls)
        for key in order[i % len(order) :] + order[: i % len(order)]:
            start = perf_counter()
            results[key] = calls[key]()
            if i >= 0:  # the first round is for warming up
                seconds[key].append(perf_counter() - start)

    best = min((key for key in calls if key.startswith("bare")), key=lambda key: statistics.median(seconds[key]))
    rows = {}
    for key in [best, *contestants]:
        shown, insertion, deletion = results[key]
        each = [s / shown for s in seconds[key]]
        over_bare = [e / (b / forwards) for e, b in zip(each, seconds[best], strict=True)]
        over_ours = [s / o for s, o in zip(seconds[key], seconds["ours"], strict=True)]
        rows["bare" if key == best else key] = {
            "network": name,
            "contestant": f"bare forwards, batch {best[5:]}" if key == best else contestants[key][0],
            "pictures": len(x),
            "maps": len(METHODS),
            "steps": STEPS,
            "rounds": rounds,
            "forwards": shown,
            "seconds": round(statistics.median(seconds[key]), 4),
            "ms_per_forward": round(1000 * statistics.median(each), 4),
            "over_bare_per_forward": round(statistics.median(over_bare), 3),
            "total_over_ours": round(statistics.median(over_ours), 3),
            "insertion_auc": round(insertion, 4),
            "deletion_auc": round(deletion, 4),
            "threads": torch.get_num_threads(),
        }
    return rows


def show(rows: dict[str, dict[str, Any]]) -> None:
    for row in rows.values():
        print(
            f"{row['contestant']:42} {row['seconds']:8.3f} s  {row['forwards']:6d} forwards  "
            f"{row['ms_per_forward']:6.2f} ms each = {row['over_bare_per_forward']:5.2f} x bare  "
            f"{row['total_over_ours']:5.2f} x ours"
        )
    over, faster = rows["ours"]["over_bare_per_forward"], rows["guide"]["total_over_ours"]
    print(
        f"{'pass' if over <= OVER_BARE else 'FAIL'}: our queue takes {over:.2f} of bare forwards (at most {OVER_BARE})"
    )
    print(f"{'pass' if faster >= FASTER else 'FAIL'}: {faster:.2f} times faster than the guide (at least {FASTER})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pictures and rounds, to see that it runs")
    quick = parser.parse_args().quick
    tv = import_torchvision()  # which two of the peers load
    contestants = dict(CONTESTANTS)
    if importlib.util.find_spec("quantus") is None:
        print("Quantus is not installed and left out; pip install quantus adds it.")
        contestants.pop("quantus")

    net = ch.load_model("scenes")
    pictures = scenes.dataset("test", 4 if quick else 16).pictures
    x = torch.stack([net.card.prepare(picture / np.float32(255)) for picture in pictures])
    tables = [measure("scenes", net, x, "layer3", contestants, 2 if quick else 7, BATCHES)]
    show(tables[0])
    if not quick:
        torch.manual_seed(0)  # random weights: what is timed does not depend on their values, its scores mean nothing
        tables.append(measure("resnet50", tv.models.resnet50().eval(), x[:4], "layer3", contestants, 3, BATCHES[:2]))
        show(tables[1])

    rows = [row for table in tables for row in table.values()]
    path = results_dir("bench") / "evaluate.csv"
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"written: {path.relative_to(ch.ROOT)}")


if __name__ == "__main__":
    main()
