"""Which explanation is better: every method on every picture by every metric, in one tidy table.

Each finished batch is kept as a file, so that an interrupted evaluation goes on where it stopped.
"""

import hashlib
import inspect
import json
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..cam import methods
from ..cam.explain import explain, upsample
from ..cam.models import Card, layer_name, model_hash
from ..datasets.samples import Sample
from ..files import ROOT, results_dir, sha256, write_text
from . import faithfulness
from . import localisation as metrics

FAITHFULNESS = (
    "insertion", "deletion", "insertion_logit", "deletion_logit", "insertion_rescaled", "deletion_rescaled",
    "road_most", "road_least", "confidence_drop", "confidence_increase",
)  # fmt: skip
LOCALISATION: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "pointing_game": metrics.pointing_hit,
    "pointing_exact": partial(metrics.pointing_hit, tolerance=0),
    "relevance_mass": metrics.relevance_mass,
    "relevance_rank": metrics.relevance_rank,
    "average_precision": lambda heat, mask: metrics.pxap([heat], [mask]),
    "lift": metrics.lift,
    "lift_over_centre": lambda heat, mask: metrics.lift(heat, mask, metrics.centre_prior(heat.shape)),
}
METRICS = (*FAITHFULNESS, *LOCALISATION, "iou")
DEFAULTS = ("insertion", "deletion", "pointing_game", "relevance_mass", "relevance_rank", "average_precision")
ALPHA = 0.7
ORACLE = "oracle"
"""The mask itself as heat: what a perfect localisation would score. Where pixels are ranked, see `metrics.oracle`."""
COLUMNS = ("picture", "class", "method", "alpha", "layer", "metric", "baseline", "steps", "seed", "value", "seconds")


