import json

import pandas as pd
import pytest

from camhelpers.evaluate.report import summary, write
from camhelpers.evaluate.run import Evaluation

GOOD = {"oracle": 0.9, "oracle hollow": 0.2, "gradcam": 0.8, "layercam": 0.7, "centre": 0.6, "random": 0.5}
BLIND = {k: v for k, v in GOOD.items() if not k.startswith("oracle")}


def test_the_summary_holds_the_gate_and_no_copies(table_of):
    found = summary(table_of(**GOOD)).set_index(["metric", "method"])
    assert found.loc[("insertion", "gradcam"), ["n", "gate"]].tolist() == [30, "pass"]
    assert found.loc[("insertion", "centre"), "gate"] == "none" and ("insertion", "oracle hollow") not in found.index


# What is written ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(table_of):
    who = GOOD | {"hybrid@0.7": 0.8, "hybrid mirrored@0.7": 0.4}
    table = pd.concat([table_of(n=6, **who), table_of("lift", n=6, **who).assign(baseline="none", steps=pd.NA)])
    both = pd.concat([table.assign(layer="block_2"), table]).astype({"steps": "Int64"})
    ways = both[both["metric"] == "insertion"].drop(columns=["value", "steps", "seed"])
    curves = pd.concat([ways.assign(fraction=f, probability=f / 2) for f in (0.0, 0.5, 1.0)])
    about = {"n": 6, "steps": 10, "seed": 0, "model": "tiny", "model_hash": "0c5a9e1f2b3d", "baselines": ["mean"]}
    about["place"] = "grid"
    return Evaluation(both, curves, {}, about | {"layers": ["block_2", "layer4"]})


def test_the_summary_judges_by_the_margin_that_is_given(table_of):
    means = GOOD | {"oracle": 0.75}
    found = [summary(table_of(**means), **given).query("method == 'gradcam'") for given in ({}, {"margin": 0.1})]
    assert [table["gate"].tolist() for table in found] == [["fail"], ["pass"]]


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
    said = r"n = 6, steps = 10, baseline = mean, layer = block\_2, layer4, place = grid, weights = 0c5a9e1f2b3d"
    start = "Comparisons, each p after Holm: Hybrid 0.7, LayerCAM, Layer4. Measured with"
    assert rf"\caption{{{start} {said}, seed = 0.}}" in lines
    assert r"\label{tab:comparisons_hybrid@0.7_layercam_layer4}" in lines
    heads = "metric & baseline & difference & interval & effect & win rate & p t holm & p wilcoxon holm & "
    assert lines.count(heads + r"p equivalence holm & verdict & gate \\") == 2
    row = next(line for line in lines if line.startswith("Insertion & Mean & $0.0990$ "))
    assert " & $[0.0887, 0.1130]$ & " in row and row.endswith(r" & $1.0000$ & Better & Pass \\")
    assert " & $1.0000$ & $<0.0001$ & $0.1250$ & " in row
    assert "Hybrid 0.7 & $6$ & $0.8" in texts["summary_statistics"]
    assert "mirrored" not in texts["summary_statistics"] and "hollow" not in texts["summary_statistics"]
    assert "Oracle (mask) & $6$ & $0.9" in texts["summary_statistics"]


def test_with_few_pictures_bars_stay_within_0_and_1_and_the_plot_says_so(table_of, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("camhelpers.evaluate.report.save", lambda figure, path: seen.append(figure) or path)
    monkeypatch.setattr("matplotlib.pyplot.close", lambda figure: None)
    table = table_of("relevance_mass", n=3, noise=0.3, **{who: 0.5 for who in GOOD})
    about = {"n": 3, "steps": 10, "seed": 0, "model": "tiny", "model_hash": "0", "baselines": [], "layers": ["layer4"]}
    write(Evaluation(table.assign(value=table["value"].clip(0, 1)), table[:0], {}, about | {"place": "grid"}), tmp_path)
    low, high = seen[0].axes[0].get_xlim()
    assert low >= -0.1 and high <= 1.1 and "Too few pictures to decide anything" in seen[0].get_suptitle()


def test_comparisons_of_an_earlier_run_are_taken_away(found, tmp_path, monkeypatch):
    monkeypatch.setattr("camhelpers.evaluate.report._plots", lambda *given: [])
    (tmp_path / "comparisons.csv").touch()
    write(found, tmp_path)
    assert not (tmp_path / "comparisons.csv").exists()
