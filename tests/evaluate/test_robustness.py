import numpy as np
import pandas as pd
import pytest
import torch
from captum import metrics as captum
from scipy import stats
from torch import nn

from camhelpers.cam import methods
from camhelpers.cam.explain import explain
from camhelpers.evaluate.robustness import complexity, infidelity, max_sensitivity
from camhelpers.evaluate.sanity import noisy

NAMES = ("gradcam", "layercam", "random", "centre")
X = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def uniform(*shape, **how):
    return 2 * torch.rand(*shape, **how) - 1


def counts(pixels):
    """Its score is the sum of its pixels, so that a map of the pixels themselves foretells every removal."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(pixels, 1, bias=False))
    for weight in net.parameters():
        nn.init.ones_(weight)
    return net


def enter(monkeypatch, **maps):
    """Methods that draw one map, whatever they are asked."""
    for name, one in maps.items():
        method = methods.Method(name, lambda A, G, one=one: one.expand(len(A), *one.shape).clone(), name, "#000000")
        monkeypatch.setitem(methods.METHODS, name, method)
    return tuple(maps)


def test_max_sensitivity_equals_captums_even_where_noise_changes_the_prediction(tiny_net):
    net = tiny_net()
    with torch.no_grad():
        net.fc.bias -= net(X).mean(0)  # all classes are about as likely
    classes, copies = explain(net, X).target, list(noisy(X, uniform, 0.5, 6, 0))
    assert any((explain(net, one).target != classes).any() for one in copies)

    def layercam(inputs, target):
        ex = explain(net, inputs[0] if isinstance(inputs, tuple) else inputs, layers="layer3", target=target)
        return (torch.from_numpy(ex.heatmap("layercam", size="native")),)

    together = torch.stack(copies, 1).flatten(0, 1)
    expected = captum.sensitivity_max(layercam, X, lambda _: together, n_perturb_samples=6, target=classes)
    found = max_sensitivity(net, X, ("layercam",), layers="layer3", samples=6, radius=0.5)
    assert found["max_sensitivity"].to_numpy() == pytest.approx(expected.numpy(), rel=1e-5)


def test_what_never_looks_has_no_sensitivity_and_more_noise_changes_a_map_more(tiny_net):
    near, far = (
        max_sensitivity(tiny_net(), X, NAMES, samples=3, radius=radius).groupby("method")["max_sensitivity"]
        for radius in (0.02, 0.2)
    )
    assert far.max()["random"] == far.max()["centre"] == 0
    assert 0 < near.mean()["layercam"] < far.mean()["layercam"]


def test_noise_reaches_the_radius_of_each_inputs_own_range():
    wide = torch.cat([X, 10 * X])
    reach = (torch.stack(list(noisy(wide, uniform, 0.02, 3, 0))) - wide).abs().amax((0, 2, 3, 4))
    assert reach.numpy() == pytest.approx(5 * [0.02] + 5 * [0.2], rel=1e-2)


def test_infidelity_equals_captums_for_the_same_squares(tiny_net):
    net, x, shown = tiny_net().double(), X.double(), []
    hook = net.register_forward_pre_hook(lambda net, given: shown.append(given[0].clone()))
    found = infidelity(net, x, ("layercam", "random"), layers="layer3", samples=8)
    hook.remove()
    together, ex = torch.stack(shown[1:], 1).flatten(0, 1), explain(net, x, layers="layer3")

    def removed(inputs):
        gone = (together != inputs).double()
        assert gone.mean((1, 2, 3)).numpy() == pytest.approx(1 / 16)  # a quarter of either side
        return gone, together

    for name, rows in found.groupby("method"):
        heat = torch.from_numpy(ex.heatmap(name, size="model")).double()[:, None].expand_as(x)
        with torch.no_grad():
            expected = captum.infidelity(net, removed, x, heat, target=ex.target, n_perturb_samples=8, normalize=True)
        assert rows["infidelity"].to_numpy() == pytest.approx(expected.numpy(), rel=1e-6)


def test_the_pixels_of_a_sum_foretell_every_removal_and_a_flat_map_none(monkeypatch):
    names = enter(monkeypatch, flat=torch.ones(64, 64), blank=torch.zeros(64, 64))
    found = infidelity(counts(64 * 64), X[:, :1], ("hirescam", *names), layers="0", baseline="zero").groupby("method")
    assert found["share"].max()["hirescam"] == pytest.approx(0, abs=1e-8)
    assert found["share"].mean()["flat"] == pytest.approx(1)
    assert found["share"].count()["blank"] == 0


def test_complexity_and_sparseness_of_known_maps(monkeypatch):
    some, one, flat = X[0, 0, :6, :8], torch.eye(48)[7].view(6, 8), torch.ones(6, 8)
    names = enter(monkeypatch, flat=flat, one=one, blank=0 * flat, some=some)
    found = complexity(counts(48), X[:1, :1, :6, :8], names, layers="0")
    p = some.flatten().double().numpy()
    gini = np.abs(p[:, None] - p).mean() / (2 * p.mean())
    assert found["complexity"].tolist() == pytest.approx([np.log(48), 0, np.nan, stats.entropy(p)], nan_ok=True)
    assert found["sparseness"].tolist() == pytest.approx([0, 1 - 1 / 48, np.nan, gini], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("x", [X, torch.rand(3, 1, 16, 32, 32)], ids=["pictures", "volumes"])
@pytest.mark.parametrize("score", [max_sensitivity, infidelity, complexity])
def test_tidy_rows_whatever_the_batch_and_the_model_stays(tiny_net, score, x, monkeypatch):
    net, found = tiny_net(dims=x.ndim - 2).train(), []
    for batch in (32, 2):
        monkeypatch.setattr("camhelpers.evaluate.sanity.BATCH", batch)
        rows = score(net, x, NAMES, layers=["layer2", "layer3"]).set_index(["picture", "method", "layer"])
        assert len(rows) == len(x) * 4 * 2 and rows.index.is_unique and net.training
        assert rows.notna().any().all()
        found.append(rows.sort_index())
    pd.testing.assert_frame_equal(*found, rtol=1e-3, atol=1e-6)
