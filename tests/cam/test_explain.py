"""The front door: pictures, volumes and tensors in; predictions, heatmaps and overlays out."""

import cv2
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import camhelpers as ch
from camhelpers.cam.methods import cams
from camhelpers.cam.nets import SmallResNet


def picture(height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth colour blobs, so that resizing hardly matters."""
    noise = np.random.default_rng(seed).random((5, 5, 3), dtype=np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)


@pytest.fixture(scope="module")
def net(tiny_net):
    return tiny_net()


# what goes in --------------------------------------------------------------------------------------------------------


def test_a_path_an_array_and_a_pil_image_are_the_same_picture_prepared_as_the_card_says(net, tmp_path):
    pixels = np.round(picture(50, 70) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    expected = ch.explain(net, pixels)
    with torch.no_grad():
        logits = net(net.card.prepare(pixels / np.float32(255))[None])[0].numpy()
    for source in (tmp_path / "p.png", str(tmp_path / "p.png"), Image.fromarray(pixels), pixels / np.float32(255)):
        ex = ch.explain(net, source)
        np.testing.assert_allclose(ex.logits, logits, atol=1e-5)
        np.testing.assert_allclose(ex.heatmap("hybrid"), expected.heatmap("hybrid"), atol=1e-4)
        np.testing.assert_allclose(ex.picture, pixels / 255, atol=1e-6)


@pytest.mark.parametrize("stack", [list, np.stack])
def test_a_batch_of_pictures_equals_its_singles(net, stack):
    pictures = [picture(48, 80, seed) for seed in range(3)]
    together = ch.explain(net, stack(pictures), layers=["layer2", "layer4"])
    assert together.heatmap().shape == (3, 48, 80) and together.overlay().shape == (3, 48, 80, 3)
    for i, one in enumerate(pictures):
        alone = ch.explain(net, one, layers=["layer2", "layer4"])
        assert (together.label[i], together.title(i)) == (alone.label, alone.title())
        assert together.confidence[i] == pytest.approx(alone.confidence)
        for name in (*cams(), "smoothgrad"):
            a = together.heatmap(name, layer="layer2", target=2, seed=7, samples=2)[i]
            seed = 7 + i if name == "random" else 7  # only the control's seeds count up over a batch
            b = alone.heatmap(name, layer="layer2", target=2, seed=seed, samples=2)
            np.testing.assert_allclose(a, b, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_pictures_of_different_sizes_come_back_each_at_its_own(tiny_net, fit):
    net, pictures = tiny_net(fit=fit), [picture(48, 80), picture(90, 70, 1)]
    mixed, alone = ch.explain(net, pictures, target=1), [ch.explain(net, one, target=1) for one in pictures]
    heat, maps = mixed.heat("layercam", place="geometric"), mixed.heatmaps([1, 2])
    for i, one in enumerate(alone):
        np.testing.assert_allclose(mixed.heatmap("hybrid")[i], one.heatmap("hybrid"), atol=1e-4)
        np.testing.assert_allclose(mixed.heatmap(normalize=False)[i], one.heatmap(normalize=False), atol=1e-5)
        np.testing.assert_allclose(heat.heatmap[i], one.heatmap("layercam", place="geometric"), atol=1e-4)
        np.testing.assert_allclose(maps[i], one.heatmaps([1, 2]), atol=1e-4)
        assert mixed.overlay()[i].shape == mixed.picture[i].shape == pictures[i].shape
    assert mixed.heatmap(size="model").shape == (2, 64, 64) and mixed.blank().tolist() == [one.blank() for one in alone]
    assert len(mixed.panel().axes[0].images[0].get_array()) == 48


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_precisions_are_fed_in_their_own(tiny_net, cube, dtype):
    for dims, given in ((2, picture()), *([(3, cube())] if dtype == torch.float64 else [])):
        ex, expected = (ch.explain(net, given, target=0) for net in (tiny_net(dims).to(dtype), tiny_net(dims)))
        assert ex.inputs.dtype == dtype and ex.heatmap("layercam").dtype == np.float32
        assert np.abs(ex.heatmap("layercam") - expected.heatmap("layercam")).mean() < 0.03
    np.testing.assert_allclose(ex.probabilities, ch.predict(ex.model, [given])[0], atol=1e-3)


def test_tensors_need_no_card_and_no_square():
    x = torch.randn(2, 3, 33, 160, generator=torch.Generator().manual_seed(0))
    ex = ch.explain(SmallResNet(3, widths=(4, 4, 4, 4)).eval(), x)
    assert ex.label[0] in ex.classes == ("0", "1", "2") and ex.card is None
    assert (ex.picture.min((1, 2, 3)) == 0).all() and (ex.picture.max((1, 2, 3)) == 1).all()  # stretched: no card
    native = ex.heatmap("layercam", size="native", normalize=False)
    expected = np.stack([cv2.resize(m, (160, 33), interpolation=cv2.INTER_LINEAR) for m in native])
    np.testing.assert_allclose(ex.heatmap("layercam", normalize=False), expected, atol=1e-5 * expected.max())


def test_a_centre_crop_is_explained_where_it_was_seen(tiny_net):
    net = tiny_net(fit="crop", resize=72)
    ex, (top, left, height, width) = ch.explain(net, picture(100, 200)), net.card.view(100, 200)
    heat, native = ex.heatmap("layercam"), ex.heatmap("layercam", size="native")
    seen = heat[top : top + height, left : left + width].copy()
    np.testing.assert_allclose(
        seen, cv2.resize(native, (width, height)) / cv2.resize(native, (width, height)).max(), atol=1e-5
    )
    heat[top : top + height, left : left + width] = 0
    assert heat.shape == (100, 200) and heat.max() == 0  # what was cut off was never seen
    crop = ch.explain(net, net.card.prepare(picture(100, 200))[None])
    np.testing.assert_allclose(ex.heatmap("layercam", size="model"), crop.heatmap("layercam")[0], atol=1e-5)


def test_a_grey_card_takes_one_channel_and_a_single_score_is_a_probability_by_its_sigmoid():
    net = SmallResNet(1, channels=1, widths=(4, 4, 4, 4)).eval()
    ch.load_model(net, classes=["fracture"], size=(64, 64), mean=(0.5,), std=(0.25,))
    luma = picture() @ np.float32([0.299, 0.587, 0.114])
    for source in (picture(), luma):
        ex = ch.explain(net, source)
        np.testing.assert_allclose(ex.inputs[0, 0], (luma - 0.5) / 0.25, atol=1e-4)
        np.testing.assert_allclose(ch.explain(net, ex.inputs).picture[0], np.stack([luma] * 3, -1), atol=1e-4)
    expected = 1 / (1 + np.exp(-ex.logits[0]))
    assert ex.confidence == pytest.approx(expected) == ch.predict(net, [picture()])[0, 0] and expected < 0.99


# what the model says -------------------------------------------------------------------------------------------------


def test_the_prediction_and_the_same_without_an_explanation(net, tiny_net, cube):
    ex = ch.explain(net, picture())
    e = np.exp(ex.logits - ex.logits.max())
    np.testing.assert_allclose(ex.probabilities, e / e.sum(), atol=1e-6)
    assert ex.classes == ("cat", "dog", "fish") and ex.label == ex.classes[ex.logits.argmax()]
    assert ex.confidence == ex.probabilities.max() and ex.title() == f"{ex.label} {round(100 * ex.confidence)} %"
    assert repr(ex) == f"<Explanation: {ex.title()}, layers layer4>"
    pictures, volumes = [picture(40 + 8 * i, 64, i) for i in range(5)], [cube(0), cube(1, (9, 20, 20))]
    for model, given in ((net, pictures), (tiny_net(3), volumes)):
        for row, one in zip(ch.predict(model, given, batch=2), given, strict=True):
            np.testing.assert_allclose(row, ch.explain(model, one).probabilities, atol=1e-6)


# why -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ch.METHODS))
def test_heat_is_the_heatmap_with_the_numbers_that_undo_it(net, name):
    ex, gradients = ch.explain(net, picture(50, 70), layers=["layer1", "layer2"]), ch.METHODS[name].forwards > 0
    side = 64 if gradients else 16
    for size, shape in (("input", (50, 70)), ("model", (64, 64)), ("native", (side, side))):
        options = {"target": 1, "size": size, "samples": 3}
        heat, plain = ex.heat(name, percentile=90, **options), ex.heatmap(name, normalize=False, **options)
        assert heat.heatmap.shape == shape and heat.raw.shape == (side, side) and heat.heatmap.dtype == np.float32
        assert heat.heatmap.min() >= 0 and heat.heatmap.max() == 1
        assert np.array_equal(heat.heatmap, ex.heatmap(name, percentile=90, **options))
        assert heat.clipped_at == (pytest.approx(np.percentile(heat.raw, 90)) if gradients else None)
        cut = np.minimum(heat.raw, heat.clipped_at) if gradients else heat.raw
        for found, native in ((plain, heat.raw), (heat.heatmap * heat.divided_by, cut)):
            large = cv2.resize(native, shape[::-1], interpolation=cv2.INTER_LINEAR)
            np.testing.assert_allclose(found, large, atol=1e-5 * large.max())


def test_targets_by_index_name_sample_and_callable_agree(net):
    pictures = [picture(seed=s) for s in range(3)]
    heats = [ch.explain(net, pictures, layers="layer3", target=c).heatmap() for c in range(3)]
    assert not np.allclose(heats[0], heats[2], atol=1e-2)  # else this would prove nothing
    expected = np.stack([heats[c][i] for i, c in enumerate((2, 0, 1))])
    ex = ch.explain(net, pictures, layers="layer3")
    assert np.array_equal(ex.heatmap(), ex.heatmap(target=ex.label))  # the predicted class unless one is named
    for target in ([2, 0, 1], ("fish", "cat", "dog"), ["fish", 0, np.int64(1)], np.array([2, 0, 1])):
        other = ch.explain(net, pictures, layers="layer3", target=target)
        np.testing.assert_allclose(other.heatmap(), expected, atol=1e-6)
        np.testing.assert_allclose(ex.heatmap(target=target), expected, atol=1e-6)
    for target in (2, "fish", np.int64(2), np.array(2), torch.tensor(2), lambda out: out[2]):
        np.testing.assert_allclose(ex.heatmap(target=target), heats[2], atol=1e-6)


def test_all_classes_share_one_scale(net):
    ex = ch.explain(net, [picture(seed=s) for s in range(2)], layers="layer2")
    raw = np.stack([ex.heatmap("layercam", target=c, normalize=False) for c in range(3)])
    maps = ex.heatmaps("all", method="layercam")
    for i in range(2):  # each sample has its own scale, over all of its classes
        np.testing.assert_allclose(maps[:, i], raw[:, i] / raw[:, i].max(), atol=1e-6)
    alone = ch.explain(net, picture(), layers="layer2").heatmaps(["dog", 2], method="layercam")
    np.testing.assert_allclose(alone, raw[[1, 2], 0] / raw[[1, 2], 0].max(), atol=1e-5)


def test_a_blank_map_stays_zero_and_says_so():
    # with no bias the trunk of a black input stays black
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        net[4].weight.abs_()
    ex = ch.explain(net, torch.cat([torch.rand(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)]), layers="1")
    for name in ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "hybrid", "eigencam"):
        heat = ex.heat(name)
        assert heat.heatmap[0].max() == 1 and heat.heatmap[1].max() == 0 and heat.divided_by[1] == 0
        assert ex.blank(name).tolist() == [False, True]
    assert ex.heatmaps("all")[:, 1].max() == 0
    assert ch.explain(net, torch.zeros(1, 3, 8, 8), layers="1").blank().tolist() == [True]


def test_a_class_alone_is_a_list_of_one(net):
    ex = ch.explain(net, picture(), layers="layer3")
    for one in (ex.classes[1], 1):
        assert np.array_equal(ex.heatmaps(one), ex.heatmaps([1]))


def test_overlay_and_panel(net):
    ex = ch.explain(net, picture(50, 70), layers="layer2", target=1)
    assert ex.overlay(opacity=0).tolist() == np.round(ex.picture * 255).astype(np.uint8).tolist()
    drawn = ch.render.colour(ex.heatmap("layercam", target=2), "hot")
    assert np.array_equal(ex.overlay("layercam", target=2, opacity=1, cmap="hot"), drawn)
    other = int(ex.logits.argmin())
    figure = ex.panel(["gradcam", "hybrid", "vargrad"], alpha=0.2, target=other)
    titles = [axes.get_title().removesuffix(" (blank)") for axes in figure.axes]
    said = f"asked: {ex.title(0, other)}\npredicted: {ex.title()}"
    assert titles == [said, "Grad-CAM\nlayer2", "Hybrid, alpha 0.2\nlayer2", "VarGrad\nat the input", ""]
    assert ex.panel(target=ex.label).axes[0].get_title() == ex.title()
    assert ex.panel(target=lambda out: out[0]).axes[0].get_title().startswith("asked: a score of its own\npredicted")
    batch = ch.explain(net, [picture(seed=0), picture(seed=1)])
    assert batch.title(0) in [axes.get_title() for axes in batch.panel().axes]


def test_a_volume_is_turned_as_the_card_says(tiny_net, cube, tmp_path):
    nib.save(nib.Nifti1Image(cube(), np.diag([2, 2, 2, 1])), tmp_path / "v.nii")  # x, y, z towards right, front, top
    ras, lps = (ch.explain(tiny_net(3, orientation=o), tmp_path / "v.nii").volume.data for o in ("RAS", "LPS"))
    np.testing.assert_array_equal(ras, lps[:, ::-1, ::-1])


def test_a_network_that_scores_no_classes_is_explained_with_a_callable(tiny_net):
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1))  # a segmentation
    net.card = tiny_net().card
    net.register_forward_hook(lambda module, args, out: {"out": out, "more": [out]})
    ex = ch.explain(net, picture(), layers="0", target=lambda out: out["out"][1].mean() + out["more"][0][0].mean())
    assert ex.heatmap().shape == (64, 64) and ex.heatmap("smoothgrad", samples=2).max() == 1
    assert repr(ex) == "<Explanation: one picture, layers 0>" and ex.panel().axes[0].get_title() == ""


def test_a_volume_is_resampled_for_the_model_and_explained_on_its_own_grid(tiny_net, cube):
    net, volume = tiny_net(3), cube(0, (12, 40, 24))
    ex = ch.explain(net, volume, layers=["layer1", "layer4"])
    assert ex.inputs.shape == (1, 1, 16, 32, 32) and ex.label in ex.classes
    np.testing.assert_array_equal(ex.volume.data, volume)
    for name in ("layercam", "hybrid", "vargrad"):
        heat = ex.heatmap(name, layer="layer1", samples=3)
        assert heat.shape == volume.shape and heat.dtype == np.float32 and heat.max() == pytest.approx(1)
    assert ex.heatmap(size="native").shape == (2, 4, 4) and ex.heatmap(size="model").shape == (16, 32, 32)
    own = ch.explain(net, volume, size="native")
    assert torch.equal(own.inputs, net.card.normalise(torch.from_numpy(volume)[None, None]))
    colour = ch.explain(net, np.repeat(volume[..., None], 3, axis=-1))  # one volume in colour, no batch
    np.testing.assert_allclose(colour.probabilities, ex.probabilities, rtol=1e-4)
    both = ch.explain(net, np.stack([volume, volume[::-1]]), layers=["layer1", "layer4"])
    np.testing.assert_allclose(both.heatmap("layercam")[0], ex.heatmap("layercam"), atol=1e-5)
    mixed = ch.explain(net, [volume, volume[:6]])
    assert [heat.shape for heat in mixed.heatmap()] == [volume.shape, (6, 40, 24)]
