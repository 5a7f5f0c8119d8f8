"""The gate must fail nonsense, and pass what is right: on tables whose answer is known, and on the shipped model."""

import numpy as np
import pandas as pd
import pytest
import torch

from camhelpers import explain
from camhelpers.cam.methods import METHODS, centre, gradcam, register
from camhelpers.cam.models import load_model
from camhelpers.datasets.samples import samples
from camhelpers.evaluate import faithfulness
from camhelpers.evaluate.controls import copy_of, hollow, judge, maps
from camhelpers.evaluate.gate import EVIDENCE, checks, gate
from camhelpers.evaluate.localisation import relevance_mass
from camhelpers.evaluate.run import evaluate

GOOD = {
    "oracle": 0.9, "oracle hollow": 0.3, "gradcam": 0.8, "gradcam mirrored": 0.6, "gradcam other class": 0.5,
    "centre": 0.65, "random": 0.5,
}  # fmt: skip
BLIND = {name: value for name, value in GOOD.items() if not name.startswith("oracle")}


@pytest.mark.parametrize(
    ("verdict", "weakest", "means", "options"),
    [
        ("pass", "oracle", GOOD, {}),
        ("pass", "oracle", GOOD | {"gradcam": 0.9}, {"noise": 0}),  # a perfect method differs from the oracle by 0
        ("pass", "oracle", GOOD | {"gradcam": 0.905}, {"noise": 0}),  # equivalent
        ("fail", "oracle", GOOD | {"oracle": 0.75}, {}),  # as with black: the silhouette tells
        ("fail", "oracle", GOOD | {"oracle": 0.792}, {}),  # worse for sure, if perhaps by less than the margin
        ("fail", "random", GOOD | {"random": 0.82}, {}),
        ("fail", "centre", GOOD | {"centre": 0.82}, {}),
        ("fail", "mirrored", GOOD | {"gradcam mirrored": 0.82}, {}),
        ("fail", "other class", GOOD | {"gradcam other class": 0.8}, {"noise": 0}),  # deaf to the class
        ("undecided", "other class", GOOD | {"gradcam other class": np.nan}, {"noise": 0}),  # blank, which says nothing
        ("undecided", "oracle", GOOD, {"n": 5, "noise": 0}),  # so few pictures prove nothing, however clear they are
        ("undecided", "oracle", GOOD, {"n": 99, "metric": "pointing_exact"}),
        ("pass", "oracle", GOOD, {"n": 100, "metric": "pointing_exact"}),
        ("pass", "hollow", GOOD | {"oracle hollow": 0.9}, {"noise": 0}),  # it need not notice, as pointing does not
        ("fail", "hollow", GOOD | {"oracle hollow": 0.95}, {}),  # the score does not care for the hottest pixels
        ("fail", "hollow", GOOD, {"metric": "deletion"}),
        ("undecided", "centre", GOOD, {"n": 3, "noise": 0.3}),
        ("undecided", "random", GOOD, {"n": 1, "noise": 0}),
        ("no oracle", "centre", BLIND, {}),
        ("fail", "random", BLIND | {"random": 0.9}, {}),
    ],
)
def test_the_gates_verdicts_and_what_is_weakest(table_of, verdict, weakest, means, options):
    found = gate(table_of(**options, **means))
    assert found["method"].tolist() == ["gradcam"] and found["gate"].item() == verdict
    if verdict != "undecided" or options.get("noise") == 0:
        assert found["weakest_against"].item() == weakest


def test_a_check_says_by_how_much(table_of):
    found = checks(table_of(**GOOD)).set_index("against")
    assert list(found.index) == ["random", "centre", "mirrored", "other class", "oracle", "hollow"]
    expected = {"random": 0.3, "centre": 0.15, "mirrored": 0.2, "other class": 0.3, "oracle": 0.1, "hollow": 0.6}
    assert found["difference"].to_dict() == pytest.approx(expected, abs=0.01)
    assert (found["low"] < found["difference"]).all() and (found["difference"] < found["high"]).all()
    lower = checks(table_of("deletion", **{who: 1 - value for who, value in GOOD.items()})).set_index("against")
    assert lower["difference"].to_dict() == pytest.approx(expected, abs=0.01)


def test_the_weakest_is_what_failed_before_what_is_in_doubt(table_of):
    table = table_of(noise=0, **GOOD | {"random": 0.82})
    far = table["picture"].isin(["p0", "p1"]) & (table["method"] == "centre")
    found = gate(table.assign(value=table["value"] + 9.0 * far))  # a mean that nobody can tell, and might be far worse
    assert found["gate"].item() == "fail" and found["weakest_against"].item() == "random"


def test_each_alpha_is_held_against_its_own_copies(table_of):
    found = checks(table_of(**GOOD, **{"hybrid@0.3": 0.8, "hybrid mirrored@0.3": 0.1, "hybrid mirrored@0.7": 0.9}))
    assert copy_of("hybrid@0.3", "mirrored") == "hybrid mirrored@0.3"
    mirrored = found[(found["method"] == "hybrid@0.3") & (found["against"] == "mirrored")]
    assert mirrored["difference"].item() == pytest.approx(0.7, abs=0.01)


def test_a_hollow_map_has_its_hottest_tenth_last():
    heat = np.random.default_rng(0).random((10, 10))
    order = np.argsort(hollow(heat), axis=None)
    assert set(order[:10]) == set(np.argsort(heat, axis=None)[-10:])
    assert np.array_equal(order[10:], np.argsort(heat, axis=None)[:-10])
    assert (hollow(np.eye(10)) == 0).sum() == 10


# On the shipped model -------------------------------------------------------------------------------------------------

