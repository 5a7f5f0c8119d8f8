"""What an evaluation says: the gate, declared comparisons, verdicts, and what is written of them."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..cam.methods import colour, controls
from ..files import atomic, results_dir, versions, write_text
from .run import ALPHA, ORACLE, Conditions, Evaluation, variant, variants
from .statistics import LOWER_IS_BETTER, compare, interval, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = {
    "n": "$n$",
    "sd": "SD",
    "effect": "$d_z$",
    "effect interval": "$d_z$ interval",
    "t": "$t$",
    "p_t": "$p$ ($t$)",
    "p_t_holm": "$p$ ($t$, Holm)",
    "p_wilcoxon": "$p$ (Wilcoxon)",
    "p_wilcoxon_holm": "$p$ (Wilcoxon, Holm)",
    "p_equivalence": "$p$ (equivalence)",
    "p_equivalence_holm": "$p$ (equivalence, Holm)",
}
GIVEN = ("alpha", "level", "margin")
"""Columns with numbers that were chosen, not measured: 0.7 is not 0.7000."""
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    "[": "{[}",  # behind a line break it would be an option
}  # fmt: skip


def write_table(
    table: pd.DataFrame,
    stem: str | Path,
    *,
    title: str,
    conditions: Conditions,
    columns: Sequence[str] | None = None,
    headings: Mapping[str, str] | None = None,
    digits: int = 4,
) -> tuple[Path, Path]:
    """Write `stem.csv`, with every column, and `stem.tex`, with `columns` of them; return both paths.

    Conditions that the table does not hold as a column of its own are added to the CSV as one, and stand in the
    caption of the LaTeX.
    """
    text = latex(
        table, title=title, conditions=conditions, label=Path(stem).name, columns=columns, headings=headings,
        digits=digits,
    )  # fmt: skip
    source = Path(f"{stem}.tex")
    return write_csv(table, f"{stem}.csv", conditions), write_text(source, text)


def write_csv(table: pd.DataFrame, path: str | Path, conditions: Conditions) -> Path:
    """Write a table with its conditions as columns, whole or not at all, at full precision."""
    extra = {name: value for name, value in asdict(conditions).items() if name not in table}
    with atomic(path) as temporary:
        table.assign(**extra).to_csv(temporary, index=False, lineterminator="\n")
    return Path(path)


def latex(
    table: pd.DataFrame,
    *,
    title: str,
    conditions: Conditions,
    label: str,
    columns: Sequence[str] | None = None,
    headings: Mapping[str, str] | None = None,
    digits: int = 4,
) -> str:
    r"""A floating LaTeX table, which needs `\usepackage{booktabs}` and nothing else.

    Columns `low` and `high` (or `x_low` and `x_high`) become one interval; p values below .001 say so; `headings`
    replaces column names and is taken as LaTeX. `digits` are those behind the point.
    """
    chosen = list(table.columns) if columns is None else list(columns)
    if missing := [name for name in chosen if name not in table]:
        raise ValueError(f"The table has no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}.")
    if not chosen or not len(table):
        raise ValueError("The table is empty; there is nothing to write.")
    names, shown, sides = [], [], ""
    for name in chosen:
        stem = name.removesuffix("low").removesuffix("high")
        if name != stem and {f"{stem}low", f"{stem}high"} <= set(chosen):
            if name.endswith("high"):
                continue
            bounds = zip(table[name], table[f"{stem}high"], strict=True)
            name, side = f"{stem.rstrip('_')} interval".strip(), "r"
            cells = [_interval(low, high, digits) for low, high in bounds]
        else:
            side = "r" if pd.api.types.is_numeric_dtype(table[name]) and table[name].dtype != bool else "l"
            cells = [_cell(value, name, digits) for value in table[name]]
        names.append({**HEADINGS, **(headings or {})}.get(name, escape(name.replace("_", " "))))
        shown.append(cells)
        sides += side
    text = pd.DataFrame(list(zip(*shown, strict=True)), columns=names).to_latex(
        index=False,
        escape=False,
        column_format=sides,
        caption=f"{escape(title.rstrip('.'))}. {escape(str(conditions))}.",
        label=f"tab:{label}",
        position="tbp",
    )
    start = "\\begin{table}[tbp]\n"
    return "% needs \\usepackage{booktabs}\n" + text.replace(start, start + "\\centering\n")


def escape(text: str) -> str:
    """Make any text safe inside LaTeX.

    >>> print(escape("50 % of layer_4"))
    50 \\% of layer\\_4
    """
    return "".join(_LATEX.get(c, c) for c in text)


def _cell(value: object, column: str, digits: int) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if not isinstance(value, (float, np.floating, int, np.integer)):
        return "--" if value is None or value is pd.NA else escape(str(value))
    if column.startswith("p_") and value < 0.001:
        return "$<0.001$"
    if column in GIVEN and np.isfinite(value):
        return f"${value:g}$"
    return _number(value, digits)


def _number(value: float, digits: int) -> str:
    """A number in mathematics, so that its minus is one."""
    if np.isnan(value):
        return "--"
    if np.isinf(value):
        return r"$\infty$" if value > 0 else r"$-\infty$"
    return f"${value}$" if isinstance(value, (int, np.integer)) else f"${value:.{digits}f}$"


def _interval(low: float, high: float, digits: int) -> str:
    if np.isnan(low) or np.isnan(high):
        return "--"
    return f"$[{_number(low, digits).strip('$')}, {_number(high, digits).strip('$')}]$"


FAMILY = (("hybrid", "gradcam"), ("hybrid", "layercam"), ("gradcam", "layercam"))
"""The comparisons that are declared before any result; `hybrid` is the hybrid of the thesis, alpha 0.7."""
OUTSIDE = (ORACLE, *controls())
WHERE = ["metric", "baseline", "layer"]


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

    `options` are those of `stats.compare`: `margin`, `level`, `seed`.
    """
    found = compare(named(table), pairs, by=WHERE, **options)
    return _with_gate(found, table)