@dataclass(frozen=True)
class Conditions:
    """What a reader must know to judge a table; None where a condition has no part in it.

    >>> str(Conditions(n=60, steps=32, baseline="mean", layer="layer4", model="0c5a9e1f2b3d", seed=0))
    'n = 60, steps = 32, baseline = mean, layer = layer4, model = 0c5a9e1f2b3d, seed = 0'
    """

    n: int
    steps: int | None
    baseline: str | None
    layer: str | None
    model: str
    """The hash of its weights, as `model_hash` gives it."""
    seed: int

    def __str__(self) -> str:
        return ", ".join(f"{name} = {'none' if value is None else value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Evaluation:
    """What was measured: a tidy table, the curves behind it, the pictures that failed, and under which conditions."""

    table: pd.DataFrame
    curves: pd.DataFrame
    failed: dict[str, str]
    about: dict[str, Any]

    def conditions(self, **changes: Any) -> Conditions:
        """What every table written from this must name."""
        a = self.about
        given = {"baseline": ", ".join(a["baselines"]), "layer": ", ".join(a["layers"]), "model": a["model_hash"]}
        return Conditions(**{"n": a["n"], "steps": a["steps"], "seed": a["seed"], **given, **changes})


class _Map(NamedTuple):
    """One method at one alpha and layer; `index` finds its maps among those that differ."""

    method: str
    alpha: float
    layer: str
    index: int
    seconds: float


# Measuring ------------------------------------------------------------------------------------------------------------


def evaluate(
    model: nn.Module,
    samples: Sequence[Sample],
    *,
    methods: Sequence[str] = ("gradcam", "layercam", "hybrid"),
    alphas: Sequence[float] = (ALPHA,),
    layers: Sequence[str] = (),
    metrics: Sequence[str] = (),
    baselines: Sequence[str] = ("mean",),
    steps: int = 10,
    thresholds: Mapping[tuple[str, str], float] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    batch: int = 16,
    progress: bool = False,
) -> Evaluation:
    """Measure methods, and the controls and the oracle beside them, on pictures that are explained for their top class.

    `layers`: the last stage unless given. `metrics`: `DEFAULTS` unless given, those against masks where there are some.
    `thresholds`: for the metric `iou`, from `calibrate`. With `out`, finished batches are kept in `out/parts` and never
    measured twice. Everything is seen as the model sees it, in its own size. `seconds` are those that a map took for
    one picture of its batch, from the picture on: the pass, which all methods share, and the method.

    >>> from camhelpers import load_model, pictures
    >>> found = evaluate(load_model("scenes"), pictures("gallery", 2), methods=["gradcam"], metrics=["relevance_mass"])
    >>> found.table.method.tolist()
    ['gradcam', 'gradcam', 'random', 'random', 'centre', 'centre', 'oracle', 'oracle']
    """
    card = _card(model)
    some = list(samples)
    plan = {
        "variants": variants(methods, alphas),
        "layers": [layer_name(model, layer) for layer in layers] or [layer_name(model)],
        "metrics": _metrics(metrics, some, thresholds),
        "baselines": list(baselines),
        "steps": steps,
        "thresholds": {f"{name} {layer}": t for (name, layer), t in (thresholds or {}).items()},
        "seed": seed,
    }
    _check(plan, some, card, batch)
    weights = model_hash(model)
    depends = [plan, weights, asdict(card), _sources(), _custom(plan), torch.__version__, np.__version__]
    folder = None if out is None else results_dir("parts", out=out)

    parts, kept, start = [], set(), perf_counter()
    with tqdm(total=len(some), desc="evaluating", unit="picture", disable=None if progress else True) as bar:
        for first in range(0, len(some), batch):
            numbered = dict(enumerate(some[first : first + batch], first))
            listed = [(i, s.name, s.key) for i, s in numbered.items()]
            print_of = hashlib.sha256(json.dumps([depends, listed]).encode()).hexdigest()
            path = folder and folder / f"{print_of}.json"
            if path and path.is_file():
                text = path.read_text(encoding="utf-8")
            else:
                text = json.dumps(_part(model, card, numbered, plan))
                if path:
                    write_text(path, text)
            parts.append(json.loads(text))  # what was kept and what is new go the same way, to the last digit
            kept.add(path)
            bar.update(len(numbered))
            if progress and not sys.stderr.isatty():
                done, seconds = first + len(numbered), perf_counter() - start
                print(f"{done} of {len(some)} pictures, {seconds:.0f} s", file=sys.stderr, flush=True)

    failed, seen = ({k: v for part in parts for k, v in part[kind].items()} for kind in ("failed", "seen"))
    if not seen:
        raise ValueError(f"None of the {len(some)} pictures could be read; {next(iter(failed.values()))}")
    if folder:  # those of other parameters or weights, or of pictures that have changed
        for path in set(folder.glob("*.json")) - kept:
            if re.fullmatch("[0-9a-f]{64}", path.stem):  # ours
                path.unlink()
    table = pd.DataFrame([row for part in parts for row in part["rows"]], columns=list(COLUMNS))
    names = ["picture", "class", "method", "alpha", "layer", "metric", "baseline", "fraction", "probability"]
    curves = pd.DataFrame([row for part in parts for row in part["curves"]], columns=names)
    curves = curves.explode(["fraction", "probability"], ignore_index=True).astype({n: float for n in names[-2:]})
    judged = [right for right in seen.values() if right is not None]
    about = {
        "model": card.name,
        "model_hash": weights,
        "n": len(seen),
        "masks": sum(s.masked and s.name in seen for s in some),
        "accuracy": sum(judged) / len(judged) if judged else None,
        **{key: plan[key] for key in ("layers", "metrics", "baselines", "steps", "thresholds", "seed")},
        "methods": [variant(*v) for v in plan["variants"]],
        "batch": batch,
    }
    return Evaluation(table.astype({"alpha": float, "value": float, "steps": "Int64"}), curves, failed, about)


def calibrate(
    model: nn.Module,
    samples: Sequence[Sample],
    *,
    methods: Sequence[str] = ("gradcam", "layercam", "hybrid"),
    alphas: Sequence[float] = (ALPHA,),
    layers: Sequence[str] = (),
    seed: int = 0,
    batch: int = 16,
) -> dict[tuple[str, str], float]:
    """The threshold for `iou` of each method and layer, chosen on pictures that are not evaluated afterwards."""
    card = _card(model)
    some = [s for s in samples if s.masked]
    names = [layer_name(model, layer) for layer in layers] or [layer_name(model)]
    plan = {"variants": variants(methods, alphas), "layers": names}
    if not some:
        raise ValueError("A threshold is chosen against masks, and none of these pictures has one.")
    _check_batch(batch)
    heats: dict[tuple[str, str], list[np.ndarray]] = {}
    masks: list[np.ndarray] = []
    for first in range(0, len(some), batch):
        read = [s.read() for s in some[first : first + batch]]
        x = torch.stack([card.prepare(pixels) for pixels, _ in read])
        _, _, maps, stack = _explained(model, x, plan, [seed + first + i for i in range(len(x))])
        masks += [_as_seen(mask, card) for _, mask in read]
        for m in maps:
            heats.setdefault((variant(m.method, m.alpha), m.layer), []).extend(stack[m.index])
    return {key: metrics.calibrate_threshold(held, masks) for key, held in heats.items()} | {
        (ORACLE, n): 1.0 for n in names
    }


def variant(method: str, alpha: float) -> str:
    """A method with its alpha, as comparisons name it.

    >>> variant("hybrid", 0.7), variant("gradcam", float("nan"))
    ('hybrid@0.7', 'gradcam')
    """
    return method if np.isnan(alpha) else f"{method}@{alpha:g}"


def _part(model: nn.Module, card: Card, numbered: Mapping[int, Sample], plan: dict[str, Any]) -> dict[str, Any]:
    """Everything about one batch, ready for JSON."""
    loaded: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
    part: dict[str, Any] = {"failed": {}, "seen": {}, "rows": [], "curves": []}
    for i, s in numbered.items():
        try:
            loaded[i] = s.read()
        except (ValueError, TypeError, OSError) as error:
            part["failed"][s.name] = str(error)
    if not loaded:
        return part
    pictures, seeds = [numbered[i] for i in loaded], [plan["seed"] + i for i in loaded]
    masks = [None if mask is None else _as_seen(mask, card) for _, mask in loaded.values()]
    prepared = torch.stack([card.prepare(pixels) for pixels, _ in loaded.values()])
    x, classes, maps, stack = _explained(model, prepared, plan, seeds)
    ranked = stack
    if any(mask is not None for mask in masks):
        perfect = [np.zeros(stack.shape[2:], bool) if mask is None else mask for mask in masks]
        ranked = np.concatenate([stack, np.asarray([[metrics.oracle(mask) for mask in perfect]])])
        stack = np.concatenate([stack, np.asarray([perfect], np.float32)])
        maps += [_Map(ORACLE, np.nan, layer, len(stack) - 1, np.nan) for layer in plan["layers"]]
    scores, lines, fractions = _faithfulness(model, x, classes, stack, ranked, plan, seeds)
    scores |= _localisation(stack, masks, plan["metrics"])

    labels = [card.classes[c] if card.classes else str(c) for c in classes.tolist()]
    for p, label in zip(pictures, labels, strict=True):
        part["seen"][p.name] = label == p.label if p.label in card.classes else None
    for m in maps:
        here = dict(scores)
        if "iou" in plan["metrics"]:
            t = plan["thresholds"][f"{variant(m.method, m.alpha)} {m.layer}"]
            here["iou", "none", None] = {m.index: _each(partial(metrics.iou, threshold=t), stack[[m.index]], masks)[0]}
        for i, (p, label) in enumerate(zip(pictures, labels, strict=True)):
            if m.method == ORACLE and masks[i] is None:
                continue
            who = [p.name, label, m.method, m.alpha, m.layer]
            part["rows"] += [
                [*who, metric, baseline, steps, plan["seed"], float(values[m.index][i]), m.seconds]
                for (metric, baseline, steps), values in here.items()
                if masks[i] is not None or metric in FAITHFULNESS
            ]
            part["curves"] += [
                [*who, metric, baseline, fractions, line[m.index, i].tolist()]
                for (metric, baseline), line in lines.items()
            ]
    return part


def _explained(
    model: nn.Module, x: Tensor, plan: dict[str, Any], seeds: list[int]
) -> tuple[Tensor, Tensor, list[_Map], np.ndarray]:
    """The pictures where the model is, their classes, and the maps: `(M, N, *spatial)`, each that differs once.

    Fused and compared at the layer's own resolution: the hybrid at its ends is Grad-CAM and LayerCAM to the last bit.
    """
    start = perf_counter()
    ex = explain(model, x, layers=plan["layers"])
    ex.capture.gradients(ex.target)
    shared = perf_counter() - start
    maps, stack, known = [], [], {}
    for layer in plan["layers"]:
        for method, alpha in plan["variants"]:
            for _ in range(2):  # the second is timed; whoever comes first pays for warming up
                start = perf_counter()
                heat = ex.heatmap(
                    method, layer=layer, alpha=ALPHA if np.isnan(alpha) else alpha, seed=seeds, size="native"
                )
                large = upsample(torch.from_numpy(heat), x.shape[2:]).numpy()
                took = perf_counter() - start
            index = known.setdefault((heat.shape, heat.tobytes()), len(stack))
            if index == len(stack):
                stack.append(large)
            maps.append(_Map(method, alpha, layer, index, (shared + took) / len(x)))
    return ex.inputs, ex.target, maps, np.stack(stack)


def _faithfulness(
    model: nn.Module,
    x: Tensor,
    classes: Tensor,
    stack: np.ndarray,
    ranked: np.ndarray,
    plan: dict[str, Any],
    seeds: list[int],
) -> tuple[dict[tuple[str, str, int | None], np.ndarray], dict[tuple[str, str], np.ndarray], list[float]]:
    """Scores `(M, N)` by metric, baseline and steps, and the curves that they are the areas of."""
    wanted, scores, lines, fractions = plan["metrics"], {}, {}, []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* maps are constant")  # counted as missing in every table
        if directions := [d for d in ("insertion", "deletion") if any(m.startswith(d) for m in wanted)]:
            found = faithfulness.curves(
                model, x, classes, ranked, steps=plan["steps"], baselines=plan["baselines"], directions=directions,
                seed=seeds,
            )  # fmt: skip
            lines, fractions = found.probability, found.fractions.tolist()
            for (d, baseline), line in lines.items():
                areas = {
                    d: faithfulness.auc(line, found.fractions),
                    f"{d}_logit": faithfulness.auc(found.logit[d, baseline], found.fractions),
                    f"{d}_rescaled": faithfulness.rescaled_auc(line, found.fractions, d),
                }
                scores |= {(m, baseline, plan["steps"]): values for m, values in areas.items() if m in wanted}
        if sides := [d for d in ("most", "least") if f"road_{d}" in wanted]:
            found = faithfulness.road(model, x, classes, ranked, directions=sides, seed=seeds)
            count = len(found.fractions) - 1
            for d in sides:
                scores[f"road_{d}", "linear", count] = faithfulness.auc(found.probability[d, "linear"], found.fractions)
        if any(m.startswith("confidence") for m in wanted):
            for baseline in plan["baselines"]:
                both = faithfulness.confidence(model, x, classes, stack, baseline=baseline)
                pair = zip(("confidence_drop", "confidence_increase"), both, strict=True)
                scores |= {(m, baseline, None): values for m, values in pair if m in wanted}
    return scores, lines, fractions


def _localisation(
    stack: np.ndarray, masks: list[np.ndarray | None], wanted: Sequence[str]
) -> dict[tuple[str, str, None], np.ndarray]:
    return {(m, "none", None): _each(LOCALISATION[m], stack, masks) for m in wanted if m in LOCALISATION}


def _each(
    score: Callable[[np.ndarray, np.ndarray], float], stack: np.ndarray, masks: list[np.ndarray | None]
) -> np.ndarray:
    """The scores `(M, N)` of maps against masks; NaN where there is no mask."""
    return np.array(
        [[np.nan if k is None else score(h, k) for h, k in zip(heats, masks, strict=True)] for heats in stack]
    )


def _as_seen(mask: np.ndarray, card: Card) -> np.ndarray:
    """A picture's mask in the part and at the size that the model sees."""
    import cv2

    top, left, height, width = card.view(*mask.shape)
    cut = mask[top : top + height, left : left + width].astype(np.float32)
    return (
        cut >= 0.5 if cut.shape == card.size else cv2.resize(cut, card.size[::-1], interpolation=cv2.INTER_AREA) >= 0.5
    )


def variants(names: Sequence[str], alphas: Sequence[float]) -> list[tuple[str, float]]:
    """What is measured: the methods with their alphas, and behind them the controls."""
    found = methods.variants([name for name in names if name not in methods.controls()], alphas)
    return found + methods.variants(methods.controls(), ())


def _metrics(wanted: Sequence[str], some: Sequence[Sample], thresholds: Any) -> list[str]:
    masked = any(s.masked for s in some)
    if not wanted:
        wanted = [m for m in (*DEFAULTS, *(["iou"] if thresholds else [])) if masked or m in FAITHFULNESS]
    for metric in wanted:
        if metric not in METRICS:
            raise ValueError(f"There is no metric {metric!r}; choose from {', '.join(METRICS)}.")
        if metric not in FAITHFULNESS and not masked:
            raise ValueError(f"{metric} is measured against masks, and none of these pictures has one.")
    if "iou" in wanted and not thresholds:
        raise ValueError("iou needs thresholds that were chosen on other pictures; see calibrate, or --calibration.")
    return list(dict.fromkeys(wanted))


def _check(plan: dict[str, Any], some: Sequence[Sample], card: Card, batch: int) -> None:
    """Say what is wrong before anything is measured or written."""
    if not some:
        raise ValueError("There is no picture to evaluate; give at least one.")
    if len({s.name for s in some}) < len(some):
        raise ValueError("Two pictures have the same name; results are told apart by it.")
    _check_batch(batch)
    pixels = int(np.prod(card.size))
    if not 1 <= plan["steps"] <= pixels:
        raise ValueError(f"steps is {plan['steps']}; it lies between 1 and the number of pixels, {pixels}.")
    for baseline in plan["baselines"]:
        if baseline not in faithfulness.BASELINES:
            raise ValueError(f"There is no baseline {baseline!r}; choose from {', '.join(faithfulness.BASELINES)}.")
    if not plan["baselines"]:
        raise ValueError(f"Name at least one baseline of {', '.join(faithfulness.BASELINES)}.")
    for _, alpha in plan["variants"]:
        if not (np.isnan(alpha) or 0 <= alpha <= 1):
            raise ValueError(f"alpha is {alpha:g}; it lies between 0 (LayerCAM) and 1 (Grad-CAM).")
    if "iou" in plan["metrics"]:
        for who in [*(variant(*v) for v in plan["variants"]), ORACLE]:
            for layer in plan["layers"]:
                if f"{who} {layer}" not in plan["thresholds"]:
                    raise ValueError(f"There is no threshold for {who} at {layer}; calibrate the same methods.")


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise ValueError(f"batch is {batch}; a batch holds at least one picture.")


def _card(model: nn.Module) -> Card:
    card = getattr(model, "card", None)
    if card is None or len(card.size) != 2:
        raise ValueError(
            "Evaluation needs a model of pictures with a card that says how to prepare them; see load_model."
        )
    return card


def _sources() -> list[str]:
    return [sha256(path) for path in sorted((ROOT / "camhelpers").rglob("*.py"))]


def _custom(plan: dict[str, Any]) -> list[str]:
    """The code of methods and baselines, some of which may be a user's own."""
    functions = [methods.METHODS[method].function for method, _ in plan["variants"]]
    functions += [faithfulness.BASELINES[baseline] for baseline in plan["baselines"]]
    found = []
    for function in functions:
        try:
            found.append(inspect.getsource(function))
        except (OSError, TypeError):  # typed at a prompt: its address differs in every process, so nothing is reused
            found.append(repr(function))
    return found
