"""Cards, checkpoints and the choice of a layer."""

import json
from dataclasses import asdict
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import camhelpers as ch
from camhelpers.cam import models
from camhelpers.cam.models import Card, import_torchvision, layer_name, load_model, model_hash, save_model, stages
from camhelpers.cam.nets import SmallResNet

torchvision = import_torchvision()

SMALL = {"classes": 3, "widths": (4, 6, 8, 10)}


def small(seed: int = 0) -> SmallResNet:
    torch.manual_seed(seed)
    return SmallResNet(**SMALL).eval()


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in a)


# preprocessing ---------------------------------------------------------------------------------------------------


def smooth(height: int, width: int) -> np.ndarray:
    """A picture well inside 0..1, where bicubic interpolation cannot overshoot."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([0.5 + 0.3 * np.sin(5 * x), 0.3 + 0.4 * y, 0.5 + 0.2 * np.cos(4 * x * y)], -1).astype(np.float32)


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (224, 224), (97, 333), (1000, 251)])
@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "inception_v3", "regnet_y_400mf"])
def test_prepare_equals_torchvisions_own_preset(name, size):
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    card = Card(
        name,
        size=preset.crop_size * 2,
        resize=preset.resize_size[0],
        mean=preset.mean,
        std=preset.std,
        fit="crop",
        interpolation=preset.interpolation.value,
    )
    picture = smooth(*size)
    expected = preset(torch.from_numpy(picture).permute(2, 0, 1))
    torch.testing.assert_close(card.prepare(picture), expected, atol=1e-5, rtol=0)


def test_squash_keeps_the_whole_picture_and_antialiases():
    card = Card("x", size=(8, 8), mean=(0,) * 3, std=(1,) * 3)
    stripes = np.zeros((64, 32, 3), np.float32)
    stripes[::2] = 1
    assert torch.allclose(card.prepare(stripes)[:, 1:-1], torch.tensor(0.5), atol=0.02)
    assert card.view(64, 32) == (0, 0, 64, 32)


def test_normalise_and_display_undo_each_other():
    card = Card("x")
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(card.display(card.normalise(x)), x, atol=1e-6)
    assert card.display(torch.full((1, 3, 2, 2), 50.0)).max() == 1
    volume = Card("v", size=(4, 4, 4), mean=(0.5,), std=(0.5,))
    assert volume.normalise(torch.ones(1, 1, 2, 3, 4)).unique().tolist() == [1]


def test_a_card_of_one_channel_takes_luma():
    card = Card("grey", size=(4, 4), mean=(0,), std=(1,))
    picture = np.zeros((4, 4, 3), np.float32)
    picture[..., 1] = 1
    assert torch.allclose(card.prepare(picture), torch.full((1, 4, 4), 0.587))


def test_view_is_what_the_crop_shows():
    card = Card("x", size=(100, 100), fit="crop", resize=128, mean=(0,) * 3, std=(1,) * 3)
    assert card.view(256, 512) == (28, 156, 200, 200)  # half the size: 128 x 256, minus 14 and 78 a side
    y, x = np.mgrid[0:256, 0:512].astype(np.float32)
    picture = np.stack([y / 256, x / 512, 0 * x], -1)
    seen = card.prepare(picture)
    top, left, height, width = card.view(256, 512)
    found = [seen[0].min() * 256, seen[1].min() * 512, seen[0].max() * 256, seen[1].max() * 512]
    assert [float(v) for v in found] == pytest.approx([top, left, top + height, left + width], abs=2)


@given(st.integers(2, 600), st.integers(2, 600), st.integers(8, 300), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_view_lies_inside_the_picture(height, width, size, margin):
    card = Card("x", size=(size, size), fit="crop", resize=size + margin)
    top, left, h, w = card.view(height, width)
    assert 0 <= top < top + h <= height and 0 <= left < left + w <= width


def test_a_card_checks_its_statistics():
    with pytest.raises(ValueError, match="must have one positive deviation for each channel"):
        Card("x", mean=(0.5,), std=(0.2, 0.2))
    with pytest.raises(ValueError, match="one positive deviation"):
        Card("x", mean=(0.5,), std=(0,))
    with pytest.raises(ValueError, match="takes inputs with 3 axes, not pictures; pass a tensor"):
        Card("x", size=(8, 8, 8)).prepare(smooth(8, 8))


# layers ----------------------------------------------------------------------------------------------------------

FAMILIES = {
    "alexnet": "features",
    "convnext_tiny": "features",
    "densenet121": "features",
    "efficientnet_b0": "features",
    "efficientnet_v2_s": "features",
    "googlenet": "inception5b",
    "inception_v3": "Mixed_7c",
    "maxvit_t": "blocks.3",
    "mnasnet0_5": "layers",
    "mobilenet_v2": "features",
    "mobilenet_v3_small": "features",
    "regnet_x_400mf": "trunk_output",
    "regnet_y_400mf": "trunk_output",
    "resnet18": "layer4",
    "resnext50_32x4d": "layer4",
    "shufflenet_v2_x0_5": "conv5",
    "squeezenet1_1": "features",
    "vgg11_bn": "features",
    "wide_resnet50_2": "layer4",
    # clips
    "r3d_18": "layer4",
    "mc3_18": "layer4",
    "s3d": "features",
}


def family(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    slow = name in ("googlenet", "inception_v3", "vgg11_bn")  # their own initialisation takes seconds
    extra = {"init_weights": False} if slow else {}
    net = torchvision.models.get_model(name, weights=None, num_classes=4, **extra).eval()
    if name in ("r3d_18", "mc3_18", "s3d"):
        return net, torch.rand(1, 3, 16, *((224, 224) if name == "s3d" else (64, 64)))
    side = {"maxvit_t": 224}.get(name, 128)
    return net, torch.rand(1, 3, side, side)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def test_every_family_of_torchvision_has_an_automatic_layer_with_a_map(name):
    net, x = family(name)
    assert layer_name(net) == FAMILIES[name]
    offered = stages(net)
    assert offered[-1] == FAMILIES[name] and len(offered) > 2
    chosen = [offered[0], offered[len(offered) // 2], offered[-1]]
    held = ch.capture(net, x, chosen)
    assert held.layers == chosen  # early to late
    map_ = held.A[chosen[-1]]
    assert map_.ndim == x.ndim and map_.shape[1] >= 100 and map_.shape[-1] == map_.shape[-2] > 1
    assert held.gradients()[chosen[-1]].abs().max() > 0


def test_stages_of_a_small_network():
    assert stages(small()) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert stages(SmallResNet(2, dims=3)) == ["stem", "layer1", "layer2", "layer3", "layer4"]


def test_the_automatic_layer_of_ones_own_network():
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    assert layer_name(flat) == "2"
    wrapped = nn.Sequential(small())  # a classifier inside a module
    assert layer_name(wrapped) == "0.layer4"
    with_pool = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), nn.Flatten(), nn.Linear(4, 2))
    assert layer_name(with_pool) == "0.0"


@pytest.mark.parametrize(("name", "layer"), [("vit_b_16", "encoder.layers.encoder_layer_0"), ("swin_t", "features.7")])
def test_tokens_are_no_map(name, layer):
    extra = {"num_layers": 1, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 8} if name == "vit_b_16" else {}
    make = torchvision.models.VisionTransformer if extra else torchvision.models.swin_t
    net = make(image_size=32, patch_size=16, **extra) if extra else make(weights=None, num_classes=2)
    with pytest.raises(ValueError, match="passes on tokens, and a list of tokens has no spatial map; name a layer"):
        layer_name(net)
    with pytest.raises(ValueError, match="has no spatial map"):
        ch.capture(net.eval(), torch.rand(1, 3, 32 if extra else 64, 32 if extra else 64), layer)


def test_a_layer_by_name_by_position_and_as_a_module():
    net = torchvision.models.resnet18(num_classes=2)
    for layer in ("layer4.1", "layer4[1]", "layer4[-1]", "layer4.-1", net.layer4[-1], net.layer4[1]):
        assert layer_name(net, layer) == "layer4.1"
    assert layer_name(net, "layer4[-1].conv1") == layer_name(net, net.layer4[1].conv1) == "layer4.1.conv1"
    assert layer_name(net, "layer1[-2]") == "layer1.0"
    assert layer_name(torchvision.models.squeezenet1_1(num_classes=2), "features[-1]") == "features.12"
    assert layer_name(nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1))), "[-1][-1]") == "0.1"
    with pytest.raises(ValueError, match=r"no layer 'layer4\[-1\]'"):
        layer_name(small(), "layer4[-1]")  # a block, no list: its last member is the shortcut


@pytest.mark.parametrize("layer", ["layer5", "layer4[2]", "layer4[-3]", "fc[-1]", "nothing[-1]", "", "layer4.", 3])
def test_an_unknown_layer_lists_the_layers(layer):
    net = torchvision.models.resnet18(num_classes=2)
    with pytest.raises(ValueError, match=r"has no layer .*; it has conv1, bn1, .*layer4, .* deeper ones") as caught:
        layer_name(net, layer)
    assert len(str(caught.value)) < 700


def test_a_network_without_a_map_says_so():
    with pytest.raises(ValueError, match="No layer with a spatial map was found; name one"):
        layer_name(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


# checkpoints -----------------------------------------------------------------------------------------------------


def test_a_saved_model_comes_back_with_its_card(tmp_path):
    net = small()
    card = Card("tiny", ("a", "b", "c"), "small_resnet", {"widths": [4, 6, 8, 10]}, size=(64, 64), training={"seed": 0})
    saved = save_model(net, card, tmp_path / "tiny")
    assert len(saved.sha256) == 64
    again = load_model(tmp_path / "tiny.safetensors")
    assert same_weights(net, again) and not again.training
    assert again.card == saved and again.card.classes == ("a", "b", "c")
    assert json.loads((tmp_path / "tiny.json").read_text()) == json.loads(json.dumps(asdict(saved)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.json", "tiny.safetensors"]


def test_a_shipped_model_is_loaded_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "MODELS", tmp_path)
    net = small()
    save_model(net, Card("tiny", ("a", "b", "c"), "small_resnet", {"widths": [4, 6, 8, 10]}), tmp_path / "tiny")
    assert same_weights(load_model("tiny"), net)
    with pytest.raises(ValueError, match=r"no model 'tinny'; give a shipped one \(tiny\), a classifier of torchvision"):
        load_model("tinny")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("suffix", "nest"),
    [(".safetensors", None), (".pth", None), *((".pt", n) for n in (None, "state_dict", "model_state_dict", "model"))],
)
def test_a_state_dict_with_its_architecture(tmp_path, prefix, nest, suffix):
    from safetensors.torch import save_file

    net, path = small(), tmp_path / f"my{suffix}"
    state = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({nest: state, "epoch": 3} if nest else state, path)
    again = load_model(path, architecture=lambda: SmallResNet(**SMALL), classes=["x", "y", "z"], size=(64, 64))
    assert same_weights(net, again) and not again.training
    assert (again.card.name, again.card.classes, again.card.size) == ("my", ("x", "y", "z"), (64, 64))


def test_a_state_dict_of_a_torchvision_architecture(tmp_path):
    net = torchvision.models.squeezenet1_1(num_classes=4)
    torch.save(net.state_dict(), tmp_path / "s.pt")
    again = load_model(str(tmp_path / "s.pt"), architecture="squeezenet1_1", classes=4)
    assert same_weights(net, again) and again.card.classes == ("class 0", "class 1", "class 2", "class 3")


class Code:
    """What a malicious checkpoint does: runs a function while it is read."""

    def __reduce__(self):
        return Path.touch, (Path("pickled-code-ran"),)


def _write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


SPEC = {"architecture": "resnet18", "classes": 3}


@pytest.mark.parametrize(
    ("content", "options", "kind", "words"),
    [
        (lambda: {"weight": Code()}, SPEC, ValueError, r"holds more than weights \(pickled code\) and was refused"),
        (lambda: small(), SPEC, ValueError, r"refused; save model.state_dict\(\) instead"),
        (lambda: b"", SPEC, ValueError, "is not a readable checkpoint"),
        (lambda: b"a web page, not weights", SPEC, ValueError, "is not a readable checkpoint"),
        (lambda: torch.zeros(3), SPEC, ValueError, r"holds no state dict; save model.state_dict\(\)"),
        (lambda: {"epoch": 3}, SPEC, ValueError, "holds no state dict"),
        (lambda: small().state_dict(), {}, ValueError, "holds weights only; say architecture='resnet18'"),
        (
            lambda: small().state_dict(),
            {"architecture": "resnet18"},
            ValueError,
            r"say classes=\.\.\. .a count, or a list",
        ),
        (lambda: small().state_dict(), SPEC, ValueError, r"not fit resnet18 with 3 classes: .* weights are missing"),
        (
            lambda: torchvision.models.squeezenet1_1(num_classes=5).state_dict(),
            {"architecture": "squeezenet1_1", "classes": 4},
            ValueError,
            r"does not fit squeezenet1_1 with 4 classes: 2 shapes differ .* is \(5, 512, 1, 1\), not \(4, 512, 1, 1\)",
        ),
        (
            lambda: small().state_dict(),
            {"architecture": lambda: SmallResNet(3)},
            ValueError,
            "does not fit the given network: .* shapes differ",
        ),
        (lambda: small().state_dict(), {"architecture": "resnet9", "classes": 2}, ValueError, "no model 'resnet9'"),
        (lambda: small().state_dict(), {"architecture": "resnet18", "classes": 0}, ValueError, "at least one class"),
        (lambda: small().state_dict(), {**SPEC, "colour": 1}, ValueError, "card has no colour; it has name, classes,"),
    ],
)
def test_a_bad_checkpoint_gets_one_clear_sentence(tmp_path, monkeypatch, content, options, kind, words):
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path, "bad.pt", content())
    with pytest.raises(kind, match=words) as caught:
        load_model(path, **options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert not Path("pickled-code-ran").exists()


def test_a_damaged_safetensors_file_and_a_missing_one(tmp_path):
    _write(tmp_path, "bad.safetensors", b"x" * 100)
    with pytest.raises(ValueError, match=r"bad\.safetensors is not a readable checkpoint"):
        load_model(tmp_path / "bad.safetensors", **SPEC)
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint '.*none\.pt'"):
        load_model(tmp_path / "none.pt", **SPEC)


def test_weights_other_than_the_cards_are_refused(tmp_path):
    card = Card("tiny", ("a", "b", "c"), "small_resnet", {"widths": [4, 6, 8, 10]})
    save_model(small(1), card, tmp_path / "other")
    save_model(small(0), card, tmp_path / "tiny")
    (tmp_path / "other.safetensors").replace(tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match=r"tiny\.safetensors is not the file that tiny\.json describes: its checksum"):
        load_model(tmp_path / "tiny.safetensors")


def test_names_are_checked_against_the_shipped_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "MODELS", tmp_path)
    card = Card("tiny", ("a", "b", "c"), "small_resnet", {"classes": 3, "widths": [4, 6, 8, 10]})
    save_model(small(), card, tmp_path / "tiny")
    assert load_model("tiny", classes=["x", "y", "z"]).card.classes == ("x", "y", "z")
    for options in ({"classes": 4}, {"architecture": "resnet18", "classes": 3}):
        with pytest.raises(ValueError, match=r"tiny\.safetensors does not fit (small_resnet|resnet18) with"):
            load_model("tiny", **options)
    with pytest.raises(ValueError, match="classes='abc' is one word; give a count, or a list of names"):
        load_model("tiny", classes="abc")


def test_a_dot_in_a_name_is_no_suffix(tmp_path):
    save_model(small(), Card("x"), tmp_path / "net_v1.2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net_v1.2.json", "net_v1.2.safetensors"]


def test_a_failed_save_leaves_nothing(tmp_path):
    shared = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    shared[1].weight = shared[0].weight  # safetensors refuses tensors that share memory
    with pytest.raises(RuntimeError):
        save_model(shared, Card("x"), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_ones_own_gets_a_card_and_is_left_alone():
    net = small().train()
    again = load_model(net, classes=["a", "b", "c"], size=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert again is net and net.training and net.card.classes == ("a", "b", "c") and net.card.name == "SmallResNet"
    load_model(net, fit="crop", resize=72)  # what is not named stays
    assert (net.card.fit, net.card.size, net.card.classes) == ("crop", (64, 64), ("a", "b", "c"))


def test_a_model_loaded_in_inference_mode_can_be_explained(tmp_path):
    save_model(small(), Card("t", ("a", "b", "c"), "small_resnet", {"widths": [4, 6, 8, 10]}), tmp_path / "t")
    with torch.inference_mode():
        net = load_model(tmp_path / "t.safetensors")
    assert ch.explain(net, torch.rand(1, 3, 64, 64)).heatmap().shape == (1, 64, 64)


def test_the_hash_changes_with_any_weight():
    net = small()
    before = model_hash(net)
    assert before == model_hash(small()) and len(before) == 12
    net.layer4.bn2.running_var[3] += 1e-6
    assert model_hash(net) != before


# pretrained weights ----------------------------------------------------------------------------------------------


def test_without_network_one_sentence_says_how_to_get_the_weights(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    with pytest.raises(FileNotFoundError) as caught:
        load_model("resnet50")
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".")
    for words in ("weights of resnet50", "neither cached nor reachable", "no route", "download https://", ".pth"):
        assert words in said
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
def test_cached_weights_load_with_class_names_and_preprocessing(name, tmp_path, monkeypatch):
    weights = torchvision.models.get_model_weights(name).DEFAULT
    extra = {"init_weights": False} if name == "googlenet" else {}
    net = torchvision.models.get_model(name, weights=None, **extra)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(net.state_dict(), cache / Path(weights.url).name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    again = load_model(name)
    assert same_weights(again, net) and not again.training
    assert len(again.card.classes) == 1000 and again.card.classes[281] == "tabby"
    picture, preset = smooth(300, 400), weights.transforms()
    expected = preset(torch.from_numpy(picture).permute(2, 0, 1))
    torch.testing.assert_close(again.card.prepare(picture), expected, atol=1e-5, rtol=0)
    # GoogLeNet's weights want their own statistics, which torchvision's builder switches on beside them
    assert getattr(again, "transform_input", False) is (name == "googlenet")
    with pytest.raises(ValueError, match="has an architecture and 1000 classes of its own; leave"):
        load_model(name, classes=["cat", "dog"])


def test_the_guard_gives_torchvision_once_and_for_all():
    assert import_torchvision() is torchvision and torchvision.models.resnet18


def test_a_network_of_ones_own_code_comes_back_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(2))\n\nless = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import mynets

    net = load_model(mynets.net(), classes=["a", "b"], size=(8, 8, 8), mean=(0.5,), std=(0.2,))
    save_model(net, net.card, tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match=r"does not say how its network is built; say architecture='module:name'"):
        load_model(tmp_path / "mine.safetensors")
    again = load_model(tmp_path / "mine.safetensors", architecture="mynets:net")
    assert again.card.classes == ("a", "b") and again.card.size == (8, 8, 8) and again.card.mean == (0.5,)
    assert torch.equal(again[0].weight, net[0].weight)
    save_model(again, again.card, tmp_path / "named.safetensors")  # its card now names the code
    monkeypatch.setattr(mynets, "net", lambda: pytest.fail("a file chose which code is run"))
    with pytest.raises(ValueError, match="is built by 'mynets:net', code of your own; say architecture='mynets:net'"):
        load_model(tmp_path / "named.safetensors")
    for wrong in ("mynets:gross", "nonsense:net"):
        with pytest.raises(ValueError, match=f"'{wrong}' cannot be built"):
            load_model(tmp_path / "mine.safetensors", architecture=wrong)


def test_a_card_of_volumes_is_grey_unless_it_says_otherwise():
    assert (Card("a", size=(4, 5, 6)).mean, Card("a", size=(4, 5, 6)).std) == ((0.0,), (1.0,))
    assert Card("a", size=(4, 5, 6), mean=(0.3,), std=(0.1,)).mean == (0.3,)
    with pytest.raises(ValueError, match="size is 32; give a list"):
        Card("a", size=32)
    with pytest.raises(ValueError, match="three numbers in size and one in mean and std"):
        Card("a").prepare_volume(np.zeros((4, 4, 4)))
