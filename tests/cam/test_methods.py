"""Methods against numbers worked by hand, the papers' formulas in exact fractions, and properties that must hold."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import camhelpers as ch
from camhelpers.cam import methods
from camhelpers.cam.methods import METHODS, cams, eigencam, gradcam, hybrid, layercam, method, register, unit

PAPERS = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam")


def pair(seed: int = 0, shape: tuple[int, ...] = (2, 5, 4, 6), dtype: torch.dtype = torch.float64):
    """Activations as after a ReLU, and gradients of either sign."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(shape, generator=generator, dtype=dtype).relu()
    return A, torch.randn(shape, generator=generator, dtype=dtype)


# Two channels on two positions. Channel sums of A: 4 and 2; mean gradients: 1/2 and -1/2.
A = torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]], dtype=torch.float64)
G = torch.tensor([[[[2.0, -1.0]], [[-2.0, 1.0]]]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("gradcam", [0, 3 / 2]),  # 1/2 [1, 3] - 1/2 [2, 0] = [-1/2, 3/2]
        # weights: channel 0: 2 / (2 + 4*2) = 1/5; channel 1: 1 / (2 + 2*1) = 1/4
        ("gradcam++", [1 / 5 + 2 / 4, 3 / 5]),
        # weights: (2*1 - 1*3) / 4 = -1/4 and (-2*2 + 0) / 2 = -2
        ("xgradcam", [0, 0]),
        ("hirescam", [0, 0]),  # [2 - 4, -3 + 0]
        ("layercam", [2, 0]),  # [2*1 + 0, 0 + 1*0]
    ],
)
def test_numbers_worked_by_hand(name, by_hand):
    assert method(name)(A, G)[0, 0].tolist() == pytest.approx(by_hand, abs=1e-15)


def test_hybrid_worked_by_hand():
    A = torch.tensor([[[[4.0, 1.0]]]], dtype=torch.float64)
    G = torch.tensor([[[[1.0, 1.0]]]], dtype=torch.float64)
    assert hybrid(A, G, alpha=0.3)[0, 0].tolist() == pytest.approx([1, 1 / 4])  # both maps are [1, 1/4]
    G = torch.tensor([[[[1.0, 3.0]]]], dtype=torch.float64)  # Grad-CAM [1, 1/4], LayerCAM [4, 3] / 4
    assert hybrid(A, G, alpha=0.5)[0, 0].tolist() == pytest.approx([1, (1 / 4 * 3 / 4) ** 0.5])


def exact(name: str, A: list, G: list) -> list[Fraction]:
    """The papers' formulas in fractions, for channels of positions; 0/0 is 0."""
    positions = range(len(A[0]))
    maps = []
    for a, g in zip(A, G, strict=True):
        total = sum(a)
        if name == "gradcam":
            weight = [Fraction(sum(g)) / len(g)] * len(g)
        elif name == "gradcam++":
            below = [2 * x**2 + total * x**3 for x in g]
            alpha = [x**2 / b if b else Fraction(0) for x, b in zip(g, below, strict=True)]
            weight = [sum(al * max(x, 0) for al, x in zip(alpha, g, strict=True))] * len(g)
        elif name == "xgradcam":
            weight = [sum(x * y for x, y in zip(a, g, strict=True)) / total if total else Fraction(0)] * len(g)
        elif name == "hirescam":
            weight = g
        elif name == "layercam":
            weight = [max(x, 0) for x in g]
        maps.append([w * x for w, x in zip(weight, a, strict=True)])
    return [max(sum(m[i] for m in maps), Fraction(0)) for i in positions]


rationals = st.integers(-12, 12).map(lambda i: Fraction(i, 4))


@given(
    name=st.sampled_from(PAPERS),
    values=st.lists(st.tuples(rationals.map(abs), rationals), min_size=12, max_size=12),
)
@settings(max_examples=150, deadline=None)
def test_the_papers_formulas_in_fractions(name, values):
    A, G = ([[v[i] for v in values[c * 4 : c * 4 + 4]] for c in range(3)] for i in (0, 1))
    a, g = (torch.tensor([[[float(x) for x in row] for row in rows]], dtype=torch.float64) for rows in (A, G))
    expected = [float(x) for x in exact(name, A, G)]
    found = method(name)(a.view(1, 3, 2, 2), g.view(1, 3, 2, 2)).flatten().tolist()
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1, 1e6])
def test_gradcam_plus_plus_needs_no_epsilon(scale):
    # with gradients of 1e-3 an epsilon of 1e-6 would move this map by a tenth
    A, G = pair(3, (1, 4, 3, 3), torch.float32)
    a, g = A.double().numpy(), (G * scale).double().numpy()
    alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdims=True) * g**3)
    expected = np.maximum(((alpha * np.maximum(g, 0)).sum((2, 3), keepdims=True) * a).sum(1), 0)
    found = method("gradcam++")(A, G * scale).numpy()
    assert np.abs(found / found.max() - expected / expected.max()).max() < 1e-5


