"""Models and their cards: loading, preprocessing, and the choice of a layer."""

import hashlib
import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files import ROOT, atomic, sha256, write_text
from .nets import SmallResNet

_declared: list[torch.library.Library] = []  # a Library undoes its definitions when it is collected


def import_torchvision() -> ModuleType:
    """Return torchvision, after declaring the operators that it misses; a healthy torchvision is left alone."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed; run `pip install -r requirements.txt`.")
    for library in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            break
    missing = [name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name)]
    if missing:
        _declared.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in missing:
            _declared[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


MODELS = ROOT / "data" / "models"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as Pillow and OpenCV turn colour into grey


@dataclass(frozen=True)
class Card:
    """What one must know to feed a model and to read its answer."""

    name: str
    classes: tuple[str, ...] = ()
    architecture: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, ...] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    fit: Literal["squash", "crop"] = "squash"
    resize: int | None = None
    interpolation: str = "bilinear"
    orientation: Literal["LPS", "RAS", "stored"] = "LPS"
    """How a model of volumes wants a NIfTI turned: the directions of x, y and z, or as it is stored."""
    training: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        for name in ("classes", "size", "mean", "std"):  # JSON has lists only
            value = getattr(self, name)
            if isinstance(value, (str, int, float)):
                raise ValueError(f"{name} is {value!r}; give a list, one entry for each axis, channel or class.")
            object.__setattr__(self, name, tuple(value))
        if len(self.size) == 3 and self.mean == IMAGENET_MEAN:  # a grey volume, whose values in 0..1 stay unless stated
            object.__setattr__(self, "mean", (0.0,))
            object.__setattr__(self, "std", (1.0,))
        if len(self.mean) != len(self.std) or any(s <= 0 for s in self.std):
            raise ValueError(f"mean {self.mean} and std {self.std} must have one positive deviation for each channel.")

    def prepare(self, picture: np.ndarray) -> Tensor:
        """Turn a picture `(H, W, 3)` in 0..1 into what the model takes, `(C, *size)`."""
        x = torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32)).permute(2, 0, 1)[None]
        if len(self.size) != 2:
            raise ValueError(f"{self.name!r} takes inputs with {len(self.size)} axes, not pictures; pass a tensor.")
        if len(self.mean) == 1:
            x = (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        height, width = x.shape[2:]
        before = self.size if self.fit == "squash" else self._resized(height, width)
        if (height, width) != before:
            x = F.interpolate(x, before, mode=self.interpolation, align_corners=False, antialias=True).clamp(0, 1)
        if self.fit == "crop":
            top, left = (round((b - s) / 2) for b, s in zip(before, self.size, strict=True))
            x = x[:, :, top : top + self.size[0], left : left + self.size[1]]
        return self.normalise(x)[0]

    def prepare_volume(self, volume: np.ndarray, size: Literal["model", "native"] = "model") -> Tensor:
        """Turn a volume `(Z, Y, X)` in 0..1 into what the model takes, `(1, *size)`; "native" leaves its size alone.

        An axis that shrinks is averaged, so that nothing is skipped; one that grows is interpolated.
        """
        if len(self.size) != 3 or len(self.mean) != 1:
            raise ValueError(
                f"{self.name!r} takes pictures or colours by its card, not grey volumes; a card for those has three "
                "numbers in size and one in mean and std: load_model(net, size=(64, 96, 96), mean=(0.5,), std=(0.25,))."
            )
        x = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
        if size == "model" and tuple(x.shape[2:]) != self.size:
            x = F.adaptive_avg_pool3d(x, [min(n, s) for n, s in zip(x.shape[2:], self.size, strict=True)])
            x = F.interpolate(x, self.size, mode="trilinear", align_corners=False)
        return self.normalise(x)[0]

    def view(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The box (top, left, height, width) of a picture of that size that the model sees."""
        if self.fit == "squash":
            return 0, 0, height, width
        before = self._resized(height, width)
        top, left = (
            round(round((b - s) / 2) * n / b) for b, s, n in zip(before, self.size, (height, width), strict=True)
        )
        h, w = (max(1, round(s * n / b)) for b, s, n in zip(before, self.size, (height, width), strict=True))
        return top, left, min(h, height - top), min(w, width - left)  # rounding may not leave a picture of few pixels

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """The size before the centre crop: the shorter side becomes `resize`, as torchvision does it."""
        side = max(self.resize or 0, *self.size)
        short = min(height, width)
        return int(side * height / short), int(side * width / short)

    def normalise(self, x: Tensor) -> Tensor:
        """Subtract the mean and divide by the deviation of each channel of `(N, C, *spatial)`."""
        mean, std = self._statistics(x)
        return (x - mean) / std

    def display(self, x: Tensor) -> Tensor:
        """Undo `normalise`, clipped to 0..1."""
        mean, std = self._statistics(x)
        return (x * std + mean).clamp(0, 1)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x.new_tensor(self.mean).view(shape), x.new_tensor(self.std).view(shape)


