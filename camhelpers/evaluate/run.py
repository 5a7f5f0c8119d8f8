"""Which explanation is better: every method on every picture by every metric, in one tidy table.

Each finished batch is kept as a file, so that an interrupted evaluation goes on where it stopped.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from ..cam.cards import Card
from ..cam.explain import explain
from ..cam.geometry import Place
from ..cam.layers import layer_name
from ..cam.methods import METHODS
from ..cam.models import model_hash
from ..checks import checked
from ..datasets.samples import Sample
from ..files import ROOT, fingerprint, results_dir, versions, write_text
from ..progress import Progress
from . import faithfulness
from . import localisation as metrics
from .controls import ALPHA, HOLLOW, ORACLE, copy_of, hollow, maps, measured, variant

FAITHFULNESS = ("insertion", "deletion")
LOCALISATION: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "pointing_game": metrics.pointing_hit, "pointing_exact": partial(metrics.pointing_hit, tolerance=0),
    "relevance_mass": metrics.relevance_mass, "relevance_rank": metrics.relevance_rank,
    "average_precision": metrics.average_precision, "lift": metrics.lift,
}  # fmt: skip
METRICS = (*FAITHFULNESS, *LOCALISATION, "iou")
DEFAULTS = ("insertion", "deletion", "pointing_game", "relevance_mass", "relevance_rank", "average_precision")
COLUMNS = ("picture", "class", "method", "alpha", "layer", "metric", "baseline", "steps", "seed", "value")


@checked
class Plan:
    """What is measured; the options of `evaluate` and of the command line."""

    methods: tuple[str, ...] = ("gradcam", "layercam", "hybrid")
    """The methods to compare."""
    alphas: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (ALPHA,)
    """The hybrid's shares of Grad-CAM, each measured on its own."""
    layers: tuple[str, ...] = ()
    """The layers to explain; unless given, the last with a map."""
    metrics: tuple[str, ...] = ()
    """Of insertion, deletion, pointing_game, pointing_exact, relevance_mass, relevance_rank, average_precision, lift,
    and iou; unless given, the curves and, where there are masks, four of the others."""
    baselines: tuple[str, ...] = ("mean", "blur", "black")
    """What stands in for a pixel that is taken away: mean, blur, black or zero; a verdict should hold over several."""
    steps: Annotated[int, Field(ge=1)] = 10
    """The steps of an insertion or deletion curve."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Breaks ties between pixels and draws the random maps."""
    place: Place = "grid"
    """Where a layer's cells are drawn: grid, geometric or effective, as in `heatmap`."""
    controls: bool = True
    """Whether what a method must beat is measured; without, no score is evidence, and it takes a third of the time."""
    batch: Annotated[int, Field(ge=1)] = 16
    """The pictures that are explained and kept together."""

    def __post_init__(self) -> None:
        for what, offered in (("method", METHODS), ("metric", METRICS), ("baseline", faithfulness.BASELINES)):
            for name in getattr(self, f"{what}s"):
                if name not in offered:
                    raise ValueError(f"There is no {what} {name!r}; choose from {', '.join(offered)}.")


@dataclass(frozen=True)
class Evaluation:
    """What was measured: a tidy table, the curves behind it, the pictures that failed, and under which conditions."""

    table: pd.DataFrame
    curves: pd.DataFrame
    failed: dict[str, str]
    about: dict[str, Any]


