import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from camhelpers import cli, explain
from camhelpers.cam.models import Card, save_model
from camhelpers.cam.nets import SmallResNet
from camhelpers.datasets.samples import Sample, samples
from camhelpers.evaluate import faithfulness
from camhelpers.evaluate import localisation as metrics
from camhelpers.evaluate import report as verdicts
from camhelpers.evaluate import run as evaluation
from camhelpers.evaluate.report import comparisons, family, gate, summary, write
from camhelpers.evaluate.run import calibrate, evaluate
from camhelpers.files import ROOT, fingerprint
from camhelpers.io.images import save_image


def held(name, pixels, label=None, mask=None):
    """A picture in memory as a sample."""
    return Sample(name, lambda: (pixels, mask), label, mask is not None, fingerprint(pixels, mask))


KEY = ["picture", "method", "alpha", "layer", "metric", "baseline"]


def tiny(size=(48, 48), **card):
    torch.manual_seed(0)
    net = SmallResNet(classes=10, widths=(4, 4, 8, 8)).eval()
    with torch.no_grad():
        net.fc.weight.mul_(20)  # an untrained net hardly tells pictures apart
    names = tuple("abcdefghij")
    net.card = Card("tiny", names, "small_resnet", {"classes": 10, "widths": [4, 4, 8, 8]}, size, **card)
    return net


@pytest.fixture(scope="module")
def net():
    return tiny()


@pytest.fixture(scope="module")
def shown():
    rng = np.random.default_rng(0)
    found = []
    for i in range(5):
        mask = np.zeros((48, 48), bool)
        mask[i + 5 : i + 25, 10:30] = True
        found.append(held(f"p{i}", rng.random((48, 48, 3)).astype(np.float32), "a", mask))
    return found


@pytest.fixture(scope="module")
def found(net, shown):
    return evaluate(
        net, shown, alphas=[0, 0.7, 1], layers=["layer3", "layer2"], baselines=["mean", "zero"], steps=4, batch=2
    )


def values(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table.set_index("picture")["value"]


# what is measured -----------------------------------------------------------------------------------------------------


def test_the_table_is_tidy_and_complete(found):
    table = found.table
    assert list(table.columns) == list(evaluation.COLUMNS)
    assert not table.duplicated(KEY).any()
    who = 2 * (2 + 3 + 2 + 1)  # layers, and methods, alphas, controls and the oracle
    assert len(table) == 5 * who * (2 * 2 + 4)
    assert set(table[table.metric == "insertion"]["steps"]) == {4}
    assert table[table.metric == "relevance_mass"]["steps"].isna().all()
    assert found.about["n"] == 5 and found.about["masks"] == 5 and found.failed == {}
    assert len(found.curves) == 5 * who * 4 * 5
    whole = found.curves[(found.curves.metric == "insertion") & (found.curves.fraction == 1)]
    assert whole.groupby("picture")["probability"].nunique().eq(1).all()  # the whole picture, whatever the map


def test_values_are_those_of_the_functions_that_define_them(net, shown, found):
    for number, p in enumerate(shown):
        x = net.card.prepare(p.pixels)[None]
        ex = explain(net, x, layers=["layer3"])
        heat = ex.heatmap("hybrid", alpha=0.7)
        line = faithfulness.curves(net, x, None, heat[None], steps=4, baselines=["zero"], seed=number)
        area = faithfulness.auc(line.probability["deletion", "zero"], line.fractions)[0, 0]
        here = found.table[(found.table.alpha == 0.7) & (found.table.layer == "layer3")]
        assert values(here, metric="deletion", baseline="zero")[p.name] == pytest.approx(area, abs=1e-5)
        for metric, score in (
            ("relevance_mass", metrics.relevance_mass(heat[0], p.mask)),
            ("average_precision", metrics.pxap([heat[0]], [p.mask])),
            ("pointing_game", metrics.pointing_hit(heat[0], p.mask)),
        ):
            assert values(here, metric=metric)[p.name] == pytest.approx(score, abs=1e-4)
        assert set(here[here.picture == p.name]["class"]) == {ex.label[0]}


def test_the_ends_of_the_hybrid_are_its_parents_to_the_last_bit(found):
    for alpha, parent in ((1.0, "gradcam"), (0.0, "layercam")):
        ends = found.table[(found.table.method == "hybrid") & (found.table.alpha == alpha)]
        own = found.table[found.table.method == parent]
        assert (ends["value"].to_numpy() == own["value"].to_numpy()).all()


def test_the_oracle_is_perfect_at_finding(found):
    for metric in ("pointing_game", "relevance_mass", "relevance_rank", "average_precision"):
        assert (values(found.table, method="oracle", metric=metric) == 1).all()


def test_the_oracle_is_shown_from_its_middle_outwards():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 1:6] = True
    order = faithfulness.removal_order(metrics.oracle(mask))
    assert order[0] == 4 * 9 + 3 and mask.ravel()[order[:25]].all()
    assert order[-1] in (8, 80)  # the corners that are farthest