def test_gradcam_is_the_weighted_sum_of_a_pooled_linear_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).double()
    x = torch.randn(2, 2, 5, 7, dtype=torch.float64)
    held = ch.capture(net, x, "0")
    w = net[3].weight[2].detach()  # dS/dA is w / (H W) everywhere
    A = net[0](x).detach()
    G = held.gradients(2)["0"]
    torch.testing.assert_close(G, (w / 35).view(1, 3, 1, 1).expand_as(A), rtol=1e-13, atol=0)
    expected = torch.einsum("k,nkhw->nhw", w / 35, A).relu()
    torch.testing.assert_close(gradcam(held.A["0"], G), expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(method("hirescam")(A, G), expected, rtol=1e-12, atol=1e-15)  # as its paper proves
    positive = torch.einsum("k,nkhw->nhw", w.relu() / 35, A).relu()
    torch.testing.assert_close(layercam(A, G), positive, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (2, 3, 5, 6), (1, 4, 2, 3, 4)], ids=["wide", "tall", "volume"])
def test_eigencam_is_the_first_singular_direction(shape):
    A, G = pair(1, shape)
    for a, found in zip(A, eigencam(A, G), strict=True):
        flat = a.flatten(1).T.numpy()
        u, s, _ = np.linalg.svd(flat, full_matrices=False)
        heat = u[:, 0] * s[0]
        expected = np.maximum(heat * np.sign(heat.sum()), 0).reshape(shape[2:])
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def test_eigencam_asks_no_gradient():
    A, G = pair()
    assert torch.equal(eigencam(A, G), eigencam(A, -3 * G))


# what holds for all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(cams()))
@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (2, 5, 3, 4, 6), (2, 5, 7)], ids=["picture", "volume", "signal"])
def test_any_number_of_spatial_axes(name, shape):
    A, G = pair(2, shape)
    heat = method(name)(A, G)
    assert heat.shape == (2, *shape[2:]) and heat.dtype == A.dtype
    assert (heat >= 0).all() and torch.isfinite(heat).all()


@pytest.mark.parametrize("name", [n for n in cams() if n not in ("random", "centre")])
def test_depth_one_is_the_plane(name):
    A, G = pair(4, (2, 5, 1, 4, 6))
    torch.testing.assert_close(method(name)(A, G)[:, 0], method(name)(A[:, :, 0], G[:, :, 0]))


@pytest.mark.parametrize("name", [n for n in cams() if n not in ("random", "centre")])
@pytest.mark.parametrize(("channels", "side"), [(2, 3), (40, 3)])
def test_no_activation_is_no_heat(name, channels, side):
    A = torch.zeros(1, channels, side, side)
    G = torch.randn(A.shape, generator=torch.Generator().manual_seed(0))
    assert method(name)(A, G).count_nonzero() == 0


@pytest.mark.parametrize("name", [*PAPERS, "hybrid"])
def test_no_gradient_is_no_heat(name):
    A, _ = pair()
    for G in (torch.zeros_like(A), -torch.ones_like(A)):
        heat = method(name)(A, G)
        assert heat.count_nonzero() == 0 and not torch.isnan(unit(heat)).any()


@pytest.mark.parametrize("name", list(cams()))
def test_batch_equals_singles(name):
    A, G = pair(5, (3, 5, 4, 6))
    seeds = {"seed": [4, 4, 4]} if name == "random" else {}
    together = method(name)(A, G, **seeds)
    for i in range(3):
        alone = method(name)(A[i : i + 1], G[i : i + 1], **({"seed": [4]} if seeds else {}))
        torch.testing.assert_close(together[i : i + 1], alone)


def test_random_is_seeded_and_leaves_the_global_generator_alone():
    A, G = pair()
    before = torch.get_rng_state()
    first, again, other = (method("random")(A, G, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1]) and torch.equal(first[1], other[0])  # the seed counts up
    assert torch.equal(before, torch.get_rng_state())


def test_centre_is_a_symmetric_bell():
    heat = method("centre")(*pair(0, (1, 2, 5, 7)))[0]
    assert torch.allclose(heat, heat.flip(0)) and torch.allclose(heat, heat.flip(1))
    assert heat.max() == heat[2, 3] == pytest.approx(1) and heat[0, 0] < 0.1


# the hybrid ------------------------------------------------------------------------------------------------------


