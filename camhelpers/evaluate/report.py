"""What is written of an evaluation: its tables as CSV and LaTeX, its plots, and under which conditions it was made."""

import datetime
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import t

from ..cam.methods import colour, controls
from ..files import atomic, results_dir, versions, write_text
from ..render import STYLE, save
from .controls import ALPHA, ORACLE, is_copy
from .gate import EVIDENCE, LEAST, WHERE, checks, gate, named
from .run import Evaluation
from .statistics import LOWER_IS_BETTER, MARGIN, summarise
from .verdicts import comparisons, conclusions, words


def summary(table: pd.DataFrame, margin: float = MARGIN) -> pd.DataFrame:
    """Mean, SD, extremes, n and interval of methods and controls, with the gate."""
    verdicts, table = gate(table, margin)[[*WHERE, "method", "gate"]], table[~table["method"].map(is_copy)]
    by = [*WHERE, "method", "alpha", "steps", "seed"]
    return named(summarise(table, by=by)).merge(verdicts, how="left", on=[*WHERE, "method"]).fillna({"gate": "none"})


def write(
    found: Evaluation, out: str | Path, pairs: Sequence[tuple[str, str]] = (), margin: float = MARGIN
) -> list[Path]:
    """Write tables as CSV and LaTeX, the curves, the plots and `evaluation.json` into `out`; return the paths.

    `comparison_plots.png` and `.pdf` show the last layer, the others have its name behind theirs.
    """
    folder, table = results_dir(out=out), found.table
    judged, known = gate(table, margin), conditions(found)
    paths = [_csv(table, folder / "evaluation_results.csv", known), _csv(found.curves, folder / "curves.csv", known)]
    paths.append(_csv(checks(table, margin), folder / "checks.csv", known))
    paths += _tables(judged, folder / "gate", known, ["layer"], [
        "metric", "baseline", "method", "n", "mean", "weakest_against", "difference", "interval", "gate",
    ])  # fmt: skip
    paths += _tables(summary(table, margin), folder / "summary_statistics", known, WHERE, [
        "method", "n", "mean", "sd", "min", "max", "interval", "gate",
    ])  # fmt: skip
    paths += _plots(found, folder, margin)
    about = {
        **found.about, "comparisons": [list(pair) for pair in pairs], "failed": found.failed,
        "margin": margin, "gate": judged[[*WHERE, "method", "gate"]].to_dict("records"), "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    paths.append(write_text(folder / "evaluation.json", json.dumps(about, indent=2) + "\n"))
    for name in ("comparisons.csv", "comparisons.tex", "conclusions.csv"):  # of an earlier run with other results
        (folder / name).unlink(missing_ok=True)
    if pairs:  # last, since it may find too few values to compare, and the rest is worth having even then
        compared = comparisons(table, pairs, margin=margin)
        paths.append(_csv(conclusions(compared), folder / "conclusions.csv", known))
        paths += _tables(compared, folder / "comparisons", known, ["first", "second", "layer"], [
            "metric", "baseline", "difference", "interval", "effect", "win_rate", "p_t_holm", "p_wilcoxon_holm",
            "p_equivalence_holm", "verdict", "gate",
        ])  # fmt: skip
    return paths


def conditions(found: Evaluation) -> dict[str, Any]:
    """What a reader must know to judge a table."""
    about = found.about
    where = {"baseline": ", ".join(about["baselines"]), "layer": ", ".join(about["layers"]), "place": about["place"]}
    return {"n": about["n"], "steps": about["steps"], **where, "model": about["model_hash"], "seed": about["seed"]}


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
        bounds = [f"[{low:.4f}, {high:.4f}]" if low == low else None  # NaN: there is none
                  for low, high in zip(group["low"], group["high"], strict=True)]  # fmt: skip
        shown = group.assign(interval=bounds)[list(columns)].rename(columns=lambda name: name.replace("_", " "))
        of = ", ".join(_cell(value) for value in key if value != "none")
        caption = f"{words(stem.name)}: {of}. Measured with {_escaped(_said(known))}."
        layout = {"caption": caption, "label": "_".join(["tab:" + stem.name, *key]), "position_float": "centering"}
        style = shown.style.hide(axis="index").format(_cell, na_rep="--")
        pieces.append(style.to_latex(hrules=True, position="tbp", **layout))
    return [_csv(table, stem.with_suffix(".csv"), known), write_text(stem.with_suffix(".tex"), "\n".join(pieces))]


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)