def test_batches_change_nothing(net, shown, found):
    other = evaluate(
        net, shown, alphas=[0, 0.7, 1], layers=["layer3", "layer2"], baselines=["mean", "zero"], steps=4, batch=5
    )
    a, b = (t.table.set_index(KEY)["value"] for t in (found, other))
    assert (a - b[a.index]).abs().max() < 1e-3  # sums in another order, and so now and then another order of pixels


def test_every_metric_can_be_measured(net, shown):
    chosen = calibrate(net, shown[3:], methods=["gradcam"])
    table = evaluate(
        net, shown[:2], methods=["gradcam"], metrics=evaluation.METRICS, steps=3, thresholds=chosen
    ).table  # fmt: skip
    assert set(table.metric) == set(evaluation.METRICS)
    assert set(table[table.metric.str.startswith("road")]["baseline"]) == {"linear"}
    assert table[table.method == "gradcam"]["value"].notna().all()
    assert (values(table, method="oracle", metric="iou") == 1).all()
    heat = explain(net, net.card.prepare(shown[0].pixels)[None]).heatmap()[0]
    score = metrics.iou(heat, shown[0].mask, chosen["gradcam", "layer4"])
    assert values(table, method="gradcam", metric="iou")["p0"] == pytest.approx(score, abs=1e-6)


def test_pictures_without_masks_are_not_localised(net, shown):
    some = [shown[0], held("bare", shown[1].pixels)]
    table = evaluate(net, some, methods=["gradcam"], steps=2).table
    assert set(table[table.picture == "bare"].metric) == {"insertion", "deletion"}
    assert "oracle" not in set(table[table.picture == "bare"].method)
    table = evaluate(net, some[1:], methods=["gradcam"], steps=2).table
    assert set(table.metric) == {"insertion", "deletion"}


def test_blank_maps_are_counted_as_missing(shown):
    net = tiny()
    with torch.no_grad():
        net.fc.weight.zero_()  # no gradient, no evidence
    table = evaluate(net, shown, methods=["gradcam"], steps=2).table
    assert table[table.method == "gradcam"]["value"].isna().all()
    assert table[table.method == "random"]["value"].notna().all()
    row = summary(table).query("method == 'gradcam' and metric == 'insertion'").iloc[0]
    assert (row["n"], row["dropped"]) == (0, 5) and row["gate"] == "undecided"


def test_a_mask_is_cut_and_sized_as_the_model_sees_it():
    card = tiny((20, 20), fit="crop", resize=20).card
    mask = np.zeros((40, 80), bool)
    mask[:, 20:40] = True  # of the middle square, its left half
    seen = evaluation._as_seen(mask, card)
    assert seen.shape == (20, 20) and seen[:, :10].all() and not seen[:, 10:].any()


