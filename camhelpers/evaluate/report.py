"""What an evaluation says: declared comparisons, verdicts through the gate, and what is written of them."""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import t
from torch import nn

from ..cam.explain import explain
from ..cam.methods import colour, controls
from ..cam.methods import title as method_title
from ..files import atomic, results_dir, versions, write_text
from ..render import STYLE, save
from .controls import ALPHA, HOLLOW, ORACLE, is_copy, measured, variant
from .gate import COARSE, EVIDENCE, FEW, VERDICTS, WHERE, checks, gate, named
from .run import Evaluation
from .statistics import LOWER_IS_BETTER, MARGIN, compare, interval, summarise, verdict

FAMILY = (("hybrid", "gradcam"), ("hybrid", "layercam"), ("gradcam", "layercam"))
"""The comparisons that are declared before any result; `hybrid` is the hybrid of the thesis, alpha 0.7."""
DEPENDS = "depends on the baseline"


def summary(table: pd.DataFrame, margin: float = MARGIN) -> pd.DataFrame:
    """Mean, SD, extremes, n and interval of methods and controls, with the gate; time has one value for each batch."""
    verdicts, table = gate(table, margin)[[*WHERE, "method", "gate"]], table[~table["method"].map(is_copy)]
    by = [*WHERE, "method", "alpha", "steps", "seed"]
    time = table[table["seconds"].notna()].drop_duplicates(["picture", "method", "alpha", "layer"])
    time = time.drop_duplicates(["method", "alpha", "layer", "seconds"])
    time = time.assign(metric="seconds", baseline="none", steps=pd.NA, value=time["seconds"])
    found = named(summarise(pd.concat([table, time.astype({"steps": "Int64"})], ignore_index=True), by=by))
    judged = found.merge(verdicts, how="left", on=[*WHERE, "method"])
    return judged.assign(method=found["method"].str.partition("@")[0]).fillna({"gate": "none"})


def family(
    names: Sequence[str], alphas: Sequence[float], n: int, pairs: Sequence[tuple[str, str]] | None = None
) -> list[tuple[str, str]]:
    """The declared comparisons with the hybrid's alpha spelt out, checked against what is going to be measured.

    Unless given, those of `FAMILY` whose two methods are measured; `hybrid` means alpha 0.7 where there are several.

    >>> family(["gradcam", "hybrid"], [0.3, 0.7], 60)
    [('hybrid@0.7', 'gradcam')]
    """
    offered = [variant(*v) for v in measured(names, alphas)]
    declared = [pair for pair in FAMILY if set(pair) <= set(names)] if pairs is None else pairs
    if pairs is None and n < 2:
        return []
    if declared and n < 2:
        raise ValueError(f"A comparison needs at least two pictures, and there is {n}.")
    return [tuple(_spelt(method, offered) for method in pair) for pair in declared]


def _spelt(method: str, offered: list[str]) -> str:
    own = [m for m in offered if method in (m, m.partition("@")[0])]
    if len(own) == 1:
        return own[0]
    if variant(method, ALPHA) in own:
        return variant(method, ALPHA)
    raise ValueError(f"{method!r} was declared but would not be measured as such; there are {', '.join(offered)}.")


def comparisons(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, margin: float = MARGIN, seed: int = 0
) -> pd.DataFrame:
    """The declared pairs, see `family`, with every statistic, see `statistics.compare`, and the gate.

    All baselines belong to the family. The gate is the worse of the two methods'.
    """
    found = compare(named(table), pairs, by=WHERE, margin=margin, seed=seed)
    verdicts = gate(table, margin).set_index([*WHERE, "method"])["gate"]
    sides = [found[[*WHERE, who]].itertuples(index=False, name=None) for who in ("first", "second")]
    both = [[verdicts.get(side, "pass") for side in two] for two in zip(*sides, strict=True)]  # controls have none
    return found.assign(gate=[max(two, key=VERDICTS.index) for two in both])


