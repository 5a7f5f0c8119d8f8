"""Every refusal of the engine: the call, the kind of error, and what its one sentence says."""

from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn

from camhelpers import Card, capture, explain, layer_name, load_model, predict, register, save_model
from camhelpers.cam.capture import resolve_target
from camhelpers.cam.gradients import noisy_gradients
from camhelpers.cam.methods import variants
from camhelpers.cam.nets import SmallResNet

X, PICTURE, CUBE = torch.zeros(2, 3, 64, 64), np.zeros((9, 9, 3)), np.zeros((16, 32, 32))
BARE = SmallResNet(3, widths=(4, 4, 4, 4))
SPEC = {"architecture": "resnet18", "classes": 3}
V, T = ValueError, TypeError


class Outputs(nn.Module):
    """Returns what `shape` makes of a map, and leaves one layer out."""

    def __init__(self, shape):
        super().__init__()
        self.conv, self.unused, self.shape = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), shape

    def forward(self, x):
        return self.shape(self.conv(x))


class Code:
    """What a malicious checkpoint does: runs a function while it is read."""

    def __reduce__(self):
        return Path.touch, (Path("pickled-code-ran"),)


def stored(content: object, name: str = "bad.pt", **spec: object) -> nn.Module:
    """The model loaded from a file with this content."""
    Path(name).write_bytes(content) if isinstance(content, bytes) else torch.save(content, name)
    return load_model(name, **spec)


def cut() -> nn.Module:
    """The model loaded from an interrupted copy."""
    torch.save(BARE.state_dict(), "whole.pt")
    return stored(Path("whole.pt").read_bytes()[:-200], **SPEC)


def scripted() -> nn.Module:
    """The model loaded from TorchScript."""
    torch.jit.trace(nn.Flatten(), X).save("bad.pt")
    return load_model("bad.pt", **SPEC)


def carded(text: str) -> nn.Module:
    """The model loaded from weights beside a card with this text."""
    Path("bad.json").write_text(text)
    return stored(BARE.state_dict())


def exchanged() -> nn.Module:
    """The model loaded from weights beside the card of others."""
    save_model(BARE, Card("bare", ("a",) * 3, "small_resnet"), "one")
    save_model(nn.Flatten(), Card("bare", ("a",) * 3, "small_resnet"), "two")
    Path("one.safetensors").replace("two.safetensors")
    return load_model("two.safetensors")