def _cell(value: Any) -> str:
    """A value as LaTeX: names in words, and numbers in mathematics, so that a minus is one."""
    if isinstance(value, str):
        return f"${value}$" if value.startswith("[") else _escaped(words(value))
    if 0 < value < 5e-5:
        return "$<0.0001$"
    return (f"${value:.4f}$" if isinstance(value, float) else f"${value}$").replace("inf", r"\infty")


def _plots(found: Evaluation, folder: Path, margin: float) -> list[Path]:
    """One figure for each layer: mean curves with bands, and each score's means with intervals; both are of 95 %."""
    both = found.curves, found.table.dropna(subset="value")
    shown = [named(table[~table["method"].map(is_copy).astype(bool)]) for table in both]
    verdicts = gate(found.table, margin).set_index([*WHERE, "method"])["gate"]
    sound, paths, layers = verdicts[verdicts.isin(EVIDENCE)].index, [], found.about["layers"]
    for layer in layers:
        panels = [(draw, *each) for draw, table in zip((_curve, _bars), shown, strict=True)
                  for each in table[table["layer"] == layer].groupby(WHERE, sort=False)]  # fmt: skip
        columns = min(4, len(panels))
        size = 4.0 * columns, max(3.0, 1.1 + 0.24 * shown[1]["method"].nunique()) * -(-len(panels) // columns) + 0.9
        with mpl.rc_context(STYLE):
            figure, axes = plt.subplots(-(-len(panels) // columns), columns, figsize=size, squeeze=False)
            for cell in axes.flat[len(panels) :]:
                cell.axis("off")
            for cell, (draw, where, group) in zip(axes.flat, panels, strict=False):
                draw(cell, group, [method for method in group["method"].unique() if (*where, method) in sound])
                cell.set_title(", baseline ".join([words(where[0]), where[1]][: 1 + (where[1] != "none")]))
            if panels[0][0] is _curve:
                figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
            few = f"\nToo few pictures to decide anything: {LEAST} at least" if found.about["n"] < LEAST else ""
            said = _said({**conditions(found), "layer": layer})
            figure.suptitle(f"{found.about['model']}: {said}{few}", fontsize=12)
            stem = "comparison_plots" if layer == layers[-1] else f"comparison_plots_{layer}"
            paths += [save(figure, folder / f"{stem}{suffix}") for suffix in (".png", ".pdf")]
            plt.close(figure)
    return paths


def _curve(axes: Any, lines: pd.DataFrame, sound: Sequence[str]) -> None:
    """A mean curve with its band for each method; of several alphas, which share a colour, one."""
    alphas = lines["alpha"].dropna()
    one = ALPHA if ALPHA in set(alphas) else alphas.min()
    for method, group in lines[lines["alpha"].isna() | lines["alpha"].eq(one)].groupby("method", sort=False):
        by_fraction = group.groupby("fraction")["probability"]
        mean = by_fraction.mean()
        reach = by_fraction.sem() * t.ppf(0.975, by_fraction.count() - 1)  # none of a single picture
        plain = method.partition("@")[0]
        style = "--" if plain == ORACLE else ":" if plain in controls() else "-"
        axes.plot(mean.index, mean, color=colour(plain), linestyle=style, label=words(method))
        low, high = (mean - reach).clip(0), (mean + reach).clip(upper=1)
        axes.fill_between(mean.index, low, high, color=colour(plain), alpha=0.15, linewidth=0)
    verb = "shown" if lines["metric"].iloc[0] == "insertion" else "taken away"
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"share of pixels {verb}", ylabel="probability")


def _bars(axes: Any, group: pd.DataFrame, sound: Sequence[str]) -> None:
    """A mean with its interval for each method, the first on top; pale without evidence."""
    found = summarise(group, by=["metric", "method"]).set_index("method")
    places = -np.arange(len(found))
    reach = np.nan_to_num([found["mean"] - found["low"], found["high"] - found["mean"]]).clip(0)  # of rounding errors
    tones = [(*mpl.colors.to_rgb(colour(m.partition("@")[0])), 0.85 if m in sound else 0.25) for m in found.index]
    axes.barh(places, found["mean"], color=tones, height=0.75)
    axes.errorbar(found["mean"], places, xerr=reach, fmt="none", ecolor="black", elinewidth=1.2, capsize=2)
    axes.set_yticks(places, [words(method) for method in found.index], fontsize=10)
    better = "lower" if group["metric"].iloc[0] in LOWER_IS_BETTER else "higher"
    axes.set_xlabel(f"{better} is better; pale: no evidence")
