import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from camhelpers.evaluate.statistics import compare, detectable, interval, paired, power, summarise, verdict

# Hours of extra sleep under two drugs, ten patients (Cushny and Peebles, 1905), from which Student made his test.
FIRST = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SECOND = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]


def tidy(values: dict[str, list[float]], **columns) -> pd.DataFrame:
    rows = [{"picture": i, "method": m, "value": v, **columns} for m, vs in values.items() for i, v in enumerate(vs)]
    return pd.DataFrame(rows)


# One pair -------------------------------------------------------------------------------------------------------------


def test_students_own_example():
    found = paired(FIRST, SECOND)
    assert found["n"] == 10 and found["difference"] == pytest.approx(1.58)
    assert found["t"] == pytest.approx(4.0621, abs=5e-5)  # as printed in R's help page of `sleep`
    assert found["p_t"] == pytest.approx(0.002833, abs=5e-7)
    assert found["effect"] == pytest.approx(4.0621 / np.sqrt(10), abs=1e-4)
    assert found["sd"] == pytest.approx(np.std(np.subtract(FIRST, SECOND), ddof=1))
    assert found["low"] < 1.58 < found["high"]
    assert (found["mean_first"], found["mean_second"]) == (pytest.approx(2.33), pytest.approx(0.75))


def test_t_and_wilcoxon_are_scipys_and_ties_are_left_out_of_the_ranks():
    a, b = np.random.default_rng(0).random((2, 30))
    found = paired(a, b)
    assert found["p_t"] == pytest.approx(reference.ttest_rel(a, b).pvalue)
    assert found["p_wilcoxon"] == pytest.approx(reference.wilcoxon(a, b).pvalue)
    d = np.array([1, -2, 3, 4, 5, -6.5, 7, 8, 9, 10, 11])  # with zeros beside them, scipy is no longer exact
    assert paired([*d, 0, 0, 0, 0], np.zeros(15))["p_wilcoxon"] == pytest.approx(reference.wilcoxon(d).pvalue)


def test_the_win_rate_goes_by_what_is_better_and_ties_count_half():
    assert paired(FIRST, SECOND)["win_rate"] == 0.95  # nine wins, one tie
    assert paired(FIRST, SECOND, lower_is_better=True)["win_rate"] == pytest.approx(0.05)


def test_the_effects_interval_leaves_the_tails_of_the_noncentral_t():
    found, root = paired(FIRST, SECOND), np.sqrt(10)
    assert reference.nct.cdf(found["t"], 9, found["effect_low"] * root) == pytest.approx(0.975, abs=1e-6)
    assert reference.nct.cdf(found["t"], 9, found["effect_high"] * root) == pytest.approx(0.025, abs=1e-6)
    mirrored = paired(SECOND, FIRST)
    for one, other in (("effect", "effect"), ("effect_low", "effect_high"), ("effect_high", "effect_low")):
        assert mirrored[one] == pytest.approx(-found[other])


def test_equivalence_by_hand():
    d = np.array([-1.0, 1.0] * 12 + [0.0])
    d = 0.002 + 0.01 * d / d.std(ddof=1)  # mean .002, SD .01, n 25: standard error .002
    for way in (1, -1):  # either bound may be the nearer one
        expected = reference.t.cdf((0.002 - 0.01) / 0.002, 24)
        assert paired(way * d, np.zeros(25), margin=0.01)["p_equivalence"] == pytest.approx(expected)
        assert paired(way * d, np.zeros(25), margin=0.002)["p_equivalence"] == pytest.approx(0.5)


def test_pairs_with_a_missing_value_are_dropped_and_counted():
    found = paired([1, 2, np.nan, 4], [0, np.nan, 1, 2])
    assert (found["n"], found["dropped"], found["difference"]) == (2, 2, 1.5)


def test_constant_differences_need_no_spread():
    same = paired([0.1, 0.2, 0.3] * 5, [0.1, 0.2, 0.3] * 5)
    assert (same["p_t"], same["p_wilcoxon"], same["effect"], same["win_rate"]) == (1, 1, 0, 0.5)
    assert (same["low"], same["high"], same["interval_by"]) == (0, 0, "constant")
    assert same["p_equivalence"] == 2.0**-15
    shifted = paired([0.3, 0.4, 0.5], [0.1, 0.2, 0.3])  # equal but for rounding
    assert (shifted["p_t"], shifted["p_equivalence"]) == (0.25, 1)
    assert shifted["difference"] == pytest.approx(0.2)
    assert shifted["effect"] == -paired([0.1, 0.2, 0.3], [0.3, 0.4, 0.5])["effect"] == np.inf
    assert not any(isinstance(v, float) and np.isnan(v) for v in {**same, **shifted}.values())


