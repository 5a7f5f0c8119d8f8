"""What may be concluded from an evaluation: the gate that a metric must pass, summaries, declared comparisons."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .evaluation import ALPHA, ORACLE, Evaluation, variant, variants
from .methods import CONTROLS
from .stats import LOWER_IS_BETTER, compare, interval, summarise

FAMILY = (("hybrid", "gradcam"), ("hybrid", "layercam"), ("gradcam", "layercam"))
"""The comparisons that are declared before any result; `hybrid` is the hybrid of the thesis, alpha 0.7."""
OUTSIDE = (ORACLE, *CONTROLS)
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
