import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from camhelpers import cli, explain
from camhelpers.cam.methods import METHODS, register
from camhelpers.cam.models import save_model
from camhelpers.datasets.samples import Sample
from camhelpers.evaluate import faithfulness, run
from camhelpers.evaluate import localisation as metrics
from camhelpers.evaluate.report import summary
from camhelpers.evaluate.run import calibrate, evaluate
from camhelpers.files import ROOT, fingerprint
from camhelpers.io.images import save_image

KEY = ["picture", "method", "alpha", "layer", "metric", "baseline"]


def held(name, pixels, label=None, mask=None):
    """A picture in memory as a sample."""
    return Sample(name, lambda: (pixels, mask), label, mask is not None, fingerprint(pixels, mask))


@pytest.fixture(scope="module")
def net(tiny_net):
    net = tiny_net(architecture="small_resnet", arguments={"classes": 3, "widths": (8, 8, 12, 16),
                                                           "strides": (2, 1, 2, 2, 1)})  # fmt: skip
    with torch.no_grad():
        net.fc.weight.mul_(20)  # an untrained net hardly tells pictures apart
    return net


@pytest.fixture(scope="module")
def shown():
    rng, found = np.random.default_rng(0), []
    for i in range(5):
        mask = np.zeros((64, 64), bool)
        mask[i + 5 : i + 25, 10:30] = True
        found.append(held(f"p{i}", rng.random((64, 64, 3)).astype(np.float32), "cat", mask))
    return found


OPTIONS = {"alphas": [0, 0.7, 1], "layers": ["layer3", "layer2"], "baselines": ["mean", "zero"], "steps": 4}


@pytest.fixture(scope="module")
def found(net, shown):
    return evaluate(net, shown, **OPTIONS, batch=2)


