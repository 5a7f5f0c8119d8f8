"""The one pass: what it holds, what it costs, and that it leaves everything as it was."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import camhelpers as ch
from camhelpers.cam.capture import KEPT, sample
from camhelpers.cam.explain import predict
from camhelpers.cam.models import layer_name, model_hash, save_model, stages
from camhelpers.cam.nets import SmallResNet


def small(seed: int = 0, **options) -> SmallResNet:
    """A network whose batch statistics are not the neutral ones of a new network."""
    torch.manual_seed(seed)
    net = SmallResNet(**{"classes": 5, "widths": (8, 12, 16, 20), **options})
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
    return net.eval()


def batch(n: int = 2, height: int = 64, width: int = 64, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def ordinary(net: nn.Module, x: torch.Tensor, layer: str, index: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A and G as a textbook has them: a full pass in grad mode."""
    kept = {}

    def keep(module, args, out):
        kept["A"] = out.clone()
        kept["A"].retain_grad()
        return kept["A"].clone()

    handle = net.get_submodule(layer).register_forward_hook(keep)
    with torch.inference_mode(False), torch.enable_grad():
        logits = net(x.clone().requires_grad_())
        logits[torch.arange(len(x)), torch.tensor(index)].sum().backward()
    handle.remove()
    net.zero_grad(set_to_none=True)
    return kept["A"].detach(), kept["A"].grad


# what it holds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["stem", "layer2", "layer4", "layer3.conv1", "layer2.shortcut.1"])
def test_activations_and_gradients_are_those_of_an_ordinary_pass(layer):
    net, x = small(), batch(3)
    A, G = ordinary(net, x, layer, [0, 4, 2])
    held = ch.capture(net, x, layer)
    torch.testing.assert_close(held.A[layer], A)
    torch.testing.assert_close(held.gradients([0, 4, 2])[layer], G)
    with torch.no_grad():
        torch.testing.assert_close(held.logits, net(x))


def test_layers_together_are_the_layers_one_at_a_time():
    net, x = small(), batch()
    names = ["stem", "layer1", "layer2", "layer3.conv1", "layer3", "layer4"]
    together = ch.capture(net, x, names[::-1])
    assert together.layers == names  # in the order of the pass
    for name in names:
        alone = ch.capture(net, x, name)
        torch.testing.assert_close(together.A[name], alone.A[name])
        torch.testing.assert_close(together.gradients(1)[name], alone.gradients(1)[name])


class Branches(nn.Module):
    """Two parallel branches, one that the score does not reach, and one that is not run at all."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.idle, self.unused = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        self.idle(x)
        return (self.left(x).relu() + self.right(x).relu()).mean((2, 3))


@pytest.mark.parametrize("frozen", [False, True])
def test_parallel_branches(frozen):
    torch.manual_seed(0)
    net, x = Branches().requires_grad_(not frozen), batch()
    together = ch.capture(net, x, ["right", "left"]).gradients(0)
    for name in ("left", "right"):
        torch.testing.assert_close(together[name], ch.capture(net, x, name).gradients(0)[name])
        assert together[name].abs().sum() > 0
    assert ch.capture(net, x, ["idle", "left"]).gradients(0)["idle"].count_nonzero() == 0


class InPlace(nn.Module):
    """An in-place ReLU right behind the layer, and a first operation that changes the input itself."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.relu(self.conv(x.mul_(1.5))).mean((2, 3)))


def test_an_in_place_relu_behind_the_layer_changes_nothing():
    torch.manual_seed(0)
    net, x = InPlace().double(), batch(2, 9, 7).double()
    kept = x.clone()
    held = ch.capture(net, x, "conv")
    assert torch.equal(x, kept)
    A = net.conv(x * 1.5).detach()
    assert (A < 0).any()
    torch.testing.assert_close(held.A["conv"], A)
    closed = net.fc.weight[3].detach().view(1, 6, 1, 1) / (7 * 5) * (A > 0)
    torch.testing.assert_close(held.gradients(3)["conv"], closed)


