"""SmoothGrad and VarGrad: against closed forms and plain numpy, seeded, streamed, and without a trace in the model."""

import weakref

import numpy as np
import pytest
import torch
from torch import nn

from camhelpers import explain
from camhelpers.cam import gradients
from camhelpers.cam.gradients import noisy_gradients
from camhelpers.cam.methods import smoothgrad, vargrad
from camhelpers.cam.nets import SmallResNet


class Square(nn.Module):
    """One score, the sum of x^3: its gradient 3 x^2 is known under any noise."""

    def forward(self, x):
        scores = (x**3).flatten(1).sum(1)
        return torch.stack([scores, -scores], 1)


@pytest.fixture(params=[2, 3])
def case(request):
    torch.manual_seed(0)
    net = SmallResNet(classes=3, channels=1, dims=request.param, widths=(4, 6, 8, 8), strides=(2, 1, 2, 1, 1))
    return net.eval(), torch.rand(2, 1, *[16] * request.param)


def samples_of(net, x, target, samples, spread, seed):
    """Every gradient, one after another, held all at once: slow and obvious."""
    generator = torch.Generator().manual_seed(seed)
    deviation = spread * (x.max() - x.min())
    found = []
    for _ in range(samples):
        noisy = (x + deviation * torch.randn(x.shape, generator=generator)).requires_grad_()
        net(noisy[None])[0, target].backward()
        found.append(noisy.grad.double().numpy())
    return np.array(found)


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_mean_and_variance_are_those_of_all_samples(case, batch):
    net, x = case
    classes = net(x).argmax(1).tolist()
    found = noisy_gradients(net, x, samples=7, spread=0.2, seed=5, batch=batch)
    for i in range(2):
        every = samples_of(net, x[i], classes[i], 7, 0.2, 5)
        np.testing.assert_allclose(found.mean[i], every.mean(0), rtol=2e-4, atol=1e-7)
        np.testing.assert_allclose(found.variance[i], every.var(0), rtol=2e-3, atol=1e-10)


def test_welford_keeps_its_digits_where_a_difference_of_squares_loses_them():
    x = torch.full((1, 1, 8, 8), 1000.0)
    x[..., 0, 0] = 1000.01  # a range of 0.01: gradients near 3e6 that vary by tens
    found = noisy_gradients(Square(), x.double(), 0, samples=20, spread=0.1)
    single = noisy_gradients(Square(), x, 0, samples=20, spread=0.1)
    assert float(found.variance.min()) > 0
    np.testing.assert_allclose(single.variance.mean(), found.variance.mean(), rtol=0.2)


def test_the_closed_form_of_a_cube():
    x = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    found = noisy_gradients(Square(), x, 0, samples=3000, spread=0.1)
    s2 = 0.2**2  # the range is 2
    expected = 3 * (x[0, 0] ** 2 + s2)  # the mean of 3 (x + n)^2
    np.testing.assert_allclose(smoothgrad(found)[0], expected, atol=0.08)
    np.testing.assert_allclose(vargrad(found)[0], 9 * (4 * x[0, 0] ** 2 * s2 + 2 * s2**2), atol=0.15)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(case):
    net, x = case
    first, again = (noisy_gradients(net, x, samples=4, seed=1) for _ in range(2))
    assert torch.equal(first.mean, again.mean) and torch.equal(first.variance, again.variance)
    assert not torch.equal(first.mean, noisy_gradients(net, x, samples=4, seed=2).mean)


def test_a_batch_equals_its_singles(case):
    net, x = case
    both = noisy_gradients(net, x, samples=5)
    for i in range(2):
        alone = noisy_gradients(net, x[i : i + 1], samples=5)
        torch.testing.assert_close(both.mean[i], alone.mean[0], rtol=1e-4, atol=1e-7)


def test_the_class_is_fixed_before_the_noise():
    class Torn(nn.Module):
        """Predicts class 0 for the clean input, and class 1 for most noisy ones."""

        def forward(self, x):
            total = x.flatten(1).sum(1)
            return torch.stack([0.1 + 0 * total, total * total], 1) + torch.stack([2 * total, 0 * total], 1)

    x = torch.zeros(1, 1, 4, 4)
    x[..., 0, 0], x[..., 3, 3] = 1, -1
    found = noisy_gradients(Torn(), x, samples=9, spread=0.5)
    assert torch.equal(found.mean, torch.full_like(x, 2)) and not found.variance.any()