def test_hybrid_ends_are_exactly_gradcam_and_layercam():
    A, G = pair(6, dtype=torch.float32)
    assert torch.equal(hybrid(A, G, alpha=1), unit(gradcam(A, G)))
    assert torch.equal(hybrid(A, G, alpha=0), unit(layercam(A, G)))


def test_zero_to_the_zero_is_one():
    A, G = pair(7)
    assert (gradcam(A, G) == 0).any()  # else this would prove nothing
    assert torch.equal(hybrid(A, G, alpha=0) == 0, layercam(A, G) == 0)
    # all gradients negative: LayerCAM is blank; activations below zero still give Grad-CAM evidence
    A, G = -A, -torch.ones_like(G)
    assert layercam(A, G).max() == 0 and gradcam(A, G).max() > 0
    assert torch.equal(hybrid(A, G, alpha=1), unit(gradcam(A, G)))
    assert hybrid(A, G, alpha=0.5).max() == 0


alphas = st.floats(0, 1, allow_nan=False)
seeds = st.integers(0, 10_000)
few = settings(max_examples=60, deadline=None)


@given(seeds, alphas)
@few
def test_hybrid_stays_in_range(seed, alpha):
    heat = hybrid(*pair(seed, (2, 3, 4, 4), torch.float32), alpha=alpha)
    assert heat.min() >= 0 and heat.max() <= 1 + 1e-6


@given(seeds, alphas)
@few
def test_hybrid_is_a_straight_line_in_log_space(seed, alpha):
    A, G = pair(seed, (1, 3, 4, 4))
    start, end, heat = (hybrid(A, G, alpha=a) for a in (0, 1, alpha))
    both = (start > 0) & (end > 0)
    line = (1 - alpha) * start[both].log() + alpha * end[both].log()
    torch.testing.assert_close(heat[both].log(), line, rtol=1e-9, atol=1e-9)
    assert (heat >= torch.minimum(start, end) - 1e-12).all() and (heat <= torch.maximum(start, end) + 1e-12).all()


@given(seeds, alphas, alphas)
@few
def test_hybrid_moves_one_way_from_end_to_end(seed, one, two):
    A, G = pair(seed, (1, 3, 4, 4))
    low, high = (hybrid(A, G, alpha=a) for a in sorted((one, two)))
    start, end = hybrid(A, G, alpha=0), hybrid(A, G, alpha=1)
    assert ((high - low) * torch.sign(end - start) >= -1e-12)[(start > 0) & (end > 0)].all()


@given(seeds, alphas, st.sampled_from([1e-6, 0.3, 7.0, 1e6]), st.sampled_from([1e-6, 0.3, 7.0, 1e6]))
@few
def test_hybrid_ignores_the_scale_of_activations_and_of_gradients(seed, alpha, a, g):
    A, G = pair(seed, (1, 3, 4, 4))
    torch.testing.assert_close(hybrid(A * a, G * g, alpha), hybrid(A, G, alpha), rtol=1e-9, atol=1e-9)


@given(seeds, st.permutations(range(6)), st.permutations(range(3)))
@few
def test_hybrid_follows_a_permutation_of_positions_and_ignores_one_of_channels(seed, positions, channels):
    A, G = pair(seed, (1, 3, 6))
    torch.testing.assert_close(hybrid(A[..., positions], G[..., positions]), hybrid(A, G)[..., positions])
    torch.testing.assert_close(hybrid(A[:, channels], G[:, channels]), hybrid(A, G))


# the registry ----------------------------------------------------------------------------------------------------


def test_unit_divides_by_each_maximum_and_keeps_blank_maps_blank():
    heat = torch.tensor([[[1.0, 4.0]], [[0.0, 0.0]], [[-2.0, -1.0]], [[-2.0, 0.5]]])
    assert unit(heat).tolist() == [[[0.25, 1]], [[0, 0]], [[0, 0]], [[0, 1]]]


def test_a_method_of_ones_own(monkeypatch):
    monkeypatch.setattr(methods, "METHODS", dict(METHODS))

    @register("plain")
    def plain(A, G):
        return (A * G).sum(1)  # of either sign: a heatmap must be 0..1 all the same

    torch.manual_seed(0)
    ex = ch.explain(ch.models.SmallResNet(3), torch.randn(2, 3, 64, 64), layers="layer3")
    heat = ex.heatmap("plain", alpha=0.3)
    assert heat.shape == (2, 64, 64) and heat.min() >= 0 and heat.max() == 1


def test_unknown_method_lists_the_methods():
    with pytest.raises(ValueError, match=r"no method 'gradcamm'; choose one of gradcam, gradcam\+\+, "):
        method("gradcamm")
