"""Methods against numbers worked by hand, the papers' formulas in exact fractions, and properties that must hold."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import camhelpers as ch
from camhelpers.cam import methods
from camhelpers.cam.gradients import NoisyGradients
from camhelpers.cam.methods import METHODS, cams, eigencam, gradcam, hybrid, layercam, method, unit

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
        ("xgradcam", [0, 0]),  # weights: (2*1 - 1*3) / 4 = -1/4 and (-2*2 + 0) / 2 = -2
        ("hirescam", [0, 0]),  # [2 - 4, -3 + 0]
        ("layercam", [2, 0]),  # [2*1 + 0, 0 + 1*0]
    ],
)
def test_numbers_worked_by_hand(name, by_hand):
    assert method(name)(A, G)[0, 0].tolist() == pytest.approx(by_hand, abs=1e-15)


def test_the_hybrid_and_the_gradient_methods_worked_by_hand():
    A, G = torch.tensor([[[[4.0, 1.0]]]]), torch.tensor([[[[1.0, 3.0]]]])  # Grad-CAM [1, 1/4], LayerCAM [4, 3] / 4
    assert hybrid(A, G, alpha=0.5)[0, 0].tolist() == pytest.approx([1, (1 / 4 * 3 / 4) ** 0.5])
    assert hybrid(A, G)[0, 0].tolist() == pytest.approx([1, (1 / 4) ** 0.7 * (3 / 4) ** 0.3])
    found = NoisyGradients(torch.tensor([[[[1.0, -2]], [[-3, 1]]]]), torch.tensor([[[[1.0, 2]], [[3, 4]]]]))
    assert methods.smoothgrad(found).tolist() == [[[4, 3]]] and methods.vargrad(found).tolist() == [[[4, 6]]]
    heat = torch.tensor([[[1.0, 4.0]], [[0.0, 0.0]], [[-2.0, -1.0]], [[-2.0, 0.5]]])
    assert unit(heat).tolist() == [[[0.25, 1]], [[0, 0]], [[0, 0]], [[0, 1]]]


def exact(name: str, A: list, G: list) -> list[Fraction]:
    """The papers' formulas in fractions, for channels of positions; 0/0 is 0."""
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
        else:
            weight = g if name == "hirescam" else [max(x, 0) for x in g]
        maps.append([w * x for w, x in zip(weight, a, strict=True)])
    return [max(sum(position), Fraction(0)) for position in zip(*maps, strict=True)]


quarters = st.integers(-12, 12).map(lambda i: Fraction(i, 4))
values = st.lists(st.tuples(quarters.map(abs), quarters), min_size=12, max_size=12)


@given(name=st.sampled_from(PAPERS), values=values, scale=st.sampled_from([1, Fraction(1, 2**40), 2**20]))
@settings(max_examples=200, deadline=None)
def test_the_papers_formulas_in_fractions(name, values, scale):
    # with gradients as small as in deep networks any epsilon in a denominator would show
    A = [[a for a, _ in values[c * 4 : c * 4 + 4]] for c in range(3)]
    G = [[g * scale for _, g in values[c * 4 : c * 4 + 4]] for c in range(3)]
    a, g = (torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64) for rows in (A, G))
    found = method(name)(a.view(1, 3, 2, 2), g.view(1, 3, 2, 2)).flatten().tolist()
    expected = [float(x) for x in exact(name, A, G)]
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-11 * float(scale))


@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (2, 20, 3, 4), (1, 4, 2, 3, 4)], ids=["tall", "wide", "volume"])
def test_eigencam_is_the_first_singular_direction(shape):
    A, G = pair(1, shape)
    for a, found in zip(A, eigencam(A, G), strict=True):
        u, s, _ = np.linalg.svd(a.flatten(1).T.numpy(), full_matrices=False)
        expected = np.maximum(u[:, 0] * s[0] * np.sign(u[:, 0].sum()), 0).reshape(shape[2:])
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


# what holds for all --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cams())
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (3, 5, 3, 4, 6), (3, 5, 7)], ids=["picture", "volume", "signal"])
def test_any_number_of_spatial_axes_and_a_batch_equals_its_singles(name, shape):
    A, G = pair(2, shape)
    heat = method(name)(A, G, seed=[4, 5, 6])
    assert heat.shape == (3, *shape[2:]) and heat.dtype == A.dtype and (heat >= 0).all() and heat.isfinite().all()
    for i in range(3):
        torch.testing.assert_close(heat[i : i + 1], method(name)(A[i : i + 1], G[i : i + 1], seed=4 + i))
    if name not in methods.controls():
        torch.testing.assert_close(method(name)(A[:, :, None], G[:, :, None])[:, 0], heat)  # one slice is the plane


