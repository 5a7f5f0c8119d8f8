"""Where the cells of a map lie on the input, by strides and paddings or by what they see; every resize of heat."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .capture import eval_mode
from .gradients import SMALL, frozen

Place = Literal["grid", "geometric", "effective"]
Line = tuple[float, float]  # start and jump: cell i has its centre on start + jump * i of an axis


def upsample(heat: Tensor, size: Sequence[int], centres: Sequence[Line] | None = None) -> Tensor:
    """Resize maps `(N, *spatial)` linearly along every axis, as OpenCV's `resize` does (`align_corners=False`).

    `centres`: the line of cells among the new pixels on each axis, where it is not the plain grid's.
    """
    if centres is None and tuple(heat.shape[1:]) == tuple(size):
        return heat
    if centres is None and len(size) < 3:
        mode = "bilinear" if len(size) == 2 else "linear"
        return F.interpolate(heat[:, None], tuple(size), mode=mode, align_corners=False)[:, 0]
    lines = centres or [None] * len(size)
    *others, x = (_weights(*axis).to(heat) for axis in zip(heat.shape[1:], size, lines, strict=True))
    heat = heat @ x.T  # one axis after another: much faster than trilinear interpolation
    heat = others[-1] @ heat if others else heat
    if len(others) < 2:
        return heat
    slices, out = heat.flatten(2), heat.new_empty(0)
    if heat.device.type == "cpu":  # NumPy asks for large pages of memory, and fresh small ones take half of the time
        out = torch.from_numpy(np.empty((len(heat), size[0], slices.shape[2]), heat[:0].numpy().dtype))
    return torch.matmul(others[0], slices, out=out).unflatten(2, size[1:])


@lru_cache(maxsize=32)
def _weights(before: int, after: int, line: Line | None) -> Tensor:
    """The weights `(after, before)` of linear interpolation between cell centres, held at the ends."""
    if line is None:
        return F.interpolate(torch.eye(before)[None], after, mode="linear", align_corners=False)[0].T.contiguous()
    cell = (torch.arange(after, dtype=torch.float64)[:, None] - line[0]) / line[1]
    return (1 - (cell.clamp(0, before - 1) - torch.arange(before)).abs()).clamp_min(0).float()


@dataclass(frozen=True)
class Geometry:
    """Where the cells of a layer lie, in pixels of the model's input on each axis; the first pixel's centre is 0.

    `lines` are geometric: an average, where a network's branches do not `agree`, and the plain grid's, where `unknown`
    names an operation that hides the cells. `effective` is how far measured centres lie from the plain grid's.
    """

    size: tuple[int, ...]
    cells: tuple[int, ...]
    lines: tuple[Line, ...]
    agree: bool = True
    unknown: str = ""
    effective: tuple[float, ...] | None = None

    @property
    def grid(self) -> tuple[Line, ...]:
        """The lines of the plain grid, which cuts the input into as many equal parts as there are cells."""
        return tuple(((n / cells - 1) / 2, n / cells) for n, cells in zip(self.size, self.cells, strict=True))

    def centres(self, place: Place, mirrored: Collection[int], size: Sequence[int]) -> list[Line]:
        """The lines for `upsample`; axes with mirror images averaged keep the grid, as their shifts undo each other."""
        found, lines = [], self.lines
        if place == "effective":
            lines = [(start + off, jump) for (start, jump), off in zip(self.grid, self.effective, strict=True)]
        for axis, plain in enumerate(self.grid):
            (start, jump), scale = plain if axis in mirrored else lines[axis], size[axis] / self.size[axis]
            found.append(((start + 0.5) * scale - 0.5, jump * scale))
        return found


_known: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()


def geometry(model: nn.Module, layer: str, x: Tensor, cells: Sequence[int], *, measure: bool = False) -> Geometry:
    """Where the `cells` of a layer lie for inputs such as `x` `(N, C, *spatial)`; kept for model, layer and shape."""
    kept, key = _known.setdefault(model, {}), (layer, *x.shape[1:])
    if key not in kept:
        kept[key] = trace(model, layer, x, tuple(cells))
    version = sum(0 if p.is_inference() else p._version for p in model.parameters())  # training moves what is measured
    if measure and (*key, version) not in kept:
        kept[*key, version] = effective_offset(model, layer, x)
    return replace(kept[key], effective=kept.get((*key, version)))


@contextmanager
def _watched(model: nn.Module, layer: str) -> Iterator[list[Any]]:
    """The outputs of a layer, as they come; outside, the model is as it was."""
    held: list[Any] = []
    with eval_mode(model), frozen(model), torch.inference_mode(False):
        module = model.get_submodule(layer)
        handle = module.register_forward_hook(lambda module, args, out: held.append(out) or out.clone())
        try:
            yield held
        finally:
            handle.remove()


def effective_offset(model: nn.Module, layer: str, x: Tensor, seed: int = 0, n: int = 12) -> tuple[float, ...]:
    """How far the squared gradients of a layer's middle cells lie from the plain grid, measured on `n` noisy inputs."""
    generator, draw = torch.Generator().manual_seed(seed), np.random.default_rng(seed).choice
    batch, offsets = 4 if x[0].numel() <= SMALL else 1, [[] for _ in x.shape[2:]]
    with _watched(model, layer) as held, torch.enable_grad():
        for _ in range(0, n, batch):
            noise = torch.randn(batch, *x.shape[1:], generator=generator).to(x).requires_grad_()
            model(noise + 0)  # no leaf: a model may begin with an operation in place
            A, energy = held[-1], torch.zeros(())
            cells = [draw(np.flatnonzero(abs(np.arange(n) - (n - 1) / 2) <= 1), batch) for n in A.shape[2:]]
            own = A[(torch.arange(batch), slice(None), *map(torch.from_numpy, cells))]
            for _ in range(4):  # signs of the channels
                score = (own * torch.from_numpy(draw([-1, 1], own.shape)).to(own)).sum()
                energy = energy + torch.autograd.grad(score, noise, retain_graph=True)[0].double().square().sum(1).cpu()
            for axis, (size, count) in enumerate(zip(x.shape[2:], A.shape[2:], strict=True)):
                along = energy.movedim(axis + 1, 1).reshape(batch, size, -1).sum(2)
                plain = (torch.from_numpy(cells[axis]) + 0.5) * size / count - 0.5
                offsets[axis].append(along @ torch.arange(size, dtype=along.dtype) / along.sum(1) - plain)
            held.clear()  # and let go of the graph, before another takes as much memory
            del A, own, score
    return tuple(float(torch.cat(off).nanmean().nan_to_num()) for off in offsets)  # NaN: cells without any gradient


