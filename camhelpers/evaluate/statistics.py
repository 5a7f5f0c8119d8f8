"""Honest statistics for paired measurements: every method met the same pictures, so differences are what counts."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

LOWER_IS_BETTER = ("deletion", "max_sensitivity", "infidelity", "complexity")
UNLIMITED = ("lift", "part_correlation")  # all other metrics lie in 0..1
MARGIN = 0.01
"""What counts as no difference: of two curves, a hundredth of the picture's pixels earlier or later; see chapter 5."""
ALPHA = 0.05  # p values below it count
LEVEL = 1 - ALPHA
RESAMPLES = 10_000


# One sample -----------------------------------------------------------------------------------------------------------


def summarise(table: pd.DataFrame, by: Sequence[str] = ("method", "metric")) -> pd.DataFrame:
    """Mean, SD, extremes, n and the mean's interval of `value` in each group; NaN values are dropped and counted.

    Where there are fewer values than a figure needs, that figure is NaN: nothing can be said. The metric, where it is
    one of `by`, tells whether values are shares, see `interval`.
    """
    rows = []
    for key, values in table.groupby(list(by), sort=False, dropna=False)["value"]:
        x = values.dropna()
        low, high, _ = interval(x, share="metric" in by and set(key).isdisjoint(UNLIMITED))
        found = {"n": len(x), "dropped": len(values) - len(x), "mean": x.mean(), "sd": x.std(), "min": x.min(),
                 "max": x.max(), "low": low, "high": high, "level": LEVEL}  # fmt: skip
        rows.append({**dict(zip(by, key, strict=True)), **found})
    return pd.DataFrame(rows)


def interval(values: Sequence[float], *, seed: int = 0, share: bool = False) -> tuple[float, float, str]:
    """The interval of 95 % of a mean, and how it was found: "bootstrap" (studentised), "Student t" or "constant".

    A resample that repeats one value has no spread, and no finite t. Where so many do that a bound is absurd (two or
    three values, or all but a few alike), Student's interval stands in. One value has no interval: NaN.

    `share`: the values lie in 0..1, and so does the interval; that of hits and misses is "Wilson"'s.

    >>> [round(bound, 2) for bound in interval([1, 1, 1, 1, 1], share=True)[:2]]
    [0.57, 1.0]
    """
    return _interval(tuple(np.asarray(values, float).tolist()), seed, share)


