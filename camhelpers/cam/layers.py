"""The layers of a network: by name, by position, as a module, and the last stage that has a spatial map."""

import re

from torch import nn

_POOLED = (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Flatten)


def layer_name(net: nn.Module, layer: str | nn.Module | None = None) -> str:
    """The name of a layer: given by name, as a module of `net`, or None for the last stage with a spatial map.

    >>> from camhelpers.cam.nets import SmallResNet
    >>> layer_name(SmallResNet(classes=2)), layer_name(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1)), "[-1]")
    ('layer4', '1')
    """
    if layer is None:
        return _last_stage(net)
    names = {module: name for name, module in net.named_modules() if name}
    if isinstance(layer, nn.Module):
        if layer not in names:
            raise ValueError(f"The given {type(layer).__name__} is not a layer of this model.")
        return names[layer]
    found = net
    try:
        for part in re.findall(r"[^.\[\]]+", str(layer)):  # "layer4[-1]", as in Python; from the end only in a list
            found = found[int(part)] if part.startswith("-") else found.get_submodule(part)
        return names[found]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        names = list(names.values())
        shown = [name for depth in (0, 1) for name in names if name.count(".") == depth][:40]
        more = f" and {len(names) - 40} deeper ones" if len(names) > 40 else ""
        raise ValueError(f"The model has no layer {str(layer)!r}; it has {', '.join(shown)}{more}.") from None


def stages(net: nn.Module) -> list[str]:
    """The layers worth offering in a menu: the stages up to the last one with a spatial map, early to late."""
    last = _last_stage(net)
    names = _with_convolutions(net, last.rpartition(".")[0])
    names = names[: names.index(last) + 1]
    return names if len(names) > 2 else [*_with_convolutions(net, last), last]  # a trunk in one Sequential: look inside


def _with_convolutions(net: nn.Module, parent: str) -> list[str]:
    children = net.get_submodule(parent).named_children()
    found = [name for name, child in children if _convolves(child) and not name.lower().startswith("aux")]
    return [f"{parent}.{name}" if parent else name for name in found]


def _last_stage(net: nn.Module, prefix: str = "") -> str:
    """Walk down the trunk: the last child with a convolution that is no head and holds no global pooling."""
    told = getattr(net, "feature_info", None)  # networks of timm list the ends of their stages themselves
    if isinstance(told, list) and told and _convolves(net.get_submodule(told[-1]["module"])):
        return told[-1]["module"]
    children = list(net.named_children())
    convolving = [(name, child) for name, child in children if _convolves(child)]
    trunk = [c for c in convolving if not c[0].lower().startswith(("aux", "classifier")) and not _is_head(c[1])]
    if not trunk:  # a whole classifier wrapped in one module: look inside
        trunk = convolving[-1:]
        if trunk and any(True for _ in trunk[0][1].children()):
            return _last_stage(trunk[0][1], f"{prefix}{trunk[0][0]}.")
    if not trunk:
        raise ValueError("No layer with a spatial map was found; name one with layers=..., from named_modules().")
    name, child = trunk[-1]
    behind = [module for _, later in children[children.index(trunk[-1]) + 1 :] for module in later.modules()]
    if any("Attention" in type(module).__name__ for module in behind):
        why = f"Behind {prefix + name!r} this network passes on tokens, and a list of tokens has no spatial map"
        raise ValueError(f"{why}; name a layer that has one with layers=..., from named_modules().")
    pooled = any(isinstance(module, _POOLED) for module in child.children())
    holder = isinstance(child, (nn.ModuleList, nn.ModuleDict))  # runs its children, gives no map of its own
    return _last_stage(child, f"{prefix}{name}.") if pooled or holder else prefix + name


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for m in module.modules())


def _is_head(module: nn.Module) -> bool:
    """Whether a module ends in scores rather than in a map."""
    leaves = [m for m in module.modules() if not list(m.children())]
    while leaves and isinstance(leaves[-1], (nn.Dropout, nn.Softmax, nn.Sigmoid)):
        leaves.pop()
    return isinstance(leaves[-1], (nn.Linear, *_POOLED))
