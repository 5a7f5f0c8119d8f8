"""SmoothGrad and VarGrad: gradients of the score at the input itself, under noise. One streamed run gives both."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .capture import eval_mode, total

SAMPLES, SPREAD, PERCENTILE = 25, 0.15, 99.0
SMALL = 2**20
"""Values of an input up to which four noisy copies share a pass; large volumes are faster one after the other."""


class NoisyGradients(NamedTuple):
    """Mean and variance `(N, C, *spatial)` of the score's gradient under noise."""

    mean: Tensor
    variance: Tensor


def noisy_gradients(
    model: nn.Module, x: Tensor, target: Sequence[int] | Callable[[Any], Tensor], samples: int = SAMPLES,
    spread: float = SPREAD, seed: int = 0,
) -> NoisyGradients:  # fmt: skip
    """Mean and variance of the score's gradient at `x` `(N, C, *spatial)` with Gaussian noise added, in one stream.

    The noise's standard deviation is `spread` of an input's value range, and every input meets the same noise.
    `target`: a class for each input, or a callable on one sample's output. The model is left as it was.
    """
    if samples < 2 or not 0 < spread <= 10:
        raise ValueError(f"samples is {samples} and spread {spread}; take 2 samples or more, and a spread above 0.")
    with eval_mode(model), frozen(model), torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone()
        exact = torch.promote_types(x.dtype, torch.float32)  # half precision is for the network
        mean, variance = torch.zeros_like(x, dtype=exact), torch.zeros_like(x, dtype=exact)
        size = 4 if x[0].numel() <= SMALL else 1
        for i, (one, m, v) in enumerate(zip(x, mean, variance, strict=True)):
            generator, count = torch.Generator().manual_seed(seed), 0
            deviation = spread * float(one.max() - one.min())
            score = target if callable(target) else lambda out, chosen=int(target[i]): out[chosen]
            while count < samples:
                some = x.new_empty(min(size, samples - count), *one.shape)
                for noisy in some:  # one after another, so that the noise is the same whatever the batch
                    torch.randn(one.shape, generator=generator, out=noisy)
                some.mul_(deviation).requires_grad_()
                out = model(some + one)  # no leaf: a model may begin with an operation in place
                for gradient in torch.autograd.grad(total(out, len(some), score), some)[0]:
                    count += 1  # Welford: in constant memory, and without a difference of large squares
                    away = gradient.to(exact) - m
                    m.add_(away, alpha=1 / count)
                    v.addcmul_(away, gradient - m)
    return NoisyGradients(mean, variance.div_(samples))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Parameters ask for no gradient inside, so that nothing is kept for one; afterwards they ask as before."""
    asking = [p for p in model.parameters() if p.requires_grad]
    for p in asking:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asking:
            p.requires_grad_(True)
