import json

import numpy as np
import pandas as pd
import pytest

from camhelpers.evaluate.report import comparisons, family, gate, headlines, summary, write
from camhelpers.evaluate.run import COLUMNS, Evaluation

GOOD = {"oracle": 0.9, "gradcam": 0.8, "layercam": 0.7, "centre": 0.75, "random": 0.5}
BLIND = {k: v for k, v in GOOD.items() if k != "oracle"}


def table_of(metric="insertion", n=30, noise=0.01, **means):
    rng = np.random.default_rng(0)
    rows = [
        (f"p{i}", "a", method.partition("@")[0], float(method.partition("@")[2] or "nan"), "layer4", metric, "mean", 10,
         0, mean + noise * rng.standard_normal(), 0.1 + i // 10)
        for method, mean in means.items()
        for i in range(n)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"steps": "Int64"})


# The gate -------------------------------------------------------------------------------------------------------------


def test_the_gate_names_best_and_worst_and_by_how_much():
    row = gate(table_of(**GOOD)).iloc[0]
    assert row["gate"] == "pass" and (row["best_method"], row["worst_method"]) == ("gradcam", "layercam")
    assert row["above_low"] < row["above"] < row["above_high"] and row["above"] == pytest.approx(0.1, abs=0.02)
    assert row["below_low"] < row["below"] < row["below_high"] and row["below"] == pytest.approx(0.2, abs=0.02)
    assert (row["centre"], row["random"]) == (pytest.approx(0.75, abs=0.02), pytest.approx(0.5, abs=0.02))
    lower = gate(table_of(metric="deletion", **{k: 1 - v for k, v in GOOD.items()})).iloc[0]
    assert lower["gate"] == "pass" and (lower["best_method"], lower["worst_method"]) == ("gradcam", "layercam")


@pytest.mark.parametrize(
    ("verdict", "means", "options"),
    [
        ("fail", GOOD | {"oracle": 0.75}, {}),  # as with black: the silhouette tells
        ("fail", GOOD | {"random": 0.72}, {}),  # one method is worse than noise
        ("fail", GOOD, {"metric": "deletion"}),
        ("undecided", GOOD | {"gradcam": 0.89}, {"n": 4, "noise": 0.3}),
        ("undecided", GOOD, {"n": 1, "noise": 0}),
        ("no oracle", BLIND, {}),
        ("fail", BLIND | {"random": 0.9}, {}),
    ],
)
def test_the_gates_verdicts(verdict, means, options):
    assert gate(table_of(**options, **means))["gate"].item() == verdict


# Comparisons ----------------------------------------------------------------------------------------------------------


def test_a_family_is_spelt_out():
    names = ["gradcam", "layercam", "hybrid"]
    whole = [("hybrid@0.7", "gradcam"), ("hybrid@0.7", "layercam"), ("gradcam", "layercam")]
    assert family(names, [0.3, 0.7], 9) == whole
    assert family(names, [0.3], 9)[0] == ("hybrid@0.3", "gradcam")
    assert family(["gradcam", "layercam"], [0.7], 9) == [("gradcam", "layercam")]
    assert family(["gradcam"], [0.7], 1) == []
    assert family(names, [0.3, 0.7], 9, [("hybrid@0.3", "random")]) == [("hybrid@0.3", "random")]


def test_comparisons_are_of_paired_pictures_in_the_metrics_own_direction():
    table = pd.concat([table_of(**GOOD), table_of(metric="deletion", **GOOD)])
    found = comparisons(table, [("gradcam", "layercam")], margin=0.05)
    assert found["verdict"].tolist() == ["better", "worse"] and found["better_is"].tolist() == ["higher", "lower"]
    assert found["win_rate"].tolist() == [1, 0] and found["gate"].tolist() == ["pass", "fail"]
    assert found["margin"].eq(0.05).all()
    a, b = (
        table.query("method == @who and metric == 'insertion'")["value"].to_numpy() for who in BLIND if who[0] in "gl"
    )
    assert found["difference"][0] == pytest.approx((a - b).mean())


def test_what_fails_the_gate_is_no_headline():
    table = pd.concat([table_of(**GOOD), table_of(metric="deletion", **GOOD)])
    said = headlines(Evaluation(table, table, {}, {}), [("gradcam", "layercam")])
    assert said.count("gradcam against layercam") == 1
    assert said.startswith("insertion (mean, layer4): gradcam against layercam +0.1")
    assert "deletion (mean, layer4) is no evidence here; gate: fail" in said
    assert "Without masks" in headlines(Evaluation(table_of(**BLIND), table, {}, {}), [])