# Power ----------------------------------------------------------------------------------------------------------------


def test_power_is_as_published_and_as_simulated():
    assert [round(power(10, dz), 2) for dz in (0.2, 0.5, 0.8)] == [0.09, 0.29, 0.62]
    assert power(34, 0.5) == pytest.approx(power(34, -0.5)) == pytest.approx(0.8078, abs=1e-4)  # G*Power 3.1's manual
    assert power(10, 0) == pytest.approx(0.05)
    x = np.random.default_rng(1).normal(0.4, 1, (4000, 25))
    assert (reference.ttest_1samp(x, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(power(25, 0.4), abs=0.02)


@pytest.mark.parametrize("n", [2, 3, 10, 200, 10_000])
def test_the_detectable_effect_has_the_power_wanted(n):
    assert power(n, detectable(n)) == pytest.approx(0.8, abs=1e-5)


# Intervals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("draw", "true"), [("normal", 0.0), ("exponential", 1.0)])
def test_nineteen_intervals_in_twenty_cover_the_mean(draw, true, monkeypatch):
    monkeypatch.setattr("camhelpers.evaluate.statistics.RESAMPLES", 999)
    rng, hits = np.random.default_rng(2), 0
    for number in range(400):
        low, high, how = interval(getattr(rng, draw)(size=25), seed=number)
        assert how == "bootstrap"
        hits += low <= true <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_the_interval_is_an_obvious_bootstraps():
    x = np.random.default_rng(3).exponential(size=20)
    rng, ts = np.random.default_rng(4), []
    for _ in range(4000):
        y = rng.choice(x, 20)
        ts.append((y.mean() - x.mean()) / (y.std(ddof=1) / np.sqrt(20)))
    error = x.std(ddof=1) / np.sqrt(20)
    low, high = (x.mean() - np.quantile(ts, q) * error for q in (0.975, 0.025))
    assert interval(x)[:2] == (pytest.approx(low, abs=0.15 * error), pytest.approx(high, abs=0.15 * error))


def test_many_values_are_resampled_in_parts_and_the_seed_decides(monkeypatch):
    monkeypatch.setattr("camhelpers.evaluate.statistics.RESAMPLES", 1000)
    x = np.random.default_rng(5).normal(size=5000)
    low, high, _ = once = interval(x, seed=1)
    assert once == interval(x, seed=1) != interval(x, seed=2)
    assert (high - low) / 2 == pytest.approx(1.96 / np.sqrt(5000), rel=0.15)


@pytest.mark.parametrize("values", [[0.1, 0.4], [0.1, 0.2, 0.4], [0.0] * 59 + [1.0]])
def test_where_resamples_repeat_one_value_students_interval_stands_in(values):
    low, high, how = interval(np.array(values))
    student = reference.t.interval(0.95, len(values) - 1, np.mean(values), reference.sem(values))
    assert how == "Student t" and (low, high) == pytest.approx(student)


def test_the_interval_of_a_share_stays_in_0_to_1():
    few = [0.9, 0.95, 1.0, 1.0, 0.99]
    assert interval(few)[1] > 1 == interval(few, share=True)[1] and interval(few, share=True)[0] == interval(few)[0]
    low, high, how = interval([1, 1, 0, 1, 1, 1, 1, 1], share=True)  # R: prop.test(7, 8, correct = FALSE)
    assert (low, high, how) == (pytest.approx(0.5291, abs=1e-4), pytest.approx(0.9776, abs=1e-4), "Wilson")
    found = summarise(tidy({"a": few}, metric="iou")).loc[0]
    assert (found["low"], found["high"]) == interval(few, share=True)[:2]


def test_a_summary_of_each_group():
    values = {"a": [1.0, 2.0, np.nan, 6.0], "alone": [2.0], "none": [np.nan]}
    found = summarise(tidy(values, metric="lift"))
    assert found[["method", "metric", "n", "dropped"]].values.tolist() == [
        ["a", "lift", 3, 1], ["alone", "lift", 1, 0], ["none", "lift", 0, 1],
    ]  # fmt: skip
    columns, low, high = ["mean", "sd", "min", "max", "low", "high"], *interval(np.array([1.0, 2.0, 6.0]))[:2]
    assert found[columns].loc[0].tolist() == pytest.approx([3, np.std([1, 2, 6], ddof=1), 1, 6, low, high])
    assert found[columns].loc[1].tolist() == pytest.approx([2, np.nan, 2, 2, np.nan, np.nan], nan_ok=True)
    assert found[columns].loc[2].isna().all()
    table = pd.concat([tidy({"a": [1, 3], "b": [5, 7]}, metric=m) for m in ("insertion", "deletion")])
    assert summarise(table)["mean"].tolist() == [2, 6, 2, 6]


# The family -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    rng = np.random.default_rng(0)
    base = rng.random(60)
    near = {"new": base + 0.002 * rng.normal(size=60), "twin": base, "weak": base - 0.1 + 0.05 * rng.normal(size=60)}
    near["wild"] = base + 0.5 * rng.normal(size=60)
    return pd.concat([tidy(near, metric=metric) for metric in ("insertion", "deletion")])


def holm(p):
    """Holm's adjusted p values, by his own words."""
    order, adjusted, least = np.argsort(p), np.empty(len(p)), 0.0
    for rank, i in enumerate(order):
        least = adjusted[i] = max(least, min(1.0, p[i] * (len(p) - rank)))
    return adjusted


def test_verdicts_follow_from_the_numbers(measured):
    found = compare(measured, [("new", "twin"), ("new", "weak"), ("new", "wild")])
    assert found["verdict"].tolist() == ["equivalent", "better", "undecided", "equivalent", "worse", "undecided"]
    for p in ("p_t", "p_wilcoxon", "p_equivalence"):
        assert found[f"{p}_holm"].to_numpy() == pytest.approx(holm(found[p].to_numpy()))
    assert found["better_is"].tolist() == ["higher"] * 3 + ["lower"] * 3
    assert found["win_rate"][1] == pytest.approx(1 - found["win_rate"][4])
    assert set(compare(measured, [("weak", "new")], margin=0.2)["verdict"]) == {"equivalent"}
    assert compare(measured, [("weak", "new")])["verdict"].tolist() == ["worse", "better"]


def test_few_pictures_whose_interval_leaves_the_margin_are_not_equivalent():
    table = tidy({"a": [0.0, 0.001, 0.002, 0.0105], "b": [0.0] * 4}, metric="insertion")
    found = compare(table, [("a", "b")]).iloc[0]
    assert found["p_equivalence_holm"] < 0.05 and found["high"] > 0.01 and found["verdict"] == "undecided"


def test_a_difference_that_is_sure_but_tiny_is_equivalent():
    rng = np.random.default_rng(6)
    base = rng.random(60)
    table = tidy({"a": base + 0.003 + 0.001 * rng.normal(size=60), "b": base}, metric="insertion")
    found = compare(table, [("a", "b")])
    assert found["p_t_holm"][0] < 1e-10 and found["verdict"][0] == "equivalent"


def test_rows_do_not_depend_on_their_company(measured):
    alone = compare(measured, [("new", "weak")])
    among = compare(measured, [("new", "twin"), ("new", "weak")])
    kept = among[among["second"] == "weak"].reset_index(drop=True)
    columns = ["difference", "low", "high", "p_t", "effect"]
    pd.testing.assert_frame_equal(alone[columns], kept[columns])


@pytest.mark.parametrize(
    ("low", "high", "claim", "margin", "says"),
    [
        (0.1, 0.2, "more", 0, "supported"),
        (-0.1, 0.2, "more", 0, "undecided"),
        (-0.2, -0.1, "more", 0, "not supported"),
        (0.001, 0.004, "more", 0.01, "not supported"),
        (0.001, 0.02, "more", 0.01, "supported"),
        (-0.001, 0.004, "more", 0.01, "not supported"),
        (0.0, 0.0, "more", 0, "not supported"),
        (-0.005, 0.004, "same", 0.01, "supported"),
        (-0.005, 0.02, "same", 0.01, "undecided"),
        (0.02, 0.03, "same", 0.01, "not supported"),
        (-0.03, -0.02, "same", 0.01, "not supported"),
        (float("nan"), float("nan"), "more", 0.01, "undecided"),
        (float("-inf"), float("inf"), "same", 0.01, "undecided"),
    ],
)
def test_verdict(low, high, claim, margin, says):
    assert verdict(low, high, claim, margin) == says
    doubted = verdict(low, high, claim, margin, p=0.051)
    assert doubted == ("undecided" if says == "supported" else says)


def test_importing_camhelpers_loads_none_of_it():
    code = "import sys, camhelpers; print([m for m in ('pandas', 'scipy', 'statsmodels') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