@lru_cache(maxsize=10_000)  # gate, summary and comparisons ask for the same ones
def _interval(values: tuple[float, ...], seed: int, share: bool) -> tuple[float, float, str]:
    from statsmodels.stats.proportion import proportion_confint

    x, n = np.asarray(values), len(values)
    if share and n and set(values) <= {0, 1}:
        return *map(float, proportion_confint(x.sum(), n, ALPHA, "wilson")), "Wilson"
    if n < 2:
        return np.nan, np.nan, "none"
    mean, error = float(x.mean()), x.std(ddof=1) / np.sqrt(n)
    if np.ptp(x) == 0:
        return mean, mean, "constant"
    # Not scipy's BCa: of 2,000 intervals of skewed differences at 95 %, BCa covers .82 at n = 10 and .89 at n = 30,
    # the studentised bootstrap .91 and .93.
    drawn = {"n_resamples": RESAMPLES, "batch": max(1, 500_000 // n), "rng": np.random.default_rng(seed)}
    t, how = stats.bootstrap((x - mean,), _t, method="percentile", **drawn).confidence_interval, "bootstrap"
    student = stats.t.ppf((1 + LEVEL) / 2, n - 1)
    if max(-t.low, t.high) >= 4 * student:
        t, how = t._replace(low=-student, high=student), "Student t"
    low, high = float(mean - t.high * error), float(mean - t.low * error)
    return (max(low, 0.0), min(high, 1.0), how) if share else (low, high, how)


def _t(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """The t statistic of each resample of values with mean 0; huge for one value n times over."""
    means, spread = x.mean(axis), x.std(axis, ddof=1)
    spread[spread <= 1e-6 * np.abs(x).max(axis)] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = means / spread * np.sqrt(x.shape[axis])
    return np.nan_to_num(t, nan=0, posinf=1e9, neginf=-1e9)


# One pair -------------------------------------------------------------------------------------------------------------


def paired(
    first: Sequence[float], second: Sequence[float], *, margin: float = MARGIN, lower_is_better: bool = False,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Every statistic of `first - second`, paired; pairs in which either is NaN are dropped and counted.

    `effect` is Cohen's dz with the interval of the noncentral t; `win_rate` the share of pairs in which the first is
    better, ties counting half; `p_equivalence` the larger p of the two one-sided tests that the mean difference lies
    within the margin; `detectable` the smallest dz that so many pairs find four times in five.

    >>> round(paired([0.5, 0.7, 0.9], [0.4, 0.5, 0.6])["difference"], 3)
    0.2
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    whole = ~(np.isnan(a) | np.isnan(b))
    a, b, n = a[whole], b[whole], int(whole.sum())
    if n < 2:
        raise ValueError(f"A test needs at least two pairs, not {n} ({len(whole) - n} dropped for a missing value).")
    d = a - b
    if np.ptp(d) <= 1e-12 * max(np.abs(a).max(), np.abs(b).max()):  # differ by rounding alone
        d = np.full(n, d[0] if abs(d[0]) > 1e-12 * np.abs(a).max() else 0.0)
    low, high, how = interval(d, seed=seed)
    t, p, p_equivalence = _tests(d, margin)
    effect, effect_low, effect_high = _effect(t, n)
    wins = -d if lower_is_better else d
    return {
        "n": n, "dropped": len(whole) - n, "mean_first": float(a.mean()), "mean_second": float(b.mean()),
        "difference": float(d.mean()), "sd": float(d.std(ddof=1)), "low": low, "high": high, "level": LEVEL,
        "interval_by": how, "effect": effect, "effect_low": effect_low, "effect_high": effect_high,
        "win_rate": float(((wins > 0) + 0.5 * (wins == 0)).mean()), "t": t, "p_t": p,
        "p_wilcoxon": float(stats.wilcoxon(d[d != 0]).pvalue) if d.any() else 1.0, "margin": margin,
        "p_equivalence": p_equivalence, "detectable": detectable(n),
    }  # fmt: skip


def _tests(d: np.ndarray, margin: float) -> tuple[float, float, float]:
    """Student's t of a mean with its p, and the p of its equivalence to 0 within the margin.

    Constant differences leave nothing to divide by. Their p is then the exact sign test's, the least that so many
    pairs can give: two equal differences prove nothing, sixty do.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    if np.ptp(d) > 0:
        found = stats.ttest_1samp(d, 0.0)
        return float(found.statistic), float(found.pvalue), float(DescrStatsW(d).ttost_mean(-margin, margin)[0])
    t, p = (float(np.copysign(np.inf, d[0])), 2.0 ** (1 - len(d))) if d[0] else (0.0, 1.0)
    return t, p, 2.0 ** -len(d) if abs(d[0]) < margin else 1.0


def _effect(t: float, n: int) -> tuple[float, float, float]:
    """Cohen's dz and its interval: the noncentralities under which t would just be surprising (Cumming, 2012)."""
    low, high = special.nctdtrinc(n - 1, ((1 + LEVEL) / 2, ALPHA / 2), t) if np.isfinite(t) else (t, t)
    return float(t / np.sqrt(n)), float(low / np.sqrt(n)), float(high / np.sqrt(n))


def power(n: int, effect: float) -> float:
    """How often a two-sided paired t test of `n` pairs, at p < .05, finds a true effect (dz).

    >>> [round(power(10, dz), 2) for dz in (0.2, 0.5, 0.8)]
    [0.09, 0.29, 0.62]
    """
    from statsmodels.stats.power import TTestPower

    return float(np.nan_to_num(TTestPower().power(effect, n, ALPHA), nan=1.0))  # NaN here and there from dz = 3 on


@lru_cache
def detectable(n: int) -> float:
    """The smallest effect (dz) that `n` pairs find four times in five.

    >>> round(detectable(34), 2)
    0.5
    """
    from statsmodels.stats.power import TTestPower

    return float(TTestPower().solve_power(nobs=n, alpha=ALPHA, power=0.8))


# Many pairs -----------------------------------------------------------------------------------------------------------


def compare(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, by: Sequence[str] = ("metric",), margin: float = MARGIN,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Every declared comparison with every statistic, one row each: `pairs` of methods in each group of `by`.

    `table` is tidy, with `picture`, `method`, `value` and the columns of `by`. All rows together are one family: a
    declared pair that was not measured is an error, since the family must not depend on the results. p values are
    adjusted after Holm (1979).

    `verdict` says of the first against the second: "equivalent" where the equivalence test (Holm) and the interval find
    the difference within the margin, significant or not; else "better" or "worse" where Holm's p of the t test is below
    .05 and the interval excludes 0; else "undecided". Less is better where a group holds a name in `LOWER_IS_BETTER`.
    """
    from statsmodels.stats.multitest import multipletests

    if not pairs:
        raise ValueError("pairs is empty; declare at least one pair of methods.")
    rows = []
    for key, group in table.groupby(list(by), sort=False, dropna=False):
        wide = group.pivot(index="picture", columns="method", values="value")
        less = not set(key).isdisjoint(LOWER_IS_BETTER)
        for first, second in pairs:
            if missing := {first, second} - set(wide):
                known = ", ".join(map(str, wide))
                raise ValueError(f"{min(missing)!r} was declared but not measured for {key}; there are {known}.")
            found = paired(wide[first], wide[second], margin=margin, lower_is_better=less, seed=seed)
            direction = {"better_is": "lower" if less else "higher"}
            rows.append({**dict(zip(by, key, strict=True)), "first": first, "second": second, **direction, **found})
    result = pd.DataFrame(rows)
    for p in ("p_t", "p_wilcoxon", "p_equivalence"):
        result[f"{p}_holm"] = multipletests(result[p], method="holm")[1]
    sure = (result["p_t_holm"] < ALPHA) & ((result["low"] > 0) | (result["high"] < 0))
    better = (result["difference"] > 0) == (result["better_is"] == "higher")
    within = (result["p_equivalence_holm"] < ALPHA) & (result["low"] > -margin) & (result["high"] < margin)
    cases = [within, sure & better, sure]
    result["verdict"] = np.select(cases, ["equivalent", "better", "worse"], "undecided")
    return result


def verdict(low: float, high: float, claim: str = "more", margin: float = 0.0, p: float = 0.0) -> str:
    """What an interval, and a p value where there is one, say of a claim: "supported", "not supported" or "undecided".

    "more" (the quantity exceeds 0) is supported where the whole interval lies above 0, and not supported where all of
    it lies below the margin, so that the excess is absent or too small to matter. "same" is supported where the
    interval lies within the margin on both sides, and not supported where it lies outside. Nothing is supported with
    p of .05 or above.

    >>> verdict(0.02, 0.05), verdict(-0.01, 0.03), verdict(0.001, 0.004, margin=0.01)
    ('supported', 'undecided', 'not supported')
    """
    if claim == "same":
        held, failed = -margin < low and high < margin, low >= margin or high <= -margin
    else:
        failed = high < margin or high <= 0
        held = low > 0 and not failed
    return "not supported" if failed else "supported" if held and p < ALPHA else "undecided"