@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize(
    "mode", [torch.enable_grad, torch.no_grad, torch.inference_mode], ids=["grad", "no_grad", "inference_mode"]
)
def test_frozen_models_and_every_grad_mode_give_the_same(frozen, mode):
    net, x = small(), batch()
    expected = ch.explain(net, x, layers=["layer2", "layer4"])
    net.requires_grad_(not frozen)
    with mode():
        ex = ch.explain(net, x.clone(), layers=["layer2", "layer4"])  # an inference tensor, in the last mode
        heat = ex.heatmap("hybrid", layer="layer2")
    np.testing.assert_allclose(heat, expected.heatmap("hybrid", layer="layer2"), atol=1e-6)
    # what was captured in one mode can be asked in another
    for other in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with other():
            assert np.allclose(ex.heatmap("layercam", target=3), expected.heatmap("layercam", target=3), atol=1e-6)


def test_under_bf16_autocast():
    net, x = small(), batch(3)
    expected = ch.explain(net, x, layers=["layer2", "layer4"], target=[0, 1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        ex = ch.explain(net, x, layers=["layer2", "layer4"], target=[0, 1, 2])
        inside = ex.heatmap("hybrid")
    assert net.layer2.conv1(x.new_zeros(1, 8, 8, 8)).dtype == torch.float32
    for method in ("gradcam", "gradcam++", "layercam", "hybrid", "xgradcam", "hirescam", "eigencam"):
        for layer in ("layer2", "layer4"):
            heat, right = (e.heatmap(method, layer=layer, size="native") for e in (ex, expected))
            assert heat.dtype == np.float32 and np.abs(heat - right).mean() < 0.05
            assert np.corrcoef(heat.ravel(), right.ravel())[0, 1] > 0.97
    assert np.allclose(inside, ex.heatmap("hybrid"), atol=0.02)
    assert np.allclose(ex.probabilities, expected.probabilities, atol=0.02)


def test_a_batch_equals_its_singles():
    net, x = small(), batch(3, 64, 96)
    together = ch.capture(net, x, ["layer1", "layer4"])
    for i in range(3):
        alone = ch.capture(net, x[i : i + 1], ["layer1", "layer4"])
        for name in together.layers:
            torch.testing.assert_close(together.A[name][i], alone.A[name][0])
            torch.testing.assert_close(together.gradients([0, 3, 2])[name][i], alone.gradients([0, 3, 2][i])[name][0])


def test_volumes():
    net = small(dims=3, channels=1, strides=(2, 1, 2, 1, 1))
    x = torch.randn(2, 1, 8, 12, 16, generator=torch.Generator().manual_seed(0))
    held = ch.capture(net, x)
    assert held.A["layer4"].shape == held.gradients()["layer4"].shape == (2, 20, 2, 3, 4)


# what it costs ---------------------------------------------------------------------------------------------------


def test_one_forward_serves_every_layer_class_method_and_alpha():
    net, x = small(), batch()
    forwards, backwards = [], []
    net.stem[0].register_forward_pre_hook(lambda *_: forwards.append(1))
    net.fc.register_full_backward_pre_hook(lambda *_: backwards.append(1))
    ex = ch.explain(net, x, layers=["layer2", "layer4"])
    assert len(backwards) == 0
    for method in ch.METHODS:
        for alpha in (0, 0.5, 1):
            ex.heatmap(method, alpha=alpha)
            ex.heatmap(method, layer="layer2", alpha=alpha)
    assert (len(forwards), len(backwards)) == (1, 1)
    ex.heatmaps("all")
    ex.heatmaps("all", layer="layer2")
    assert len(forwards) == 1 and len(backwards) <= 1 + 5  # one short backward a class, whatever the layer
    assert net.stem[0].weight.grad is None


def test_the_trunk_before_the_first_layer_is_not_recorded():
    net = small()
    held = ch.capture(net, batch(), "layer3")
    seen, todo = set(), [held.output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(f for f, _ in node.next_functions)
    leaves = {id(n.variable) for n in seen if hasattr(n, "variable")}
    assert id(net.layer4.conv1.weight) in leaves
    assert not leaves & {id(p) for m in (net.stem, net.layer1, net.layer2, net.layer3) for p in m.parameters()}


def test_gradients_are_kept_for_a_few_targets_only():
    net = small(classes=KEPT + 4)
    held = ch.capture(net, batch(1))
    first = held.gradients(0)
    assert held.gradients(0) is first
    for i in range(1, KEPT + 4):
        held.gradients(i)
    assert len(held._gradients) == KEPT
    assert torch.equal(held.gradients(0)["layer4"], first["layer4"])


# what it leaves as it was ----------------------------------------------------------------------------------------

HOOKS = [name for name in vars(nn.Module()) if "hooks" in name]


def state(net: nn.Module) -> dict:
    """Everything that a pass could change, by value."""
    generator = np.random.get_state()
    return {
        "training": [m.training for m in net.modules()],
        "attributes": [sorted(vars(m)) for m in net.modules()],
        "hooks": [{n: list(getattr(m, n)) for n in HOOKS} for m in net.modules()],
        "weights": {n: (id(p), p.requires_grad, p.detach().clone().tolist()) for n, p in net.named_parameters()},
        "gradients": {n: None if p.grad is None else (id(p.grad), p.grad.tolist()) for n, p in net.named_parameters()},
        "buffers": {n: (id(b), b.tolist()) for n, b in net.named_buffers()},
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "chance": (torch.get_rng_state().tolist(), random.getstate(), generator[1].tolist(), generator[2]),
    }


class Fussy(SmallResNet):
    """Fails on demand behind the layers, when their hooks have already run; with dropout, which chance would drive."""

    fails = False

    def __init__(self):
        super().__init__(3, widths=(4, 4, 4, 4))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        if self.fails:
            self.layer3(self.layer2(self.layer1(self.stem(x))))
            raise RuntimeError("the network broke")
        return self.fc(
            self.dropout(self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))).flatten(2).mean(2)
        )


@pytest.fixture
def used() -> nn.Module:
    """A network in the middle of its owner's work: modes and frozen weights mixed, gradients kept, hooks set."""
    torch.manual_seed(0)
    net = ch.load_model(Fussy(), classes=["a", "b", "c"], size=(64, 64))
    net.train()
    net(batch()).sum().backward()
    net.layer1.eval()
    net.layer2.bn1.eval()
    net.layer3.requires_grad_(False)
    net.layer4.conv1.weight.grad = None
    net.layer4.register_forward_hook(lambda module, args, out: None)
    net.layer4.register_full_backward_hook(lambda module, inwards, outwards: None)
    net.fc.register_forward_pre_hook(lambda module, args: None)
    return net


PICTURE = np.random.default_rng(0).random((50, 70, 3), dtype=np.float32)
ENTRIES = {
    "capture": lambda net, folder: ch.capture(net, batch(), ["layer1", "layer3"]).gradients(1),
    "explain a tensor": lambda net, folder: ch.explain(net, batch()),
    "explain a picture": lambda net, folder: ch.explain(net, PICTURE, target="b"),
    "explain a callable": lambda net, folder: ch.explain(net, batch(), target=lambda out: out[0] ** 2).heatmap(),
    "heatmap": lambda net, folder: [ch.explain(net, batch()).heatmap(m) for m in ch.METHODS],
    "heatmaps": lambda net, folder: ch.explain(net, PICTURE, layers=["layer2", "layer4"]).heatmaps("all"),
    "blank": lambda net, folder: ch.explain(net, batch()).blank("layercam", target=2),
    "overlay": lambda net, folder: ch.explain(net, PICTURE).overlay(contours=[0.5]),
    "panel": lambda net, folder: ch.explain(net, PICTURE).panel(["gradcam", "hybrid"]),
    "reading": lambda net, folder: [repr(e := ch.explain(net, PICTURE)), e.logits, e.probabilities, e.label, e.title()],
    "predict": lambda net, folder: predict(net, [PICTURE]),
    "layers": lambda net, folder: [layer_name(net), layer_name(net, net.layer2), stages(net)],
    "hash and save": lambda net, folder: [model_hash(net), save_model(net, net.card, folder / "m")],
    "load": lambda net, folder: ch.load_model(net),
}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # the owner's own hook
@pytest.mark.parametrize("entry", list(ENTRIES))
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad], ids=["grad", "no_grad"])
def test_everything_is_as_it_was_after_success(used, entry, mode, tmp_path):
    with mode():
        before = state(used)
        ENTRIES[entry](used, tmp_path)
        assert state(used) == before