def load_model(
    spec: str | Path | nn.Module = "scenes",
    *,
    architecture: str | Callable[[], nn.Module] | None = None,
    classes: int | Sequence[str] | None = None,
    **card: Any,
) -> nn.Module:
    """Return an ordinary network in eval mode that carries a `card`.

    `spec` is the name of a shipped model (`"scenes"`), a torchvision name (`"resnet50"`: its pretrained weights, where
    they are cached or reachable), a checkpoint (`.pt`, `.pth` with a state dict, or `.safetensors`) with `architecture`
    and `classes` (a count, or names), or a network of your own, which then gets a card and is otherwise left alone.
    `architecture` is a torchvision name, `"module:name"` in code of your own, or a callable that builds the network.
    Further keywords set the card: `size`, `mean`, `std`, `fit` ("squash" or "crop"). Unless given, they are ImageNet's.

    >>> load_model("scenes").card.name
    'scenes'
    """
    names = _class_names(classes)
    unknown = set(card) - {f.name for f in fields(Card)}
    if unknown:
        raise ValueError(
            f"A card has no {', '.join(sorted(unknown))}; it has {', '.join(f.name for f in fields(Card))}."
        )
    with torch.inference_mode(False):  # tensors born in inference mode could never be explained
        if isinstance(spec, nn.Module):
            spec.card = replace(
                getattr(spec, "card", Card(type(spec).__name__)), **card, **({"classes": names} if names else {})
            )
            return spec
        path = Path(spec)
        if (MODELS / f"{spec}.json").is_file():
            net = _load_file(MODELS / f"{spec}.safetensors", architecture, names, card)
        elif path.suffix in (".pt", ".pth", ".safetensors"):
            net = _load_file(path, architecture, names, card)
        else:
            net = _load_torchvision(str(spec), card)
            if architecture or len(names) not in (0, len(net.card.classes)):
                raise ValueError(
                    f"The pretrained {spec} has an architecture and {len(net.card.classes)} classes of its own; leave "
                    "architecture and classes out, or give a checkpoint file."
                )
            net.card = replace(net.card, classes=names or net.card.classes)
    return net.eval()


def save_model(net: nn.Module, card: Card, path: str | Path) -> Card:
    """Write weights as safetensors and the card as JSON beside them; return the card with the checksum filled in."""
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":  # appended, since the dot of "net_v1.2" begins no suffix
        path = path.with_name(path.name + ".safetensors")
    with atomic(path) as temporary:
        temporary.write_bytes(save({name: t.detach().cpu().contiguous() for name, t in net.state_dict().items()}))
    card = replace(card, sha256=sha256(path))
    write_text(path.with_suffix(".json"), json.dumps(asdict(card), indent=1) + "\n")
    return card