def test_the_time_of_a_map_is_one_measurement_for_each_batch(found):
    time_of = summary(found.table).query("metric == 'seconds' and method == 'gradcam' and layer == 'layer3'").iloc[0]
    assert time_of["n"] == 3 and time_of["min"] > 0
    assert found.table.query("method == 'oracle'")["seconds"].isna().all()


# the gate -------------------------------------------------------------------------------------------------------------


def table_of(metric="insertion", n=30, noise=0.01, **means):
    rng = np.random.default_rng(0)
    rows = [
        (f"p{i}", "a", method, np.nan, "layer4", metric, "mean", 10, 0, mean + noise * rng.standard_normal(), 0.1)
        for method, mean in means.items()
        for i in range(n)
    ]
    return pd.DataFrame(rows, columns=list(evaluation.COLUMNS))


def test_the_gate():
    good = {"oracle": 0.9, "gradcam": 0.8, "layercam": 0.7, "centre": 0.75, "random": 0.5}
    row = gate(table_of(**good)).iloc[0]
    assert row["gate"] == "pass" and (row["best_method"], row["worst_method"]) == ("gradcam", "layercam")
    assert row["above_low"] < row["above"] < row["above_high"] and row["above"] == pytest.approx(0.1, abs=0.02)
    assert row["centre"] == pytest.approx(0.75, abs=0.02)

    def of(**means):
        return gate(table_of(**means))["gate"].item()

    assert of(**good | {"oracle": 0.75}) == "fail"  # as with black: the silhouette tells
    assert of(**good | {"random": 0.72}) == "fail"  # one method is worse than noise
    assert of(metric="deletion", **good) == "fail"
    assert of(metric="deletion", **{k: 1 - v for k, v in good.items()}) == "pass"
    assert of(n=4, noise=0.3, **good | {"gradcam": 0.85}) in ("undecided", "fail")
    assert of(n=1, noise=0, **good) == "undecided"
    assert of(**{k: v for k, v in good.items() if k != "oracle"}) == "no oracle"
    assert of(**{k: v for k, v in good.items() if k != "oracle"} | {"random": 0.9}) == "fail"


def test_a_broken_metric_does_not_pass_the_gate(net, shown, monkeypatch):
    noise = np.random.default_rng(0)
    monkeypatch.setitem(evaluation.LOCALISATION, "lift", lambda heat, mask: noise.random())
    table = evaluate(net, shown, methods=["gradcam"], metrics=["lift"]).table
    assert gate(table)["gate"].item() != "pass"


# comparisons ----------------------------------------------------------------------------------------------------------


def test_a_family_is_spelt_out():
    names = ["gradcam", "layercam", "hybrid"]
    assert family(names, [0.3, 0.7], 9) == [
        ("hybrid@0.7", "gradcam"),
        ("hybrid@0.7", "layercam"),
        ("gradcam", "layercam"),
    ]
    assert family(names, [0.3], 9)[0] == ("hybrid@0.3", "gradcam")
    assert family(["gradcam", "layercam"], [0.7], 9) == [("gradcam", "layercam")]
    assert family(["gradcam"], [0.7], 1) == []
    assert family(names, [0.3, 0.7], 9, [("hybrid@0.3", "random")]) == [("hybrid@0.3", "random")]
    with pytest.raises(ValueError, match="'hybrid' was declared but would not be measured as such; there are gradcam"):
        family(names, [0.3, 0.5], 9)
    with pytest.raises(ValueError, match="at least two pictures, and there is 1"):
        family(names, [0.7], 1)


def test_comparisons_are_of_paired_pictures(found):
    table = comparisons(found.table, [("hybrid@1", "gradcam"), ("gradcam", "random")])
    assert len(table) == 2 * 2 * (2 * 2 + 4)
    same = table[table["first"] == "hybrid@1"]
    assert (same["difference"] == 0).all() and (same["p_t"] == 1).all()
    row = table.query("first == 'gradcam' and metric == 'deletion' and layer == 'layer3' and baseline == 'mean'").iloc[
        0
    ]
    a, b = (
        values(found.table, method=m, metric="deletion", layer="layer3", baseline="mean") for m in ("gradcam", "random")
    )
    assert row["difference"] == pytest.approx((a - b).mean()) and row["better_is"] == "lower"
    assert row["gate"] in ("pass", "fail", "undecided")
    assert comparisons(found.table, [("gradcam", "random")], margin=0.5)["margin"].eq(0.5).all()


