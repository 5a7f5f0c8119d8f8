"""The one pass: run the model once and hold the activations and gradients that every method is a function of."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .layers import layer_name

Target = int | str | Callable[[Any], Tensor] | Sequence[int | str] | Tensor | None
Layers = str | nn.Module | Sequence[str | nn.Module] | None

_UNREACHED = "The score depends neither on a captured layer nor on the input; does the model detach its features?"
KEPT = 16  # targets whose gradients a capture keeps; the oldest go, since all classes of ImageNet would fill the memory


class Capture:
    """What one pass left behind: `A` by layer, `logits`, and gradients for any target, computed once and kept.

    The graph from the first layer to the score is kept, so another class costs one short backward, no forward.
    """

    def __init__(self, A: dict[str, Tensor], output: Any):
        self._held = A
        self.output = output
        self.A = {name: a.detach() for name, a in A.items()}
        self._gradients: dict[Any, dict[str, Tensor]] = {}

    @property
    def layers(self) -> list[str]:
        """The captured layers, in the order of the pass."""
        return list(self.A)

    @property
    def logits(self) -> Tensor:
        """The model's output `(N, classes)`, without its graph."""
        if not isinstance(self.output, Tensor):
            what = type(self.output).__name__
            raise TypeError(f"The model returns a {what}, not logits; pass target=, a callable on one sample's output.")
        return self.output.detach()

    def gradients(self, target: Target = None) -> dict[str, Tensor]:
        """G by layer, for class indices `(N,)`, one index, a callable on one sample's output, or None (predicted)."""
        key = target if callable(target) else tuple(self.classes(target).tolist())
        if key in self._gradients:
            return self._gradients[key]
        held = list(self._held.values())
        with torch.inference_mode(False), torch.enable_grad():
            if callable(target):
                score = total(self.output, len(held[0]), target)
            else:
                index = torch.tensor(key, device=self.output.device)  # new: the target may be an inference tensor
                score = self.output.gather(1, index[:, None]).sum()
            if not score.requires_grad:
                raise ValueError(_UNREACHED)
            grads = torch.autograd.grad(score, held, retain_graph=True, allow_unused=True)
        # a layer the score does not reach gets no evidence, and so a blank map
        found = {n: torch.zeros_like(a) if g is None else g for (n, a), g in zip(self.A.items(), grads, strict=True)}
        while len(self._gradients) >= KEPT:
            self._gradients.pop(next(iter(self._gradients)))
        self._gradients[key] = found
        return found

    def classes(self, target: Target = None) -> Tensor:
        """The class index of each sample `(N,)`, checked against the output."""
        if self.logits.ndim != 2:
            what = tuple(self.logits.shape)
            raise ValueError(f"The model returns {what}, not (N, classes); pass target=, a callable on one output.")
        n, count = self.logits.shape
        try:
            index = self.logits.argmax(1).cpu() if target is None else torch.as_tensor(target).cpu()
        except (TypeError, ValueError, RuntimeError):  # torch has a different one for every kind of nonsense
            index = torch.zeros(0, 0)
        if index.is_floating_point() or index.ndim > 1:
            raise TypeError("target must be None, a class, one class a sample, or a callable.")
        if index.ndim == 1 and len(index) != n:
            raise ValueError(f"{len(index)} targets for a batch of {n}; give one, or one for each sample.")
        if wrong := sorted({int(i) for i in index.reshape(-1) if not 0 <= i < count}):
            raise ValueError(f"Class {wrong[0]} is out of range; the model has classes 0 to {count - 1}.")
        return index.expand(n).cpu()


def resolve_target(target: Target, classes: Sequence[str]) -> Target:
    """Turn class names into indices; leave the rest as it is."""
    if isinstance(target, str):
        if target not in classes:
            known = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
            raise ValueError(f"The model has no class {target!r}; it knows {known or 'no names of classes'}.")
        return list(classes).index(target)
    if isinstance(target, np.ndarray):
        target = target.tolist()
    return [resolve_target(t, classes) for t in target] if isinstance(target, (list, tuple)) else target


def sample(output: Any, i: int) -> Any:
    """The output of one sample, whatever containers the model returns."""
    if isinstance(output, Tensor):
        return output[i]
    if isinstance(output, dict):
        return {key: sample(value, i) for key, value in output.items()}
    if isinstance(output, (tuple, list)):
        return type(output)(sample(value, i) for value in output)
    return output