def broken(net, folder):
    net.fails = True
    try:
        ch.explain(net, batch(), layers=["layer1", "layer3"])
    finally:
        del net.fails


def raises(*_):
    raise RuntimeError("the target broke")


FAILURES = {
    "the network fails": broken,
    "no such layer": lambda net, folder: ch.explain(net, batch(), layers=["layer1", "layer9"]),
    "no spatial map": lambda net, folder: ch.explain(net, batch(), layers=["layer1", "fc"]),
    "wrong channels": lambda net, folder: ch.capture(net, batch()[:, :1]),
    "NaN": lambda net, folder: ch.capture(net, batch() * float("nan")),
    "no such class": lambda net, folder: ch.explain(net, batch(), target=3),
    "too few targets": lambda net, folder: ch.explain(net, batch(), target=[1]),
    "no such method": lambda net, folder: ch.explain(net, batch()).heatmap("cam"),
    "a bad picture": lambda net, folder: ch.explain(net, PICTURE * 300),
    "the target fails": lambda net, folder: ch.explain(net, batch(), target=raises).heatmap(),
    "predict fails": lambda net, folder: predict(net, [PICTURE, PICTURE * 300]),
}


@pytest.mark.parametrize("entry", list(FAILURES))
def test_everything_is_as_it_was_after_an_error(used, entry, tmp_path):
    before = state(used)
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        FAILURES[entry](used, tmp_path)
    assert state(used) == before


