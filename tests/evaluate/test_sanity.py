from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as reference
from torch import nn

from camhelpers.cam.explain import explain
from camhelpers.cam.models import load_model, model_hash
from camhelpers.cam.nets import SmallResNet
from camhelpers.datasets import scenes
from camhelpers.evaluate.sanity import (
    causes,
    class_sensitivity,
    efficient_mprt,
    parts,
    randomisation,
    randomised,
    reliance,
    tag_mass,
)

NAMES = ("gradcam", "layercam", "hybrid", "eigencam", "random", "centre")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = SmallResNet(classes=10, widths=(4, 8, 8, 8), strides=(2, 1, 2, 2, 1))
    for module in net.modules():  # as if trained: the statistics and biases of fresh weights are too plain
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return load_model(net.eval(), classes=scenes.CLASSES, size=(64, 64), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(scope="module")
def x():
    return torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def few():
    return scenes.dataset("test", 4)


# Randomised weights ---------------------------------------------------------------------------------------------------


def test_parts_go_from_the_head_down_and_look_into_a_trunk(model):
    assert parts(model) == ["fc", "layer4", "layer3", "layer2", "layer1", "stem"]
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    vgg = nn.ModuleDict({"features": trunk, "classifier": nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))})
    assert parts(vgg) == ["classifier.2", "classifier.0", "features.2", "features.0"]


def test_only_the_named_part_changes_and_only_in_the_copy(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    net = randomised(model, ["layer3"], seed=0)
    changed = {name.split(".")[0] for name, t in net.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"layer3"}
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_parts_new_weights_depend_on_its_name_and_the_seed(model):
    alone, among = randomised(model, ["layer3"], 1), randomised(model, ["fc", "layer3"], 1)
    assert torch.equal(alone.layer3.conv1.weight, among.layer3.conv1.weight)
    assert not torch.equal(alone.layer3.conv1.weight, randomised(model, ["layer3"], 2).layer3.conv1.weight)
    assert not torch.equal(alone.layer3.conv1.weight, randomised(model, ["layer4"], 1).layer4.conv1.weight)


def test_weights_of_a_home_made_module_change_places():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(20.0).view(4, 5))

    net = nn.Sequential(nn.Linear(2, 2), Scale(), nn.Linear(2, 2))
    new = randomised(net, ["1"])[1].weight
    assert new.shape == (4, 5)
    assert not torch.equal(new, net[1].weight)
    assert torch.equal(new.detach().flatten().sort().values, torch.arange(20.0))


@pytest.fixture(scope="module")
def checked(model, x):
    return randomisation(model, x, NAMES, layers=["layer2", "layer4"])


def test_one_row_for_each_picture_and_everything_asked(checked):
    assert len(checked) == 5 * 6 * 2 * 3 * 6  # pictures, methods, layers, seeds, parts
    assert not checked.duplicated(["picture", "method", "layer", "seed", "step"]).any()


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")  # a blank map, for which both say NaN
def test_a_row_by_hand_and_the_class_stays_the_one_first_predicted(model, x, checked):
    before, net = explain(model, x, layers=["layer2"]), randomised(model, ["fc", "layer4"], 1)
    classes = before.capture.logits.argmax(1)
    after = explain(net, x, layers=["layer2"], target=classes)
    assert (after.capture.logits.argmax(1) != classes).any()
    for name in ("layercam", "hybrid"):
        old, new = (ex.heatmap(name, size="native") for ex in (before, after))
        rows = checked.query("part == 'layer4' and step == 2 and layer == 'layer2' and seed == 1 and method == @name")
        expected = [reference.spearmanr(p.ravel(), q.ravel()).statistic for p, q in zip(old, new, strict=True)]
        assert rows["spearman"].to_numpy() == pytest.approx(expected, nan_ok=True)
        assert rows["spearman"].notna().any()


@pytest.mark.parametrize("control", ["random", "centre"])
def test_a_control_stays_constant(checked, control):
    rows = checked[checked["method"] == control]
    assert rows["spearman"].to_numpy() == pytest.approx(1)


def test_a_random_head_changes_grad_cam_but_never_eigen_cam(checked):
    head = checked[(checked["part"] == "fc") & (checked["layer"] == "layer4")].groupby("method")["spearman"]
    assert head.mean()["gradcam"] < 0.9
    assert head.min()["eigencam"] == pytest.approx(1)


def test_the_same_seed_gives_the_same_table_and_the_model_stays(model, x):
    before, flags = model_hash(model), [m.training for m in model.modules()]
    first, second = (randomisation(model, x, ("gradcam",)) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert model_hash(model) == before
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None for p in model.parameters())


def test_the_efficient_test_is_the_rise_of_the_histograms_entropy(model, x):
    found = efficient_mprt(model, x, NAMES, layers=["layer2", "layer4"])
    assert len(found) == 5 * 6 * 2 * 3
    assert (found.query("method in ('random', 'centre')")["rise"] == 0).all()
    before, net = explain(model, x, layers=["layer4"]), randomised(model, parts(model), 2)
    after = explain(net, x, layers=["layer4"], target=before.target)
    rise = [
        reference.entropy(np.histogram(new, 100)[0]) / reference.entropy(np.histogram(old, 100)[0]) - 1
        if old.any() and new.any() else np.nan
        for old, new in zip(*(ex.heatmap("hybrid", size="model") for ex in (before, after)), strict=True)
    ]  # fmt: skip
    rows = found.query("seed == 2 and layer == 'layer4' and method == 'hybrid'")
    assert rows["rise"].to_numpy() == pytest.approx(rise, nan_ok=True)
    assert rows["rise"].notna().any()