def conclusions(compared: pd.DataFrame) -> pd.DataFrame:
    """What the comparisons come to over those baselines that pass the gate: one verdict for each metric and pair.

    "no evidence" where no baseline passes, and "depends on the baseline" where those that pass do not agree.
    """
    rows = []
    for key, group in compared.groupby(["metric", "layer", "first", "second"], sort=False):
        passed = group[group["gate"].isin(EVIDENCE)]
        verdicts = list(dict.fromkeys(passed["verdict"]))
        said = DEPENDS if len(verdicts) > 1 else verdicts[0] if verdicts else "no evidence"
        reach = {"least": passed["difference"].min(), "most": passed["difference"].max()}
        rows.append({**dict(zip(["metric", "layer", "first", "second"], key, strict=True)),
                     "passed": ", ".join(passed["baseline"]), **reach, "verdict": said})  # fmt: skip
    return pd.DataFrame(rows)


def claim(compared: pd.DataFrame, metric: str, first: str, second: str, kind: str = "more") -> dict[str, Any]:
    """What the comparisons say of a claim, that `first` beats `second` ("more") or does as well ("same"), by `verdict`.

    Over all baselines that pass the gate; the figures are those of the baseline that speaks least for the claim.
    """
    pair = (compared["metric"] == metric) & (compared["first"] == first) & (compared["second"] == second)
    passed = compared[pair & compared["gate"].isin(EVIDENCE)]
    if passed.empty:
        return {"verdict": "no evidence"}
    sign = -1 if metric in LOWER_IS_BETTER else 1
    p = passed["p_t_holm" if kind == "more" else "p_equivalence_holm"]
    low, high = (passed["low"], passed["high"]) if sign > 0 else (-passed["high"], -passed["low"])
    verdicts = [verdict(*row, kind, m, q) for *row, m, q in zip(low, high, passed["margin"], p, strict=True)]
    weakest = passed.loc[low.idxmin() if kind == "more" else p.idxmax()]
    figures = {name: weakest[name] for name in ("baseline", "n", "difference", "low", "high")}
    return {"passed": len(passed), "of": int(pair.sum()), **figures, "p": p[weakest.name],
            "verdict": verdicts[0] if len(set(verdicts)) == 1 else DEPENDS}  # fmt: skip


def extra_cost(
    model: nn.Module, pictures: Sequence[Any], layer: str, *, method: str = "hybrid", than: str = "gradcam",
    rounds: int = 40, margin: float = 0.15,
) -> dict[str, Any]:  # fmt: skip
    """What a method costs more than another, as a share of its processor time, both in turn, and whether it matters."""
    shares = []
    for _ in range(rounds):
        took = {}
        for name in (method, than):
            start = process_time()
            explain(model, pictures, layers=layer).heatmap(name)
            took[name] = process_time() - start
        shares.append(took[method] / took[than] - 1)
    low, high, _ = interval(shares)
    return {"n": rounds, "difference": float(np.mean(shares)), "low": low, "high": high,
            "verdict": verdict(low, high, "same", margin)}  # fmt: skip


def headlines(found: Evaluation, pairs: Sequence[tuple[str, str]]) -> str:
    """The verdicts in words, bad news first: what is no evidence, and why; then the declared comparisons."""
    judged = gate(found.table)
    counts = judged["gate"].value_counts()
    told = ", ".join(f"{counts.get(name, 0)} {name}" for name in VERDICTS if counts.get(name, 0))
    lines = [f"Is each score evidence for each method? The gate: {told}; {found.about['n']} pictures."]
    for _, failed in judged[~judged["gate"].isin(EVIDENCE)].groupby(WHERE, sort=False):
        row = failed.sort_values("difference").iloc[0]
        rival = row["weakest_against"]
        two = {ORACLE: f"{ORACLE} against {row['method']}", HOLLOW: f"{ORACLE} against the {HOLLOW} one"}
        weakest = f"{two.get(rival) or row['method'] + ' against ' + rival} {row['difference']:+.4f} "
        lines.append(f"{_at(row)} is no evidence on {', '.join(failed['method'])}: {weakest}"
                     f"[{row['low']:+.4f}, {row['high']:+.4f}]")  # fmt: skip
    compared = comparisons(found.table, pairs) if pairs else judged[:0]
    for row in compared[compared["gate"].isin(EVIDENCE)].to_dict("records"):
        lines.append(f"{_at(row)}: {row['first']} against {row['second']} {row['difference']:+.4f} "
                     f"[{row['low']:+.4f}, {row['high']:+.4f}], n = {row['n']}: {row['verdict']}")  # fmt: skip
    for row in (conclusions(compared) if pairs else judged[:0]).to_dict("records"):
        if row["verdict"] == DEPENDS:
            lines.append(f"{row['metric']} ({row['layer']}): {row['first']} against {row['second']} {DEPENDS}")
    if (judged["gate"] == "no oracle").any():
        lines.append("Without masks there is no oracle: the gate could not be tested against what is right.")
    if judged["metric"].isin(COARSE).any() and found.about["n"] < FEW:
        lines.append(f"Pointing is a hit or a miss: no interval of it can be trusted below {FEW} pictures.")
    return "\n".join(lines)


