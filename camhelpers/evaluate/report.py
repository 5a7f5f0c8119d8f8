"""What an evaluation says: the gate, declared comparisons, verdicts, and what is written of them."""

import datetime
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import t

from ..cam.methods import colour, controls
from ..cam.methods import title as method_title
from ..files import atomic, results_dir, versions, write_text
from ..render import STYLE, save
from .run import ALPHA, ORACLE, Evaluation, variant, variants
from .statistics import LOWER_IS_BETTER, compare, interval, summarise

FAMILY = (("hybrid", "gradcam"), ("hybrid", "layercam"), ("gradcam", "layercam"))
"""The comparisons that are declared before any result; `hybrid` is the hybrid of the thesis, alpha 0.7."""
OUTSIDE = (ORACLE, *controls())
"""What takes part in every evaluation and is compared with no method."""
WHERE = ["metric", "baseline", "layer"]
EVIDENCE = ("pass", "no oracle")
"""The gate's verdicts on scores that may be headlined."""


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The tidy table with the alpha in the method's name, so that a method is one column's value."""
    return table.assign(method=[variant(m, a) for m, a in zip(table["method"], table["alpha"], strict=True)])


def gate(table: pd.DataFrame) -> pd.DataFrame:
    """Whether each metric, baseline and layer tells a perfect map from the methods, and the methods from noise.

    "pass": the oracle beats the best method, and the worst method beats random maps; the intervals of both mean
    differences lie above 0. "fail": one of them lies below. "undecided": these pictures cannot tell. "no oracle": there
    are no masks, and the methods do beat random maps. The centre is shown beside them. Only what passes is evidence.
    """
    rows = []
    for key, group in named(table).groupby(WHERE, sort=False):
        wide = group.pivot(index="picture", columns="method", values="value").dropna(axis=1, how="all")
        sign = -1 if key[0] in LOWER_IS_BETTER else 1
        means = wide.mean()
        ranked = (sign * means.drop(list(OUTSIDE), errors="ignore")).sort_values(ascending=False).index
        best, worst = (ranked[0], ranked[-1]) if len(ranked) else (None, None)
        gaps = {}
        for name, first, second in (("above", ORACLE, best), ("below", worst, "random")):
            both = wide.reindex(columns=[first, second])
            difference = (sign * (both[first] - both[second])).dropna()
            low, high, _ = interval(difference)
            gaps |= {name: difference.mean(), f"{name}_low": low, f"{name}_high": high}
        masks = ORACLE in wide
        sides = ["above", "below"] if masks else ["below"]
        if any(gaps[f"{side}_high"] < 0 for side in sides):
            verdict = "fail"
        elif all(gaps[f"{side}_low"] > 0 for side in sides):
            verdict = "pass" if masks else "no oracle"
        else:
            verdict = "undecided"
        row = dict(zip(WHERE, key, strict=True)) | {"n": len(wide)} | {who: means.get(who, np.nan) for who in OUTSIDE}
        for place, who in (("best", best), ("worst", worst)):
            row |= {f"{place}_method": who, place: means.get(who, np.nan)}
        rows.append({**row, **gaps, "gate": verdict})
    return pd.DataFrame(rows)


def _with_gate(found: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The same rows, each with the gate of its metric; "none" for time, which has none."""
    return found.merge(gate(table)[[*WHERE, "gate"]], how="left", on=WHERE).fillna({"gate": "none"})


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, SD, extremes, n and interval of everything measured, with the gate; time has one value for each batch."""
    by = [*WHERE, "method", "alpha", "steps", "seed"]
    time = table[table["method"] != ORACLE].drop_duplicates(["method", "alpha", "layer", "seconds"])
    time = time.assign(metric="seconds", baseline="none", steps=pd.NA, value=time["seconds"])
    whole = pd.concat([table, time.astype({"steps": "Int64"})], ignore_index=True)
    return _with_gate(summarise(whole, by=by), table)


def family(
    names: Sequence[str], alphas: Sequence[float], n: int, pairs: Sequence[tuple[str, str]] | None = None
) -> list[tuple[str, str]]:
    """The declared comparisons with the hybrid's alpha spelt out, checked against what is going to be measured.

    Unless given, those of `FAMILY` whose two methods are measured; `hybrid` means alpha 0.7 where there are several.

    >>> family(["gradcam", "hybrid"], [0.3, 0.7], 60)
    [('hybrid@0.7', 'gradcam')]
    """
    measured = [variant(*v) for v in variants(names, alphas)]
    declared = [pair for pair in FAMILY if set(pair) <= set(names)] if pairs is None else pairs
    if declared and n < 2:
        raise ValueError(f"A comparison needs at least two pictures, and there is {n}.")
    return [tuple(_spelt(method, measured) for method in pair) for pair in declared]


def _spelt(method: str, measured: list[str]) -> str:
    own = [m for m in measured if method in (m, m.partition("@")[0])]
    if len(own) == 1:
        return own[0]
    if variant(method, ALPHA) in own:
        return variant(method, ALPHA)
    raise ValueError(f"{method!r} was declared but would not be measured as such; there are {', '.join(measured)}.")


def comparisons(table: pd.DataFrame, pairs: Sequence[tuple[str, str]], **options: Any) -> pd.DataFrame:
    """The declared pairs, see `family`, with every statistic, see `statistics.compare`, and the gate of the metric."""
    return _with_gate(compare(named(table), pairs, by=WHERE, **options), table)


def headlines(found: Evaluation, pairs: Sequence[tuple[str, str]]) -> str:
    """The verdicts on the declared comparisons in words, those alone whose metric passes the gate."""
    judged = gate(found.table)
    table = comparisons(found.table, pairs) if pairs else judged[:0]
    lines = [
        f"{row['metric']} ({row['baseline']}, {row['layer']}): {row['first']} against {row['second']} "
        f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}], n = {row['n']}: {row['verdict']}"
        for row in table[table["gate"].isin(EVIDENCE)].to_dict("records")
    ]
    for row in judged[~judged["gate"].isin(EVIDENCE)].to_dict("records"):
        lines.append(f"{row['metric']} ({row['baseline']}, {row['layer']}) is no evidence here; gate: {row['gate']}")
    if (judged["gate"] == "no oracle").any():
        lines.append("Without masks there is no oracle: the gate could only be tested against random maps.")
    return "\n".join(lines)


def write(found: Evaluation, out: str | Path, pairs: Sequence[tuple[str, str]] = ()) -> list[Path]:
    """Write tables as CSV and LaTeX, the curves, the plots and `evaluation.json` into `out`; return the paths.

    `comparison_plots.png` and `.pdf` show the last layer, the others have its name behind theirs.
    """
    folder, table = results_dir(out=out), found.table
    judged, known = gate(table), conditions(found)
    paths = [_csv(table, folder / "evaluation_results.csv", known), _csv(found.curves, folder / "curves.csv", known)]
    paths += _tables(judged, folder / "gate", known, ["layer"], [
        "metric", "baseline", "n", ORACLE, "best_method", "best", "worst_method", "worst", "centre", "random", "gate",
    ])  # fmt: skip
    paths += _tables(summary(table), folder / "summary_statistics", known, WHERE, [
        "method", "alpha", "n", "mean", "sd", "min", "max", "interval", "gate",
    ])  # fmt: skip
    paths += _plots(found, folder)
    about = {
        **found.about, "comparisons": [list(pair) for pair in pairs], "failed": found.failed,
        "gate": judged[[*WHERE, "gate"]].to_dict("records"), "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    paths.append(write_text(folder / "evaluation.json", json.dumps(about, indent=2) + "\n"))
    for suffix in (".csv", ".tex"):  # of an earlier run with other results
        (folder / f"comparisons{suffix}").unlink(missing_ok=True)
    if pairs:  # last, since it may find too few values to compare, and the rest is worth having even then
        paths += _tables(comparisons(table, pairs), folder / "comparisons", known, ["first", "second", "layer"], [
            "metric", "baseline", "difference", "interval", "effect", "win_rate", "p_t_holm", "p_wilcoxon_holm",
            "p_equivalence_holm", "verdict", "gate",
        ])  # fmt: skip
    return paths


def conditions(found: Evaluation) -> dict[str, Any]:
    """What a reader must know to judge a table."""
    about = found.about
    named = {"baseline": ", ".join(about["baselines"]), "layer": ", ".join(about["layers"])}
    return {"n": about["n"], "steps": about["steps"], **named, "model": about["model_hash"], "seed": about["seed"]}


def _said(known: dict[str, Any]) -> str:
    return ", ".join(f"{'weights' if k == 'model' else k} = {v}" for k, v in known.items())


def _csv(table: pd.DataFrame, path: Path, known: dict[str, Any]) -> Path:
    """Write a table at full precision, with those conditions as columns that it does not hold itself."""
    with atomic(path) as temporary:
        extra = {name: value for name, value in known.items() if name not in table}
        table.assign(**extra).to_csv(temporary, index=False, lineterminator="\n")
    return path


def _tables(
    table: pd.DataFrame, stem: Path, known: dict[str, Any], split: Sequence[str], columns: Sequence[str]
) -> list[Path]:
    """The whole table as CSV, and as LaTeX one table for each combination of `split`, which its caption names."""
    pieces = ["% needs \\usepackage{booktabs}"]
    for key, group in table.groupby(list(split), sort=False):
        if "interval" in columns:
            group = group.assign(interval=list(zip(group["low"], group["high"], strict=True)))
        of = ", ".join(_cell(name, value) for name, value in zip(split, key, strict=True) if value != "none")
        caption = f"{_name(stem.name)}: {of}. Measured with {_cell('conditions', _said(known))}."
        label = "_".join(["tab:" + stem.name, *key])
        style = group[list(columns)].style.hide(axis="index")
        style = style.format({name: partial(_cell, name) for name in columns}, na_rep="--")
        style = style.format_index(lambda name: HEADINGS.get(name, name.replace("_", " ")), axis=1)
        layout = {"hrules": True, "position": "tbp", "position_float": "centering", "caption": caption, "label": label}
        pieces.append(style.to_latex(**layout))
    return [_csv(table, stem.with_suffix(".csv"), known), write_text(stem.with_suffix(".tex"), "\n".join(pieces))]


HEADINGS = {
    "n": "$n$", "sd": "SD", "effect": "$d_z$",
    "p_t_holm": "$p_t$", "p_wilcoxon_holm": "$p_W$", "p_equivalence_holm": r"$p_\mathrm{eq}$",
}  # fmt: skip
TITLES = {ORACLE: "Oracle (mask)", "iou": "IoU", "comparisons": "Comparisons, each p after Holm"}


def _cell(column: str, value: Any) -> str:
    """A value as LaTeX: titles in place of code names, and numbers in mathematics, so that a minus is one."""
    if isinstance(value, str):
        coded = column in ("metric", "method", "first", "second", "best_method", "worst_method")
        return re.sub(r"([&%$#_{}])", r"\\\1", _name(value) if coded else value)
    if column == "interval":
        return f"$[{value[0]:.4f}, {value[1]:.4f}]$"
    if column.startswith("p_") and value < 0.001:
        return "$<0.001$"
    exact = column == "alpha" or isinstance(value, int)  # chosen or counted: 0.7 is not 0.7000
    return (f"${value:g}$" if exact else f"${value:.4f}$").replace("inf", r"\infty")


def _name(code: str) -> str:
    """A metric, or a method with its alpha, as a reader wants it."""
    plain, _, alpha = code.partition("@")
    return f"{TITLES.get(plain) or method_title(plain).replace('_', ' ')} {alpha}".rstrip()


def _plots(found: Evaluation, folder: Path) -> list[Path]:
    """One figure for each layer: mean curves with bands, and each metric's means with intervals; both are of 95 %.

    Bars are pale where the metric does not pass the gate, and the title says so.
    """
    table, lines = named(found.table[found.table["value"].notna()]), named(found.curves)
    verdicts = gate(found.table).set_index(WHERE)["gate"]
    paths, layers = [], found.about["layers"]
    for layer in layers:
        curves, bars = (list(x[x["layer"] == layer].groupby(WHERE[:2], sort=False)) for x in (lines, table))
        count = len(curves) + len(bars)
        columns = min(4, count)
        rows = -(-count // columns)
        tall = max(3.0, 1.1 + 0.24 * table["method"].nunique())
        with mpl.rc_context(STYLE):
            figure, axes = plt.subplots(rows, columns, figsize=(4.0 * columns, tall * rows + 0.9), squeeze=False)
            for cell in axes.flat[count:]:
                cell.axis("off")
            for cell, ((metric, baseline), group) in zip(axes.flat, curves, strict=False):
                _curve(cell, group)
                shown = "shown" if metric == "insertion" else "taken away"
                cell.set(title=f"{_name(metric)}, baseline {baseline}", xlabel=f"share of pixels {shown}")
            for cell, ((metric, baseline), group) in zip(axes.flat[len(curves) :], bars, strict=False):
                verdict = verdicts[metric, baseline, layer]
                _bars(cell, group, pale=verdict not in EVIDENCE)
                better = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
                title = _name(metric) if baseline == "none" else f"{_name(metric)}, baseline {baseline}"
                cell.set(title=title, xlabel=f"{better}; gate: {verdict}")
            if curves:
                figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
            said = _said({**conditions(found), "layer": layer})
            figure.suptitle(f"{found.about['model']}: {said}", fontsize=12)
            stem = "comparison_plots" if layer == layers[-1] else f"comparison_plots_{layer}"
            paths += [save(figure, folder / f"{stem}{suffix}") for suffix in (".png", ".pdf")]
            plt.close(figure)
    return paths


def _curve(axes: Any, lines: pd.DataFrame) -> None:
    """A mean curve with its band for each method; of several alphas, which share a colour, one."""
    alphas = lines["alpha"].dropna()
    one = ALPHA if ALPHA in set(alphas) else alphas.min()
    for method, group in lines[lines["alpha"].isna() | lines["alpha"].eq(one)].groupby("method", sort=False):
        by_fraction = group.groupby("fraction")["probability"]
        mean = by_fraction.mean()
        reach = by_fraction.sem() * t.ppf(0.975, by_fraction.count() - 1)  # none of a single picture
        plain = method.partition("@")[0]
        style = "--" if plain == ORACLE else ":" if plain in controls() else "-"
        axes.plot(mean.index, mean, color=colour(plain), linestyle=style, label=_name(method))
        axes.fill_between(mean.index, mean - reach, mean + reach, color=colour(plain), alpha=0.15, linewidth=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="probability")


def _bars(axes: Any, group: pd.DataFrame, pale: bool) -> None:
    """A mean with its interval for each method, the first on top."""
    found = summarise(group, by=["method"]).set_index("method")
    places, tones = -np.arange(len(found)), [colour(method.partition("@")[0]) for method in found.index]
    reach = np.nan_to_num([found["mean"] - found["low"], found["high"] - found["mean"]])
    axes.barh(places, found["mean"], color=tones, alpha=0.25 if pale else 0.85, height=0.75)
    axes.errorbar(found["mean"], places, xerr=reach, fmt="none", ecolor="black", elinewidth=1.2, capsize=2)
    axes.set_yticks(places, [_name(method) for method in found.index], fontsize=10)