def model_hash(net: nn.Module) -> str:
    """Twelve hexadecimal digits that change when any weight does."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def layer_name(net: nn.Module, layer: str | nn.Module | None = None) -> str:
    """The name of a layer: given by name, as a module of `net`, or None for the last stage with a spatial map.

    >>> layer_name(SmallResNet(classes=2))
    'layer4'
    """
    if layer is None:
        return _last_stage(net)
    modules = {name: module for name, module in net.named_modules() if name}
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer:
                return name
        raise ValueError(f"The given {type(layer).__name__} is not a layer of this model.")
    name = re.sub(r"\[(-?\d+)\]", lambda m: f".{m[1]}", str(layer)).removeprefix(".")  # "layer4[-1]", as in Python
    for match in re.findall(r"(?:^|(?<=\.))-\d+", name):  # count from the end, where the module is a list
        before, _, after = name.partition(match)
        holder = net if not before else modules.get(before[:-1])
        inside = [n for n, _ in holder.named_children()] if isinstance(holder, (nn.Sequential, nn.ModuleList)) else []
        name = before + (inside[int(match)] if -int(match) <= len(inside) else match) + after
    if name not in modules:
        shown = [n for n in modules if n.count(".") == 0] + [n for n in modules if n.count(".") == 1]
        more = f" and {len(modules) - 40} deeper ones" if len(modules) > 40 else ""
        raise ValueError(f"The model has no layer {str(layer)!r}; it has {', '.join(shown[:40])}{more}.")
    return name


def stages(net: nn.Module) -> list[str]:
    """The layers worth offering in a menu: the stages up to the last one with a spatial map, early to late."""
    last = _last_stage(net)
    parent = last.rpartition(".")[0]
    names = _trunk_names(net, parent)
    names = names[: names.index(last) + 1]
    return names if len(names) > 2 else [*_trunk_names(net, last), last]  # a trunk in one Sequential: look inside


def _trunk_names(net: nn.Module, parent: str) -> list[str]:
    prefix = f"{parent}." if parent else ""
    children = (net.get_submodule(parent) if parent else net).named_children()
    return [prefix + name for name, child in children if _has_convolution(child) and not name.lower().startswith("aux")]


def _last_stage(net: nn.Module, prefix: str = "") -> str:
    """Walk down the trunk: the last child with a convolution that is no head and holds no global pooling."""
    trunk = [
        (name, child)
        for name, child in net.named_children()
        if _has_convolution(child) and not name.lower().startswith(("aux", "classifier")) and not _is_head(child)
    ]
    if not trunk:  # a whole classifier wrapped in one module: look inside
        trunk = [(name, child) for name, child in net.named_children() if _has_convolution(child)][-1:]
        if trunk and any(True for _ in trunk[0][1].children()):
            return _last_stage(trunk[0][1], f"{prefix}{trunk[0][0]}.")
    if not trunk:
        raise ValueError(
            "No layer with a spatial map was found; name one with layers=..., a name from named_modules()."
        )
    name, child = trunk[-1]
    children = list(net.children())
    behind = [m for later in children[children.index(child) + 1 :] for m in later.modules()]
    if any("Attention" in type(m).__name__ for m in behind):
        raise ValueError(
            f"Behind {prefix + name!r} this network passes on tokens, and a list of tokens has no spatial map; "
            "name a layer that has one with layers=..., a name from named_modules()."
        )
    pooled = any(isinstance(m, (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Flatten)) for m in child.children())
    holder = isinstance(child, (nn.ModuleList, nn.ModuleDict))  # runs its children, gives no map of its own
    return _last_stage(child, f"{prefix}{name}.") if pooled or holder else prefix + name


def _has_convolution(module: nn.Module) -> bool:
    return any(isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for m in module.modules())


def _is_head(module: nn.Module) -> bool:
    """Whether a module ends in scores rather than in a map."""
    leaves = [m for m in module.modules() if not list(m.children())]
    while leaves and isinstance(leaves[-1], (nn.Dropout, nn.Softmax, nn.Sigmoid)):
        leaves.pop()
    return isinstance(leaves[-1], (nn.Linear, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Flatten))


def _class_names(classes: int | Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(classes, str):
        raise ValueError(f"classes={classes!r} is one word; give a count, or a list of names.")
    if isinstance(classes, Integral):
        if classes < 1:
            raise ValueError(f"classes={classes}: a model has at least one class.")
        return tuple(f"class {i}" for i in range(classes))
    return tuple(classes or ())


def _load_file(
    path: Path, architecture: str | Callable[[], nn.Module] | None, names: tuple[str, ...], card: dict
) -> nn.Module:
    state = _read_state(path)
    beside = path.with_suffix(".json")
    known = Card(**json.loads(beside.read_text(encoding="utf-8"))) if beside.is_file() else None
    if known and known.sha256 and known.sha256 != sha256(path):
        raise ValueError(f"{path.name} is not the file that {beside.name} describes: its checksum differs.")
    named = known.architecture if known else ""
    if known and architecture is None and (not named or ":" in named):  # a file may not choose which code is run
        what = f"is built by {named!r}, code of your own" if named else "does not say how its network is built"
        raise ValueError(f"{path.name} {what}; say architecture={named or 'module:name'!r} as well.")
    if known and architecture is None:
        known = replace(known, **card, **({"classes": names} if names else {}))
        net = _build(known.architecture, len(known.classes), known.arguments)
    elif architecture is None:
        raise ValueError(
            f"{path.name} holds weights only; say architecture='resnet18' (or another) and classes=... as well."
        )
    else:
        names = names or (known.classes if known else ())
        if not names and isinstance(architecture, str):
            raise ValueError(f"{path.name} holds weights only; say classes=... (a count, or a list of names) as well.")
        named = architecture if isinstance(architecture, str) else "the given network"
        described = replace(known, architecture=named, classes=names) if known else Card(path.stem, names, named)
        known = replace(described, **card)
        net = _build(architecture, len(names), {})
    _fit(net, state, path.name, known)
    net.card = known
    return net


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each raise their own
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise ValueError(
                f"{path.name} holds more than weights (pickled code) and was refused; save model.state_dict() instead."
            ) from None
        raise ValueError(f"{path.name} is not a readable checkpoint.") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path.name} holds no state dict; save model.state_dict().")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _build(architecture: str | Callable[[], nn.Module], classes: int, arguments: dict) -> nn.Module:
    if callable(architecture):
        return architecture()
    if architecture == "small_resnet":
        return SmallResNet(**{**arguments, "classes": classes})
    if ":" in architecture:  # a class or function of the user's own code
        module, _, name = architecture.partition(":")
        try:
            return getattr(importlib.import_module(module), name)()
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{architecture!r} cannot be built ({error}); give module:name of something that is called without "
                "arguments and returns the network."
            ) from error
    models = _torchvision_models(architecture)
    extra = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    return models.get_model(architecture, weights=None, num_classes=classes, **extra)


def _fit(net: nn.Module, state: dict[str, Tensor], file: str, card: Card) -> None:
    own = net.state_dict()
    wrong = [
        f"{n} is {tuple(state[n].shape)}, not {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    missing, extra = [n for n in own if n not in state], [n for n in state if n not in own]
    if wrong or missing or extra:
        parts = [
            f"{len(items)} {what} ({', '.join(items[:3])}{', ...' if len(items) > 3 else ''})"
            for what, items in (
                ("shapes differ", wrong),
                ("weights are missing", missing),
                ("weights are unknown", extra),
            )
            if items
        ]
        classes = f" with {len(card.classes)} classes" if card.classes else ""
        raise ValueError(f"{file} does not fit {card.architecture}{classes}: {'; '.join(parts)}.")
    net.load_state_dict(state)


def _torchvision_models(name: str) -> Any:
    models = import_torchvision().models
    offered = models.list_models(module=models) + models.list_models(module=models.video)
    if name not in offered:
        shipped = sorted(p.stem for p in MODELS.glob("*.json"))
        raise ValueError(
            f"There is no model {name!r}; give a shipped one ({', '.join(shipped)}), a classifier of torchvision "
            f"(resnet50, densenet121, ...), or a checkpoint file (.pt, .safetensors)."
        )
    return models


def _load_torchvision(name: str, card: dict) -> nn.Module:
    models = _torchvision_models(name)
    weights = models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:  # URLError, timeouts and refused connections
        raise FileNotFoundError(
            f"The pretrained weights of {name} are neither cached nor reachable ({error}); download {weights.url} on a "
            f"connected machine and put it at {cached.name!r} in torch.hub's folder 'checkpoints'."
        ) from None
    # what torchvision's own builders set beside pretrained weights
    extra = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = models.get_model(name, weights=None, num_classes=len(weights.meta["categories"]), **extra)
    net.load_state_dict(state)
    preset = weights.transforms()
    size = preset.crop_size * 2 if len(preset.crop_size) == 1 else preset.crop_size
    defaults = Card(
        name=name,
        classes=weights.meta["categories"],
        architecture=name,
        size=size,
        mean=preset.mean,
        std=preset.std,
        fit="crop",
        resize=preset.resize_size[0],
        interpolation=preset.interpolation.value,
        training={"weights": str(weights), "url": weights.url, **weights.meta.get("_metrics", {})},
    )
    net.card = replace(defaults, **card)
    return net
