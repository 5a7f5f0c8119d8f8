"""The explorers: every control redraws, nothing runs the model twice, the caption tells the truth."""

import io

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from camhelpers.cam.explain import explain
from camhelpers.cam.methods import cams, title
from camhelpers.cam.models import load_model
from camhelpers.cam.nets import SmallResNet
from camhelpers.show.controls import resize
from camhelpers.show.explorers import CurveExplorer, Explorer

RNG = np.random.default_rng(0)
PICTURES = {"one": RNG.random((64, 64, 3)), "two": RNG.random((64, 96, 3))}


@pytest.fixture
def net():
    torch.manual_seed(3)
    net = SmallResNet(classes=3).eval()
    torch.nn.init.normal_(net.fc.weight)  # an untrained head's maps may be blank, and then no control changes a thing
    return load_model(net, classes=["ant", "bee", "<cat>"], size=(64, 64))


@pytest.fixture
def explorer(net):
    explorer = Explorer(net, PICTURES, layer="layer3")
    assert "Blank" not in explorer.caption.value
    return explorer


def pixels(explorer):
    return np.asarray(Image.open(io.BytesIO(explorer.image.value)).convert("RGB"), dtype=float)


@pytest.mark.parametrize(
    ("control", "value"),
    [("method", "layercam"), ("layer", "layer2"), ("alpha", 0.1), ("cmap", "viridis"), ("opacity", 0.9),
     ("picture", "two"), ("target", "<cat>")],
)  # fmt: skip
def test_every_control_changes_the_picture(explorer, control, value):
    before = explorer.image.value
    getattr(explorer, control).value = value
    assert explorer.image.value != before


def test_a_toggle_never_runs_the_model_again(explorer, net):
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    explorer.method.value, explorer.alpha.value, explorer.layer.value = "layercam", 0.2, "layer4"
    explorer.target.value = "bee"
    assert not passes
    for picture in ("two", "one", "two"):
        explorer.picture.value = picture
    assert len(passes) == 1


def test_the_menu_is_the_registry_and_alpha_is_offered_to_the_hybrid_alone(explorer):
    assert explorer.method.options == tuple((title(name), name) for name in cams())
    assert not explorer.alpha.disabled and "(alpha 0.70)" in explorer.caption.value
    explorer.method.value = "gradcam"
    assert explorer.alpha.disabled and "Grad-CAM at layer3" in explorer.caption.value


def test_the_caption_names_the_class_escapes_it_and_calls_a_blank_map_blank(explorer, net):
    explorer.target.value = "<cat>"
    assert "&lt;cat&gt;" in explorer.caption.value and "<cat>" not in explorer.caption.value
    net.fc.weight.data.zero_()
    assert "Blank: nothing" in Explorer(net, PICTURES).caption.value


def test_the_overlay_is_the_explanations_own(explorer):
    explorer.opacity.value, explorer.method.value = 1.0, "centre"
    plain = np.round(PICTURES["one"] * 255).astype(np.uint8)
    overlay = explorer.explanation("one").overlay("centre", opacity=1.0, layer="layer3")
    for left, picture, error in ((0, plain, 12), (392, overlay, 4)):  # beside each other, with a gap; JPEG
        expected = np.asarray(Image.fromarray(picture).resize((380, 380), Image.BICUBIC), dtype=float)
        assert np.abs(pixels(explorer)[:, left : left + 380] - expected).mean() < error


def test_the_curve_explorer_draws_what_was_chosen_once(net, monkeypatch):
    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    curves = CurveExplorer(net, PICTURES, layer="layer3", steps=3)
    insertion, deletion = (line.get_ydata() for line in drawn[0].axes[0].get_lines())
    assert insertion[-1] == deletion[0] == pytest.approx(explain(net, PICTURES["one"]).confidence, abs=1e-5)
    assert insertion[0] == deletion[-1] != pytest.approx(deletion[0], abs=1e-3)
    monkeypatch.undo(), plt.close("all")
    first = curves.image.value
    curves.method.value = "layercam"
    assert curves.image.value != first
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    curves.method.value = "gradcam"
    assert curves.image.value == first and not passes, "what was measured once is kept"
    curves.picture.value = "two"
    assert curves.image.value != first and passes
    assert Image.open(io.BytesIO(curves.image.value)).width > 600


def test_stripes_are_averaged_where_one_axis_shrinks_and_the_other_grows():
    stripes = np.zeros((256, 100, 3), np.uint8)
    stripes[::2] = 255
    shown = resize(stripes, (128, 300))
    assert shown.shape == (128, 300, 3) and shown.min() >= 120 and shown.max() <= 135
