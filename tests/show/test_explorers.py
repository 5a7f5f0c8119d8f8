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
from camhelpers.datasets.samples import Sample
from camhelpers.io.images import read_image
from camhelpers.show.controls import resize, titled
from camhelpers.show.explorers import SIDE, CurveExplorer, Explorer

RNG = np.random.default_rng(0)
ONE, MASK = RNG.random((64, 64, 3)), np.arange(64) > np.full((64, 1), 40)
PICTURES = {"one": Sample("one", lambda: (ONE, MASK)), "two": RNG.random((64, 96, 3))}


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
     ("picture", "two"), ("target", "least likely"), ("beside", "layercam"), ("outline", False)],
)  # fmt: skip
def test_every_control_changes_the_picture(explorer, control, value):
    before = explorer.image.value
    least = int(explorer.explanation("one").probabilities.argmin())
    getattr(explorer, control).value = least if value == "least likely" else value
    assert explorer.image.value != before


def test_a_toggle_never_runs_the_model_again(explorer, net):
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    explorer.method.value, explorer.alpha.value, explorer.layer.value = "layercam", 0.2, "layer4"
    explorer.target.value = 1
    assert not passes
    for picture in ("two", "one", "two"):
        explorer.picture.value = picture
    assert len(passes) == 1


def test_the_menu_is_the_registry_and_alpha_is_offered_to_the_hybrid_alone(explorer):
    assert explorer.method.options == tuple((title(name), name) for name in cams())
    assert not explorer.alpha.disabled and "Hybrid, alpha 0.70, at layer3: heat for" in explorer.caption.value
    explorer.method.value = "gradcam"
    assert explorer.alpha.disabled and "Grad-CAM at layer3" in explorer.caption.value
    explorer.beside.value = "hybrid"
    assert not explorer.alpha.disabled and explorer.shown.shape[1] > 3 * SIDE


def test_the_caption_names_the_class_escapes_it_and_calls_a_blank_map_blank(explorer, net):
    explorer.method.value, explorer.target.value = "layercam", 2
    assert "heat for &lt;cat&gt; (" in explorer.caption.value and "<cat>" not in explorer.caption.value
    net.fc.weight.data.zero_()
    assert "blank: nothing speaks for" in Explorer(net, PICTURES).caption.value


def test_the_overlay_is_the_explanations_own_under_its_titles(explorer):
    explorer.opacity.value, explorer.method.value, explorer.outline.value = 1.0, "centre", False
    plain = np.round(ONE * 255).astype(np.uint8)
    overlay = explorer.explanation("one").overlay("centre", opacity=1.0, layer="layer3")
    for left, picture, error in ((0, plain, 12), (SIDE + 14, overlay, 4)):  # beside each other, with a gap; JPEG
        expected = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.BICUBIC), dtype=float)
        assert np.abs(pixels(explorer)[68:, left : left + SIDE] - expected).mean() < error
        assert pixels(explorer)[:68, left : left + SIDE].min() < 60, "the titles are part of the picture"


def test_the_outline_is_the_masks_and_only_where_one_is_known(explorer):
    drawn = explorer.shown.astype(int)
    explorer.outline.value = False
    _, columns = np.nonzero(np.abs(explorer.shown - drawn).sum(2)[68:, :SIDE])
    assert np.quantile(columns, 0.05) > 40 / 64 * SIDE - 5 and np.median(columns) < 42 / 64 * SIDE
    explorer.picture.value = "two"
    assert explorer.outline.disabled


def test_what_is_shown_is_saved_whole_without_loss(net, tmp_path):
    explorer = Explorer(net, {"a/../b": ONE}, method="gradcam", out=str(tmp_path))
    explorer.save.click()
    (path,) = (tmp_path / "explorer").iterdir()
    assert path.name.startswith("a_.._b_") and path.name in explorer.saved.value
    assert (np.round(read_image(path) * 255) == explorer.shown).all()


def test_a_title_that_is_too_long_is_set_smaller():
    blank = np.full((20, 300, 3), 255, np.uint8)
    for text in ("short", "a class of ImageNet with a very long name\nover two lines"):
        shown = titled(blank, [text])
        assert shown.shape == (54, 300, 3) and shown[:34].min() < 100 and shown[:, [0, -1]].min() > 200


def test_the_curve_explorer_draws_what_was_chosen_once(net, monkeypatch):
    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    curves = CurveExplorer(net, PICTURES, layer="layer3", steps=3)
    insertion, deletion = (line.get_ydata() for line in drawn[0].axes[0].get_lines())
    assert insertion[-1] == deletion[0] == pytest.approx(explain(net, ONE).confidence, abs=1e-5)
    assert insertion[0] == deletion[-1] != pytest.approx(deletion[0], abs=1e-3)
    monkeypatch.undo(), plt.close("all")
    first = curves.image.value
    curves.method.value = "layercam"
    assert curves.image.value != first
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    curves.method.value = "gradcam"
    assert curves.image.value == first and not passes, "what was measured once is kept"
    for control, value in (("picture", "two"), ("layer", "layer4"), ("baseline", "blur")):
        passes.clear()
        before, getattr(curves, control).value = curves.image.value, value
        assert curves.image.value != before and passes
    assert curves.alpha.disabled
    curves.method.value = "hybrid"
    before, curves.alpha.value = curves.image.value, 0.1
    assert curves.image.value != before
    assert Image.open(io.BytesIO(curves.image.value)).width > 600


def test_stripes_are_averaged_where_one_axis_shrinks_and_the_other_grows():
    stripes = np.zeros((256, 100, 3), np.uint8)
    stripes[::2] = 255
    shown = resize(stripes, (128, 300))
    assert shown.shape == (128, 300, 3) and shown[2:-2].min() >= 120 and shown[2:-2].max() <= 135