def _at(row: Mapping[str, Any]) -> str:
    return f"{row['metric']} ({row['baseline']}, {row['layer']})"


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
        "method", "alpha", "n", "mean", "sd", "min", "max", "interval", "gate",
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
    where = {"baseline": ", ".join(about["baselines"]), "layer": ", ".join(about["layers"])}
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
        if "interval" in columns:
            group = group.assign(interval=list(zip(group["low"], group["high"], strict=True)))
        of = ", ".join(_cell(name, value) for name, value in zip(split, key, strict=True) if value != "none")
        caption = f"{words(stem.name)}: {of}. Measured with {_cell('conditions', _said(known))}."
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
        coded = column in ("metric", "method", "first", "second", "weakest_against")
        return re.sub(r"([&%$#_{}])", r"\\\1", words(value) if coded else value)
    if column == "interval":
        return "--" if np.isnan(value[0]) else f"$[{value[0]:.4f}, {value[1]:.4f}]$"
    if column.startswith("p_") and value < 0.001:
        return "$<0.001$"
    exact = column == "alpha" or isinstance(value, int)  # chosen or counted: 0.7 is not 0.7000
    return (f"${value:g}$" if exact else f"${value:.4f}$").replace("inf", r"\infty")


def words(code: str) -> str:
    """A metric, or a method with its alpha, as a reader wants it."""
    plain, _, alpha = code.partition("@")
    return f"{TITLES.get(plain) or method_title(plain).replace('_', ' ')} {alpha}".rstrip()


def _plots(found: Evaluation, folder: Path, margin: float) -> list[Path]:
    """One figure for each layer: mean curves with bands, and each metric's means with intervals; both are of 95 %.

    Bars of methods that do not pass the gate are pale; so are those of the controls and the oracle.
    """
    shown = [t[~t["method"].map(is_copy).astype(bool)] for t in (found.table.dropna(subset="value"), found.curves)]
    table, lines = map(named, shown)  # of curves there may be none
    verdicts = gate(found.table, margin).set_index([*WHERE, "method"])["gate"].sort_index()
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
                cell.set(title=f"{words(metric)}, baseline {baseline}", xlabel=f"share of pixels {shown}")
            for cell, ((metric, baseline), group) in zip(axes.flat[len(curves) :], bars, strict=False):
                sound = verdicts[metric, baseline, layer]
                _bars(cell, group, bold=list(sound[sound.isin(EVIDENCE)].index))
                better = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
                title = words(metric) if baseline == "none" else f"{words(metric)}, baseline {baseline}"
                cell.set(title=title, xlabel=f"{better}; pale: no evidence")
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
        axes.plot(mean.index, mean, color=colour(plain), linestyle=style, label=words(method))
        axes.fill_between(mean.index, mean - reach, mean + reach, color=colour(plain), alpha=0.15, linewidth=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="probability")


def _bars(axes: Any, group: pd.DataFrame, bold: Sequence[str]) -> None:
    """A mean with its interval for each method, the first on top."""
    found = summarise(group, by=["method"]).set_index("method")
    places = -np.arange(len(found))
    reach = np.nan_to_num([found["mean"] - found["low"], found["high"] - found["mean"]])
    tones = [(*mpl.colors.to_rgb(colour(m.partition("@")[0])), 0.85 if m in bold else 0.25) for m in found.index]
    axes.barh(places, found["mean"], color=tones, height=0.75)
    axes.errorbar(found["mean"], places, xerr=reach, fmt="none", ecolor="black", elinewidth=1.2, capsize=2)
    axes.set_yticks(places, [words(method) for method in found.index], fontsize=10)
