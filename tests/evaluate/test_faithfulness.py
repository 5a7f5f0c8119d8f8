import contextlib

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.stats import norm
from torch import nn
from torchcam.metrics import DeletionInsertionMetric

from camhelpers.cam.cards import Card
from camhelpers.cam.models import load_model
from camhelpers.cam.nets import SmallResNet
from camhelpers.datasets import scenes
from camhelpers.evaluate import faithfulness as f


class Linear(nn.Module):
    """A model whose logit 0 is the sum of its pixels times weights, and whose logit 1 is 0."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x):
        score = (x * self.weights).flatten(1).sum(1)
        return torch.stack([score, torch.zeros_like(score)], 1)


@pytest.fixture
def small():
    torch.manual_seed(0)
    net = SmallResNet(classes=5, widths=(4, 4, 8, 8)).eval()
    with torch.no_grad():
        net.fc.weight.mul_(20)  # an untrained net hardly tells pictures apart
    return net


@pytest.fixture
def case(small):
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.standard_normal((3, 3, 32, 32)).astype(np.float32))
    heats = rng.random((2, 3, 32, 32)).astype(np.float32)
    return small, x, heats


def reference(model, x, target, heat, steps, baseline, direction, seed):
    """One picture, one map, one step at a time, as the definition reads."""
    width = heat.shape[1]
    places = np.random.default_rng(seed).permutation(heat.size)
    ranked = sorted(range(heat.size), key=lambda j: -heat.flat[places[j]])  # stable: ties stay as shuffled
    order = [places[j] for j in ranked]
    scores = []
    for step in range(steps + 1):
        count = int(np.rint(step / steps * heat.size))
        picture = (baseline if direction == "insertion" else x).clone()
        for pixel in order[:count]:
            r, c = divmod(int(pixel), width)
            picture[:, r, c] = (x if direction == "insertion" else baseline)[:, r, c]
        with torch.no_grad():
            scores.append(model(picture[None])[0].softmax(0)[target].item())
    return np.array(scores)


@pytest.mark.parametrize("make", ["noise", "signed", "ties", "mostly zero"])
def test_the_order_is_a_stable_sort_behind_a_shuffle(make):
    rng = np.random.default_rng(3)
    heat = rng.standard_normal((20, 30)).astype(np.float32)
    if make == "noise":
        heat = np.abs(heat)
    if make == "ties":
        heat = np.round(heat)  # holds -0.0 as well
    if make == "mostly zero":
        heat[heat < 1.5] = 0
    shuffle = np.random.default_rng(7).permutation(heat.size)
    shuffled = torch.from_numpy(heat.reshape(-1)[shuffle])
    expected = shuffle[shuffled.argsort(dim=0, descending=True, stable=True).numpy()]
    assert (f.removal_order(heat, seed=7) == expected).all()


def test_ties_fall_evenly_and_by_the_seed():
    heat = np.array([1.0, 0, 0, 0, 0])
    second = [f.removal_order(heat, seed)[1] for seed in range(800)]
    assert set(f.removal_order(heat, seed)[0] for seed in range(50)) == {0}
    assert np.bincount(second, minlength=5)[1:].min() > 150  # 200 expected each
    assert (f.removal_order(heat, 5) == f.removal_order(heat, 5)).all()


def test_a_linear_model_has_the_curves_one_can_write_down():
    weights = torch.tensor([[[0.4, 0.3], [0.2, 0.1]]], dtype=torch.float64)
    model, x = Linear(weights), torch.ones(1, 1, 2, 2, dtype=torch.float64)
    heats = np.array([[[[4, 3], [2, 1]]], [[[1, 2], [3, 4]]]], np.float32)  # the best order, and the worst
    found = f.curves(model, x, 0, heats, steps=4, baselines=["zero"])
    assert found.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    for direction, logits in (
        ("insertion", [[0, 0.4, 0.7, 0.9, 1], [0, 0.1, 0.3, 0.6, 1]]),
        ("deletion", [[1, 0.6, 0.3, 0.1, 0], [1, 0.9, 0.7, 0.4, 0]]),
    ):
        line = found.probability[direction, "zero"][:, 0]
        assert line == pytest.approx(1 / (1 + np.exp(-np.array(logits))))
        assert f.auc(line, found.fractions) == pytest.approx([np.trapezoid(row) / 4 for row in line])


def test_baselines_are_what_they_are_called(case, tiny_net):
    _, x, _ = case
    mean, blur, zero = (f.BASELINES[name](x, None) for name in ("mean", "blur", "zero"))
    for i, c in np.ndindex(3, 3):  # each picture's own colour, and no grey
        assert mean[i, c].numpy() == pytest.approx(float(x[i, c].mean()), abs=1e-6)
        sigma = 32 * 10 / 224
        want = ndimage.gaussian_filter(x[i, c].numpy(), sigma, mode="nearest")
        assert blur[i, c].numpy() == pytest.approx(want, abs=1e-6)
    assert not zero.any()
    edge = torch.zeros(1, 1, 224, 224)
    edge[..., 112:] = 1  # a step blurred by ten pixels, ten pixels away: the normal distribution at one
    assert f.BASELINES["blur"](edge, None)[0, 0, 100, 122] == pytest.approx(norm.cdf(1.05), abs=1e-3)
    card = tiny_net().card
    assert not card.display(f.BASELINES["black"](x, card)).any()


def test_the_area_goes_by_the_true_share_of_pixels(case):
    model, x, heats = case
    found = f.curves(model, x, None, heats, steps=7)
    assert (np.diff(found.fractions) * 1024).tolist() == [146, 147, 146, 146, 146, 147, 146]
    line = found.fractions * 3 + 1
    assert f.auc(line, found.fractions) == pytest.approx(2.5, abs=1e-12)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_queue_equals_the_slow_reference(case, batch):
    model, x, heats = case
    heats = heats.copy()
    heats[1] = np.round(heats[1] * 3)  # many ties
    found = f.curves(
        model, x, [0, 1, 2], heats, steps=6, baselines=["mean", "blur", "zero"], batch=batch, seed=[11, 12, 13]
    )
    for baseline in ("mean", "blur", "zero"):
        behind = f.BASELINES[baseline](x, None)
        for direction in ("insertion", "deletion"):
            got = found.probability[direction, baseline]
            for m in range(2):
                for i in range(3):
                    want = reference(model, x[i], i, heats[m, i], 6, behind[i], direction, 11 + i)
                    assert got[m, i] == pytest.approx(want, abs=2e-6)
    spread = np.ptp(found.probability["deletion", "mean"], axis=-1)
    assert spread.min() > 0.01  # the curves do move, so that equality means something


def test_a_batch_equals_its_pictures_one_by_one(case):
    model, x, heats = case
    heats = np.round(heats * 3)  # ties, which each picture's own seed breaks
    together = f.curves(model, x, [0, 1, 2], heats, seed=4).probability["insertion", "mean"]
    for i in range(3):
        alone = f.curves(model, x[i : i + 1], i, heats[:, i : i + 1], seed=4 + i).probability["insertion", "mean"]
        assert together[:, i] == pytest.approx(alone[:, 0], abs=1e-6)


def test_the_queue_shows_the_model_no_picture_twice(case):
    model, x, heats = case
    shown = []
    handle = model.register_forward_hook(lambda module, args, out: shown.append(len(out)))
    found = f.curves(model, x, None, heats, steps=10, baselines=["mean", "zero"], batch=8)
    handle.remove()
    assert sum(shown) == found.forwards == 3 + 2 * 3 + 2 * 3 * 2 * 2 * 9  # endpoints once, then M * N * D * B * (S-1)
    assert max(shown) == 8


def test_one_step_needs_the_endpoints_only(case):
    model, x, heats = case
    found = f.curves(model, x, None, heats, steps=1)
    assert found.forwards == 6
    assert found.probability["insertion", "mean"] == pytest.approx(found.probability["deletion", "mean"][..., ::-1])


def test_volumes_work_alike():
    x = torch.rand(2, 1, 3, 4, 5)
    found = f.curves(Linear(torch.rand(1, 3, 4, 5)), x, 0, np.random.default_rng(0).random((1, 2, 3, 4, 5)), steps=3)
    assert found.probability["insertion", "mean"].shape == (1, 2, 4)


def test_equal_maps_from_two_methods_get_equal_scores(case):
    model, x, heats = case
    twin = np.round(np.stack([heats[0], heats[0]]) * 2)
    found = f.curves(model, x, None, twin).probability["insertion", "mean"]
    assert (found[0] == found[1]).all()


def test_masked_shows_what_the_curve_measured(case):
    model, x, heats = case
    found = f.curves(model, x, None, heats, steps=4, seed=9)
    for direction in ("insertion", "deletion"):
        picture = f.masked(x[1], heats[0, 1], 0.25, direction=direction, seed=10)
        with torch.no_grad():
            p = model(picture[None]).softmax(1)[0, model(x)[1].argmax()]
        assert found.probability[direction, "mean"][0, 1, 1] == pytest.approx(p.item(), abs=1e-6)


class Given:
    """An extractor, as torch-cam wants one, that hands out maps made elsewhere."""

    def __init__(self, model, heat):
        self.model, self.heat = model, heat

    def __call__(self, *args, **kwargs):
        return [self.heat]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        return contextlib.nullcontext()


def test_insertion_and_deletion_equal_torchcam(case):
    model, x, heats = case  # no ties, and 1024 divides by 8: the definitions agree
    found = f.curves(model, x, None, heats, steps=8, baselines=["zero"])
    for m in range(2):
        peer = DeletionInsertionMetric(Given(model, torch.from_numpy(heats[m])), lambda z: z.softmax(-1), steps=8)
        peer.update(x)
        ours = {d: f.auc(found.probability[d, "zero"], found.fractions)[m].mean() for d in ("insertion", "deletion")}
        assert ours["insertion"] == pytest.approx(peer.summary()["insertion_auc"], abs=1e-6)
        assert ours["deletion"] == pytest.approx(peer.summary()["deletion_auc"], abs=1e-6)


def test_area_equals_rise_where_the_steps_are_even():
    curve = np.random.default_rng(0).random(11)
    rise = (curve.sum() - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1)  # the published definition
    assert f.auc(curve, np.linspace(0, 1, 11)) == pytest.approx(rise)


def test_part_importance_is_the_score_without_the_part():
    """A linear model drops by exactly its weights times the pixels that change, on average over the views."""
    scene = scenes.draw(3, "cat", size=64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64 * 3, 10))
    model.card = Card("linear", scenes.CLASSES, size=(64, 64), mean=(0, 0, 0), std=(1, 1, 1))
    drops = f.part_importance(model, scene)
    assert list(drops) == [part for part, mask in scene.parts.items() if mask.any()]
    for part in ("head", "tail"):
        without = scenes.draw(3, "cat", size=64, without=part)
        change = np.pad(scene.picture - without.picture, [(8, 8), (8, 8), (0, 0)], mode="edge")
        views = [change[8 + down : 72 + down, 8 + right : 72 + right] for _, down, right in f.VIEWS]
        views = [view[:, ::-1] if flip else view for view, (flip, *_) in zip(views, f.VIEWS, strict=True)]
        mean = torch.from_numpy(np.mean(views, 0).transpose(2, 0, 1).reshape(-1).copy())
        assert drops[part] == pytest.approx(float(model[1].weight[0].detach() @ mean), abs=1e-4)


def test_part_importance_redraws_the_scene_as_it_was():
    scene = scenes.draw(1, "dog", second="car", tag=True, size=64)
    model = load_model(nn.Sequential(nn.Flatten(), nn.Linear(64 * 64 * 3, 10)), classes=scenes.CLASSES, size=(64, 64))
    seen = []
    handle = model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    f.part_importance(model, scene)
    handle.remove()
    pictures = model.card.display(seen[0])
    for picture in pictures[1:]:
        changed = (picture - pictures[0]).abs().amax(0).numpy() > 0.05
        assert changed.any() and not changed[scene.second_mask].any()
        assert changed[scene.tag_mask].mean() < 0.1  # a part may lie behind the soft edge of the tag


def test_a_constant_map_says_nothing_and_the_rest_is_done(case):
    model, x, heats = case
    heats = heats.copy()
    heats[0, 1] = 0.5
    found = f.curves(model, x, None, heats)
    values = found.probability["insertion", "mean"]
    assert np.isnan(values[0, 1]).all() and np.isnan(values).any(-1).sum() == 1
    assert found.forwards == 2 * 3 + 5 * 2 * 9


class BeginsInPlace(SmallResNet):
    def forward(self, x):
        return super().forward(x.clamp_(-1, 1))


def test_nothing_of_the_callers_is_changed(case):
    _, x, heats = case
    torch.manual_seed(0)
    model = BeginsInPlace(classes=5, widths=(4, 4, 8, 8)).train()
    state, before = {k: v.clone() for k, v in model.state_dict().items()}, (x.clone(), heats.copy())
    found = f.curves(model, x, None, heats)
    assert model.training and all(m.training for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.is_contiguous() for p in model.parameters())
    assert torch.equal(x, before[0]) and (heats == before[1]).all()
    behind, target = f.BASELINES["mean"](x, None)[0], int(model.eval()(x.clone())[0].argmax())
    want = reference(model, x[0].clone(), target, heats[0, 0], 10, behind, "deletion", 0)
    assert found.probability["deletion", "mean"][0, 0] == pytest.approx(want, abs=2e-6)


def test_a_network_that_a_trace_gets_wrong_is_run_as_it_is():
    class Sly(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4)

        def forward(self, x):
            scores = self.norm(self.conv(x)).mean((2, 3))
            return scores if isinstance(x, torch.Tensor) else -scores  # a trace sees no tensor

    torch.manual_seed(0)
    net, x, heats = Sly().eval(), torch.rand(2, 3, 32, 32), np.random.default_rng(0).random((1, 2, 32, 32))
    whole = f.curves(net, x, None, heats, steps=4).probability["insertion", "mean"]
    net.register_forward_hook(lambda module, args, out: out)  # with a hook nothing is folded
    np.testing.assert_array_equal(whole, f.curves(net, x, None, heats, steps=4).probability["insertion", "mean"])