def poisoned(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        module.weight[0, 0] = float("nan")


def score(net: nn.Module, target: object) -> dict[str, torch.Tensor]:
    return capture(net.eval(), X, "conv" if isinstance(net, Outputs) else None).gradients(target)


DETACHED = Outputs(lambda a: a.detach().mean((2, 3)))


# fmt: off
REFUSALS = [
    (lambda n: capture(n, X, "layer5"), V, "no layer 'layer5'; it consists of stem, layer1, layer2,"),
    (lambda n: capture(n, X, 4), V, "no layer '4'; it consists of stem, layer1"),
    (lambda n: capture(n, X, nn.ReLU()), V, "no layer 'ReLU'; it consists of"),
    (lambda n: capture(n, X, []), V, "layers is empty; name at least one"),
    (lambda n: capture(n, X, "fc"), V, r"'fc' gives \(2, 3\) of torch.float32, no spatial map .*another"),
    (lambda n: capture(Outputs(lambda a: a), X, "unused"), V, "never reached layer 'unused'; name one"),
    (lambda n: layer_name(nn.Sequential(nn.Flatten(1))), V, "No layer with a spatial map was found"),
    (lambda n: capture(n, X[:, :1]), V, r"take an input \(2, 1, 64, 64\) of torch.float32: .* to have 3 channels"),
    (lambda n: capture(n, X.double()), V, r"does not take an input .* of torch.float64: expected"),
    (lambda n: capture(n, X.byte()), T, r"takes a dense floating-point tensor \(N, C, \*spatial\)"),
    (lambda n: capture(n, X.to_sparse()), T, "takes a dense floating-point tensor"),
    (lambda n: capture(n.to("meta"), X), V, "lies on the device 'meta' and has no values"),
    (lambda n: capture(torch.jit.trace(n, X), X), V, "TorchScript module hides its layers; give"),
    (lambda n: capture(n, X[:, :, :0]), V, r"input \(2, 3, 0, 64\) is empty, or"),
    (lambda n: capture(n.requires_grad_(False).apply(poisoned), X), V, "output holds NaN; look at its weights"),
    (lambda n: capture(n, X / 0), V, "NaN or infinite values; clean it"),
    (lambda n: score(n, 3), V, "Class 3 is out of range; .* classes 0 to 2"),
    (lambda n: score(n, [0]), V, "1 targets for a batch of 2; give one, or one for"),
    (lambda n: score(n, True), T, "target must be None, a class"),
    (lambda n: score(n, lambda out: out), T, "must return one number, as a tensor"),
    (lambda n: score(n, lambda out: torch.tensor(1.0)), V, "depends neither on a captured layer nor on the input"),
    (lambda n: score(DETACHED, 0), V, "does the model detach its features"),
    (lambda n: score(Outputs(lambda a: {"out": a}), 0), T, "returns a dict, not logits .*; pass target="),
    (lambda n: score(Outputs(lambda a: a), 0), T, r"returns \(2, 4, 64, 64\), not logits \(N, classes\); pass"),
    (lambda n: explain(n, PICTURE).heatmap(target="cow"), V, "no class 'cow'; it knows cat"),
    (lambda n: resolve_target("cow", ()), V, "no class 'cow'; it knows no names of classes"),
    (lambda n: resolve_target("crane", ("crane", "dog", "crane")), V, "Classes 0, 2 are all called 'crane'; give"),
    (lambda n: explain(n, "nowhere.png"), FileNotFoundError, "nowhere.png is no file"),
    (lambda n: explain(n, np.full((9, 9, 3), 200.0)), V, "floats in 0..1, such as pixels / 255"),
    (lambda n: explain(BARE, PICTURE), T, "no card .* load_model"),
    (lambda n: explain(n.deep, CUBE, size="full"), V, "size is 'full'; it is 'model'"),
    (lambda n: explain(n.deep, [CUBE]).volume, V, "not read as one volume"),
    (lambda n: explain(n.deep, CUBE).overlay(), V, "This input is no picture; draw its slices"),
    (lambda n: predict(BARE, [PICTURE]), T, "no card .* load_model"),
    (lambda n: explain(n, PICTURE).heatmap("smothgrad"), V, "no method 'smothgrad'; choose one of gradcam,.*vargrad"),
    (lambda n: explain(load_model(SmallResNet(10**6, widths=(4,) * 4)), np.zeros((1500, 2000, 3))).heatmaps(),
     V, "maps of 1000000 classes take 24000 GB, more than is free; name fewer"),
    (lambda n: register("gradcam")(lambda A, G: A), V, "'gradcam' is the name of a built-in method; register"),
    (lambda n: explain(n, PICTURE).blank(alfa=1), T, "unexpected keyword argument 'alfa'"),
    (lambda n: explain(n, PICTURE).heatmap("hybrid", alpha=1.1), V, "alpha is 1.1; it lies between"),
    (lambda n: explain(n, PICTURE).heatmap(size="full"), V, "size is 'full'; it is 'input'"),
    (lambda n: explain(n, PICTURE).heatmap(place="true"), V, "place is 'true', one of .'grid', 'geom"),
    (lambda n: explain(n, PICTURE).heatmap(smooth="x"), V, "smooth 'x', None or 'mirror'"),
    (lambda n: explain(n, PICTURE).geometry("layer2"), V, "not captured, only layer4; ask for"),
    (lambda n: explain(n, PICTURE).heatmap(layer="layer2"), V, "not captured, only layer4; ask for"),
    (lambda n: explain(n, PICTURE).heatmap("vargrad", samples=1), V, "take 2 samples or more"),
    (lambda n: noisy_gradients(n, X, [0, 0], spread=0), V, "a spread above 0"),
    (lambda n: variants(["hybrid"], []), V, "no method to examine; name some of gradcam"),
    (lambda n: Card("x", mean=(0.5,), std=(0,)), V, "one positive number for each channel"),
    (lambda n: Card("x", size="32, 0"), V, "size.1 is '0': Input should be greater than 0"),
    (lambda n: Card("x", interpolation="area"), V, "interpolation is 'area': Input should be 'bilinear' or 'bicubic'"),
    (lambda n: load_model(BARE, card="fit=stretch"), V, "fit is 'stretch': Input should be 'squash' or 'crop'"),
    (lambda n: load_model(BARE, card="size 32"), V, "The card 'size 32' cannot be read; write 'classes=10; size=32"),
    (lambda n: load_model(BARE, architecture=nn.Flatten), V, "architecture is <class .*>: Input should be a valid str"),
    (lambda n: Card("x", size=(8, 8, 8)).prepare(PICTURE), V, "takes inputs with 3 axes, not pictures; pass a tensor"),
    (lambda n: Card("x").prepare_volume(CUBE), V, "no grey volumes, whose card has three numbers"),
    (lambda n: explain(load_model(SmallResNet(2), classes=3), PICTURE), V, "names 3 classes, but .* has 2 outputs"),
    (lambda n: load_model("tinny"), V, "no model 'tinny'; give a shipped one .*scenes.*, one of torchvision"),
    (lambda n: load_model("none.pt", **SPEC), FileNotFoundError, r"There is no checkpoint 'none\.pt'"),
    (lambda n: stored({"weight": Code()}, **SPEC), V, "was refused: it is damaged, or holds more than weights"),
    (lambda n: stored(b"x" * 100, "bad.safetensors", **SPEC), V, "was refused: it is damaged"),
    (lambda n: stored(b"x" * 100, **SPEC), V, "was refused: it is damaged"),
    (lambda n: cut(), V, "was refused: it is damaged"),
    (lambda n: scripted(), V, "was refused: .*TorchScript.; save model.state_dict"),
    (lambda n: stored(BARE, **SPEC), V, "was refused: it is damaged, or holds more than weights"),
    (lambda n: carded("[]"), V, r"bad\.json is no card of a model: "),
    (lambda n: carded('{"name": "x", "fit": "x"}'), V, r"bad\.json is no card of a model: fit is 'x'"),
    (lambda n: carded("{"), V, r"bad\.json is no card of a model: "),
    (lambda n: stored({"epoch": 3}, **SPEC), V, r"holds no state dict; save model.state_dict\(\)"),
    (lambda n: stored(BARE.state_dict()), V, "holds weights only; say architecture='resnet18'"),
    (lambda n: stored(BARE.state_dict(), **SPEC), V, "does not fit resnet18 with 3 classes: "),
    (lambda n: stored(BARE.state_dict(), architecture=lambda: SmallResNet(3)), V, "not fit the given network with its"),
    (lambda n: stored(BARE.state_dict(), architecture="nets:no", classes=2), V, "'nets:no' cannot be built"),
    (lambda n: load_model("scenes", classes=4), V, "does not fit small_resnet with 4 classes"),
    (lambda n: exchanged(), V, r"two\.safetensors is not the file that two\.json describes: its checksum differs"),
    (lambda n: load_model("resnet50"), FileNotFoundError,
     r"weights of resnet50 are neither cached nor reachable .*no route.*; download https://.*\.pth"),
    (lambda n: load_model("timm:nope"), FileNotFoundError, r"timm does not give 'nope': Unknown model \(nope\); pretr"),
    (lambda n: load_model("timm:resnet18"), FileNotFoundError, "not give 'resnet18': .*must be cached or reachable"),
]
# fmt: on


@pytest.mark.parametrize(("call", "kind", "words"), REFUSALS, ids=[words[:40] for *_, words in REFUSALS])
def test_one_clear_sentence_says_what_was_wrong(tiny_net, tmp_path, monkeypatch, call, kind, words):
    def offline(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    net = tiny_net()
    net.__dict__["deep"] = tiny_net(3)  # beside the modules, for the calls that need a network of volumes
    with pytest.raises(kind, match=words) as caught:
        call(net)
    assert "\n" not in str(caught.value) and (str(caught.value)[-1] in ".?" or "got" in str(caught.value))
    assert not Path("pickled-code-ran").exists()
