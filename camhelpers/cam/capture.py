"""The one pass: run the model once and hold the activations and gradients that every method is a function of."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .layers import eval_mode, is_map, layer_name, tensors

Target = int | str | Callable[[Any], Tensor] | Sequence[int | str] | Tensor | None
Layers = str | nn.Module | Sequence[str | nn.Module] | None

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
        if not isinstance(self.output, Tensor) or self.output.ndim != 2:
            what = tuple(self.output.shape) if isinstance(self.output, Tensor) else f"a {type(self.output).__name__}"
            raise TypeError(f"The model returns {what}, not logits (N, classes); pass target=, a callable.")
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
                why = "depends neither on a captured layer nor on the input; does the model detach its features"
                raise ValueError(f"The score {why}?")
            grads = torch.autograd.grad(score, held, retain_graph=True, allow_unused=True)
        # a layer the score does not reach gets no evidence, and so a blank map
        found = {n: torch.zeros_like(a) if g is None else g for (n, a), g in zip(self.A.items(), grads, strict=True)}
        if wrong := [name for name, gradient in found.items() if not gradient.isfinite().all()]:
            raise ValueError(f"The gradient at {wrong[0]!r} holds NaN or infinite values; use a model in float32.")
        if lost := [name for name, gradient in found.items() if not gradient.any()]:
            why = "the score does not depend on it, or it is lost, as in the rounding of a quantised layer"
            warnings.warn(f"The gradient at {', '.join(lost)} is zero everywhere: {why}.", stacklevel=4)
        for old in list(self._gradients)[: max(0, len(self._gradients) - KEPT + 1)]:
            self._gradients.pop(old, None)  # another thread may have done so
        self._gradients[key] = found
        return found

    def classes(self, target: Target = None) -> Tensor:
        """The class index of each sample `(N,)`, checked against the output."""
        n, count = self.logits.shape
        index = self.logits.argmax(1).cpu() if target is None else torch.as_tensor(target).cpu()
        if index.is_floating_point() or index.dtype == torch.bool or index.ndim > 1:
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
        numbers = [i for i, name in enumerate(classes) if name == target]
        if len(numbers) > 1:
            raise ValueError(f"Classes {', '.join(map(str, numbers))} are all called {target!r}; give the number.")
        return numbers[0]
    target = target.tolist() if isinstance(target, np.ndarray) else target
    return [resolve_target(t, classes) for t in target] if isinstance(target, (list, tuple)) else target


def sample(output: Any, i: int, n: int) -> Any:
    """The output of sample `i` of `n`: its row of every tensor, its entry of a list with a dict for each sample."""

    def own(node: Any) -> bool:
        return isinstance(node, list) and len(node) == n and all(isinstance(entry, dict) for entry in node)

    def cut(leaf: Any) -> Any:
        if own(leaf):
            return leaf[i]
        if is_dataclass(leaf):
            return replace(leaf, **{f.name: sample(getattr(leaf, f.name), i, n) for f in fields(leaf)})
        if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == n:
            return leaf[i]
        if n > 1 and isinstance(leaf, Tensor) and leaf.ndim and leaf.requires_grad:  # unlike anchors, which all share
            what = f"a tensor {tuple(leaf.shape)}"
            raise TypeError(f"The model returns {what}, which has no part for each of {n} samples; explain one by one.")
        return leaf

    return tree_map(cut, output, is_leaf=own)


def total(output: Any, n: int, target: Callable[[Any], Tensor]) -> Tensor:
    """The sum of the samples' scores, whose gradients do not mix the samples."""
    scores = [target(sample(output, i, n)) for i in range(n)]
    if not all(isinstance(score, Tensor) and score.numel() == 1 for score in scores):
        raise TypeError("The target must return one number, as a tensor, for one sample's output.")
    return torch.stack([score.reshape(()) for score in scores]).sum()


def capture(model: nn.Module, inputs: Tensor, layers: Layers = None) -> Capture:
    """Run `model` once on `inputs` `(N, C, *spatial)` and hold what it did at `layers`.

    Recording begins at the first of the layers, in eval mode, and no other thread runs the model meanwhile. The model
    is left as it was, after an error too. A module that runs several times is refused.

    >>> from camhelpers.cam.nets import SmallResNet
    >>> capture(SmallResNet(classes=2), torch.zeros(1, 3, 64, 64), ["layer3", "layer4"]).layers
    ['layer3', 'layer4']
    """
    wanted = [layers] if isinstance(layers, (str, nn.Module)) or not isinstance(layers, Iterable) else list(layers)
    if not wanted:
        raise ValueError("layers is empty; name at least one layer, or leave it out for the last stage.")
    usable = isinstance(inputs, Tensor) and inputs.layout == torch.strided and not inputs.is_meta
    if not usable or inputs.ndim < 3 or not inputs.is_floating_point():
        raise TypeError("capture takes a dense floating-point tensor (N, C, *spatial).")
    if any(p.is_meta for p in model.parameters()):
        raise ValueError("A weight lies on the device 'meta' and has no values; load it first.")
    if not inputs.numel() or not inputs.isfinite().all():
        raise ValueError(f"The input {tuple(inputs.shape)} is empty, or holds NaN or infinite values; clean it first.")
    held: dict[str, Tensor] = {}

    def hold(name: str, module: nn.Module, args: Any, out: Any) -> Tensor:
        if not is_map(module, out, inputs):
            what = f"{tuple(out.shape)} of {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"Layer {name!r} gives {what}, no spatial map (N, C, *spatial); name another.")
        if name in held:
            raise ValueError(f"Layer {name!r} runs several times in a pass; name one that runs once.")
        if not torch.is_grad_enabled() or not out.requires_grad:  # the first: the graph begins here
            torch.set_grad_enabled(True)
            out = out.detach().requires_grad_()
        held[name] = out
        return out.clone()  # an in-place ReLU behind the layer then changes the copy, not what is held

    hooks = []
    with eval_mode(model):
        try:
            names = list(dict.fromkeys(layer_name(model, layer, inputs) for layer in wanted))
            for name in names:
                hooks.append(model.get_submodule(name).register_forward_hook(partial(hold, name)))
            with torch.inference_mode(False), torch.no_grad():
                output = model(inputs.clone())  # a model may begin in place, and an inference tensor has no graph
        finally:
            for handle in hooks:
                handle.remove()
    if missing := [name for name in names if name not in held]:
        raise ValueError(f"The forward pass never reached layer {missing[0]!r}; name one that it runs through.")
    if any(out.is_floating_point() and out.isnan().any() for out in tensors(output)):
        raise ValueError("The model's output holds NaN; look at its weights, and at the values of the input.")
    return Capture(held, output)
