"""The layers of a network: by name, by position, as a module, and the one to explain, found in one recorded pass."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from threading import RLock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .cards import Card

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HOW = "name a layer that has one with layers=..., from named_modules()."
_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, for one thread at a time; every module's own flag afterwards.

    The lock belongs to the first module with weights, which a network shares with whatever wraps it.
    """
    owner = next((module for module in model.modules() if _weighted(module)), model)
    with _locks.setdefault(owner, RLock()):
        training = [module for module in model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


def layer_name(net: nn.Module, layer: str | nn.Module | None = None, inputs: Tensor | None = None) -> str:
    """The name of a layer: given by name, as a module of `net`, or None for the last one with a spatial map.

    That is the last in a pass over `inputs`, or a blank one, that the whole output depends on, before pooling.

    >>> from camhelpers.cam.nets import SmallResNet
    >>> layer_name(SmallResNet(classes=2)), layer_name(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1)), "[-1]")
    ('layer4', '1')
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise ValueError("A TorchScript module hides its layers; give the network that it was made from.")
    if layer is None:
        return _best(net, inputs).name
    names, said = {module: name for name, module in net.named_modules() if name}, str(layer)
    if isinstance(layer, nn.Module):
        found, said = layer, type(layer).__name__
    else:
        found = net
        try:
            for part in re.findall(r"[^.\[\]]+", said):  # "layer4[-1]", as in Python; from the end only in a list
                found = found[int(part)] if part.startswith("-") else found.get_submodule(part)
        except (AttributeError, IndexError, KeyError, TypeError):
            found = None
    if found not in names:
        known = ", ".join(child for child, _ in net.named_children())
        raise ValueError(f"The model has no layer {said!r}; it consists of {known}; named_modules() lists all.")
    return names[found]


def stages(net: nn.Module, inputs: Tensor | None = None) -> list[str]:
    """The layers worth offering in a menu: the last at each size and width up to the automatic one, early to late."""
    best, good = _best(net, inputs), record(net, inputs)[0]
    there = [x for x in good[: good.index(best)] if (x.through or not best.through) and x.convolves]
    whole = [x for x in there if len({x.cells, *(y.cells for y in there if y.inside(x))}) <= 2]  # shrinks its map once
    found = {(x.channels, x.cells): x.name for x in whole if not any(x.inside(y) for y in whole)}
    found.pop((best.channels, best.cells), None)
    return [*found.values(), best.name]


def _weighted(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


class Layer(NamedTuple):
    """A layer that gives a map, whether all paths lead through it, and the node of autograd's graph that made it."""

    name: str
    channels: int
    cells: int
    convolves: bool
    through: bool
    node: int

    def inside(self, other: "Layer") -> bool:
        """Whether this is a part of the other."""
        return self.name.startswith(other.name + ".")


Record = tuple[list[Layer], Layer | None, str]  # those worth explaining, the one to take, and what to say of it
_known: WeakKeyDictionary[nn.Module, dict[Any, Record]] = WeakKeyDictionary()


def _best(net: nn.Module, inputs: Tensor | None) -> Layer:
    _, best, why = record(net, inputs)
    if best is None:
        raise ValueError(why)
    if why:
        warnings.warn(why, stacklevel=5)
    return best


def record(net: nn.Module, inputs: Tensor | None = None) -> Record:
    """What a pass over one sample, or a blank one, tells of the layers; kept for the modules and the sample's shape."""
    if (x := inputs) is None:
        card = getattr(net, "card", None) or Card("")
        like = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
        x = like.new_zeros(1, len(card.mean), *card.size)
    kept, key = _known.setdefault(net, {}), (x.shape[1:], *map(id, net.modules()))
    if key not in kept:
        try:
            kept[key] = _record(net, x[:1])
        except RuntimeError as error:
            said = str(error).splitlines()[0].rstrip(".")
            raise ValueError(f"The model does not take an input {tuple(x.shape)} of {x.dtype}: {said}.") from error
    return kept[key]


def _record(net: nn.Module, x: Tensor) -> Record:
    """Run the network once with every module watched, and look at the graph that autograd drew of the pass."""
    seen: dict[str, tuple[nn.Module, Tensor, Any]] = {}
    again: set[str] = set()  # modules that run several times: one map of theirs is not what they did

    def hold(name: str, module: nn.Module, args: Any, out: Any) -> None:
        if isinstance(out, Tensor) and out.grad_fn is not None:
            again.update({name} & seen.keys())
            seen.pop(name, None)
            seen[name] = module, out.detach().to("meta"), out.grad_fn  # its shape, not its memory

    graph_alone = torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda _: None)
    with eval_mode(net), torch.inference_mode(False), torch.enable_grad(), graph_alone:
        hooks = [module.register_forward_hook(partial(hold, name)) for name, module in net.named_modules() if name]
        try:
            leaf = x.clone().requires_grad_()
            output = tensors(net(leaf + 0))  # no leaf: a model may begin with an operation in place
        finally:
            for handle in hooks:
                handle.remove()
    reached, through = _paths([out.grad_fn for out in output if out.grad_fn is not None], leaf)
    last_weights = max((i for i, (module, *_) in enumerate(seen.values()) if _weighted(module)), default=0)
    scores, good, tokens = {out.shape[1] for out in output if out.ndim > 1}, [], 0
    for i, (name, (module, out, node)) in enumerate(seen.items()):
        if is_map(module, out, x):
            convolves = any(isinstance(inner, _CONVOLUTIONS) for inner in module.modules())
            pools = "Pool" in type(module).__name__ and not convolves
            its_output = out.shape[1] in scores and i >= last_weights  # as the logits of a UNet
            if node in reached and not pools and not its_output and name not in again:
                good.append(Layer(name, out.shape[1], out[0, 0].numel(), convolves, node in through, id(node)))
        elif node in reached and _are_tokens(module, out):
            tokens = len(good)
    best, why = _choose(good)
    if best and tokens > max(i for i, layer in enumerate(good) if layer.node == best.node):
        return good, None, f"Behind {best.name!r} it passes on tokens, and a list of tokens has no spatial map; {_HOW}"
    return good, best, why