def test_the_input_is_left_alone_too():
    x = batch().requires_grad_()
    kept = x.detach().clone()
    ch.explain(small(), x).heatmap("hybrid")
    assert torch.equal(x, kept) and x.grad is None and x.requires_grad and x.grad_fn is None


def test_a_network_in_training_is_explained_as_in_eval_mode():
    net, x = small(), batch(4)
    expected = ch.explain(net, x).heatmap("gradcam")
    assert np.array_equal(ch.explain(net.train(), x).heatmap("gradcam"), expected)


# other outputs ---------------------------------------------------------------------------------------------------


class Outputs(nn.Module):
    """Returns what `shape` makes of the feature map's mean and of the map."""

    def __init__(self, shape):
        super().__init__()
        self.conv, self.shape = nn.Conv2d(3, 4, 3, padding=1), shape

    def forward(self, x):
        return self.shape(self.conv(x))


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        (lambda a: {"out": a, "aux": [a * 2]}, lambda out: out["out"][1].mean()),
        (lambda a: (a.mean((2, 3)), a), lambda out: out[1][1].mean()),
        (lambda a: [a], lambda out: out[0][1].mean().reshape(1, 1)),
        (lambda a: a, lambda out: out[1].mean()),
        (lambda a: a.mean((2, 3)), lambda out: out[1]),
        (lambda a: a[:, 1].mean((1, 2)), lambda out: out),
    ],
    ids=["segmentation", "tuple", "list", "map", "logits", "regression"],
)
def test_a_callable_explains_any_output(shape, target):
    torch.manual_seed(0)
    net, x = Outputs(shape), batch(2, 6, 5)
    G = ch.capture(net, x, "conv").gradients(target)["conv"]
    expected = torch.zeros(2, 4, 6, 5)
    expected[:, 1] = 1 / 30  # in all of these the score is the mean of channel 1
    torch.testing.assert_close(G, expected)


def test_a_callable_sees_one_sample_at_a_time():
    seen = []
    held = ch.capture(small(), batch(3))
    product = held.gradients(lambda out: seen.append(out.shape) or out[0] * out[1])
    assert seen == [(5,)] * 3
    alone = ch.capture(small(), batch(3)[1:2]).gradients(lambda out: out[0] * out[1])
    torch.testing.assert_close(product["layer4"][1], alone["layer4"][0])


def test_sample_keeps_what_has_no_batch():
    picked = sample({"a": (torch.arange(3), 7), "b": None}, 2)
    assert picked == {"a": (torch.tensor(2), 7), "b": None}


# bad input -------------------------------------------------------------------------------------------------------


