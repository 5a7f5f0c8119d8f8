"""Whether a score may be headlined: the declared checks that nonsense must fail and a right map must pass."""

from collections.abc import Iterator

import pandas as pd

from ..cam.methods import controls
from .controls import COPIES, HOLLOW, ORACLE, copy_of, is_copy, variant
from .statistics import LOWER_IS_BETTER, MARGIN, interval

WHERE = ["metric", "baseline", "layer"]
EVIDENCE = ("pass", "no oracle")
"""The gate's verdicts on what may be headlined."""
VERDICTS = ("pass", "no oracle", "undecided", "fail")  # from the best to the worst
COARSE, FEW = ("pointing_game", "pointing_exact"), 100
"""Scores that are hits and misses, whose intervals cover too little below so many pictures (see chapter 5)."""
LEAST = 6  # pairs: with fewer, not even the same sign throughout has p below .05


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The tidy table with the alpha in the method's name, so that a method is one column's value."""
    return table.assign(method=[variant(m, a) for m, a in zip(table["method"], table["alpha"], strict=True)])


def checks(table: pd.DataFrame, margin: float = MARGIN) -> pd.DataFrame:
    """By how much each method beats everything it must beat, one row for each score, method and rival.

    The rivals: random noise, the bell in the centre, the method's own map mirrored, and its own map for the least
    likely class. The oracle must not be beaten by more than the margin, and the score itself must not prefer a hollow
    oracle, whose hottest tenth is made the coldest. `difference` and its interval are positive where all is well;
    `reached` is "yes", "no" or "undecided". A rival that is always equal is not beaten.
    """
    rows = []
    for key, group in named(table).groupby(WHERE, sort=False):
        wide = group.pivot(index="picture", columns="method", values="value")
        sign = -1 if key[0] in LOWER_IS_BETTER else 1
        outside = (ORACLE, *controls())
        for method in [m for m in group["method"].unique() if m not in outside and not is_copy(m)]:
            for against, better, worse in _pairs(method, wide):
                both = wide.reindex(columns=list(dict.fromkeys([better, worse])))
                difference = sign * (both[better] - both[worse]).dropna()
                low, high, _ = interval(difference)
                bound, equal = -margin if against == ORACLE else 0.0, low == high == 0
                rival = against not in (ORACLE, HOLLOW)
                reached = "yes" if low > bound or (equal and not rival) else "no" if high < 0 or equal else "undecided"
                reached = reached if len(difference) >= LEAST else "undecided"
                rows.append({**dict(zip(WHERE, key, strict=True)), "method": method, "against": against,
                             "n": len(difference), "difference": difference.mean(), "low": low, "high": high,
                             "reached": reached})  # fmt: skip
    return pd.DataFrame(rows, columns=[*WHERE, "method", "against", "n", "difference", "low", "high", "reached"])


def _pairs(method: str, wide: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """What is checked, which of two maps must be better, and than which; of copies, those that were measured."""
    for control in controls():
        yield control, method, control
    for kind in COPIES:
        if (copied := copy_of(method, kind)) in wide:
            yield kind, method, copied
    if ORACLE in wide:
        yield ORACLE, ORACLE, method
        yield HOLLOW, ORACLE, copy_of(ORACLE, HOLLOW)


def gate(table: pd.DataFrame, margin: float = MARGIN) -> pd.DataFrame:
    """The verdict on each score of each method, with its mean, and the check that came out worst.

    "pass": all checks are reached, and "no oracle" where there are no masks; "fail": one is lost for sure; "undecided":
    these pictures cannot tell, as they cannot below `FEW` of them for scores that are hits and misses.
    """
    rows, values = [], named(table).groupby([*WHERE, "method"], sort=False)["value"].mean()
    for key, group in checks(table, margin).groupby([*WHERE, "method"], sort=False):
        reached = group["reached"]
        order = reached.map({"no": 0, "undecided": 1, "yes": 2})
        worst = group.assign(order=order).sort_values(["order", "low"]).iloc[0]
        masks = ORACLE in set(group["against"])
        doubtful = (reached != "yes").any() or (key[0] in COARSE and worst["n"] < FEW)
        verdict = "fail" if (reached == "no").any() else "undecided" if doubtful else "pass"
        rows.append({
            **dict(zip([*WHERE, "method"], key, strict=True)), "n": int(worst["n"]), "mean": values[key],
            "weakest_against": worst["against"], **worst[["difference", "low", "high"]],
            "gate": "no oracle" if verdict == "pass" and not masks else verdict,
        })  # fmt: skip
    columns = [*WHERE, "method", "n", "mean", "weakest_against", "difference", "low", "high", "gate"]
    return pd.DataFrame(rows, columns=columns)