def _choose(good: list[Layer]) -> tuple[Layer | None, str]:
    """The last layer that everything passes through, unless a wider and coarser one lies beside that way."""
    last = next((layer for layer in reversed(good) if layer.through), None)
    beside = [x for x in good if last is None or (x.channels > last.channels and x.cells < last.cells)]
    deeper = [x for x in beside if not any(x.inside(y) and x.cells == y.cells for y in beside)]
    best = max(reversed(deeper), key=lambda layer: (layer.channels, -layer.cells)) if deeper else last
    if best is None:
        return None, f"No layer with a spatial map was found on which the output depends; {_HOW}"
    best = min((layer for layer in good if layer.node == best.node), key=lambda layer: layer.name.count("."))
    taken = f"{best.name!r} was taken, the widest and coarsest map; else say layers=..."
    return best, f"No layer passes on all that the output needs (a U-shape, or branches); {taken}" if deeper else ""


def _paths(ends: list[Any], leaf: Tensor) -> tuple[set[Any], set[Any]]:
    """The nodes of the graph above `ends`, and those that every path from the input to the output passes through."""
    order, above, todo = [], {}, [(end, False) for end in ends]
    while todo:
        node, done = todo.pop()
        if done:
            order.append(node)
        elif node not in above:
            above[node] = [parent for parent, _ in node.next_functions if parent is not None]
            todo += [(node, True), *((parent, False) for parent in above[node])]
    from_input, to_end = {}, Counter(ends)  # how many paths there are
    for node in order:
        from_input[node] = (getattr(node, "variable", None) is leaf) + sum(from_input[parent] for parent in above[node])
    for node in reversed(order):
        for parent in above[node]:
            to_end[parent] += to_end[node]
    total = sum(from_input[end] for end in ends)
    return {*order}, {node for node in order if total and from_input[node] * to_end[node] == total}


def tensors(output: Any) -> list[Tensor]:
    """The tensors that a model returned, whatever containers hold them."""
    leaves = tree_leaves(output)
    inner = [tensor for leaf in leaves if is_dataclass(leaf) for tensor in tensors(list(vars(leaf).values()))]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)] + inner


def is_map(module: nn.Module, out: Any, x: Tensor) -> bool:
    """Whether a module gave `(N, C, *spatial)` with more than one cell for the input `x`."""
    alike = isinstance(out, Tensor) and out.is_floating_point() and out.ndim == x.ndim and len(out) == len(x)
    return alike and out[0, 0].numel() > 1 and not _channels_last(module, out)


def _channels_last(module: nn.Module, out: Tensor) -> bool:
    """Whether a layer gives `(N, *spatial, C)`, as Swin's do: it normalises over what should be a spatial axis."""
    norms = [m.normalized_shape for m in module.modules() if isinstance(m, nn.LayerNorm)]
    return out.shape[-1] != out.shape[1] and (out.shape[-1],) in norms


def _are_tokens(module: nn.Module, out: Tensor) -> bool:
    attends = isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("Attention")
    tokens = attends and out.ndim == 3 and out.shape[1] > 1
    return tokens or (out.ndim > 3 and _channels_last(module, out) and out[0, ..., 0].numel() > 1)
