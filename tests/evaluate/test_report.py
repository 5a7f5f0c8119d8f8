import numpy as np
import pandas as pd
import pytest

from camhelpers.evaluate.report import Conditions, escape, latex, write_table

CONDITIONS = Conditions(n=60, steps=32, baseline="mean", layer="layer4", model="0c5a9e1f2b3d", seed=0)
TABLE = pd.DataFrame(
    {
        "method": ["grad_cam", "50 % & more"],
        "alpha": [0.7, np.nan],
        "n": [60, 58],
        "difference": [-0.00123, 0.25],
        "low": [-0.002, 0.2],
        "high": [0.001, np.inf],
        "p_t": [0.0004, 0.02],
        "right": [True, False],
    }
)


def test_a_table_is_booktabs_and_names_its_conditions():
    text = latex(TABLE, title="Insertion.", conditions=CONDITIONS, label="insertion")
    lines = text.splitlines()
    assert {r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:insertion}", r"\centering"} <= set(lines)
    caption = next(line for line in lines if r"\caption" in line)
    assert caption == (
        r"\caption{Insertion. n = 60, steps = 32, baseline = mean, layer = layer4, model = 0c5a9e1f2b3d, seed = 0.}"
    )
    assert r"\begin{tabular}{lrrrrrl}" in lines
    assert r"method & alpha & $n$ & difference & interval & $p$ ($t$) & right \\" in lines
    assert r"grad\_cam & $0.7$ & $60$ & $-0.0012$ & $[-0.0020, 0.0010]$ & $<0.001$ & yes \\" in lines
    assert r"50 \% \& more & -- & $58$ & $0.2500$ & $[0.2000, \infty]$ & $0.0200$ & no \\" in lines


def test_every_cell_has_its_column():
    rows = [
        line for line in latex(TABLE, title="", conditions=CONDITIONS, label="x").splitlines() if line[-2:] == "\\\\"
    ]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {6}


def test_columns_headings_and_digits_are_chosen():
    text = latex(
        TABLE, title="T", conditions=CONDITIONS, label="x", columns=["n", "difference"],
        headings={"difference": r"$\Delta$"}, digits=2,
    )  # fmt: skip
    assert r"$n$ & $\Delta$ \\" in text
    assert r"$60$ & $-0.00$ \\" in text


def test_two_columns_may_share_a_heading():
    text = latex(
        TABLE, title="T", conditions=CONDITIONS, label="x", columns=["n", "difference"], headings={"difference": "$n$"}
    )
    assert r"$n$ & $n$ \\" in text
    assert r"$60$ & $-0.0012$ \\" in text


def test_the_csv_holds_every_column_and_the_conditions_it_lacks(tmp_path):
    csv, tex = write_table(TABLE, tmp_path / "v1.2", title="T", conditions=CONDITIONS, columns=["method", "difference"])
    assert (csv.name, tex.name) == ("v1.2.csv", "v1.2.tex")
    found = pd.read_csv(csv)
    assert list(found.columns) == [*TABLE.columns, "steps", "baseline", "layer", "model", "seed"]
    pd.testing.assert_frame_equal(found[list(TABLE.columns)], TABLE)  # n stays each row's own
    assert set(found["model"]) == {"0c5a9e1f2b3d"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v1.2.csv", "v1.2.tex"]


def test_a_condition_without_a_part_is_said_to_have_none():
    assert "steps = none, baseline = none" in str(Conditions(60, None, None, "layer4", "0c5a9e1f2b3d", 0))


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [(TABLE, ["value"], "no column 'value'; it has method"), (TABLE[:0], None, "empty"), (TABLE, [], "empty")],
)
def test_nothing_is_written_for_a_table_that_does_not_fit(tmp_path, table, columns, message):
    with pytest.raises(ValueError, match=message):
        write_table(table, tmp_path / "t", title="T", conditions=CONDITIONS, columns=columns)
    assert not list(tmp_path.iterdir())


def test_escape():
    assert escape(r"[a_b & c\d 5% #1 {x} ~ ^ $ <") == (
        r"{[}a\_b \& c\textbackslash{}d 5\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \$ $<$"
    )


def test_an_interval_without_bounds_is_a_dash():
    lone = pd.DataFrame({"low": [np.nan, 0.1], "high": [np.nan, 0.2]})
    text = latex(lone, title="T", conditions=CONDITIONS, label="x")
    assert "\n-- \\\\\n$[0.1000, 0.2000]$ \\\\\n" in text