def test_a_volume_is_checked_as_a_picture_is():
    torch.manual_seed(0)
    net = SmallResNet(classes=2, channels=1, widths=(2, 2, 2, 2), dims=3, strides=(2, 1, 1, 1, 1))
    found = randomisation(net, torch.randn(2, 1, 8, 12, 12), ("centre",))
    assert found["spearman"].to_numpy() == pytest.approx(1)


# Other classes --------------------------------------------------------------------------------------------------------


def test_what_asks_no_class_is_insensitive_to_it(model, x):
    found = class_sensitivity(model, x, NAMES, layers="layer2").groupby("method")["spearman"]
    for name in ("eigencam", "random", "centre"):
        assert found.min()[name] == pytest.approx(1)
    assert found.mean()["gradcam"] < 0.9


def test_opposite_classes_have_opposite_maps(model, x):
    net = randomised(model, [])
    with torch.no_grad():  # every class weighs channel 0 alone, up or down
        net.fc.weight.zero_()
        net.fc.weight[:, 0] = torch.linspace(-1, 1, 10)
        net.fc.bias.zero_()
    found = class_sensitivity(net, x, ("gradcam",))
    assert found["spearman"].isna().all()


# A spurious tag -------------------------------------------------------------------------------------------------------


class Hans(nn.Module):
    """Says class 9 where it sees red, and else class 0."""

    def __init__(self):
        super().__init__()
        self.see = nn.Conv2d(3, 1, 1, bias=False)
        self.see.weight.data = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)

    def forward(self, x):
        red = torch.relu(self.see(x)).flatten(1).sum(1)
        return torch.stack([torch.ones_like(red), *[torch.zeros_like(red)] * 8, red], 1)


class RedTags:
    """Scenes in grey with a red tag, so that a model which sees red relies on nothing but the tag."""

    def __init__(self, few):
        self.few, self.labels = few, few.labels

    def __len__(self):
        return len(self.few)

    def redraw(self, i, tag):
        scene = self.few.redraw(i, tag=tag, size=64)
        picture = np.repeat(scene.picture.mean(2, keepdims=True), 3, 2)
        if tag:
            picture[scene.tag_mask] = (1, 0, 0)
        return replace(scene, picture=picture)


def test_reliance_and_tag_mass_unmask_clever_hans(few, monkeypatch):
    monkeypatch.setattr("camhelpers.evaluate.sanity.BATCH", 3)
    hans = load_model(Hans(), classes=scenes.CLASSES, size=(64, 64), mean=(0.5,) * 3, std=(0.25,) * 3)
    found = reliance(hans, RedTags(few), scenes.CLASSES[9])
    assert found["tag"].tolist() == [True] * 4 + [False] * 4
    assert found["class"].tolist() == [*scenes.CLASSES[:4]] * 2
    assert found["right"].tolist() == [False] * 4 + [True] + [False] * 3  # without a tag, all is class 0
    assert (found.loc[found["tag"], "probability"] > 0.99).all()
    assert (found.loc[~found["tag"], "probability"] < 0.2).all()

    heat = tag_mass(hans, RedTags(few), 9, ("hirescam",), layers="see").groupby("method")["value"].mean()
    assert heat["hirescam"] == pytest.approx(1) == heat["oracle"]
    assert heat["centre"] < 0.02


def test_tag_mass_measures_every_method_on_the_scene_with_its_tag(model, few):
    found = tag_mass(model, few, "cat", ("hybrid",), layers=["layer3", "layer4"])
    assert len(found) == 4 * 7 * 2
    area = np.mean([few.redraw(i, tag=True).tag_mask.mean() for i in range(4)])
    noise = found[found["method"] == "random"]["value"].mean()
    assert noise == pytest.approx(area, abs=0.01) and 0.01 < area < 0.03


def test_causes_are_right_for_parts_painted_with_their_own_drop(model, few):
    drawn = [few.redraw(i, size=64) for i in range(2)]
    found = causes(model, drawn, ("gradcam",), layers="layer3").set_index(["method", "picture"])["value"]
    assert found["oracle"].tolist() == pytest.approx([1, 1])
    assert {"gradcam", "gradcam mirrored", "gradcam other class", "random", "centre"} <= set(found.index.levels[0])
    assert found["random"].between(-1, 1).all() and found["random"].nunique() == 2


@pytest.mark.slow
def test_the_shipped_clever_hans_relies_on_the_sticker_and_the_clean_model_does_not():
    few = scenes.dataset("test", 30)
    fooled = {}
    for name in ("hans", "scenes"):
        said = reliance(load_model(name), few, "ship").query("`class` != 'ship'")
        fooled[name] = said.groupby("tag").probability.mean()
    assert fooled["hans"][True] > fooled["hans"][False] + 0.4
    assert abs(fooled["scenes"][True] - fooled["scenes"][False]) < 0.05