def evaluate(
    model: nn.Module, samples: Sequence[Sample], *, thresholds: Mapping[tuple[str, str], float] | None = None,
    out: str | Path | None = None, progress: bool = False, **options: Any,
) -> Evaluation:  # fmt: skip
    """Measure methods, and the controls and the oracle beside them, on pictures that are explained for their top class.

    `options` are the fields of `Plan`. `thresholds`: for the metric `iou`, from `calibrate`. With `out`, finished
    batches are kept in `out/parts` and never measured twice. Everything is seen as the model sees it, in its own size.

    >>> from camhelpers import load_model, pictures
    >>> found = evaluate(load_model("scenes"), pictures("gallery", 1), methods=["gradcam"], metrics=["relevance_mass"])
    >>> found.table.method.tolist()
    ['gradcam', 'gradcam mirrored', 'gradcam other class', 'random', 'centre', 'oracle', 'oracle hollow']
    """
    card, plan = _resolved(model, samples, Plan(**options), thresholds)
    cuts = {f"{name} {layer}": threshold for (name, layer), threshold in (thresholds or {}).items()}
    weights = model_hash(model)
    depends = [replace(plan, metrics=()), weights, card, versions(), _code(plan)]
    keyed = all(s.key for s in samples)  # else a picture may change unnoticed
    folder = results_dir("parts", out=out) if out is not None and keyed else None

    parts = []
    with Progress(len(samples), "evaluating", "picture", show=progress) as counter:
        for first in range(0, len(samples), plan.batch):
            numbered = dict(enumerate(samples[first : first + plan.batch], first))
            listed = [(i, s.name, s.key) for i, s in numbered.items()]
            keys = {m: fingerprint(*depends, m, listed, cuts if m == "iou" else {}) for m in plan.metrics}
            paths = {m: folder and folder / f"{key}.json" for m, key in keys.items()}  # a new metric costs itself
            if missing := [m for m, path in paths.items() if not (path and path.is_file())]:
                found = _part(model, card, numbered, replace(plan, metrics=tuple(missing)), cuts)
            for metric, path in paths.items():
                text = json.dumps(found[metric]) if metric in missing else path.read_text(encoding="utf-8")
                if path and metric in missing:
                    write_text(path, text)
                parts.append(json.loads(text))  # what was kept and what is new go the same way, to the last digit
            counter.step(len(numbered))

    failed, seen = ({k: v for part in parts for k, v in part[kind].items()} for kind in ("failed", "seen"))
    if not seen:
        raise ValueError(f"None of the {len(samples)} pictures could be read; {next(iter(failed.values()))}")
    table = pd.DataFrame([row for part in parts for row in part["rows"]], columns=list(COLUMNS))
    names = ["picture", "class", "method", "alpha", "layer", "metric", "baseline", "fraction", "probability"]
    curves = pd.DataFrame([row for part in parts for row in part["curves"]], columns=names)
    curves = curves.explode(["fraction", "probability"], ignore_index=True).astype({n: float for n in names[-2:]})
    judged = [right for right in seen.values() if right is not None]
    about = {
        "model": card.name, "model_hash": weights, "n": len(seen),
        "masks": sum(s.masked and s.name in seen for s in samples),
        "accuracy": sum(judged) / len(judged) if judged else None, **asdict(plan), "thresholds": cuts,
        "methods": [variant(*v) for v in measured(plan.methods, plan.alphas) if plan.controls or v[0] in plan.methods],
    }  # fmt: skip
    return Evaluation(table.astype({"alpha": float, "value": float, "steps": "Int64"}), curves, failed, about)


def calibrate(model: nn.Module, samples: Sequence[Sample], **options: Any) -> dict[tuple[str, str], float]:
    """The threshold for `iou` of each method and layer, chosen on pictures that are not evaluated afterwards.

    `options` are the fields of `Plan`.
    """
    some = [s for s in samples if s.masked]
    if not some:
        raise ValueError("A threshold is chosen against masks, and none of these pictures has one.")
    card, plan = _resolved(model, some, Plan(**options))
    heats: dict[tuple[str, str], list[np.ndarray]] = {}
    masks: list[np.ndarray] = []
    for first in range(0, len(some), plan.batch):
        read = [s.read() for s in some[first : first + plan.batch]]
        x = torch.stack([card.prepare(pixels) for pixels, _ in read])
        masks += [_as_seen(mask, card) for _, mask in read]
        ex, seeds = explain(model, x, layers=list(plan.layers)), [plan.seed + first + i for i in range(len(x))]
        for method, alpha, layer, heat in maps(ex, plan.methods, plan.alphas, seeds, place=plan.place):
            heats.setdefault((variant(method, alpha), layer), []).extend(heat)
    some_heat = {key: held for key, held in heats.items() if np.any(held)}  # copies may be blank throughout
    chosen = dict.fromkeys(heats, 1.0) | {key: metrics.calibrate_threshold(h, masks) for key, h in some_heat.items()}
    right = {ORACLE: 1.0, copy_of(ORACLE, HOLLOW): 0.75}  # the mask, and the mask but for its heart
    return chosen | {(who, layer): threshold for who, threshold in right.items() for layer in plan.layers}