_KEEP = r"mm$|view|shape|permute|transpose|^t$|squeeze|expand|norm|softmax|drop|hards|prelu|copy|detach|alias|^select$"
_MOVE = r"slice|convolution|.*_pad(_nd|\dd)|(adaptive_)?(avg|max)_pool\dd.*|upsample.*"


def trace(model: nn.Module, layer: str, x: Tensor, cells: tuple[int, ...]) -> Geometry:
    """Where the `cells` of a layer lie, by one pass on tensors without memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    size = tuple(x.shape[2:])
    try:
        with _watched(model, layer) as held, torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            fake = torch.empty(1, *x.shape[1:], dtype=x.dtype, device=x.device)
            with _Trail(fake, Geometry(size, size, ((0.0, 1.0),) * len(size))) as trail:
                model(fake)
        found = trail.held.get(id(held[-1]), (None, None))[1]
    except Exception:  # a network that asks for values, which tensors without memory lack
        found = "a pass that cannot be traced"
    plain = Geometry(size, cells, (), unknown=found if isinstance(found, str) else "a change of shape")
    return found if isinstance(found, Geometry) and found.cells == cells else replace(plain, lines=plain.grid)


class _Trail(TorchDispatchMode):
    """Follows the operations, and holds each result, lest its id be another's, with where its cells lie."""

    def __init__(self, x: Tensor, where: Geometry):
        super().__init__()
        self.held: dict[int, tuple[Tensor, Geometry | str | None]] = {id(x): (x, where)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [self.held[id(t)][1] for t in tree_leaves((args, kwargs)) if id(t) in self.held]
        if given := [where for where in given if where is not None]:
            for t in tree_leaves(out):
                self.held[id(t)] = t, _follow(func, args, given, t)
        return out


def _follow(func: Any, args: Any, given: list[Geometry | str], out: Any) -> Geometry | str | None:
    """Where an operation's output lies; its name, where that is not known; None for what has no place."""
    name = func.overloadpacket.__name__.strip("_")
    if re.fullmatch("mean|sum|amax|amin|var|std", name) or not isinstance(out, Tensor):  # acts on all cells alike
        return None
    if lost := [where for where in given if isinstance(where, str)]:
        return lost[0]
    cells, lines, size = given[0].cells, given[0].lines, tuple(out.shape[2:])
    beside = name in ("cat", "split", "split_with_sizes") and size == cells
    if beside or torch.Tag.pointwise in func.tags or re.search(_KEEP, name):
        if any(other.cells != cells for other in given):
            return name
        agree = all(other.agree and np.allclose(other.lines, lines) for other in given)
        middle = np.mean([other.lines for other in given], axis=0).tolist()
        return replace(given[0], lines=tuple(map(tuple, middle)), agree=agree)
    if not re.fullmatch(_MOVE, name) or tuple(args[0].shape[2:]) != cells:
        return name
    steps = [_step(name, args, axis, *counts) for axis, counts in enumerate(zip(cells, size, strict=True))]
    moved = [(start + jump * by, jump * step) for (start, jump), (by, step) in zip(lines, steps, strict=True)]
    return replace(given[0], cells=size, lines=tuple(moved)) if max(size) > 1 else None


def _step(name: str, args: Any, axis: int, before: int, after: int) -> Line:
    """First and step, if on this axis the output's cell `i` is centred on the cell `first + step * i` before it."""

    def option(number: int, default: int = 0) -> int:  # one number may stand for all axes
        found = args[number] if args[number:] and args[number] != [] else default
        return found if isinstance(found, int) else found[axis if len(found) > 1 else 0]

    if name == "slice":
        _, at, start, _, step = [*args, *(0, 0, None, 1)[len(args) - 1 :]]
        return ((start or 0) % before, step) if at % args[0].ndim == axis + 2 else (0, 1)
    if "_pad" in name:
        return -[*args[1][::2], 0, 0, 0][args[0].ndim - 3 - axis], 1
    if "adaptive" in name or "upsample" in name:
        if any(arg is True for arg in args):  # align_corners
            return 0, (before - 1) / max(after - 1, 1)
        skips = "nearest" in name and "exact" not in name and before % after == 0  # reads the first of each block
        return 0 if skips else (before / after - 1) / 2, before / after
    if name == "convolution":
        kernel, (stride, padding, dilation) = args[1].shape[axis + 2], (option(i) for i in (3, 4, 5))
    else:
        kernel, padding, dilation = option(1), option(3), option(4, 1) if "max" in name else 1
        stride = option(2) or kernel
    first = dilation * (kernel - 1) / 2 - padding
    return (-first / stride, 1 / stride) if name == "convolution" and args[6] else (first, stride)
