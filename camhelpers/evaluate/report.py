"""What an evaluation says: the gate, declared comparisons, verdicts, and what is written of them."""

import datetime
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..cam.methods import colour, controls
from ..cam.methods import title as method_title
from ..files import atomic, results_dir, versions, write_text
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
        above, below = (_gap(wide, pair, sign) for pair in ((ORACLE, best), (worst, "random")))
        masks = ORACLE in wide
        gaps = [above, below] if masks else [below]
        if any(high < 0 for _, _, high in gaps):
            verdict = "fail"
        elif all(low > 0 for _, low, _ in gaps):
            verdict = "pass" if masks else "no oracle"
        else:
            verdict = "undecided"
        rows.append(
            {
                **dict(zip(WHERE, key, strict=True)),
                "n": len(wide),
                **{who: means.get(who, np.nan) for who in OUTSIDE},
                "best_method": best,
                "best": means.get(best, np.nan),
                "worst_method": worst,
                "worst": means.get(worst, np.nan),
                **dict(zip(("above", "above_low", "above_high"), above, strict=True)),
                **dict(zip(("below", "below_low", "below_high"), below, strict=True)),
                "gate": verdict,
            }
        )
    return pd.DataFrame(rows)


def _gap(wide: pd.DataFrame, pair: tuple[str | None, str | None], sign: int) -> tuple[float, float, float]:
    """By how much the first is better than the second on the pictures that have both, with its interval."""
    if any(who not in wide for who in pair):
        return np.nan, np.nan, np.nan
    d = (sign * (wide[pair[0]] - wide[pair[1]])).dropna().to_numpy()
    if len(d) < 2:
        return (d.mean() if len(d) else np.nan), np.nan, np.nan
    low, high, _ = interval(d)
    return float(d.mean()), low, high


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
    """Every declared comparison with every statistic and the gate of its metric; `pairs` come from `family`.

    `options` are those of `statistics.compare`: `margin` and `seed`.
    """
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
    whole, judged = conditions(found), gate(table)
    paths = [_csv(table, folder / "evaluation_results.csv", whole)]
    paths += [_csv(found.curves, folder / "curves.csv", whole)]
    paths += _tables(judged, folder / "gate", found, ["layer"], [
        "metric", "baseline", "n", ORACLE, "best_method", "best", "worst_method", "worst", "centre", "random", "gate",
    ])  # fmt: skip
    paths += _tables(summary(table), folder / "summary_statistics", found, [*WHERE, "gate"], [
        "method", "alpha", "n", "mean", "sd", "min", "max", "interval",
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
            "metric", "baseline", "difference", "interval", "effect", "win_rate", "p_t_holm", "p_wilcoxon_holm",
            "p_equivalence_holm", "verdict", "gate",
        ])  # fmt: skip
    return paths


def conditions(found: Evaluation, **changes: Any) -> dict[str, Any]:
    """What a reader must know to judge a table; None where a condition has no part in it."""
    about = found.about
    named = {"baseline": ", ".join(about["baselines"]), "layer": ", ".join(about["layers"])}
    return {"n": about["n"], "steps": about["steps"], **named, "model": about["model_hash"], "seed": about["seed"],
            **changes}  # fmt: skip


def _said(known: dict[str, Any]) -> str:
    return ", ".join(f"{'weights' if k == 'model' else k} = {'none' if v is None else v}" for k, v in known.items())


def _csv(table: pd.DataFrame, path: Path, known: dict[str, Any]) -> Path:
    """Write a table at full precision, with those conditions as columns that it does not hold itself."""
    with atomic(path) as temporary:
        extra = {name: value for name, value in known.items() if name not in table}
        table.assign(**extra).to_csv(temporary, index=False, lineterminator="\n")
    return path


def _tables(
    table: pd.DataFrame, stem: Path, found: Evaluation, split: Sequence[str], columns: Sequence[str]
) -> list[Path]:
    """The whole table as CSV, and as LaTeX one table for each combination of `split`, which its caption names."""
    pieces = ["% needs \\usepackage{booktabs}"]
    for key, group in table.groupby(list(split), sort=False, dropna=False):
        here = dict(zip(split, map(_shown, split, key), strict=True))
        known = {k: None if here[k] == "none" else here[k] for k in ("baseline", "layer") if k in here}
        if "steps" in group and group["steps"].isna().all():
            known["steps"] = None
        of = ", ".join(f"gate: {v}" if k == "gate" else v for k, v in here.items() if v != "none")
        caption = f"{_title(stem.name)}: {of}. {_said(conditions(found, **known))}."
        label = "_".join([stem.name, *(str(v) for k, v in zip(split, key, strict=True) if k != "gate")])
        pieces.append(_latex(group, columns, caption, label))
    texts = write_text(stem.with_suffix(".tex"), "\n".join(pieces))
    return [_csv(table, stem.with_suffix(".csv"), conditions(found)), texts]


HEADINGS = {
    "n": "$n$", "sd": "SD", "effect": "$d_z$",
    "p_t_holm": "$p_t$", "p_wilcoxon_holm": "$p_W$", "p_equivalence_holm": r"$p_\mathrm{eq}$",
}  # fmt: skip


