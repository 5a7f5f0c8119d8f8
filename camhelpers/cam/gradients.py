"""SmoothGrad and VarGrad: gradients of the score at the input itself, under noise. One streamed run gives both.

What a CAM reads from one pass costs these a pass for every sample, so a run is seeded, holds no more than its mean and
its variance, and is kept by the explanation that asked for it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .capture import Capture, Target, eval_mode, sample

SAMPLES, SPREAD, PERCENTILE = 25, 0.15, 99.0
MEMORY = 256 * 2**20
"""Bytes that the graph of one batch may hold; a fixed number, so that the same seed gives the same bytes.

Larger batches gain nothing on a CPU, and two volumes of 192x256x256 at a time are slower than one after the other."""


@dataclass(frozen=True, eq=False)
class NoisyGradients:
    """Mean and variance `(N, C, *spatial)` of the score's gradient under noise, and how they came about."""

    mean: Tensor
    variance: Tensor
    samples: int
    spread: float
    seed: int


def noisy_gradients(
    model: nn.Module,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = SAMPLES,
    spread: float = SPREAD,
    seed: int = 0,
    batch: int | None = None,
    progress: bool = False,
) -> NoisyGradients:
    """Mean and variance of the score's gradient at `x` `(N, C, *spatial)` with Gaussian noise added, in one stream.

    The noise has `spread` of an input's value range as its deviation, and every input meets the same noise. `target`:
    as in `explain`; None is the class predicted *without* noise, which is then the class for all samples. `batch`:
    noisy copies in a pass; unless given, as many as fit into `MEMORY`. The model is left as it was.

    >>> from camhelpers.nets import SmallResNet
    >>> found = noisy_gradients(SmallResNet(classes=2), torch.rand(1, 3, 64, 64), samples=4)
    >>> found.variance.shape
    torch.Size([1, 3, 64, 64])
    """
    if not isinstance(x, Tensor) or x.ndim < 3 or not x.is_floating_point() or not torch.isfinite(x).all():
        raise TypeError("noisy_gradients takes a finite floating-point tensor (N, C, *spatial).")
    if int(samples) != samples or samples < 2 or not 0 < spread <= 10 or (batch is not None and batch < 1):
        raise ValueError(
            f"samples is {samples}, spread {spread} and batch {batch}; take 2 samples or more, a spread above 0 "
            "(a share of the value range), and a batch of 1 or more."
        )
    with eval_mode(model), _frozen(model), torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone()
        classes: list[int] = []
        if target is None:  # the class is settled before there is any noise
            with torch.no_grad():
                classes = Capture({}, model(x.clone())).classes().tolist()
        exact = torch.promote_types(x.dtype, torch.float32)  # half precision is for the network
        mean, variance = torch.zeros_like(x, dtype=exact), torch.zeros_like(x, dtype=exact)
        before, after = torch.empty_like(mean[0]), torch.empty_like(mean[0])
        size, held = batch or 1, x[:0]
        with tqdm(total=len(x) * samples, desc="noisy gradients", disable=None if progress else True) as bar:
            for i, (one, m, v) in enumerate(zip(x, mean, variance, strict=True)):
                generator, count = torch.Generator().manual_seed(seed), 0
                deviation = spread * float(one.max() - one.min())
                while count < samples:
                    if len(held) != min(size, samples - count):  # else used again: fresh memory costs time
                        held = x.new_empty(min(size, samples - count), *one.shape)
                    some = held.detach()
                    for noisy in some:  # one after another, so that the noise is the same whatever the batch
                        torch.randn(one.shape, generator=generator, out=noisy)
                    some.mul_(deviation).add_(one).requires_grad_()
                    with _counted(batch is None) as graph:
                        out = _through(model, some)
                    if not (classes or callable(target)):
                        classes = Capture({}, sample(out, 0).expand(len(x), -1)).classes(target).tolist()
                    score = _score(out, len(some), (lambda one, c=classes[i]: one[c]) if classes else target)
                    for gradient in torch.autograd.grad(score, some)[0]:
                        count += 1  # Welford: in constant memory, and without a difference of large squares
                        torch.sub(gradient.to(exact), m, out=before)
                        m.add_(before, alpha=1 / count)
                        v.addcmul_(before, torch.sub(gradient, m, out=after))
                    bar.update(len(some))
                    if batch is None:
                        size = batch = max(1, MEMORY * len(some) // max(graph[0], 1))
    return NoisyGradients(mean, variance.div_(samples), samples, spread, seed)


def _through(model: nn.Module, x: Tensor) -> Any:
    """The model's output. One that begins in place gets a copy; as a rule that would cost a fifth of the time."""
    try:
        return model(x)
    except RuntimeError as error:
        if "in-place" not in str(error):
            raise
        return model(x.clone())


def _score(out: Any, count: int, target: Callable[[Any], Tensor]) -> Tensor:
    """The sum of the samples' scores, which the gradients at the samples do not mix."""
    scores = [target(sample(out, k)) for k in range(count)]
    if not all(isinstance(score, Tensor) and score.numel() == 1 for score in scores):
        raise TypeError("The target must return one number, as a tensor, for one sample's output.")
    total = torch.stack([score.reshape(()) for score in scores]).sum()
    if not total.requires_grad:
        raise ValueError("The score does not depend on the input; does the model run its trunk without gradients?")
    return total


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Parameters ask for no gradient inside, so that nothing is kept for one; afterwards they ask as before."""
    asking = [p for p in model.parameters() if p.requires_grad]
    for p in asking:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asking:
            p.requires_grad_(True)


@contextmanager
def _counted(count_them: bool = True) -> Iterator[list[int]]:
    """How many bytes the graph that is built inside holds, as a list of one number."""
    held, seen = [0], set()
    if not count_them:
        yield held
        return

    def count(kept: Tensor) -> Tensor:
        storage = kept.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            held[0] += storage.nbytes()
        return kept.detach()  # the tensor itself would make a cycle with its graph, and never be freed

    with torch.autograd.graph.saved_tensors_hooks(count, lambda kept: kept):
        yield held
