"""SmoothGrad and VarGrad: against plain numpy, seeded, and streamed."""

import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from camhelpers import explain
from camhelpers.cam.gradients import noisy_gradients


@pytest.fixture(params=[2, 3])
def case(request, tiny_net):
    shape = {2: (2, 3, 24, 32), 3: (2, 1, 8, 16, 16)}[request.param]
    return tiny_net(request.param), torch.rand(shape, generator=torch.Generator().manual_seed(0))


def every_gradient(net, x, target, samples, spread, seed):
    """Every gradient, one after another, held all at once: slow and obvious."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(samples):
        noise = torch.randn(x.shape, generator=generator)
        noisy = (x + spread * (x.max() - x.min()) * noise).requires_grad_()
        net(noisy[None])[0, target].backward()
        found.append(noisy.grad.double().numpy())
    return np.array(found)


@pytest.mark.parametrize("small", [2**20, 0])
def test_mean_and_variance_are_those_of_all_samples(case, small, monkeypatch):
    monkeypatch.setattr("camhelpers.cam.gradients.SMALL", small)  # four noisy copies at a time, or one by one
    net, x = case
    found = noisy_gradients(net, x, [2, 0], samples=7, spread=0.2, seed=5)
    for i, target in enumerate([2, 0]):
        every = every_gradient(net, x[i], target, 7, 0.2, 5)
        np.testing.assert_allclose(found.mean[i], every.mean(0), rtol=2e-4, atol=1e-7)
        np.testing.assert_allclose(found.variance[i], every.var(0), rtol=2e-3, atol=1e-10)
    called = noisy_gradients(net, x, lambda out: out[2], samples=7, spread=0.2, seed=5)
    assert torch.equal(called.mean[0], found.mean[0])


def test_the_seed_decides_whatever_the_grad_mode(case):
    net, x = case
    first = noisy_gradients(net, x, [0, 1], samples=4, seed=1)
    for mode in (torch.enable_grad, torch.inference_mode, torch.no_grad):
        with mode():
            again = noisy_gradients(net, x, [0, 1], samples=4, seed=1)
        assert torch.equal(first.mean, again.mean) and torch.equal(first.variance, again.variance)
    assert not torch.equal(first.mean, noisy_gradients(net, x, [0, 1], samples=4, seed=2).mean)


def test_memory_does_not_grow_with_the_samples(case, monkeypatch):
    net, x = case
    grad, given, alive = torch.autograd.grad, [], []

    def watched(*arguments, **options):
        alive.append(sum(ref() is not None for ref in given))
        found = grad(*arguments, **options)
        given.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr(torch.autograd, "grad", watched)
    noisy_gradients(net, x[:1], [0], samples=20)
    assert len(given) == 5 and max(alive) <= 1, "no gradient but the last one may still be held"


def test_a_model_may_begin_in_place_and_be_of_half_precision(tiny_net):
    net, x = tiny_net(), torch.rand(2, 3, 64, 64) - 0.5
    copied, inplace = (noisy_gradients(nn.Sequential(nn.ReLU(i), net), x, [0, 1], samples=3) for i in (False, True))
    torch.testing.assert_close(copied.mean, inplace.mean)
    assert noisy_gradients(net.bfloat16(), x.bfloat16(), [0, 1], samples=3).variance.dtype == torch.float32
    assert explain(net, x.bfloat16()).heatmap("smoothgrad", samples=3).dtype == np.float32


def test_one_run_serves_both_methods_and_the_predicted_class_is_fixed_before_the_noise(tiny_net, monkeypatch):
    ex, runs = explain(tiny_net(), torch.rand(2, 3, 24, 32)), []
    predicted = tuple(ex.capture.logits.argmax(1).tolist())
    other = (predicted[0] + 1) % 3

    def counted(*arguments, **options):
        runs.append(arguments[2])
        return noisy_gradients(*arguments, **options)

    # "camhelpers.cam.explain" is the function; the room is found among the modules
    monkeypatch.setattr(sys.modules["camhelpers.cam.explain"], "noisy_gradients", counted)
    options = {"samples": 2}
    for change in ({}, {"spread": 0.3}, {"seed": 1}, {"samples": 3}, {"target": other}):
        options |= change
        for name in ("smoothgrad", "vargrad"):
            ex.heatmap(name, **options)
    assert runs == [predicted] * 4 + [(other, other)]


def test_a_map_that_is_zero_nearly_everywhere_is_not_cut_to_nothing():
    corner = nn.ZeroPad2d((0, -15, 0, -15))  # the network sees one position alone
    net = nn.Sequential(nn.Conv2d(3, 4, 1), corner, nn.Flatten(), nn.Linear(4, 2))
    heat = explain(net, torch.rand(1, 3, 16, 16), layers="0").heat("smoothgrad", percentile=90)
    assert heat.heatmap[0, 0, 0] == heat.heatmap.sum() == 1 and heat.clipped_at == heat.raw.max()