NONSENSE = {
    "flipped": lambda A, G: gradcam(A, G).flip(-1),
    "a cell to the right": lambda A, G: gradcam(A, G).roll(1, -1),
    "a cell down": lambda A, G: gradcam(A, G).roll(1, -2),
    "the bell": centre,
    "another picture's": lambda A, G: gradcam(A, G).roll(1, 0),
    "energy": lambda A, G: A.square().sum(1),  # no class
}


# What the gate cannot tell: energy that knows one bit, whether the class is the predicted one.
BEYOND = {
    "energy and a bit": lambda A, G: torch.stack([
        e if speaks else e.max() - e for e, speaks in zip(A.square().sum(1), (A * G).sum((1, 2, 3)) > 0, strict=True)
    ]),
}  # fmt: skip


@pytest.fixture(scope="module")
def nonsense():
    with pytest.MonkeyPatch.context() as patch:
        for name, function in (NONSENSE | BEYOND).items():
            patch.setitem(METHODS, name, None)  # gone after the tests
            del METHODS[name]
            register(name)(function)
        patch.setitem(METHODS, "gradcam", METHODS["gradcam"])
        yield load_model("scenes"), samples("scenes:test:40")


@pytest.mark.slow
def test_nonsense_fails_on_every_score_and_what_is_sound_passes(nonsense):
    net, pictures = nonsense
    scores = ["pointing_game", "pointing_exact", "relevance_mass", "relevance_rank", "average_precision"]
    placed = evaluate(net, pictures, methods=[*NONSENSE, *BEYOND, "gradcam"], metrics=scores).table
    plan = {"metrics": ["insertion", "deletion"], "baselines": ["mean"], "steps": 5}
    shown = evaluate(net, pictures, methods=[*NONSENSE, "gradcam"], **plan).table
    found = pd.concat([gate(placed), gate(shown)])
    assert len(found) == 7 * (5 + 2) + 1 * 5
    passed = found[found["gate"].isin(EVIDENCE)]
    assert set(passed["method"]) <= {"gradcam", *BEYOND}
    assert {"relevance_mass", "average_precision"} <= set(passed[passed["method"] == "gradcam"]["metric"])
    failed = found[found["gate"] == "fail"].groupby("method").size()
    assert (failed.reindex(list(NONSENSE), fill_value=0) >= 1).all(), failed


@pytest.mark.slow
def test_a_metric_that_takes_cold_pixels_first_fails(nonsense, monkeypatch):
    net, pictures = nonsense
    plan = {"methods": ["gradcam"], "metrics": ["insertion", "deletion"], "baselines": ["mean"], "steps": 10}
    sound, ordered = checks(evaluate(net, pictures[:16], **plan).table), faithfulness.removal_order

    def cold_first(heat, seed=0):
        order = ordered(heat, seed)
        return np.concatenate([order[:-5001:-1], order[:-5000]])

    monkeypatch.setattr(faithfulness, "removal_order", cold_first)
    found = evaluate(net, pictures[:16], **plan).table
    assert gate(found)["gate"].tolist() == ["fail", "fail"]
    assert sound.query("against == 'hollow'")["reached"].tolist() == ["yes", "yes"]
    assert checks(found).query("against == 'hollow'")["reached"].tolist() == ["no", "no"]


def test_the_other_class_is_the_least_likely_that_is_not_explained(tiny_net):
    net, x = tiny_net(), torch.rand(3, 3, 32, 32)
    for target in (None, 0, 1):
        ex = explain(net, x, target=target)
        scores = ex.logits.copy()
        scores[np.arange(3), ex.capture.classes(ex.target).numpy()] = np.inf
        found = {name: heat for name, _, _, heat in maps(ex, ["gradcam"], [], [0, 1, 2])}
        assert np.array_equal(found["gradcam mirrored"], ex.heatmap()[..., ::-1])
        assert np.array_equal(found["gradcam other class"], ex.heatmap(target=scores.argmin(1).tolist()))
        assert list(found) == ["gradcam", "gradcam mirrored", "gradcam other class", "random", "centre"]


def test_any_score_is_judged_with_all_that_a_method_must_beat(tiny_net):
    net, mask = tiny_net(), np.zeros((64, 64), bool)
    mask[4:20, 4:20] = True
    pictures = list(np.random.default_rng(0).random((5, 64, 64, 3)))
    found = judge(net, pictures, "mass", lambda heat, i: relevance_mass(heat, mask), methods=["hybrid"],
                  oracle=lambda i: mask.astype(np.float32), batch=2)  # fmt: skip
    names = ["hybrid", "hybrid mirrored", "hybrid other class", "random", "centre", "oracle", "oracle hollow"]
    assert found.groupby("picture")["method"].agg(list).tolist() == [names] * 5
    assert found[found["method"] == "oracle"]["value"].eq(1).all() and gate(found)["method"].tolist() == ["hybrid@0.7"]
    asked = [0, 1, 2, 0, 1]
    each = judge(net, pictures, "mass", lambda heat, i: heat.sum(), methods=["gradcam"], target=asked, batch=2)
    sums = [explain(net, p, target=c).heatmap().sum() for p, c in zip(pictures, asked, strict=True)]
    assert each[each["method"] == "gradcam"]["value"].to_numpy() == pytest.approx(sums, rel=1e-3)
    whole = judge(net, pictures, "mass", lambda heat, i: relevance_mass(heat, mask), methods=["hybrid"])
    ours = found[found["method"] == "random"]["value"]
    assert ours.to_numpy() == pytest.approx(whole[whole["method"] == "random"]["value"].to_numpy())