# what is written ------------------------------------------------------------------------------------------------------


def test_everything_is_written_with_its_conditions(found, tmp_path):
    paths = write(found, tmp_path, [("gradcam", "layercam")])
    assert {p.name for p in paths} == {p.name for p in tmp_path.iterdir()} == {
        "evaluation_results.csv", "curves.csv", "gate.csv", "gate.tex", "summary_statistics.csv",
        "summary_statistics.tex", "comparisons.csv", "comparisons.tex", "evaluation.json", "comparison_plots.png",
        "comparison_plots.pdf", "comparison_plots_layer3.png", "comparison_plots_layer3.pdf",
    }  # fmt: skip
    for path in tmp_path.glob("*.csv"):
        table = pd.read_csv(path, keep_default_na=False)
        assert {"n", "steps", "baseline", "layer", "model", "seed"} <= set(table)
        assert set(table["baseline"]) == ({"mean", "zero"} if path.name == "curves.csv" else {"mean", "zero", "none"})
    for path in tmp_path.glob("*.tex"):
        text = path.read_text()
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count("model = ") > 0
    back = pd.read_csv(tmp_path / "evaluation_results.csv")
    assert back["value"].equals(found.table["value"])  # to the last digit
    about = json.loads((tmp_path / "evaluation.json").read_text())
    assert about["n"] == 5 and about["comparisons"] == [["gradcam", "layercam"]] and about["versions"]["torch"]


def test_what_fails_the_gate_is_no_headline():
    good = {"oracle": 0.9, "gradcam": 0.8, "layercam": 0.7, "centre": 0.75, "random": 0.5}
    table = pd.concat([table_of(**good), table_of(metric="deletion", **good)])
    said = verdicts.headlines(evaluation.Evaluation(table, table, {}, {}), [("gradcam", "layercam")])
    assert said.count("gradcam against layercam") == 1
    assert said.startswith("insertion (mean, layer4): gradcam against layercam +0.1")
    assert "deletion (mean, layer4) is no evidence here; gate: fail" in said


# going on -------------------------------------------------------------------------------------------------------------