def _with_gate(found: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The same rows, each with the gate of its metric; "none" for time, which has none."""
    return found.merge(gate(table)[[*WHERE, "gate"]], how="left", on=WHERE).fillna({"gate": "none"})


def headlines(found: Evaluation, pairs: Sequence[tuple[str, str]]) -> str:
    """The verdicts on the declared comparisons in words, those alone whose metric passes the gate."""
    lines = []
    judged = gate(found.table)
    if pairs:
        table = comparisons(found.table, pairs)
        for row in table[table["gate"].isin(["pass", "no oracle"])].to_dict("records"):
            lines.append(
                f"{row['metric']} ({row['baseline']}, {row['layer']}): {row['first']} against {row['second']} "
                f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}], n = {row['n']}: {row['verdict']}"
            )
    for row in judged[~judged["gate"].isin(["pass", "no oracle"])].to_dict("records"):
        lines.append(f"{row['metric']} ({row['baseline']}, {row['layer']}) is no evidence here; gate: {row['gate']}")
    if (judged["gate"] == "no oracle").any():
        lines.append("Without masks there is no oracle: the gate could only be tested against random maps.")
    return "\n".join(lines)


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

    from ..render import STYLE, save

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
    stats = stats.loc[[*order, *(m for m in stats.index if m in controls())]]
    places = -np.arange(len(stats))
    reach = np.nan_to_num([stats["mean"] - stats["low"], stats["high"] - stats["mean"]])
    tones = [_look(method)[0] for method in stats.index]
    axes.barh(places, stats["mean"], color=tones, alpha=0.25 if pale else 0.85, height=0.75)
    axes.errorbar(stats["mean"], places, xerr=reach, fmt="none", ecolor="black", elinewidth=1.2, capsize=2)
    axes.set_yticks(places, [_label(method) for method in stats.index], fontsize=10)


def _look(method: str) -> tuple[str, str]:
    plain = method.partition("@")[0]
    return colour(plain), "--" if plain == ORACLE else ":" if plain in controls() else "-"


def _label(method: str) -> str:
    from ..render import name

    plain, _, alpha = method.partition("@")
    return "Oracle (mask)" if plain == ORACLE else f"{name(plain)} {alpha}".rstrip()
