"""The front door: pictures and tensors in, predictions, heatmaps and overlays out."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import camhelpers as ch
from camhelpers.cam.explain import explain, predict, resolve_target, upsample
from camhelpers.cam.methods import METHODS
from camhelpers.cam.models import load_model
from camhelpers.cam.nets import SmallResNet

NAMES = ("cat", "dog", "bird", "fish", "ship")


def network(**card) -> nn.Module:
    """A network with a card, and weights that make its classes differ."""
    torch.manual_seed(3)
    net = SmallResNet(5, widths=(8, 12, 16, 20)).eval()
    nn.init.normal_(net.fc.weight)
    return ch.load_model(net, **{"classes": NAMES, "size": (64, 64), **card})


def picture(height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth colour blobs, so that resizing hardly matters."""
    noise = np.random.default_rng(seed).random((5, 5, 3), dtype=np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return network()


# what goes in ----------------------------------------------------------------------------------------------------


def test_a_path_an_array_and_a_pil_image_are_the_same_picture(net, tmp_path):
    pixels = np.round(picture(50, 70) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    expected = ch.explain(net, pixels)
    for source in (tmp_path / "p.png", str(tmp_path / "p.png"), Image.fromarray(pixels), pixels / np.float32(255)):
        ex = ch.explain(net, source)
        assert np.allclose(ex.logits, expected.logits, atol=1e-5)
        assert np.allclose(ex.heatmap("hybrid"), expected.heatmap("hybrid"), atol=1e-4)
        assert ex.picture.shape == (50, 70, 3)


def test_a_picture_is_prepared_as_the_card_says(net):
    one = picture(80, 48)
    ex = ch.explain(net, one)
    with torch.no_grad():
        expected = net(net.card.prepare(one)[None])
    assert np.allclose(ex.logits, expected[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("as_list", [True, False])
def test_a_batch_of_pictures_equals_its_singles(net, as_list):
    pictures = [picture(48, 80, seed) for seed in range(3)]
    together = ch.explain(net, pictures if as_list else np.stack(pictures), layers=["layer2", "layer4"])
    assert together.heatmap().shape == (3, 48, 80) and together.overlay().shape == (3, 48, 80, 3)
    assert len(together.label) == 3 and together.confidence.shape == (3,)
    for i, one in enumerate(pictures):
        alone = ch.explain(net, one, layers=["layer2", "layer4"])
        assert (together.label[i], together.title(i)) == (alone.label, alone.title())
        assert np.allclose(together.probabilities[i], alone.probabilities, atol=1e-6)
        for method in METHODS:
            for layer in ("layer2", "layer4"):
                a = together.heatmap(method, layer=layer, target=2, seed=7)[i]
                b = alone.heatmap(method, layer=layer, target=2, seed=7 + i)  # seeds count up over a batch
                assert np.allclose(a, b, atol=1e-4), (method, layer)


def test_pictures_of_different_sizes_are_shown_as_the_model_saw_them(net):
    ex = ch.explain(net, [picture(48, 80), picture(90, 30)])
    assert ex.picture.shape == (2, 64, 64, 3) and ex.heatmap().shape == (2, 64, 64)
    assert np.abs(ex.picture[0] - cv2.resize(picture(48, 80), (64, 64))).max() < 0.1


@pytest.mark.parametrize("size", [(64, 96), (97, 65), (33, 160)])
def test_tensors_need_not_be_square(net, size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    ex = ch.explain(net, x)
    assert ex.heatmap().shape == (2, *size) and ex.overlay().shape == (2, *size, 3)
    native = ex.heatmap("layercam", size="native", normalize=False)
    expected = np.stack([cv2.resize(m, size[::-1], interpolation=cv2.INTER_LINEAR) for m in native])
    assert np.allclose(ex.heatmap("layercam", normalize=False), expected, atol=1e-5 * expected.max())


def test_a_tensor_needs_no_card():
    net = SmallResNet(3, widths=(4, 4, 4, 4)).eval()
    ex = ch.explain(net, torch.randn(1, 3, 64, 64))
    assert ex.heatmap().shape == (1, 64, 64) and ex.label[0] in ("0", "1", "2") and ex.card is None
    assert ex.picture.min() == 0 and ex.picture.max() == 1  # stretched, since nothing says how it was made


def test_a_tensor_is_displayed_by_the_cards_statistics(net):
    one = picture()
    ex = ch.explain(net, net.card.prepare(one)[None])
    assert ex.picture.shape == (1, 64, 64, 3) and np.allclose(ex.picture[0], one, atol=1e-5)
    drawn = ex.overlay("gradcam", contours=[0.3, 0.6])
    assert np.allclose(drawn, ch.explain(net, one[None]).overlay("gradcam", contours=[0.3, 0.6]), atol=1)


def test_a_centre_crop_is_explained_where_it_was_seen():
    net = network(fit="crop", resize=72)
    one = picture(100, 200)
    ex = ch.explain(net, one)
    top, left, height, width = net.card.view(100, 200)
    heat = ex.heatmap("layercam", layer="layer4")
    assert heat.shape == (100, 200) and heat.max() == 1
    outside = heat.copy()
    outside[top : top + height, left : left + width] = 0
    assert outside.max() == 0
    seen = cv2.resize(heat[top : top + height, left : left + width], (64, 64), interpolation=cv2.INTER_AREA)
    crop = ch.explain(net, net.card.prepare(one)[None]).heatmap("layercam")[0]
    assert np.corrcoef(seen.ravel(), crop.ravel())[0, 1] > 0.99


def test_a_grey_card_takes_one_channel():
    net = SmallResNet(2, channels=1, widths=(4, 4, 4, 4)).eval()
    ch.load_model(net, classes=2, size=(64, 64), mean=(0.5,), std=(0.25,))
    grey, colour = picture()[..., 0], picture()
    assert ch.explain(net, grey).inputs.shape == (1, 1, 64, 64)
    luma = colour @ np.float32([0.299, 0.587, 0.114])
    assert np.allclose(ch.explain(net, colour).inputs[0, 0], (luma - 0.5) / 0.25, atol=1e-5)
    shown = ch.explain(net, ch.explain(net, grey).inputs).picture[0]
    assert np.allclose(shown, grey[..., None], atol=1e-5)


def test_volumes_and_clips():
    torch.manual_seed(0)
    net = SmallResNet(3, channels=1, widths=(4, 4, 4, 4), dims=3, strides=(2, 1, 2, 1, 1)).eval()
    ex = ch.explain(net, torch.randn(2, 1, 9, 20, 30), target=1)
    native = ex.heatmap("layercam", size="native", normalize=False)
    assert native.shape == (2, 3, 5, 8)
    heat = ex.heatmap("layercam", normalize=False)
    assert heat.shape == (2, 9, 20, 30)
    assert heat.min() >= native.min() and heat.max() <= native.max()  # linear: it never overshoots
    with pytest.raises(ValueError, match=r"This input is no picture; draw its slices with camhelpers\.render\.overlay"):
        ex.overlay()


# what comes out --------------------------------------------------------------------------------------------------


def test_the_prediction(net):
    ex = ch.explain(net, picture())
    e = np.exp(ex.logits - ex.logits.max())
    assert np.allclose(ex.probabilities, e / e.sum(), atol=1e-6)
    assert ex.label == NAMES[ex.logits.argmax()] and ex.confidence == pytest.approx(ex.probabilities.max())
    assert ex.classes == NAMES and ex.title() == f"{ex.label} {ex.confidence:.0%}".replace("%", " %")
    assert repr(ex) == f"<Explanation: {ex.title()}, layers layer4>"
    assert np.array_equal(predict(net, [picture()])[0], ex.probabilities.astype(np.float32)) or np.allclose(
        predict(net, [picture()])[0], ex.probabilities, atol=1e-6
    )


def test_a_single_score_has_the_probability_of_its_sigmoid():
    torch.manual_seed(0)
    net = ch.load_model(SmallResNet(1, widths=(4, 4, 4, 4)).eval(), classes=["fracture"], size=(64, 64))
    ex = ch.explain(net, picture())
    expected = 1 / (1 + np.exp(-ex.logits[0]))
    assert ex.confidence == pytest.approx(expected) and 0.2 < expected < 0.8
    assert ex.title() == f"fracture {expected:.0%}".replace("%", " %")
    assert predict(net, [picture()])[0, 0] == pytest.approx(expected)


def test_predict_in_batches_is_predict_one_by_one(net):
    pictures = [picture(40 + 8 * i, 64, i) for i in range(5)]
    together = predict(net, pictures, batch=2)
    assert together.shape == (5, 5) and np.allclose(together.sum(1), 1, atol=1e-6)
    for row, one in zip(together, pictures, strict=True):
        assert np.allclose(row, ch.explain(net, one).probabilities, atol=1e-6)


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("size", ["input", "native"])
def test_a_heatmap_is_float32_in_0_to_1_and_its_maximum_is_1(net, method, size):
    heat = ch.explain(net, picture(50, 70)).heatmap(method, size=size)
    assert heat.shape == ((50, 70) if size == "input" else (2, 2))
    assert heat.dtype == np.float32 and heat.min() >= 0 and heat.max() == 1


def test_a_raw_heatmap_keeps_the_methods_own_scale(net):
    ex = ch.explain(net, picture(), layers="layer2")
    raw, heat = ex.heatmap(normalize=False), ex.heatmap()
    assert raw.max() != pytest.approx(1, abs=1e-3) and np.allclose(raw / raw.max(), heat, atol=1e-6)
    G, A = ex.capture.gradients()["layer2"], ex.capture.A["layer2"]
    expected = torch.relu((G.mean((2, 3), keepdim=True) * A).sum(1))[0]
    assert np.allclose(ex.heatmap(normalize=False, size="native"), expected.numpy(), atol=1e-6)


def test_the_default_target_is_the_predicted_class(net):
    ex = ch.explain(net, [picture(seed=s) for s in range(3)], layers="layer3")
    chosen = ch.explain(net, [picture(seed=s) for s in range(3)], layers="layer3", target=ex.label)
    assert np.array_equal(ex.heatmap(), chosen.heatmap())


def test_targets_by_index_by_name_and_by_sample_agree(net):
    pictures = [picture(seed=s) for s in range(3)]
    heats = [ch.explain(net, pictures, layers="layer3", target=c).heatmap() for c in range(5)]
    assert not np.allclose(heats[0], heats[3], atol=1e-2)  # else this would prove nothing
    expected = np.stack([heats[c][i] for i, c in enumerate((3, 0, 4))])
    ex = ch.explain(net, pictures, layers="layer3")
    for target in (
        [3, 0, 4],
        ("fish", "cat", "ship"),
        ["fish", 0, np.int64(4)],
        np.array([3, 0, 4]),
        torch.tensor([3, 0, 4]),
    ):
        assert np.allclose(ch.explain(net, pictures, layers="layer3", target=target).heatmap(), expected, atol=1e-6)
        assert np.allclose(ex.heatmap(target=target), expected, atol=1e-6)
    for target in (3, "fish", np.int64(3), np.array(3), torch.tensor(3), lambda out: out[3]):
        assert np.allclose(ex.heatmap(target=target), heats[3], atol=1e-6)


def test_all_classes_share_one_scale(net):
    ex = ch.explain(net, [picture(seed=s) for s in range(2)], layers="layer3")
    maps = ex.heatmaps("all")
    raw = np.stack([ex.heatmap(target=c, normalize=False) for c in range(5)])
    assert maps.shape == (5, 2, 64, 64) and np.array_equal(ex.heatmaps("all", normalize=False), raw)
    for i in range(2):  # each sample has its own scale, over all of its classes
        assert maps[:, i].max() == 1
        assert np.allclose(maps[:, i], raw[:, i] / raw[:, i].max(), atol=1e-6)
    alone = ch.explain(net, picture(), layers="layer3")
    assert np.allclose(alone.heatmaps(["dog", 3]), _scaled(raw[[1, 3], 0]), atol=1e-5)


def _scaled(maps: np.ndarray) -> np.ndarray:
    return maps / maps.max()


def test_a_blank_map_stays_zero_and_says_so(net):
    # no activation at all for the second picture: with biases of zero the trunk of a black input stays black
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    x = torch.cat([torch.rand(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)])
    with torch.no_grad():
        plain[4].weight.abs_()
    ex = ch.explain(plain, x, layers="1")
    for method in ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "hybrid", "eigencam"):
        heat = ex.heatmap(method)
        assert heat[0].max() == 1 and heat[1].max() == 0
        assert ex.blank(method).tolist() == [False, True]
    assert ex.heatmaps("all")[:, 1].max() == 0
    # blank() asks about the map that heatmap() gives for the same options
    ex = ch.explain(net, picture(), layers="layer3")
    for target in range(5):
        for alpha in (0.0, 1.0):
            options = {"target": target, "alpha": alpha}
            assert ex.blank("hybrid", **options) == (not ex.heatmap("hybrid", **options).any())


def test_overlay_and_panel(net):
    ex = ch.explain(net, picture(50, 70))
    assert ex.overlay(opacity=0).tolist() == np.round(ex.picture * 255).astype(np.uint8).tolist()
    assert np.array_equal(
        ex.overlay("layercam", opacity=1, cmap="hot"), ch.render.colour(ex.heatmap("layercam"), "hot")
    )
    figure = ex.panel(["gradcam", "hybrid"], alpha=0.2)
    titles = [axes.get_title() for axes in figure.axes]
    assert ex.title() in titles and "Grad-CAM" in titles and "Hybrid" in titles
    batch = ch.explain(net, [picture(seed=0), picture(seed=1)])
    assert batch.title(1) in [axes.get_title() for axes in batch.panel(index=1).axes]


def test_a_segmentation_network_with_a_card_is_explained_all_the_same():
    class Segmentation(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return {"out": self.head(self.conv(x).relu())}

    torch.manual_seed(0)
    net = ch.load_model(Segmentation(), classes=2, size=(32, 32))

    def score(out):
        return out["out"][1].mean()

    ex = ch.explain(net, picture(), layers="conv", target=score)
    assert np.array_equal(ex.heatmap(target=score), ex.heatmap()) and ex.heatmap().shape == (64, 64)
    assert repr(ex) == "<Explanation: one picture, layers conv>"
    assert ex.panel().axes[0].get_title() == ""
    with pytest.raises(TypeError, match="returns a dict, not logits; pass target="):
        ex.label  # noqa: B018


@pytest.mark.parametrize("size", [(13, 17), (40, 25), (7, 7), (1, 9), (3, 200)])
def test_upsample_is_opencvs_resize(size):
    heat = np.random.default_rng(0).random((2, 7, 7), dtype=np.float32)
    expected = np.stack([cv2.resize(m, size[::-1], interpolation=cv2.INTER_LINEAR) for m in heat])
    assert np.abs(upsample(torch.from_numpy(heat), size).numpy() - expected).max() < 1e-5


def test_upsample_in_three_axes_is_upsample_along_each():
    heat = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    planes = upsample(heat[0], (8, 10))
    expected = upsample(planes.permute(1, 2, 0).reshape(80, 3), (7,)).reshape(8, 10, 7).permute(2, 0, 1)
    torch.testing.assert_close(upsample(heat, (7, 8, 10))[0], expected, atol=1e-6, rtol=0)


# bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        (lambda n, t: ch.explain(n, "nowhere.png"), FileNotFoundError, "nowhere.png does not exist"),
        (lambda n, t: ch.explain(n, _file(t, b"")), ValueError, r"is empty \(0 bytes\)"),
        (lambda n, t: ch.explain(n, _file(t, b"no picture")), ValueError, "is not a picture that can be read"),
        (lambda n, t: ch.explain(n, np.zeros((1, 1, 3))), ValueError, "is 1 x 1 pixels; .* needs at least 2 x 2"),
        (lambda n, t: ch.explain(n, np.full((9, 9, 3), np.nan)), ValueError, "NaN or infinite values; replace them"),
        (lambda n, t: ch.explain(n, np.zeros((9, 9, 5))), ValueError, "with 1, 3 or 4 channels"),
        (lambda n, t: ch.explain(n, torch.zeros(1, 1, 64, 64)), ValueError, "has 1 channels; the model takes 3"),
        (lambda n, t: ch.explain(n, torch.full((1, 3, 64, 64), np.nan)), ValueError, "NaN or infinite values"),
        (lambda n, t: ch.explain(n, np.full((9, 9, 3), 200.0)), ValueError, "must lie in 0..1: divide by 255"),
        (lambda n, t: ch.explain(n, []), ValueError, "no picture to explain; give at least one"),
        (lambda n, t: ch.explain(n, 7), TypeError, "Cannot read a picture from a int"),
        (lambda n, t: ch.explain(SmallResNet(2), np.zeros((9, 9, 3))), TypeError, "no card .* load_model"),
        (lambda n, t: predict(SmallResNet(2), [np.zeros((9, 9, 3))]), TypeError, "no card .* load_model"),
        (lambda n, t: predict(n, []), ValueError, "no picture"),
        (lambda n, t: ch.explain(n, picture(), layers="layer7"), ValueError, "no layer 'layer7'; it has stem, layer1"),
        (lambda n, t: ch.explain(n, picture(), layers="fc"), ValueError, "'fc' .* has no spatial map"),
        (lambda n, t: ch.explain(n, picture(), target=5), ValueError, "Class 5 is out of range; .* classes 0 to 4"),
        (lambda n, t: ch.explain(n, picture(), target="cow"), ValueError, "no class 'cow'; it knows cat, dog, bird"),
        (
            lambda n, t: ch.explain(n, [picture()] * 3, target=[0, 1]),
            ValueError,
            "2 targets for a batch of 3; give one",
        ),
        (lambda n, t: ch.explain(n, picture(), target=object()), TypeError, "target must be None, a class"),
        (lambda n, t: ch.explain(n, picture()).heatmap(target="cow"), ValueError, "no class 'cow'; it knows cat"),
        (lambda n, t: ch.explain(n, picture()).heatmap(target=9), ValueError, "Class 9 is out of range"),
        (
            lambda n, t: ch.explain(n, picture()).heatmap("gradcam+"),
            ValueError,
            "no method 'gradcam\\+'; choose one of",
        ),
        (
            lambda n, t: ch.explain(n, picture()).heatmap("hybrid", alpha=1.1),
            ValueError,
            "alpha is 1.1; it lies between",
        ),
        (lambda n, t: ch.explain(n, picture()).heatmap("hybrid", alpha=-0.1), ValueError, "alpha is -0.1; it lies"),
        (lambda n, t: ch.explain(n, picture()).heatmap("hybrid", alpha=np.nan), ValueError, "alpha is nan; it lies"),
        (lambda n, t: ch.explain(n, picture()).heatmap(size="full"), ValueError, "size is 'full'; it is 'input'"),
        (
            lambda n, t: ch.explain(n, picture()).heatmap(layer="layer2"),
            ValueError,
            "not captured, only layer4; ask for",
        ),
        (lambda n, t: ch.explain(n, picture()).heatmap(layer="no"), ValueError, "no layer 'no'; it has"),
        (lambda n, t: ch.explain(n, picture()).heatmaps([]), ValueError, "classes is empty; name at least one"),
        (lambda n, t: ch.explain(n, picture()).overlay(opacity=1.5), ValueError, "opacity is 1.5; it lies between"),
        (
            lambda n, t: ch.explain(n, picture()).overlay(cmap="pink"),
            ValueError,
            "no colour map 'pink'; choose one of jet",
        ),
        (lambda n, t: resolve_target("cow", ()), ValueError, "no class 'cow'; it has no names"),
    ],
)
def test_bad_input_gets_one_clear_sentence(net, tmp_path, bad, kind, words):
    with pytest.raises(kind, match=words) as caught:
        bad(net, tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def _file(folder, data: bytes):
    (folder / "bad.png").write_bytes(data)
    return folder / "bad.png"


def test_a_card_with_another_number_of_classes_is_refused():
    net = ch.load_model(SmallResNet(classes=2).eval(), classes=["a", "b", "c"], size=(64, 64))
    with pytest.raises(ValueError, match="names 3 classes, but the model has 2 outputs"):
        ch.explain(net, np.zeros((64, 64, 3)))


# volumes -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cubes():
    torch.manual_seed(1)
    net = SmallResNet(classes=2, channels=1, dims=3, widths=(4, 6, 8, 8), strides=(2, 1, 2, 1, 1)).eval()
    card = {"classes": ["empty", "full"], "size": (8, 16, 16), "mean": (0.4,), "std": (0.2,)}
    return load_model(net, **card), np.random.default_rng(0).random((12, 24, 20)).astype(np.float32)


def test_a_volume_is_resampled_for_the_model_and_explained_on_its_own_grid(cubes):
    net, volume = cubes
    ex = explain(net, volume, layers=["layer1", "layer4"])
    assert ex.inputs.shape == (1, 1, 8, 16, 16) and ex.single and ex.label in ("empty", "full")
    assert ex.volume.data.shape == volume.shape and ex.classes == ("empty", "full")
    for method in ("gradcam", "gradcam++", "layercam", "hybrid", "smoothgrad", "vargrad"):
        heat = ex.heatmap(method, samples=3)
        assert heat.shape == volume.shape and heat.dtype == np.float32 and heat.min() >= 0
        assert heat.max() in (0, pytest.approx(1))
        assert ex.heatmap(method, samples=3, size="model").shape == (8, 16, 16)
    assert ex.heatmap(size="native").shape == (2, 4, 4)
    assert ex.heatmap("smoothgrad", samples=3, size="native").shape == (8, 16, 16)


def test_the_own_grid_is_shown_to_the_model_when_asked_for(cubes):
    net, volume = cubes
    ex = explain(net, volume, size="native")
    expected = net.card.normalise(torch.from_numpy(volume)[None, None])
    assert torch.equal(ex.inputs, expected)
    with pytest.raises(ValueError, match="size is 'full'"):
        explain(net, volume, size="full")


def test_shrinking_a_volume_averages_and_growing_interpolates(cubes):
    card = cubes[0].card
    doubled = np.kron(np.random.default_rng(1).random((8, 16, 16)).astype(np.float32), np.ones((2, 2, 2), np.float32))
    small = card.display(card.prepare_volume(doubled)[None])[0, 0]
    np.testing.assert_allclose(small, doubled[::2, ::2, ::2], atol=1e-6)
    grown = card.display(card.prepare_volume(np.full((2, 3, 40), 0.5, np.float32))[None])
    assert grown.shape == (1, 1, 8, 16, 16)
    torch.testing.assert_close(grown, torch.full_like(grown, 0.5))


def test_a_batch_of_volumes_equals_its_singles(cubes):
    net, volume = cubes
    both = [volume, 1 - volume]
    ex = explain(net, both)
    for i, one in enumerate(both):
        np.testing.assert_allclose(ex.heatmap("hybrid")[i], explain(net, one).heatmap("hybrid"), atol=1e-5)
    mixed = explain(net, [volume, volume[:6]])  # no common grid: as the model saw them
    assert mixed.heatmap().shape == (2, 8, 16, 16)
    with pytest.raises(ValueError, match="differ in size"):
        explain(net, [volume, volume[:6]], size="native")


def test_a_volume_in_colour_is_one_volume(cubes):
    net, volume = cubes
    colour = np.repeat(volume[..., None], 3, axis=-1)
    ex = explain(net, colour)
    assert ex.single and ex.heatmap().shape == volume.shape
    np.testing.assert_allclose(ex.probabilities, explain(net, volume).probabilities, rtol=1e-4)


def test_volumes_are_predicted_without_an_explanation(cubes):
    net, volume = cubes
    found = predict(net, [volume, 1 - volume, volume], batch=2)
    np.testing.assert_allclose(found[0], explain(net, volume).probabilities, rtol=1e-5)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-5)


def test_upsampling_a_volume_is_the_trilinear_interpolation():
    torch.manual_seed(0)
    heat = torch.rand(2, 3, 5, 4)
    for size in ((12, 20, 16), (7, 5, 9), (2, 3, 8)):
        expected = F.interpolate(heat[:, None], size, mode="trilinear", align_corners=False)[:, 0]
        torch.testing.assert_close(upsample(heat, size), expected)


def test_a_model_of_pictures_refuses_volumes_and_the_other_way_round(cubes):
    with pytest.raises(ValueError, match="shape"):
        explain(cubes[0], np.zeros((24, 20), np.float32))
    with pytest.raises(ValueError, match="not read as one volume"):
        _ = explain(cubes[0], [cubes[1]]).volume


def test_maps_of_a_volume_that_is_constant_along_one_axis_are_those_of_the_picture():
    """A 3-D network whose kernels look along no slice axis sees a stack of one picture as that picture."""
    torch.manual_seed(3)
    flat = SmallResNet(classes=2, channels=1, dims=2, widths=(4, 6, 8, 8), strides=(2, 1, 2, 1, 1)).eval()
    deep = SmallResNet(
        classes=2, channels=1, dims=3, widths=(4, 6, 8, 8), strides=((1, 2, 2), 1, (1, 2, 2), 1, 1)
    ).eval()
    state = flat.state_dict()
    for name, value in deep.state_dict().items():
        if value.ndim == 5:  # the picture's kernel in the middle slice of the volume's
            value.zero_()[:, :, value.shape[2] // 2] = state[name]
        else:
            value.copy_(state[name])
    picture = torch.rand(1, 1, 32, 32)
    stack = picture[:, :, None].expand(-1, -1, 9, -1, -1).contiguous()
    two, three = explain(flat, picture, target=1), explain(deep, stack, target=1)
    for method in ("gradcam", "gradcam++", "layercam", "hybrid", "hirescam", "xgradcam"):
        for layer in two.layers:
            expected = two.heatmap(method, layer=layer)[0]
            np.testing.assert_allclose(three.heatmap(method, layer=layer)[0, 4], expected, atol=2e-5, err_msg=method)