def test_finished_batches_are_measured_once(net, shown, tmp_path, monkeypatch):
    options = {"methods": ["gradcam"], "steps": 2, "batch": 2, "out": tmp_path}
    first = evaluate(net, shown, **options)
    parts = {p.name for p in (tmp_path / "parts").iterdir()}
    calls = []
    measure = faithfulness.curves
    monkeypatch.setattr(faithfulness, "curves", lambda *a, **k: calls.append(1) or measure(*a, **k))
    again = evaluate(net, shown, **options)
    assert not calls and again.table.equals(first.table) and again.curves.equals(first.curves)
    assert again.about == first.about

    evaluate(net, shown[:4], **options)
    assert not calls
    changed = [*shown[:3], held("p3", shown[3].pixels * np.float32(0.5), "a", shown[3].mask)]
    evaluate(net, changed, **options)
    assert len(calls) == 1  # the batch with that picture alone
    for change in ({"steps": 3}, {"seed": 1}, {"methods": ["layercam"]}, {"metrics": ["deletion"]}):
        calls.clear()
        evaluate(net, shown[:2], **options | change)
        assert calls
    calls.clear()
    other = tiny()
    with torch.no_grad():
        other.fc.weight[0, 0] += 1
    evaluate(other, shown[:2], **options)
    assert calls
    assert len(parts) == 3 and len(list((tmp_path / "parts").iterdir())) == 1  # the others belong to no run


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A checkpoint with its card, and a folder of pictures with masks."""
    folder = tmp_path_factory.mktemp("home")
    net = tiny()
    save_model(net, net.card, folder / "tiny.safetensors")
    rng = np.random.default_rng(0)
    for i in range(24):
        mask = np.zeros((48, 48))
        mask[10:30, i % 20 : 28] = 1
        save_image(folder / f"pictures/{'ab'[i % 2]}/{i}.png", rng.random((48, 48, 3)))
        save_image(folder / f"pictures/masks/{'ab'[i % 2]}/{i}.png", mask)
    return folder


def arguments(home, out, *more):
    call = ["evaluate", "--model", home / "tiny.safetensors", "--images", home / "pictures", "--out", out, *more]
    return [str(a) for a in call]


def process(*call):
    return subprocess.Popen(
        [sys.executable, "-m", "camhelpers", *call], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def results(folder):
    return pd.read_csv(folder / "evaluation_results.csv").drop(columns="seconds")


@pytest.mark.slow
def test_an_interrupted_evaluation_gives_the_identical_table(home, tmp_path):
    more = ["--steps", "12", "--alphas", "0.3", "0.7", "--batch", "2", "--layers", "layer2", "layer3"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    running = process(*arguments(home, cut, *more))
    deadline = time.monotonic() + 300
    while len(list(cut.glob("parts/[!.]*.json"))) < 2 and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.005)
    running.kill()
    running.communicate()
    kept = {p.name: p.stat().st_mtime_ns for p in cut.glob("parts/[!.]*.json")}
    assert 2 <= len(kept) < 12 and not (cut / "evaluation_results.csv").exists()

    assert cli.main(arguments(home, cut, *more)) == 0
    assert cli.main(arguments(home, whole, *more)) == 0
    assert len(results(whole)["picture"].unique()) == 24
    assert (cut / "evaluation_results.csv").read_text().count("\n") == len(results(whole)) + 1
    pd.testing.assert_frame_equal(results(cut), results(whole), check_exact=True)
    assert (cut / "curves.csv").read_bytes() == (whole / "curves.csv").read_bytes()
    after = {p.name: p.stat().st_mtime_ns for p in cut.glob("parts/*.json")}
    assert len(after) == 12 and kept.items() <= after.items()  # nothing was measured twice


def test_one_damaged_picture_is_reported_and_the_rest_is_done(home, tmp_path, capsys):
    for i in range(4):
        save_image(tmp_path / f"pictures/{i}.png", np.random.default_rng(i).random((48, 48, 3)))
    sound = (tmp_path / "pictures/2.png").read_bytes()
    (tmp_path / "pictures/2.png").write_bytes(sound[: len(sound) // 2])
    call = arguments(home, tmp_path / "out", "--images", tmp_path / "pictures", "--steps", 2, "--methods", "gradcam")
    assert cli.main(call) == 1
    said = capsys.readouterr().err
    assert "2.png is left out: " in said and "is damaged or truncated" in said
    assert set(results(tmp_path / "out")["picture"]) == {"0.png", "1.png", "3.png"}
    assert list(json.loads((tmp_path / "out/evaluation.json").read_text())["failed"]) == ["2.png"]
    assert cli.main(call) == 1  # and again, from what was kept

    (tmp_path / "pictures/2.png").write_bytes(sound)
    assert cli.main(call) == 0
    assert len(set(results(tmp_path / "out")["picture"])) == 4


def test_a_mask_that_does_not_fit_is_reported(home, tmp_path, capsys):
    for i in range(3):
        save_image(tmp_path / f"pictures/{i}.png", np.random.default_rng(i).random((48, 48, 3)))
        save_image(tmp_path / f"pictures/masks/{i}.png", np.ones((48, 48 + (i == 1))))
    call = arguments(home, tmp_path / "out", "--images", tmp_path / "pictures", "--metrics", "relevance_mass")
    assert cli.main(call) == 1
    assert "1.png is left out: The mask of 1.png is 49 x 48 pixels and the picture 48 x 48" in capsys.readouterr().err


def test_the_threshold_of_iou_is_chosen_on_other_pictures(home, tmp_path, capsys):
    call = arguments(home, tmp_path / "out", "--metrics", "iou", "-n", 4, "--calibration", home / "pictures/a")
    assert cli.main(call) == 2  # pictures/a has no masks among them
    assert "none of these pictures has one" in capsys.readouterr().err
    assert cli.main([*call[:-1], str(home / "pictures")]) == 0
    about = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert 0 < about["thresholds"]["hybrid@0.7 layer4"] <= 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--images", "{empty}"], "holds no picture"),
        (["--images", "{empty}/no"], "There is no folder"),
        (["--images", "scenes:test:many"], "There are no scenes 'scenes:test:many'"),
        (["-n", "1"], "A comparison needs at least two pictures, and there is 1."),
        (["-n", "0"], "n is 0; ask for at least one picture."),
        (["--methods", "gradcamm"], "There is no method 'gradcamm'"),
        (["--metrics", "auc"], "There is no metric 'auc'"),
        (["--metrics", "iou"], "iou needs thresholds that were chosen on other pictures"),
        (["--baselines", "grey"], "There is no baseline 'grey'; choose from mean, blur, black, zero."),
        (["--layers", "layer9"], "The model has no layer 'layer9'"),
        (["--alphas", "1.5"], "alpha is 1.5; it lies between 0 (LayerCAM) and 1 (Grad-CAM)."),
        (["--steps", "0"], "steps is 0; it lies between 1 and the number of pixels, 2304."),
        (["--steps", "2305"], "steps is 2305; it lies between 1 and the number of pixels, 2304."),
        (["--batch", "0"], "batch is 0; a batch holds at least one picture."),
        (["--masks", "{empty}"], "holds no mask for any picture"),
        (["--compare", "gradcam"], "A comparison is given as first:second; got 'gradcam'."),
        (["--compare", "gradcam:eigencam"], "'eigencam' was declared but would not be measured"),
        (["--model", "{empty}/no.safetensors"], "There is no checkpoint"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(home, tmp_path, capsys, more, says):
    (tmp_path / "empty").mkdir()
    more = [text.replace("{empty}", str(tmp_path / "empty")) for text in more]
    assert cli.main(arguments(home, tmp_path / "out", *more)) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and said.startswith("camhelpers evaluate: ")
    assert not (tmp_path / "out").exists()


def test_nothing_can_be_read(net, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"None of the 1 pictures could be read; .*a.png"):
        evaluate(net, samples(tmp_path))


def test_wrong_calls(net, shown):
    with pytest.raises(ValueError, match="no picture to evaluate"):
        evaluate(net, [])
    with pytest.raises(ValueError, match="Two pictures have the same name"):
        evaluate(net, [shown[0], shown[0]])
    with pytest.raises(ValueError, match="relevance_mass is measured against masks"):
        evaluate(net, [held("a", shown[0].pixels)], metrics=["relevance_mass"])
    with pytest.raises(ValueError, match="There is no threshold for layercam at layer4"):
        evaluate(net, shown, metrics=["iou"], thresholds=calibrate(net, shown, methods=["gradcam"]))
    with pytest.raises(ValueError, match="batch is 0; a batch holds at least one picture"):
        calibrate(net, shown, batch=0)
    with pytest.raises(ValueError, match="with a card that says how to prepare them"):
        evaluate(SmallResNet(classes=2), shown)


def test_the_oracles_curves_follow_its_order(net, shown):
    x = torch.stack([net.card.prepare(p.pixels) for p in shown])
    line = faithfulness.curves(net, x, None, np.stack([[metrics.oracle(p.mask) for p in shown]]), steps=4)
    area = faithfulness.auc(line.probability["insertion", "mean"][0], line.fractions)
    table = evaluate(net, shown, methods=["gradcam"], metrics=["insertion"], steps=4).table
    assert values(table, method="oracle").to_numpy() == pytest.approx(area, abs=1e-6)