def test_the_model_is_left_as_it_was(case):
    net, x = case
    net.train()
    net.layer1.eval()
    net.fc.weight.requires_grad_(False)
    flags = [(m.training, [p.requires_grad for p in m.parameters()]) for m in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    noisy_gradients(net, x, samples=3)

    def broken(out):
        raise RuntimeError("no score")

    with pytest.raises(RuntimeError, match="no score"):
        noisy_gradients(net, x, broken, samples=3)
    assert flags == [(m.training, [p.requires_grad for p in m.parameters()]) for m in net.modules()]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_it_works_under_inference_mode_and_no_grad(case):
    net, x = case
    plain = noisy_gradients(net, x, samples=3)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            assert torch.equal(noisy_gradients(net, x, samples=3).mean, plain.mean)


def test_memory_does_not_grow_with_the_samples(case, monkeypatch):
    net, x = case
    grad, given, alive = torch.autograd.grad, [], []

    def watched(*arguments, **options):
        alive.append(sum(ref() is not None for ref in given))
        found = grad(*arguments, **options)
        given.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr(torch.autograd, "grad", watched)
    noisy_gradients(net, x[:1], samples=40, batch=1)
    assert len(given) == 40 and max(alive) <= 1, "no gradient but the last one may still be held"


def test_a_batch_is_as_large_as_the_memory_allows(case, monkeypatch):
    net, x = case
    with gradients._counted() as held:
        net(x[:1].clone().requires_grad_())
    sizes = []
    net.register_forward_hook(lambda module, inputs, out: sizes.append(len(out)))
    monkeypatch.setattr(gradients, "MEMORY", 4 * held[0] + 1)
    noisy_gradients(net, x[:1], 0, samples=11)
    assert sizes == [1, 4, 4, 2]


def test_a_model_may_begin_in_place(case):
    net, x = case
    begins = nn.Sequential(nn.ReLU(inplace=True), net)
    torch.testing.assert_close(
        noisy_gradients(begins, x, 0, samples=3).mean,
        noisy_gradients(nn.Sequential(nn.ReLU(), net), x, 0, samples=3).mean,
    )


def test_half_precision_is_for_the_network_alone():
    net, x = SmallResNet(classes=2, channels=1, widths=(4, 6, 8, 8)).eval(), torch.rand(2, 1, 96, 96)
    ex = explain(net.bfloat16(), x.bfloat16())
    assert noisy_gradients(net, x.bfloat16(), samples=3).variance.dtype == torch.float32
    assert ex.heatmap("smoothgrad", samples=3).dtype == np.float32


def test_a_trunk_without_gradients_and_a_score_that_is_none_get_one_sentence(case):
    class Cold(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                return x.flatten(1)[:, :2] * 2

    with pytest.raises(ValueError, match="trunk without gradients"):
        noisy_gradients(Cold(), case[1], 0)
    with pytest.raises(TypeError, match="one number, as a tensor"):
        noisy_gradients(*case, lambda out: 1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 1}, "2 samples"),
        ({"samples": 4.5}, "2 samples"),
        ({"spread": 0}, "spread above 0"),
        ({"batch": 0}, "batch of 1"),
    ],
)
def test_bad_numbers_get_one_sentence(case, options, words):
    with pytest.raises(ValueError, match=words):
        noisy_gradients(*case, **options)


def test_bad_inputs_get_one_sentence(case):
    net, x = case
    with pytest.raises(TypeError, match="finite floating-point"):
        noisy_gradients(net, x.clone().fill_(float("nan")))
    with pytest.raises(ValueError, match="classes 0 to 2"):
        noisy_gradients(net, x, 3)


# through the front door ----------------------------------------------------------------------------------------------


def test_the_explanation_runs_once_for_both_and_anew_for_other_numbers(case, monkeypatch):
    net, x = case
    ex, runs = explain(net, x), []
    real = noisy_gradients
    # "camhelpers.cam.explain" is the function; the room is found among the modules
    import sys

    monkeypatch.setattr(
        sys.modules["camhelpers.cam.explain"], "noisy_gradients", lambda *a, **k: runs.append(1) or real(*a, **k)
    )
    smooth, varied = (ex.heatmap(name, samples=4) for name in ("smoothgrad", "vargrad"))
    assert len(runs) == 1 and smooth.shape == varied.shape == (2, *x.shape[2:])
    ex.heatmap("smoothgrad", samples=4, target=[0, 1])
    assert len(runs) == 2
    np.testing.assert_allclose(smooth.reshape(2, -1).max(1), 1)


def test_percentile_cuts_the_top_off_and_the_raw_map_keeps_it(case):
    net, x = case
    ex = explain(net, x)
    raw = ex.heatmap("smoothgrad", samples=4, normalize=False)
    for i in range(2):
        top = np.percentile(raw[i], 90)
        expected = np.minimum(raw[i], top) / top
        np.testing.assert_allclose(ex.heatmap("smoothgrad", samples=4, percentile=90)[i], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="percentile is 0"):
        ex.heatmap("vargrad", samples=4, percentile=0)


def test_an_unknown_method_lists_gradients_too(case):
    with pytest.raises(ValueError, match=r"hybrid.*smoothgrad, vargrad"):
        explain(*case).heatmap("smothgrad")