def _latex(table: pd.DataFrame, columns: Sequence[str], caption: str, label: str) -> str:
    """A floating table; `low` and `high` are one column, `interval`."""
    if "interval" in columns:
        table = table.assign(interval=list(zip(table["low"], table["high"], strict=True)))
    texts = [name for name in columns if table[name].dtype.kind not in "iuf" and name != "interval"]
    table = table[list(columns)].assign(**{name: [_shown(name, v) for v in table[name]] for name in texts})
    style = table.style.hide(axis="index").format(na_rep="--", escape="latex")
    for name in set(columns) - set(texts):
        style = style.format(partial(_number, name), subset=[name], na_rep="--")
    return style.format_index(lambda name: HEADINGS.get(name, name.replace("_", " ")), axis=1).to_latex(
        hrules=True, position="tbp", position_float="centering", caption=caption.replace("_", r"\_"),
        label=f"tab:{label}",
    )  # fmt: skip


def _number(column: str, value: Any) -> str:
    """A number in mathematics, so that its minus is one."""
    if column == "interval":
        return f"$[{value[0]:.4f}, {value[1]:.4f}]$"
    if column.startswith("p_") and value < 0.001:
        return "$<0.001$"
    exact = column == "alpha" or isinstance(value, int)  # chosen or counted: 0.7 is not 0.7000
    return (f"${value:g}$" if exact else f"${value:.4f}$").replace("inf", r"\infty")


def _shown(column: str, value: Any) -> str:
    """A text of a table as a reader wants it: titles in place of code names."""
    if column == "metric":
        return _title(value)
    if column in ("method", "first", "second", "best_method", "worst_method") and isinstance(value, str):
        return _label(value)
    return str(value)


def _title(metric: str) -> str:
    special = {"comparisons": "Comparisons, each p after Holm", "iou": "IoU"}
    return special.get(metric, metric.replace("_", " ").capitalize())


def _label(method: str) -> str:
    plain, _, alpha = method.partition("@")
    return "Oracle (mask)" if plain == ORACLE else f"{method_title(plain)} {alpha}".rstrip()


def _plots(found: Evaluation, folder: Path) -> list[Path]:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    from ..render import STYLE, save

    paths, layers = [], found.about["layers"]
    with mpl.rc_context(STYLE):
        for layer in layers:
            figure = plot(found, layer)
            stem = "comparison_plots" if layer == layers[-1] else f"comparison_plots_{layer}"
            paths += [save(figure, folder / f"{stem}{suffix}") for suffix in (".png", ".pdf")]
            plt.close(figure)
    return paths


def plot(found: Evaluation, layer: str) -> Any:
    """One layer in one figure: mean curves with bands, and each metric's means with intervals; both are of 95 %.

    Bars are pale where the metric does not pass the gate, and the title says so.
    """
    import matplotlib.pyplot as plt

    table, lines = (named(t[t["layer"] == layer]) for t in (found.table, found.curves))
    table = table[table["value"].notna()]
    verdicts = gate(found.table[found.table["layer"] == layer]).set_index(["metric", "baseline"])["gate"]
    bars, curves = list(table.groupby(WHERE[:2], sort=False)), list(lines.groupby(WHERE[:2], sort=False))
    columns = min(4, len(bars) + len(curves))
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
        _bars(cell, group, pale=verdict not in EVIDENCE)
        better = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
        cell.set_title(_title(metric) + ("" if baseline == "none" else f", baseline {baseline}"))
        cell.set_xlabel(better if verdict == "pass" else f"{better}; gate: {verdict}")
    if curves:
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(f"{found.about['model']}: {_said(conditions(found, layer=layer))}", fontsize=12)
    return figure


def _curve(axes: Any, lines: pd.DataFrame) -> None:
    """A mean curve with its band for each method; of several alphas, one."""
    from scipy.stats import t

    alphas = lines["alpha"].dropna().unique()
    shown = ALPHA if ALPHA in alphas else alphas[0] if len(alphas) else None
    for method, group in lines[lines["alpha"].isna() | (lines["alpha"] == shown)].groupby("method", sort=False):
        by_fraction = group.groupby("fraction")["probability"]
        mean, count = by_fraction.mean(), by_fraction.count()
        reach = (by_fraction.std() / np.sqrt(count) * t.ppf(0.975, (count - 1).clip(lower=1))).fillna(0)
        plain = method.partition("@")[0]
        style = "--" if plain == ORACLE else ":" if plain in controls() else "-"
        axes.plot(mean.index, mean, color=colour(plain), linestyle=style, label=_label(method))
        axes.fill_between(mean.index, mean - reach, mean + reach, color=colour(plain), alpha=0.15, linewidth=0)
    axes.set(xlim=(0, 1), ylim=(0, 1))


def _bars(axes: Any, group: pd.DataFrame, pale: bool) -> None:
    """A mean with its interval for each method, the oracle on top and the controls below."""
    stats = summarise(group, by=["method"]).set_index("method")
    methods = [m for m in stats.index if m not in OUTSIDE]
    stats = stats.loc[[m for m in (ORACLE, *methods, *controls()) if m in stats.index]]
    places = -np.arange(len(stats))
    reach = np.nan_to_num([stats["mean"] - stats["low"], stats["high"] - stats["mean"]])
    tones = [colour(method.partition("@")[0]) for method in stats.index]
    axes.barh(places, stats["mean"], color=tones, alpha=0.25 if pale else 0.85, height=0.75)
    axes.errorbar(stats["mean"], places, xerr=reach, fmt="none", ecolor="black", elinewidth=1.2, capsize=2)
    axes.set_yticks(places, [_label(method) for method in stats.index], fontsize=10)
