"""Cards: what the model is shown of a picture or a volume."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camhelpers.cam.cards import Card
from camhelpers.cam.models import import_torchvision

torchvision = import_torchvision()
PLAIN = {"mean": (0,) * 3, "std": (1,) * 3}


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (224, 224), (97, 333)])
@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "inception_v3"])
def test_prepare_equals_torchvisions_own_preset(name, size):
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    options = {"mean": preset.mean, "std": preset.std, "interpolation": preset.interpolation.value}
    card = Card(name, size=preset.crop_size * 2, resize=preset.resize_size[0], fit="crop", **options)
    y, x = np.mgrid[0 : 1 : size[0] * 1j, 0 : 1 : size[1] * 1j]  # well inside 0..1, so that nothing overshoots
    picture = np.stack([0.5 + 0.3 * np.sin(5 * x), 0.3 + 0.4 * y, 0.5 + 0.2 * np.cos(4 * x * y)], -1).astype("f4")
    expected = preset(torch.from_numpy(picture).permute(2, 0, 1))
    torch.testing.assert_close(card.prepare(picture), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(card.normalise(card.display(expected[None])), expected[None], atol=1e-5, rtol=1e-5)
    assert card.display(torch.full((1, 3, 2, 2), 50.0)).max() == 1


def test_squash_keeps_the_whole_picture_and_antialiases():
    card, stripes = Card("x", size=(8, 8), **PLAIN), np.zeros((64, 32, 3), np.float32)
    stripes[::2] = 1
    assert torch.allclose(card.prepare(stripes)[:, 1:-1], torch.tensor(0.5), atol=0.02)
    assert card.view(64, 32) == (0, 0, 64, 32)


def test_view_is_what_the_crop_shows():
    card = Card("x", size=(100, 100), fit="crop", resize=128, **PLAIN)
    assert card.view(256, 512) == (28, 156, 200, 200)  # half the size: 128 x 256, minus 14 and 78 a side
    y, x = np.mgrid[0:256, 0:512].astype(np.float32)
    seen = card.prepare(np.stack([y / 256, x / 512, 0 * x], -1))
    found = [seen[0].min() * 256, seen[1].min() * 512, seen[0].max() * 256, seen[1].max() * 512]
    assert [float(v) for v in found] == pytest.approx([28, 156, 228, 356], abs=2)


@given(st.integers(2, 600), st.integers(2, 600), st.integers(8, 300), st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_view_lies_inside_the_picture(height, width, size, margin):
    top, left, h, w = Card("x", size=(size, size), fit="crop", resize=size + margin).view(height, width)
    assert 0 <= top < top + h <= height and 0 <= left < left + w <= width


def test_a_volume_is_grey_unless_its_card_says_otherwise_averaged_where_it_shrinks_interpolated_where_it_grows():
    assert (Card("a", size=(4, 5, 6)).mean, Card("a", size=(4, 5, 6)).std) == ((0.0,), (1.0,))
    card = Card("v", size=(8, 16, 16), std=(0.2,))
    assert card.std == (0.2,) and Card("v", size=(8, 16, 16), mean=(0.4,)).mean == (0.4,)
    values = np.random.default_rng(1).random((8, 16, 32))
    averaged = values.reshape(8, 16, 16, 2).mean(-1)
    np.testing.assert_allclose(card.prepare_volume(values)[0], averaged / 0.2, atol=1e-5)
    grown = card.prepare_volume(np.broadcast_to(np.arange(4)[:, None, None], (4, 16, 16)))[0, :, 0, 0]
    np.testing.assert_allclose(grown * 0.2, np.clip(np.arange(8) / 2 - 0.25, 0, 3), atol=1e-5)
    assert card.prepare_volume(values[:4], "native").shape == (1, 4, 16, 32)