@pytest.mark.parametrize("name", [*PAPERS, "hybrid", "eigencam"])
def test_no_activation_or_no_positive_gradient_is_no_heat(name):
    A, G = pair(0, (1, 40, 3, 3))
    blank = [(torch.zeros_like(A), G), (torch.zeros_like(A)[:, :2], G[:, :2])]
    if name != "eigencam":  # which asks no class
        blank += [(A, torch.zeros_like(G)), (A, -torch.ones_like(G))]
    assert all(method(name)(a, g).count_nonzero() == 0 for a, g in blank)


def test_the_controls():
    before = torch.get_rng_state()
    first, again, other = (method("random")(*pair(), seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again) and torch.equal(first[1], other[0])  # the seed counts up
    assert not torch.equal(first[0], first[1]) and torch.equal(before, torch.get_rng_state())
    bell = method("centre")(*pair(0, (1, 2, 5, 7)))[0]
    assert torch.allclose(bell, bell.flip(0)) and torch.allclose(bell, bell.flip(1)) and bell[2, 3] == pytest.approx(1)
    assert bell[2, 0] == pytest.approx(math.exp(-((3 / 7 / 0.25) ** 2) / 2))  # a deviation of a quarter of the side


# the hybrid ----------------------------------------------------------------------------------------------------------


def test_hybrid_ends_are_exactly_gradcam_and_layercam():
    A, G = pair(6, dtype=torch.float32)
    assert (gradcam(A, G) == 0).any()  # zero to the power of zero is one
    assert torch.equal(hybrid(A, G, alpha=1), unit(gradcam(A, G)))
    assert torch.equal(hybrid(A, G, alpha=0), unit(layercam(A, G)))


seeds, alphas, scales = st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([1e-6, 0.3, 1e6])


@given(seeds, alphas)
@settings(max_examples=60, deadline=None)
def test_hybrid_is_a_straight_line_in_log_space(seed, alpha):
    A, G = pair(seed, (1, 3, 4, 4))
    start, end, heat = (hybrid(A, G, alpha=a) for a in (0, 1, alpha))
    both = (start > 0) & (end > 0)
    line = (1 - alpha) * start[both].log() + alpha * end[both].log()
    torch.testing.assert_close(heat[both].log(), line, rtol=1e-9, atol=1e-9)
    assert (heat >= torch.minimum(start, end) - 1e-12).all() and (heat <= torch.maximum(start, end) + 1e-12).all()


@given(seeds, alphas, scales, scales, st.permutations(range(6)), st.permutations(range(3)))
@settings(max_examples=60, deadline=None)
def test_hybrid_ignores_scales_and_the_order_of_channels_and_follows_that_of_positions(seed, alpha, a, g, where, which):
    A, G = pair(seed, (1, 3, 6))
    found = hybrid(A[:, which][..., where] * a, G[:, which][..., where] * g, alpha)
    torch.testing.assert_close(found, hybrid(A, G, alpha)[..., where], rtol=1e-9, atol=1e-9)


# the registry --------------------------------------------------------------------------------------------------------


def test_the_registry_says_how_figures_show_a_method_what_it_takes_and_what_it_costs():
    assert [name for name, found in METHODS.items() if "alpha" in found.takes] == ["hybrid"]
    assert {*METHODS} - {*cams()} == {"smoothgrad", "vargrad"} and method("vargrad").forwards == 25
    assert methods.controls() == ("random", "centre")
    assert len({f.colour for f in METHODS.values()}) == len({f.title for f in METHODS.values()}) == len(METHODS)
    assert methods.title("gradcam++") == "Grad-CAM++" and methods.colour("oracle") == "#000000"
    chosen = methods.variants(["hybrid", "gradcam", "hybrid"], [0.3, 0.3, 1])
    assert chosen[:2] == [("hybrid", 0.3), ("hybrid", 1.0)] and str(chosen[2:]) == "[('gradcam', nan)]"


def test_a_method_of_ones_own_works_everywhere_with_one_registration(monkeypatch, tiny_net):
    monkeypatch.setattr(methods, "METHODS", dict(METHODS))

    @methods.register("plain", title="Plain", colour="#123456", takes=("alpha",))
    def plain(A, G, alpha=0.7):
        return (A.mean(1) - A.mean()) * alpha  # of either sign: a heatmap must be 0..1 all the same

    ex = ch.explain(tiny_net(), np.random.default_rng(0).random((50, 70, 3)), layers="layer3")
    heat, full, half = ex.heatmap("plain"), *(ex.heatmap("plain", alpha=a, normalize=False) for a in (1, 0.5))
    assert heat.shape == (50, 70) and heat.min() == 0 and heat.max() == 1
    np.testing.assert_allclose(full, 2 * half, rtol=1e-5)
    assert "Plain, alpha 0.7\nlayer3" in [axes.get_title() for axes in ex.panel("plain").axes] and "plain" in cams()