def values(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table.set_index("picture")["value"]


def test_the_table_is_tidy_and_complete(found):
    table = found.table
    assert list(table.columns) == list(run.COLUMNS)
    assert not table.duplicated(KEY).any()
    who = 2 * (3 * (2 + 3) + 2 + 2)  # layers; methods and alphas with two copies, controls, the oracle with one
    assert len(table) == 5 * who * (2 * 2 + 4)
    assert set(table[table.metric == "insertion"]["steps"]) == {4}
    assert table[table.metric == "relevance_mass"]["steps"].isna().all()
    assert found.about["n"] == 5 and found.about["masks"] == 5 and found.failed == {}
    assert len(found.curves) == 5 * who * 4 * 5
    whole = found.curves[(found.curves.metric == "insertion") & (found.curves.fraction == 1)]
    assert whole.groupby("picture")["probability"].nunique().eq(1).all()  # the whole picture, whatever the map


def test_values_are_those_of_the_functions_that_define_them(net, shown, found):
    here = found.table.query("method == 'hybrid' and alpha == 0.7 and layer == 'layer3'")
    for number, p in enumerate(shown):
        x = net.card.prepare(p.pixels)[None]
        ex = explain(net, x, layers=["layer3"])
        heat = ex.heatmap("hybrid", alpha=0.7)
        line = faithfulness.curves(net, x, None, heat[None], steps=4, baselines=["zero"], seed=number)
        area = faithfulness.auc(line.probability["deletion", "zero"], line.fractions)[0, 0]
        # sums in another order, as another number of threads makes them, now and then swap two pixels
        assert values(here, metric="deletion", baseline="zero")[p.name] == pytest.approx(area, abs=1e-3)
        for metric, score in (
            ("relevance_mass", metrics.relevance_mass(heat[0], p.mask)),
            ("average_precision", metrics.average_precision(heat[0], p.mask)),
            ("pointing_game", metrics.pointing_hit(heat[0], p.mask)),
        ):
            assert values(here, metric=metric)[p.name] == pytest.approx(score, abs=1e-3)
        assert set(here[here.picture == p.name]["class"]) == {ex.label[0]}
    right = [explain(net, net.card.prepare(p.pixels)[None]).label[0] == "cat" for p in shown]
    assert found.about["accuracy"] == np.mean(right)


def test_the_ends_of_the_hybrid_are_its_parents_to_the_last_bit(found):
    for alpha, parent in ((1.0, "gradcam"), (0.0, "layercam")):
        ends = found.table[(found.table.method == "hybrid") & (found.table.alpha == alpha)]
        assert (ends["value"].to_numpy() == found.table[found.table.method == parent]["value"].to_numpy()).all()


def test_the_oracle_is_perfect_at_finding_and_its_curves_follow_its_own_order(net, shown, found):
    for metric in ("pointing_game", "relevance_mass", "relevance_rank", "average_precision"):
        assert (values(found.table, method="oracle", metric=metric) == 1).all()
    x = torch.stack([net.card.prepare(p.pixels) for p in shown])
    line = faithfulness.curves(net, x, None, np.stack([[metrics.oracle(p.mask) for p in shown]]), steps=4)
    area = faithfulness.auc(line.probability["insertion", "mean"][0], line.fractions)
    own = values(found.table, method="oracle", metric="insertion", baseline="mean", layer="layer2")
    assert own.to_numpy() == pytest.approx(area, abs=1e-5)


def test_batches_change_nothing(net, shown, found):
    other = evaluate(net, shown, **OPTIONS, batch=5)
    a, b = (t.table.set_index(KEY)["value"] for t in (found, other))
    assert (a - b[a.index]).abs().max() < 1e-3


def test_every_metric_of_localisation_and_the_calibrated_threshold(net, shown):
    chosen = calibrate(net, shown[3:], methods=["gradcam"])
    assert chosen["oracle", "layer4"] == 1 and set(name for name, _ in chosen) == {
        "gradcam", "gradcam mirrored", "gradcam other class", "random", "centre", "oracle", "oracle hollow",
    }  # fmt: skip
    wanted = [*run.LOCALISATION, "iou"]
    table = evaluate(net, shown[:2], methods=["gradcam"], metrics=wanted, thresholds=chosen).table
    assert set(table.metric) == set(wanted)
    assert table[table.method == "gradcam"]["value"].notna().all()
    assert (values(table, method="oracle", metric="iou") == 1).all()
    heat = explain(net, net.card.prepare(shown[0].pixels)[None]).heatmap()[0]
    for metric, score in (
        ("iou", metrics.iou(heat, shown[0].mask, chosen["gradcam", "layer4"])),
        ("pointing_exact", metrics.pointing_hit(heat, shown[0].mask, 0)),
        ("lift", metrics.lift(heat, shown[0].mask)),
    ):
        assert values(table, method="gradcam", metric=metric)["p0"] == pytest.approx(score, abs=1e-4)


def test_maps_are_placed_as_heatmap_places_them(net, shown):
    plan = {"methods": ["gradcam"], "metrics": ["relevance_mass"], "layers": ["layer3"]}
    found = {place: evaluate(net, shown[:2], **plan, place=place) for place in ("grid", "effective")}
    mass = {place: values(one.table, method="gradcam")["p0"] for place, one in found.items()}
    ex = explain(net, net.card.prepare(shown[0].pixels)[None], layers="layer3")
    for place, one in found.items():
        assert mass[place] == pytest.approx(metrics.relevance_mass(ex.heatmap(place=place)[0], shown[0].mask), abs=1e-4)
        assert one.about["place"] == place
    assert mass["grid"] != pytest.approx(mass["effective"], abs=1e-4)
    centre = [values(one.table, method="centre")["p0"] for one in found.values()]
    assert centre[0] == centre[1]  # a bell in the picture's centre, wherever cells look


def test_without_controls_there_are_the_methods_alone(net, shown):
    found = evaluate(net, shown[:2], methods=["gradcam", "hybrid"], metrics=["lift"], controls=False)
    assert found.table["method"].unique().tolist() == ["gradcam", "hybrid"]
    assert found.about["methods"] == ["gradcam", "hybrid@0.7"]
    assert summary(found.table).query("metric == 'lift'")["gate"].eq("undecided").all()


def test_pictures_without_masks_are_not_localised(net, shown):
    some = [shown[0], held("bare", shown[1].pixels)]
    table = evaluate(net, some, methods=["gradcam"], steps=2).table
    assert set(table[table.picture == "bare"].metric) == {"insertion", "deletion"}
    assert "oracle" not in set(table[table.picture == "bare"].method)
    table = evaluate(net, some[1:], methods=["gradcam"], steps=2).table
    assert set(table.metric) == {"insertion", "deletion"}


def test_blank_maps_are_counted_as_missing(tiny_net, shown):
    blind = tiny_net()
    torch.nn.init.zeros_(blind.fc.weight)  # no gradient, no evidence
    table = evaluate(blind, shown, methods=["gradcam"], steps=2).table
    assert table[table.method == "gradcam"]["value"].isna().all()
    assert table[table.method == "random"]["value"].notna().all()
    row = summary(table).query("method == 'gradcam' and metric == 'insertion'").iloc[0]
    assert (row["n"], row["dropped"]) == (0, 5) and row["gate"] == "undecided"


def test_a_mask_is_cut_and_sized_as_the_model_sees_it(tiny_net):
    mask = np.zeros((40, 80), bool)
    mask[:, 20:40] = True  # of the middle square, its left half
    net = tiny_net(size=(32, 32), fit="crop", resize=32)
    best = evaluate(net, [held("half", np.full((40, 80, 3), 0.5), mask=mask)], metrics=["lift"]).table
    assert values(best, method="oracle")["half"] == 2


def test_finished_batches_are_measured_once(net, tiny_net, shown, tmp_path, monkeypatch):
    options = {"methods": ["gradcam"], "steps": 2, "batch": 2, "out": tmp_path}
    first = evaluate(net, shown, **options)
    calls, measure = [], faithfulness.curves
    monkeypatch.setattr(faithfulness, "curves", lambda *a, **k: calls.append(1) or measure(*a, **k))
    again = evaluate(net, shown, **options)
    assert not calls and again.table.equals(first.table) and again.curves.equals(first.curves)
    assert again.about == first.about

    evaluate(net, shown[:4], **options)
    assert not calls
    changed = [*shown[:3], held("p3", shown[3].pixels * np.float32(0.5), "cat", shown[3].mask)]
    evaluate(net, changed, **options)
    assert len(calls) == 1  # the batch with that picture alone
    for change in ({"steps": 3}, {"seed": 1}, {"methods": ["layercam"]}):
        calls.clear()
        evaluate(net, shown[:2], **options | change)
        assert calls
    calls.clear()
    evaluate(net, shown, **options | {"metrics": ["deletion"]})
    kept = {path: path.read_bytes() for path in tmp_path.glob("parts/*")}
    more = evaluate(net, shown, **options | {"metrics": ["lift", "deletion"]})
    assert not calls and set(more.table["metric"]) == {"lift", "deletion"}  # another metric costs itself alone
    assert evaluate(net, shown[:2], **options | {"metrics": ["lift"]}).about["n"] == 2
    assert kept.items() <= {path: path.read_bytes() for path in tmp_path.glob("parts/*")}.items()  # nothing is lost
    for cut in (0.2, 0.9):  # another threshold is another score
        cuts = dict.fromkeys(calibrate(net, shown, methods=["gradcam"]), cut)
        found = evaluate(net, shown[:2], **options | {"metrics": ["iou"], "thresholds": cuts}).table
        heat = explain(net, net.card.prepare(shown[0].pixels)[None]).heatmap()[0]
        expected = metrics.iou(heat, shown[0].mask, cut)
        assert values(found, method="gradcam")["p0"] == pytest.approx(expected, abs=1e-4)
    calls.clear()
    evaluate(tiny_net(), shown[:2], **options)  # other weights
    assert calls
    unknown = [Sample("p0", shown[0].read)]  # nobody can tell whether it changed
    for _ in range(2):
        calls.clear()
        evaluate(net, unknown, **options)
        assert calls


def test_a_method_of_ones_own_is_measured_again_once_its_code_changed(net, shown, tmp_path, monkeypatch):
    def once(power):
        if power == 1:
            register("own")(lambda A, G: A.sum(1).relu())
        else:
            register("own")(lambda A, G: A.sum(1).relu() ** 2 + 1)
        return evaluate(net, shown[:1], methods=["own"], metrics=["relevance_mass"], out=tmp_path).table

    monkeypatch.setitem(METHODS, "own", None)  # gone after the test
    del METHODS["own"]
    assert values(once(1), method="own")["p0"] != values(once(2), method="own")["p0"]


@pytest.fixture(scope="module")
def home(net, tmp_path_factory):
    """A checkpoint with its card, and a folder of pictures with masks."""
    folder, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    save_model(net, net.card, folder / "tiny.safetensors")
    for i in range(12):
        mask = np.zeros((64, 64))
        mask[10:30, i:28] = 1
        kind = ("cat", "dog")[i % 2]
        save_image(folder / f"pictures/{kind}/{i}.png", rng.random((64, 64, 3)))
        save_image(folder / f"pictures/masks/{kind}/{i}.png", mask)
    return folder


def arguments(home, out, *more):
    call = ["evaluate", "--model", home / "tiny.safetensors", "--images", home / "pictures", "--out", out, *more]
    return [str(a) for a in call]


def results(folder):
    return pd.read_csv(folder / "evaluation_results.csv")


@pytest.mark.slow
def test_an_interrupted_evaluation_gives_the_identical_table(home, tmp_path):
    more = ["--steps", "12", "--alphas", "0.3", "0.7", "--batch", "1"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    call = [sys.executable, "-m", "camhelpers", *arguments(home, cut, *more)]
    running = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while len(list(cut.glob("parts/[!.]*.json"))) < 2 and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.005)
    running.kill()
    running.communicate()
    kept = {p.name: p.stat().st_mtime_ns for p in cut.glob("parts/[!.]*.json")}
    assert 2 <= len(kept) < 72 and not (cut / "evaluation_results.csv").exists()

    assert cli.main(arguments(home, cut, *more)) == 0
    assert cli.main(arguments(home, whole, *more)) == 0
    assert len(results(whole)["picture"].unique()) == 12
    pd.testing.assert_frame_equal(results(cut), results(whole), check_exact=True)
    assert (cut / "curves.csv").read_bytes() == (whole / "curves.csv").read_bytes()
    after = {p.name: p.stat().st_mtime_ns for p in cut.glob("parts/[!.]*.json")}
    assert len(after) == 12 * 6 and kept.items() <= after.items()  # of six metrics; nothing was measured twice


def test_damaged_pictures_are_reported_and_the_rest_is_done(home, tmp_path, capsys):
    for i in range(4):
        save_image(tmp_path / f"pictures/{i}.png", np.random.default_rng(i).random((64, 64, 3)))
        save_image(tmp_path / f"pictures/masks/{i}.png", np.ones((64, 64 + (i == 3))))
    sound = (tmp_path / "pictures/2.png").read_bytes()
    (tmp_path / "pictures/2.png").write_bytes(sound[: len(sound) // 2])
    call = arguments(home, tmp_path / "out", "--images", tmp_path / "pictures", "--methods", "gradcam", "--steps", 2)
    for _ in range(2):  # and again, from what was kept
        assert cli.main(call) == 1
        said = capsys.readouterr().err
        assert "2.png is left out: " in said and "3.png is left out: The mask" in said
        assert set(results(tmp_path / "out")["picture"]) == {"0.png", "1.png"}
        assert list(json.loads((tmp_path / "out/evaluation.json").read_text())["failed"]) == ["2.png", "3.png"]
    (tmp_path / "pictures/2.png").write_bytes(sound)
    assert cli.main(call) == 1
    assert set(results(tmp_path / "out")["picture"]) == {"0.png", "1.png", "2.png"}