def total(output: Any, n: int, target: Callable[[Any], Tensor]) -> Tensor:
    """The sum of the samples' scores, whose gradients do not mix the samples."""
    scores = [target(sample(output, i)) for i in range(n)]
    if not all(isinstance(score, Tensor) and score.numel() == 1 for score in scores):
        raise TypeError("The target must return one number, as a tensor, for one sample's output.")
    found = torch.stack([score.reshape(()) for score in scores]).sum()
    if not found.requires_grad:
        raise ValueError(_UNREACHED)
    return found


def capture(model: nn.Module, inputs: Tensor, layers: Layers = None) -> Capture:
    """Run `model` once on `inputs` `(N, C, *spatial)` and hold what it did at `layers`.

    The trunk runs without a graph: recording begins at the first of the layers. The model is left as it was: flags,
    hooks, parameters and their `.grad`, after success and after an error. The pass itself is in eval mode, so that
    batch statistics are neither used nor changed.

    >>> from camhelpers.cam.nets import SmallResNet
    >>> capture(SmallResNet(classes=2), torch.zeros(1, 3, 64, 64), ["layer3", "layer4"]).layers
    ['layer3', 'layer4']
    """
    wanted = [layers] if layers is None or isinstance(layers, (str, nn.Module)) else list(layers)
    if not wanted:
        raise ValueError("layers is empty; name at least one layer, or leave it out for the last stage.")
    names = list(dict.fromkeys(layer_name(model, layer) for layer in wanted))
    if not isinstance(inputs, Tensor) or inputs.ndim < 3 or not inputs.is_floating_point():
        raise TypeError("capture takes a floating-point tensor (N, C, *spatial).")
    if len(inputs) == 0:
        raise ValueError("The batch is empty; give at least one sample.")
    if not inputs.sum().isfinite() and not torch.isfinite(inputs).all():  # the sum is quicker; it may also overflow
        raise ValueError("The input holds NaN or infinite values; clean it first.")

    held: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., Tensor]:
        def hold(module: nn.Module, args: Any, out: Any) -> Tensor:
            a_map = isinstance(out, Tensor) and out.ndim == inputs.ndim and out.is_floating_point()
            if not a_map or len(out) != len(inputs) or out[0, 0].numel() < 2 or _channels_last(module, out):
                what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise ValueError(f"Layer {name!r} gives {what}, no spatial map (N, C, *spatial); name another.")
            if not torch.is_grad_enabled() or not out.requires_grad:  # the first: the graph begins here
                torch.set_grad_enabled(True)
                out = out.detach().requires_grad_()
            held[name] = out
            return out.clone()  # an in-place ReLU behind the layer then changes the copy, not what is held

        return hold

    with eval_mode(model):
        hooks = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
        try:
            with torch.inference_mode(False), torch.no_grad():
                output = model(inputs.clone())  # a model may begin in place, and an inference tensor has no graph
        except (RuntimeError, ValueError) as error:
            if reason := _misfit(model, inputs):
                raise ValueError(reason) from error
            raise
        finally:
            for handle in hooks:
                handle.remove()
    if missing := [name for name in names if name not in held]:
        raise ValueError(f"The forward pass never reached layer {missing[0]!r}; name one that it runs through.")
    return Capture(held, output)


def _channels_last(module: nn.Module, out: Tensor) -> bool:
    """Whether a layer gives `(N, *spatial, C)`, as Swin's do: it normalises over what should be a spatial axis."""
    norms = [m.normalized_shape for m in module.modules() if isinstance(m, nn.LayerNorm)]
    return out.shape[-1] != out.shape[1] and (out.shape[-1],) in norms


def _misfit(model: nn.Module, inputs: Tensor) -> str:
    """Why the model's first convolution cannot take the inputs, where that is so."""
    conv = next((m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), None)
    if conv is None:
        return ""
    axes, takes = len(conv.kernel_size), f"(N, {conv.in_channels}, ...)"
    if (inputs.ndim, inputs.shape[1], inputs.dtype) == (axes + 2, conv.in_channels, conv.weight.dtype):
        return ""
    given = f"{tuple(inputs.shape)} of {inputs.dtype}"
    return f"The input is {given}; the model takes {takes} with {axes} spatial axes, of {conv.weight.dtype}."


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own flag afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
