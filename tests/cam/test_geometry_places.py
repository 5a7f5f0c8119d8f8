"""Heat in its place, through the front door: `place`, `smooth="mirror"` and `geometry`."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import camhelpers as ch
from camhelpers.cam.geometry import upsample

PLACES = ("grid", "geometric", "effective")


def pictures(n: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).random((n, height, width, 3), dtype=np.float32)


class Positive(nn.Module):
    """A linear network of positive weights whose score is the sum of its last map."""

    def __init__(self, trick=lambda x: x):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1, bias=False), nn.Conv2d(2, 2, 3, 2, 1, bias=False))
        self.trick = trick
        for p in self.parameters():
            p.data.fill_(1)

    def forward(self, x):
        return self.layers(self.trick(x)).sum((2, 3))


def positive(**card) -> nn.Module:
    card = {"classes": ["a", "b"], "size": (64, 64), "mean": (0,) * 3, "std": (1,) * 3, **card}
    return ch.load_model(Positive().eval(), **card)


def test_the_plain_grid_is_what_it_was_to_the_last_bit(tiny_net, cube):
    ex = ch.explain(tiny_net(), pictures(2, 50, 70), layers=["layer2", "layer4"])
    for name in ("gradcam", "layercam", "hybrid", "vargrad"):
        raw = torch.from_numpy(ex.heat(name, samples=2).raw)
        expected = F.interpolate(raw[:, None], (50, 70), mode="bilinear", align_corners=False)[:, 0].numpy()
        plain = ex.heatmap(name, samples=2, normalize=False)
        assert np.array_equal(plain, expected)
        assert np.array_equal(plain, ex.heatmap(name, samples=2, normalize=False, place="grid"))
    deep = ch.explain(tiny_net(3), cube(), layers="layer2")
    raw = torch.from_numpy(deep.heat().raw)[None, None]
    expected = F.interpolate(raw, deep.source.shapes[0], mode="trilinear")[0, 0]
    np.testing.assert_allclose(deep.heatmap(normalize=False), expected, atol=1e-6 * float(expected.max()))


def test_a_bright_pixel_is_hottest_where_it_is_at_every_size_and_in_a_crop():
    for size, (y, x) in (((64, 64), (24, 40)), ((128, 128), (48, 80)), ((64, 96), (24, 56))):
        net = positive() if size[0] == size[1] else positive(fit="crop", resize=64)  # the crop starts at column 16
        picture, scale = np.zeros((*size, 3), np.float32), size[0] // 64
        picture[y : y + scale, x : x + scale] = 1
        ex, middle = ch.explain(net, picture, layers="layers", target=0), (y + (scale - 1) / 2, x + (scale - 1) / 2)
        assert ex.geometry().lines == ((0, 4), (0, 4)) and ex.geometry("layers").agree
        for name in ("gradcam", "layercam"):
            heats = {place: ex.heatmap(name, place=place) for place in PLACES}
            hottest = {place: np.argwhere(heat == heat.max()).mean(0) for place, heat in heats.items()}
            assert hottest["geometric"] == pytest.approx(middle)
            assert hottest["grid"] == pytest.approx([m + 1.5 * scale for m in middle], abs=scale / 2 + 0.01)
            assert hottest["effective"] == pytest.approx(middle, abs=0.51 * scale)
            assert heats["grid"].shape == size and all(heat[:, :16].max() == 0 for heat in heats.values())


def test_a_batch_equals_its_singles_in_every_place_and_with_mirrors(tiny_net, cube):
    flat, deep = pictures(3, 40, 56), np.stack([cube(0), cube(1)])
    for net, given, mirrors in ((tiny_net(), flat, (-1,)), (tiny_net(3), deep, (0, 2))):
        together = ch.explain(net, given, layers=["layer2", "layer4"])
        for options in ({}, {"smooth": "mirror", "mirrors": mirrors}):
            for place in PLACES:
                whole = together.heatmap("layercam", layer="layer2", place=place, **options)
                for heat, one in zip(whole, given, strict=True):
                    alone = ch.explain(net, one, layers=["layer2", "layer4"])
                    single = alone.heatmap("layercam", layer="layer2", place=place, **options)
                    np.testing.assert_allclose(heat, single, atol=1e-4)


def test_everything_that_draws_takes_the_place(tiny_net):
    net = tiny_net()
    net.layer3.halve = nn.MaxPool2d(3, 2, 1)  # whose cells do not lie on the plain grid
    ex = ch.explain(net, pictures(1)[0], layers=["layer3", "layer4"])
    options = {"layer": "layer3", "place": "geometric", "target": 1}
    heat, grid = ex.heatmap("layercam", **options), ex.heatmap("layercam", layer="layer3", target=1)
    where, raw = ex.geometry("layer3"), torch.from_numpy(ex.heat("layercam", **options).raw)[None]
    assert where.lines != where.grid and np.abs(heat - grid).max() > 0.01
    large = upsample(raw, (64, 64), where.lines)[0].numpy()
    np.testing.assert_allclose(heat, large / large.max(), atol=1e-6)
    assert np.array_equal(ex.heat("layercam", **options).heatmap, heat)
    assert np.array_equal(ex.overlay("layercam", opacity=1, **options), ch.render.colour(heat, "jet"))
    shown = [image.get_array() for axes in ex.panel("layercam", **options).axes for image in axes.images]
    assert any(np.array_equal(image, ex.overlay("layercam", **options)) for image in shown)
    maps = ex.heatmaps([1], method="layercam", layer="layer3", place="geometric")[0]
    np.testing.assert_allclose(maps, heat, atol=1e-6)
    native = [ex.heatmap("layercam", size="native", layer="layer3", target=1, place=place) for place in PLACES]
    assert np.array_equal(native[0], native[1]) and not ex.blank("layercam", **options)
    for place in PLACES[1:]:  # a gradient at the input lies where the input lies
        assert np.array_equal(ex.heatmap("smoothgrad", samples=2), ex.heatmap("smoothgrad", samples=2, place=place))


def test_effective_centres_are_told_once_measured_and_used(tiny_net):
    ex = ch.explain(tiny_net(), pictures(1)[0], layers="layer4")
    assert ex.geometry().effective is None
    heat = ex.heatmap("layercam", place="effective")
    where = ex.geometry()
    assert where.effective == ex.geometry(measure=True).effective and len(where.effective) == 2
    lines = [(start + off, jump) for (start, jump), off in zip(where.grid, where.effective, strict=True)]
    large = upsample(torch.from_numpy(ex.heat("layercam").raw)[None], (64, 64), lines)[0].numpy()
    np.testing.assert_allclose(heat, large / large.max(), atol=1e-5)


def test_what_cannot_be_traced_stays_on_the_grid_and_says_so():
    net = ch.load_model(Positive(lambda x: x.roll(1, 2)).eval(), classes=["a", "b"], size=(64, 64))
    ex = ch.explain(net, pictures(1)[0], layers="layers")
    with pytest.warns(UserWarning, match="lost in roll; their heat stays on the plain grid") as caught:
        heat = ex.heatmap(place="geometric")
    assert np.allclose(heat, ex.heatmap(), atol=1e-6)
    assert ex.geometry().unknown == "roll" and caught[0].filename == __file__


# mirrors -------------------------------------------------------------------------------------------------------------


def test_mirror_is_the_mean_with_the_mirrored_inputs_maps_for_the_same_class(tiny_net):
    net, given, passes = tiny_net(), pictures(2, 50, 64), []
    net.stem[0].register_forward_pre_hook(lambda *_: passes.append(1))
    ex = ch.explain(net, given, layers=["layer2", "layer4"])
    classes = [int(c) for c in ex.logits.argmax(-1)]
    turned = {axes: ch.explain(net, np.flip(given, [a + 1 for a in axes]).copy(), layers="layer4", target=classes)
              for axes in ((0,), (1,), (0, 1))}  # fmt: skip
    passes.clear()
    for method, more in (("gradcam", {}), ("hybrid", {"alpha": 0.3}), ("vargrad", {"samples": 2}), ("eigencam", {})):
        own = ex.heatmap(method, size="native", normalize=False, **more)
        back = {axes: np.flip(other.heatmap(method, size="native", normalize=False, **more), [a + 1 for a in axes])
                for axes, other in turned.items()}  # fmt: skip
        for mirrors, expected in (((-1,), [back[1,]]), ((0,), [back[0,]]), ((0, -1), [back[0,], back[1,], back[0, 1]])):
            found = ex.heatmap(method, size="native", normalize=False, smooth="mirror", mirrors=mirrors, **more)
            np.testing.assert_allclose(found, np.mean([own, *expected], 0), atol=1e-5 * own.max())
    before = len(passes)
    assert before and not np.allclose(own, found, atol=1e-3 * own.max())
    ex.heatmap("layercam", layer="layer2", smooth="mirror", mirrors=(0, 1), target=2)
    assert len(passes) == before  # what is kept serves every method, layer and class
    plain = ex.heatmap("gradcam", smooth="mirror")
    assert np.array_equal(plain, ex.heatmap("gradcam", smooth="mirror", mirrors=(1,))) and plain.shape == (2, 50, 64)


def test_along_mirrored_axes_the_grid_is_true():
    picture = np.zeros((64, 64, 3), np.float32)
    picture[24, 40] = 1
    ex = ch.explain(positive(), picture, layers="layers", target=0)
    heat = ex.heatmap("layercam", smooth="mirror", place="geometric")
    rows, columns = (heat.sum(a) for a in (1, 0))  # mirrored, the pixel lies between two cells
    assert rows.argmax() == 24  # not mirrored: the geometry says
    assert np.average(np.arange(64), weights=columns) == pytest.approx(40, abs=0.6)
    drawn = ex.heatmap("layercam").sum(0)
    assert np.average(np.arange(64), weights=drawn) == pytest.approx(41.5, abs=0.1)
