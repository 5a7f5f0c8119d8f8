import numpy as np
import pandas as pd
import pytest

from camhelpers.evaluate.run import Evaluation
from camhelpers.evaluate.verdicts import claim, comparisons, conclusions, extra_cost, family, headlines

GOOD = {"oracle": 0.9, "oracle hollow": 0.2, "gradcam": 0.8, "layercam": 0.7, "centre": 0.6, "random": 0.5}
BLIND = {k: v for k, v in GOOD.items() if not k.startswith("oracle")}


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
    assert said[2].startswith("insertion (layer4): gradcam against layercam +0.1") and said[2].endswith("mean: better")
    assert said[3] == "deletion (layer4): gradcam against layercam: no evidence" and len(said) == 4
    assert "Without masks" in headlines(Evaluation(table_of(**BLIND), table, {}, {"n": 30}), [])
    pointed = table_of(metric="pointing_game", **GOOD)
    assert "below 100 pictures" in headlines(Evaluation(pointed, pointed, {}, {"n": 30}), [])
    assert "below 100 pictures" not in headlines(Evaluation(pointed, pointed, {}, {"n": 100}), [])


def test_the_extra_cost_of_a_method_is_a_share_of_another(tiny_net):
    pictures = list(np.random.default_rng(0).random((2, 64, 64, 3)))
    found = extra_cost(tiny_net(), pictures, "layer3", method="smoothgrad", rounds=3)
    assert found["difference"] > 1 and found["verdict"] == "not supported" and found["n"] == 3  # 25 passes more
    assert found["low"] <= found["difference"] <= found["high"]