def _part(
    model: nn.Module, card: Card, numbered: Mapping[int, Sample], plan: Plan, cuts: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Everything about one batch, ready for JSON, by metric."""
    read: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
    failed, seen = {}, {}
    for i, s in numbered.items():
        try:
            read[i] = s.read()
        except (ValueError, OSError) as error:
            failed[s.name] = str(error)
    part = {metric: {"failed": failed, "seen": seen, "rows": [], "curves": []} for metric in plan.metrics}
    if not read:
        return part
    some, seeds = [numbered[i] for i in read], [plan.seed + i for i in read]
    masks = [None if mask is None else _as_seen(mask, card) for _, mask in read.values()]
    ex = explain(model, torch.stack([card.prepare(pixels) for pixels, _ in read.values()]), layers=list(plan.layers))
    heats, index = {}, {}  # each map that differs once, and which of them are whose
    for *who, heat in maps(ex, plan.methods, plan.alphas, seeds, rivals=plan.controls, place=plan.place):
        index[*who] = fingerprint(heat)
        heats.setdefault(index[*who], (heat, heat))
    if plan.controls and any(mask is not None for mask in masks):
        perfect = [np.zeros(ex.inputs.shape[2:], bool) if mask is None else mask for mask in masks]
        graded = [metrics.oracle(mask) for mask in perfect]
        hollowed = [hollow(heat) for heat in graded]
        heats |= {ORACLE: (perfect, graded), copy_of(ORACLE, HOLLOW): (hollowed, hollowed)}
        index |= {(who, np.nan, layer): who for who in (ORACLE, copy_of(ORACLE, HOLLOW)) for layer in plan.layers}
    lines, areas, fractions, places = {}, {}, [], {key: place for place, key in enumerate(heats)}
    if directions := [d for d in FAITHFULNESS if d in plan.metrics]:
        ranked = np.stack([np.asarray(ranked, np.float32) for _, ranked in heats.values()])
        options = {"steps": plan.steps, "baselines": plan.baselines, "directions": directions, "seed": seeds}
        found = faithfulness.curves(model, ex.inputs, ex.target, ranked, **options)
        lines, fractions = found.probability, found.fractions.tolist()
        areas = {way: faithfulness.auc(line, found.fractions) for way, line in lines.items()}

    labels = [card.classes[c] if card.classes else str(c) for c in ex.target.tolist()]
    for s, label in zip(some, labels, strict=True):
        seen[s.name] = label == s.label if s.label in card.classes else None
    for (method, alpha, layer), key in index.items():
        judges = {**LOCALISATION, "iou": partial(metrics.iou, threshold=cuts.get(f"{variant(method, alpha)} {layer}"))}
        for i, (s, label, mask) in enumerate(zip(some, labels, masks, strict=True)):
            if method.startswith(ORACLE) and mask is None:
                continue
            who = [s.name, label, method, alpha, layer]
            for way, area in areas.items():
                value = float(area[places[key], i])
                part[way[0]]["rows"].append([*who, *way, plan.steps, plan.seed, value])
                part[way[0]]["curves"].append([*who, *way, fractions, lines[way][places[key], i].tolist()])
            for name in [name for name in plan.metrics if name in judges and mask is not None]:
                value = judges[name](heats[key][0][i], mask)
                part[name]["rows"].append([*who, name, "none", None, plan.seed, value])
    return part


def _as_seen(mask: np.ndarray, card: Card) -> np.ndarray:
    """A picture's mask in the part and at the size that the model sees."""
    top, left, height, width = card.view(*mask.shape)
    cut = mask[top : top + height, left : left + width].astype(np.float32)
    return cv2.resize(cut, card.size[::-1], interpolation=cv2.INTER_AREA) >= 0.5


def _resolved(
    model: nn.Module, samples: Sequence[Sample], plan: Plan, thresholds: Mapping[tuple[str, str], float] | None = None
) -> tuple[Card, Plan]:
    """The model's card, and the plan with its layers and metrics spelt out; says what cannot be measured."""
    card = getattr(model, "card", None)
    if card is None or len(card.size) != 2:
        raise ValueError("Evaluation needs a model of pictures with a card, which says how to prepare them.")
    if len({s.name for s in samples}) < len(samples) or not samples:
        raise ValueError("Give at least one picture, and no two of the same name; results are told apart by it.")
    masked = any(s.masked for s in samples)
    default = [m for m in (*DEFAULTS, *(["iou"] if thresholds else [])) if masked or m in FAITHFULNESS]
    plan = replace(
        plan,
        layers=[layer_name(model, layer) for layer in plan.layers] or [layer_name(model)],
        metrics=list(dict.fromkeys(plan.metrics)) or default,
    )
    for metric in plan.metrics:
        if metric not in FAITHFULNESS and not masked:
            raise ValueError(f"{metric} is measured against masks, and none of these pictures has one.")
    needed = [variant(*v) for v in measured(plan.methods, plan.alphas)]
    missing = [(w, layer) for w in needed for layer in plan.layers if (w, layer) not in (thresholds or {})]
    if "iou" in plan.metrics and missing:
        raise ValueError(f"iou needs a threshold for {' at '.join(missing[0])} from other pictures; see --calibration.")
    return card, plan


def _code(plan: Plan) -> list[Any]:
    """Our own code that values depend on, and that of methods and baselines, some of which may be a user's."""
    functions = [METHODS[name].function for name in plan.methods]
    functions += [faithfulness.BASELINES[name] for name in plan.baselines]
    package, rooms = ROOT / "camhelpers", ("controls", "faithfulness", "localisation", "run")
    files = [path for wing in ("cam", "datasets", "io") for path in sorted((package / wing).rglob("*.py"))]
    return [*files, *(package / "evaluate" / f"{room}.py" for room in rooms), *map(inspect.getsource, functions)]
