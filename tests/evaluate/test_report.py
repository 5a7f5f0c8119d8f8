import json

import numpy as np
import pandas as pd
import pytest

from camhelpers.evaluate.report import claim, comparisons, conclusions, extra_cost, family, headlines, summary, write
from camhelpers.evaluate.run import Evaluation

GOOD = {"oracle": 0.9, "oracle hollow": 0.2, "gradcam": 0.8, "layercam": 0.7, "centre": 0.6, "random": 0.5}
BLIND = {k: v for k, v in GOOD.items() if not k.startswith("oracle")}


# Comparisons ----------------------------------------------------------------------------------------------------------


def test_a_family_is_spelt_out():
    names = ["gradcam", "layercam", "hybrid"]
    whole = [("hybrid@0.7", "gradcam"), ("hybrid@0.7", "layercam"), ("gradcam", "layercam")]
    assert family(names, [0.3, 0.7], 9) == whole
    assert family(names, [0.3], 9)[0] == ("hybrid@0.3", "gradcam")
    assert family(["gradcam", "layercam"], [0.7], 9) == [("gradcam", "layercam")]
    assert family(names, [0.7], 1) == []  # nothing was asked for, and one picture can be compared with none
    assert family(names, [0.3, 0.7], 9, [("hybrid@0.3", "random")]) == [("hybrid@0.3", "random")]


def test_comparisons_are_of_paired_pictures_in_the_metrics_own_direction(table_of):
    table = pd.concat([table_of(**GOOD), table_of(metric="deletion", **GOOD)])
    found = comparisons(table, [("gradcam", "layercam")], margin=0.05)
    assert found["verdict"].tolist() == ["better", "worse"] and found["better_is"].tolist() == ["higher", "lower"]
    assert found["win_rate"].tolist() == [1, 0] and found["gate"].tolist() == ["pass", "fail"]
    assert found["margin"].eq(0.05).all()
    a, b = (
        table.query("method == @who and metric == 'insertion'")["value"].to_numpy() for who in BLIND if who[0] in "gl"
    )
    assert found["difference"][0] == pytest.approx((a - b).mean())


def test_the_gate_of_a_pair_is_the_worse_of_both(table_of):
    means = GOOD | {"layercam": 0.55}  # below the centre
    found = comparisons(table_of(**means), [("gradcam", "random"), ("gradcam", "layercam")])
    assert found["gate"].tolist() == ["pass", "fail"]


def test_a_verdict_holds_over_the_baselines_that_pass_or_depends_on_them(table_of):
    def over(**gradcam):
        tables = [table_of(**GOOD | {"gradcam": mean}).assign(baseline=name) for name, mean in gradcam.items()]
        return conclusions(comparisons(pd.concat(tables), [("gradcam", "layercam")])).iloc[0]

    held = over(mean=0.8, blur=0.78)
    assert held["verdict"] == "better" and held["passed"] == "mean, blur"
    assert (held["least"], held["most"]) == (pytest.approx(0.08, abs=0.01), pytest.approx(0.1, abs=0.01))
    assert over(mean=0.8, blur=0.65)["verdict"] == "depends on the baseline"
    assert over(mean=0.8, black=0.55)["verdict"] == "better"  # with black, Grad-CAM does not pass the gate
    assert over(mean=0.55, black=0.55)["verdict"] == "no evidence"


def test_a_claim_is_judged_over_the_baselines_that_pass(table_of):
    def said(kind="more", **gradcam):
        tables = [table_of(**GOOD | {"gradcam": mean}).assign(baseline=name) for name, mean in gradcam.items()]
        compared = comparisons(pd.concat(tables), [("gradcam", "layercam")])
        return claim(compared, "insertion", "gradcam", "layercam", kind)

    found = said(mean=0.8, blur=0.75, black=0.55)
    assert found["verdict"] == "supported" and (found["passed"], found["of"], found["baseline"]) == (2, 3, "blur")
    assert found["difference"] == pytest.approx(0.05, abs=0.01) and found["p"] < 0.001
    assert said(mean=0.8, blur=0.65)["verdict"] == "depends on the baseline"
    assert said(black=0.55)["verdict"] == "no evidence"
    assert said(mean=0.701)["verdict"] == "not supported"  # too small to matter
    assert said("same", mean=0.701)["verdict"] == "supported" and said("same", mean=0.8)["verdict"] == "not supported"


def test_a_claim_about_deletion_is_turned_around(table_of):
    means = {name: 1 - value for name, value in GOOD.items()}
    compared = comparisons(table_of("deletion", **means), [("gradcam", "layercam")])
    assert claim(compared, "deletion", "gradcam", "layercam")["verdict"] == "supported"