def test_the_summary_counts_time_once_for_each_batch_and_never_the_oracles():
    found = summary(table_of(**GOOD)).set_index(["metric", "method"])
    assert found.loc[("insertion", "gradcam"), ["n", "gate"]].tolist() == [30, "pass"]
    assert found.loc[("seconds", "gradcam"), ["n", "min", "max", "gate"]].tolist() == [3, 0.1, 2.1, "none"]
    assert ("seconds", "oracle") not in found.index


# What is written ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    who = GOOD | {"hybrid@0.7": 0.8}
    table = pd.concat([table_of(n=6, **who), table_of("lift", n=6, **who).assign(baseline="none", steps=pd.NA)])
    both = pd.concat([table.assign(layer="block_2"), table]).astype({"steps": "Int64"})
    ways = both[both["metric"] == "insertion"].drop(columns=["value", "steps", "seed", "seconds"])
    curves = pd.concat([ways.assign(fraction=f, probability=f / 2) for f in (0.0, 0.5, 1.0)])
    about = {"n": 6, "steps": 10, "seed": 0, "model": "tiny", "model_hash": "0c5a9e1f2b3d", "baselines": ["mean"]}
    return Evaluation(both, curves, {}, about | {"layers": ["block_2", "layer4"]})


def test_everything_is_written_with_its_conditions(found, tmp_path):
    paths = write(found, tmp_path, [("hybrid@0.7", "layercam")])
    assert {p.name for p in paths} == {p.name for p in tmp_path.iterdir()} == {
        "evaluation_results.csv", "curves.csv", "gate.csv", "gate.tex", "summary_statistics.csv",
        "summary_statistics.tex", "comparisons.csv", "comparisons.tex", "evaluation.json", "comparison_plots.png",
        "comparison_plots.pdf", "comparison_plots_block_2.png", "comparison_plots_block_2.pdf",
    }  # fmt: skip
    for path in tmp_path.glob("*.csv"):
        table = pd.read_csv(path, keep_default_na=False)
        assert {"n", "steps", "baseline", "layer", "model", "seed"} <= set(table)
        assert set(table["model"]) == {"0c5a9e1f2b3d"}
    back = pd.read_csv(tmp_path / "evaluation_results.csv")
    assert back["value"].tolist() == found.table["value"].tolist()  # to the last digit
    about = json.loads((tmp_path / "evaluation.json").read_text())
    assert about["comparisons"] == [["hybrid@0.7", "layercam"]] and about["versions"]["torch"]

    texts = {path.stem: path.read_text() for path in tmp_path.glob("*.tex")}
    for text in texts.values():
        assert text.startswith("% needs \\usepackage{booktabs}\n\\begin{table}[tbp]\n\\centering")
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count("weights = 0c5a9e1f2b3d") > 0
    lines = texts["comparisons"].splitlines()
    said = r"n = 6, steps = 10, baseline = mean, layer = block\_2, layer4, weights = 0c5a9e1f2b3d, seed = 0."
    start = "Comparisons, each p after Holm: Hybrid 0.7, LayerCAM, layer4. Measured with"
    assert rf"\caption{{{start} {said}}}" in lines
    assert r"\label{tab:comparisons_hybrid@0.7_layercam_layer4}" in lines
    heads = r"metric & baseline & difference & interval & $d_z$ & win rate & $p_t$ & $p_W$ & $p_\mathrm{eq}$ & "
    assert lines.count(heads + r"verdict & gate \\") == 2
    row = next(line for line in lines if line.startswith("Insertion & mean & $0.10"))
    assert " & $[0.1014, 0.1123]$ & " in row and row.endswith(r" & $1.0000$ & better & pass \\")
    assert " & $1.0000$ & $<0.001$ & $0.1250$ & " in row
    assert r"Hybrid & $0.7$ & $6$ & $0.7" in texts["summary_statistics"]
    assert r"Oracle (mask) & -- & $6$ & $0.9" in texts["summary_statistics"]


def test_comparisons_of_an_earlier_run_are_taken_away(found, tmp_path, monkeypatch):
    monkeypatch.setattr("camhelpers.evaluate.report._plots", lambda found, folder: [])
    (tmp_path / "comparisons.csv").touch()
    write(found, tmp_path)
    assert not (tmp_path / "comparisons.csv").exists()