class Detached(SmallResNet):
    def forward(self, x):
        return self.fc(self.layer1(self.stem(x)).detach().flatten(2).mean(2))


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        (lambda n, x: ch.capture(n, x, "layer5"), ValueError, "no layer 'layer5'; it has stem, layer1, layer2,"),
        (lambda n, x: ch.capture(n, x, "layer4[-9]"), ValueError, r"no layer 'layer4\[-9\]'; it has stem,"),
        (lambda n, x: ch.capture(n, x, "fc[-1]"), ValueError, r"no layer 'fc\[-1\]'; it has stem,"),
        (lambda n, x: ch.capture(n, x, nn.ReLU()), ValueError, "given ReLU is not a layer of this model"),
        (lambda n, x: ch.capture(n, x, []), ValueError, "layers is empty; name at least one"),
        (lambda n, x: ch.capture(n, x, "fc"), ValueError, r"'fc' gives \(2, 5\), which has no spatial map .*another"),
        (lambda n, x: ch.capture(n, x[..., :16, :16]), ValueError, r"gives \(2, 20, 1, 1\), which has no spatial map"),
        (lambda n, x: ch.capture(Branches(), x, "unused"), ValueError, "never reached layer 'unused'; name one"),
        (lambda n, x: ch.capture(n, x[:, :1]), ValueError, r"has 1 channels; the model takes 3"),
        (lambda n, x: ch.capture(n, x[0]), ValueError, r"\(3, 64, 64\); the model takes \(N, C\) and 2 spatial axes"),
        (lambda n, x: ch.capture(n, x[:, :, None]), ValueError, r"the model takes \(N, C\) and 2 spatial axes"),
        (lambda n, x: ch.capture(n, x.double()), ValueError, "input is torch.float64; the model takes torch.float32"),
        (lambda n, x: ch.capture(n, x.byte()), TypeError, r"takes a floating-point tensor \(N, C, \*spatial\)"),
        (lambda n, x: ch.capture(n, x.numpy()), TypeError, "takes a floating-point tensor"),
        (lambda n, x: ch.capture(n, x[:0]), ValueError, "batch is empty; give at least one"),
        (lambda n, x: ch.capture(n, x / 0), ValueError, "NaN or infinite values; clean it"),
        (lambda n, x: ch.capture(n, x).gradients(5), ValueError, "Class 5 is out of range; .* classes 0 to 4"),
        (lambda n, x: ch.capture(n, x).gradients(-1), ValueError, "Class -1 is out of range"),
        (lambda n, x: ch.capture(n, x).gradients([0, 9]), ValueError, "Class 9 is out of range"),
        (lambda n, x: ch.capture(n, x).gradients([0]), ValueError, "1 targets for a batch of 2; give one, or one for"),
        (lambda n, x: ch.capture(n, x).gradients(1.5), TypeError, "target must be None, a class, one class a sample"),
        (lambda n, x: ch.capture(n, x).gradients([None, 1]), TypeError, "target must be None, a class"),
        (lambda n, x: ch.capture(n, x).gradients([[0], [1]]), TypeError, "target must be None, a class"),
        (lambda n, x: ch.capture(n, x).gradients({"a": 1}), TypeError, "target must be None, a class"),
        (lambda n, x: ch.capture(n, x).gradients(lambda out: out), TypeError, "must return one number, as a tensor"),
        (lambda n, x: ch.capture(n, x).gradients(lambda out: 3.0), TypeError, "must return one number, as a tensor"),
        (
            lambda n, x: ch.capture(n, x).gradients(lambda out: torch.tensor(1.0)),
            ValueError,
            "does not depend on the captured layers",
        ),
        (
            lambda n, x: ch.capture(Detached(3, widths=(8, 8, 8, 8)).requires_grad_(False).eval(), x, "stem").gradients(
                0
            ),
            ValueError,
            "does not depend on the captured layers; does the model detach",
        ),
        (
            lambda n, x: ch.capture(Outputs(lambda a: {"out": a}), x, "conv").gradients(0),
            TypeError,
            "returns a dict, not logits; pass target=, a callable",
        ),
        (
            lambda n, x: ch.capture(Outputs(lambda a: a), x, "conv").gradients(0),
            ValueError,
            r"returns \(2, 4, 64, 64\), not \(N, classes\); pass target=, a callable",
        ),
    ],
)
def test_bad_input_gets_one_clear_sentence(bad, kind, words):
    with pytest.raises(kind, match=words) as caught:
        bad(small(), batch())
    assert "\n" not in str(caught.value) and str(caught.value)[-1] in ".?"


def test_an_error_inside_the_network_comes_through_as_it_is(used):
    used.fails = True
    with pytest.raises(RuntimeError, match="the network broke"):
        ch.capture(used, batch())