def test_bad_news_comes_first_and_what_fails_the_gate_is_no_headline(table_of):
    table = pd.concat([table_of(**GOOD), table_of(metric="deletion", **GOOD)])
    said = headlines(Evaluation(table, table, {}, {"n": 30}), [("gradcam", "layercam")]).splitlines()
    assert said[0] == "Is each score evidence for each method? The gate: 2 pass, 2 fail; 30 pictures."
    assert said[1].startswith("deletion (mean, layer4) is no evidence on gradcam, layercam: oracle against the hollow")
    assert said[2].startswith("insertion (mean, layer4): gradcam against layercam +0.1") and len(said) == 3
    assert "Without masks" in headlines(Evaluation(table_of(**BLIND), table, {}, {"n": 30}), [])
    pointed = table_of(metric="pointing_game", **GOOD)
    assert "below 100 pictures" in headlines(Evaluation(pointed, pointed, {}, {"n": 30}), [])
    assert "below 100 pictures" not in headlines(Evaluation(pointed, pointed, {}, {"n": 100}), [])


def test_the_summary_counts_time_once_for_each_batch_and_never_the_oracles(table_of):
    found = summary(table_of(**GOOD)).set_index(["metric", "method"])
    assert found.loc[("insertion", "gradcam"), ["n", "gate"]].tolist() == [30, "pass"]
    assert found.loc[("seconds", "gradcam"), ["n", "min", "max", "gate"]].tolist() == [3, 0.1, 2.1, "none"]
    assert ("seconds", "oracle") not in found.index


# What is written ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(table_of):
    who = GOOD | {"hybrid@0.7": 0.8, "hybrid mirrored@0.7": 0.4}
    table = pd.concat([table_of(n=6, **who), table_of("lift", n=6, **who).assign(baseline="none", steps=pd.NA)])
    both = pd.concat([table.assign(layer="block_2"), table]).astype({"steps": "Int64"})
    ways = both[both["metric"] == "insertion"].drop(columns=["value", "steps", "seed", "seconds"])
    curves = pd.concat([ways.assign(fraction=f, probability=f / 2) for f in (0.0, 0.5, 1.0)])
    about = {"n": 6, "steps": 10, "seed": 0, "model": "tiny", "model_hash": "0c5a9e1f2b3d", "baselines": ["mean"]}
    return Evaluation(both, curves, {}, about | {"layers": ["block_2", "layer4"]})


def test_the_extra_cost_of_a_method_is_a_share_of_another(tiny_net):
    pictures = list(np.random.default_rng(0).random((2, 64, 64, 3)))
    found = extra_cost(tiny_net(), pictures, "layer3", method="smoothgrad", rounds=3)
    assert found["difference"] > 1 and found["verdict"] == "not supported" and found["n"] == 3  # 25 passes more
    assert found["low"] <= found["difference"] <= found["high"]


def test_the_summary_judges_by_the_margin_that_is_given(table_of):
    means = GOOD | {"oracle": 0.75}
    found = [summary(table_of(**means), **given).query("method == 'gradcam'") for given in ({}, {"margin": 0.1})]
    assert [table["gate"].tolist() for table in found] == [["fail", "none"], ["pass", "none"]]  # and of time


def test_everything_is_written_with_its_conditions(found, tmp_path):
    paths = write(found, tmp_path, [("hybrid@0.7", "layercam")])
    assert {p.name for p in paths} == {p.name for p in tmp_path.iterdir()} == {
        "evaluation_results.csv", "curves.csv", "gate.csv", "gate.tex", "summary_statistics.csv",
        "summary_statistics.tex", "comparisons.csv", "comparisons.tex", "conclusions.csv", "checks.csv",
        "evaluation.json", "comparison_plots.png",
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
    row = next(line for line in lines if line.startswith("Insertion & mean & $0.0990$ "))
    assert " & $[0.0887, 0.1130]$ & " in row and row.endswith(r" & $1.0000$ & better & pass \\")
    assert " & $1.0000$ & $<0.001$ & $0.1250$ & " in row
    assert r"Hybrid & $0.7$ & $6$ & $0.8" in texts["summary_statistics"]
    assert "mirrored" not in texts["summary_statistics"] and "hollow" not in texts["summary_statistics"]
    assert r"Oracle (mask) & -- & $6$ & $0.9" in texts["summary_statistics"]


def test_comparisons_of_an_earlier_run_are_taken_away(found, tmp_path, monkeypatch):
    monkeypatch.setattr("camhelpers.evaluate.report._plots", lambda *given: [])
    (tmp_path / "comparisons.csv").touch()
    write(found, tmp_path)
    assert not (tmp_path / "comparisons.csv").exists()
