"""An evaluation on paper: tables as CSV and LaTeX, plots, and a record of how it came about."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .evaluation import ALPHA, ORACLE, Evaluation
from .files import results_dir, versions, write_text
from .methods import CONTROLS
from .stats import LOWER_IS_BETTER, summarise
from .tables import Conditions, latex, write_csv
from .verdicts import OUTSIDE, WHERE, comparisons, gate, named, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = {"p_t_holm": "$p_t$", "p_wilcoxon_holm": "$p_W$", "p_equivalence_holm": r"$p_\mathrm{eq}$"}
"""Narrow ones for the table of comparisons; all three are adjusted after Holm."""


def write(found: Evaluation, out: str | Path, pairs: Sequence[tuple[str, str]] = ()) -> list[Path]:
    """Write tables as CSV and LaTeX, the curves, the plots and `evaluation.json` into `out`; return the paths.

    `comparison_plots.png` and `.pdf` show the last layer, the others have its name behind theirs.
    """
    folder, table = results_dir(out=out), found.table
    whole, judged = found.conditions(), gate(table)
    paths = [write_csv(table, folder / "evaluation_results.csv", whole)]
    paths += [write_csv(found.curves, folder / "curves.csv", whole)]
    paths += _tables(judged, folder / "gate", found, ["layer"], [
        "metric", "baseline", "n", ORACLE, "best_method", "best", "worst_method", "worst", "centre", "random", "gate",
    ])  # fmt: skip
    paths += _tables(summary(table), folder / "summary_statistics", found, [*WHERE, "gate"], [
        "method", "alpha", "n", "mean", "sd", "min", "max", "low", "high",
    ])  # fmt: skip
    paths += _plots(found, folder)
    about = {
        **found.about,
        "comparisons": [list(pair) for pair in pairs],
        "failed": found.failed,
        "gate": judged[[*WHERE, "gate"]].to_dict("records"),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    paths.append(write_text(folder / "evaluation.json", json.dumps(about, indent=2) + "\n"))
    for suffix in (".csv", ".tex"):  # of an earlier run with other results
        (folder / f"comparisons{suffix}").unlink(missing_ok=True)
    if pairs:  # last, since it may find too few values to compare, and the rest is worth having even then
        paths += _tables(comparisons(table, pairs), folder / "comparisons", found, ["first", "second", "layer"], [
            "metric", "baseline", "difference", "low", "high", "effect", "win_rate", "p_t_holm", "p_wilcoxon_holm",
            "p_equivalence_holm", "verdict", "gate",
        ])  # fmt: skip
    return paths


def _tables(
    table: pd.DataFrame, stem: Path, found: Evaluation, split: Sequence[str], columns: Sequence[str]
) -> list[Path]:
    """The whole table as CSV, and as LaTeX one table for each combination of `split`, which stands in its title."""
    shown, pieces = table.copy(), []
    for column in {"method", "first", "second", "best_method", "worst_method"} & set(table):
        shown[column] = [_label(who) if isinstance(who, str) else who for who in table[column]]
    for column in {"metric"} & set(table):
        shown[column] = [_title(metric) for metric in table[column]]
    for key, group in shown.groupby(list(split), sort=False, dropna=False):
        here = dict(zip(split, key, strict=True))
        about = {k: None if here[k] == "none" else here[k] for k in ("baseline", "layer") if k in here}
        if "steps" in group and group["steps"].isna().all():
            about["steps"] = None
        title = ", ".join(f"gate: {v}" if k == "gate" else str(v) for k, v in here.items() if v != "none")
        pieces.append(
            latex(
                group,
                columns=columns,
                title=f"{_title(stem.name)}: {title}",
                conditions=found.conditions(**about),
                label="_".join([stem.name, *(str(table.loc[group.index[0], k]) for k in split if k != "gate")]),
                headings=HEADINGS,
            )
        )
    texts = write_text(stem.with_suffix(".tex"), "\n".join(pieces))
    return [write_csv(table, stem.with_suffix(".csv"), found.conditions()), texts]


def _title(metric: str) -> str:
    special = {
        "comparisons": "Comparisons, each p after Holm",
        "iou": "IoU",
        "road_most": "ROAD, most relevant first",
        "road_least": "ROAD, least relevant first",
    }
    return special.get(metric, metric.replace("_", " ").capitalize())


def _plots(found: Evaluation, folder: Path) -> list[Path]:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    from .render import STYLE, save

    paths, layers = [], found.about["layers"]
    with mpl.rc_context(STYLE):
        for layer in layers:
            figure = plot(found, layer)
            stem = "comparison_plots" if layer == layers[-1] else f"comparison_plots_{layer}"
            paths += [save(figure, folder / f"{stem}{suffix}") for suffix in (".png", ".pdf")]
            plt.close(figure)
    return paths


def plot(found: Evaluation, layer: str) -> "Figure":
    """One layer in one figure: mean curves with bands, and each metric's means with intervals; both are of 95 %.

    Bars are pale where the metric does not pass the gate, and the title says so.
    """
    import matplotlib.pyplot as plt

    table, lines = (named(t[t["layer"] == layer]) for t in (found.table, found.curves))
    table = table[table["value"].notna()]
    verdicts = gate(found.table[found.table["layer"] == layer]).set_index(["metric", "baseline"])["gate"]
    bars, curves = list(table.groupby(WHERE[:2], sort=False)), list(lines.groupby(WHERE[:2], sort=False))
    columns = 4 if len(bars) + len(curves) > 3 else len(bars) + len(curves)
    rows = -(-(len(bars) + len(curves)) // columns)
    tall = max(3.0, 1.1 + 0.24 * table["method"].nunique())
    figure, axes = plt.subplots(rows, columns, figsize=(4.0 * columns, tall * rows + 0.9), squeeze=False)
    for cell in axes.flat[len(bars) + len(curves) :]:
        cell.axis("off")
    for cell, ((metric, baseline), group) in zip(axes.flat, curves, strict=False):
        _curve(cell, group)
        cell.set_title(f"{_title(metric)}, baseline {baseline}")
        cell.set_xlabel("share of pixels " + ("shown" if metric == "insertion" else "taken away"))
        cell.set_ylabel("probability")
    for cell, ((metric, baseline), group) in zip(axes.flat[len(curves) :], bars, strict=False):
        verdict = verdicts[metric, baseline]
        _bars(cell, group, pale=verdict not in ("pass", "no oracle"))
        better = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
        of = "" if baseline == "none" else f", baseline {baseline}"
        cell.set_title(f"{_title(metric)}{of}")
        cell.set_xlabel(better if verdict == "pass" else f"{better}; gate: {verdict}")
    if curves:
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(f"{found.about['model']}: {_shortly(found.conditions(layer=layer))}", fontsize=12)
    return figure


def _shortly(conditions: Conditions) -> str:
    return str(conditions).replace("model =", "weights =")


def _curve(axes: Any, lines: pd.DataFrame) -> None:
    """A mean curve with its band for each method; of several alphas, one."""
    from scipy.stats import t

    alphas = lines["alpha"].dropna().unique()
    shown = ALPHA if ALPHA in alphas else alphas[0] if len(alphas) else None
    for method, group in lines[lines["alpha"].isna() | (lines["alpha"] == shown)].groupby("method", sort=False):
        at = group.groupby("fraction")
        mean, count = at["probability"].mean(), at["probability"].count()
        reach = (at["probability"].std() / np.sqrt(count) * t.ppf(0.975, (count - 1).clip(lower=1))).fillna(0)
        tone, style = _look(method)
        axes.plot(mean.index, mean, color=tone, linestyle=style, label=_label(method))
        axes.fill_between(mean.index, mean - reach, mean + reach, color=tone, alpha=0.15, linewidth=0)
    axes.set_xlim(0, 1), axes.set_ylim(0, 1)


def _bars(axes: Any, group: pd.DataFrame, pale: bool) -> None:
    """A mean with its interval for each method, the oracle on top and the controls below."""
    stats = summarise(group, by=["method"]).set_index("method")
    order = [*(m for m in stats.index if m == ORACLE), *(m for m in stats.index if m not in OUTSIDE)]
    stats = stats.loc[[*order, *(m for m in stats.index if m in CONTROLS)]]
    places = -np.arange(len(stats))
    reach = np.nan_to_num([stats["mean"] - stats["low"], stats["high"] - stats["mean"]])
    tones = [_look(method)[0] for method in stats.index]
    axes.barh(places, stats["mean"], color=tones, alpha=0.25 if pale else 0.85, height=0.75)
    axes.errorbar(stats["mean"], places, xerr=reach, fmt="none", ecolor="black", elinewidth=1.2, capsize=2)
    axes.set_yticks(places, [_label(method) for method in stats.index], fontsize=10)


def _look(method: str) -> tuple[str, str]:
    from .render import COLOURS

    plain = method.partition("@")[0]
    return COLOURS.get(plain, "black"), "--" if plain == ORACLE else ":" if plain in CONTROLS else "-"


def _label(method: str) -> str:
    from .render import name

    plain, _, alpha = method.partition("@")
    return "Oracle (mask)" if plain == ORACLE else f"{name(plain)} {alpha}".rstrip()
