"""Tables for a thesis: CSV for machines, LaTeX with booktabs for people, each naming the conditions it holds under."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .files import atomic, write_text

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
