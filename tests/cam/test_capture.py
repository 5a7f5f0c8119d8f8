"""The one pass: what it holds, what it costs, and that it leaves everything as it was."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import camhelpers as ch
from camhelpers.cam.capture import KEPT, sample
from camhelpers.cam.gradients import noisy_gradients
from camhelpers.cam.methods import cams
from camhelpers.cam.nets import SmallResNet

MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


def batch(n: int = 2, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net(tiny_net):
    """A network whose batch statistics are not the neutral ones of a new one."""
    net = tiny_net().train()
    net(3 * batch(8) + 1)
    return net.eval()


def textbook(net: nn.Module, x: torch.Tensor, layer: str, index: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A and G by a full pass in grad mode."""
    kept = {}

    def keep(module, args, out):
        kept["A"] = out.clone()
        kept["A"].retain_grad()
        return kept["A"].clone()

    handle = net.get_submodule(layer).register_forward_hook(keep)
    net(x.clone().requires_grad_())[torch.arange(len(x)), torch.tensor(index)].sum().backward()
    handle.remove()
    net.zero_grad(set_to_none=True)
    return kept["A"].detach(), kept["A"].grad


# what it holds -------------------------------------------------------------------------------------------------------


def test_activations_and_gradients_are_those_of_a_textbook_pass(net):
    x, names = batch(3), ["stem", "layer1", "layer3.conv1", "layer3.shortcut.1", "layer4"]
    together = ch.capture(net, x, [*names[::-1], "layer1"])
    assert together.layers == names  # in the order of the pass, each once
    with torch.no_grad():
        torch.testing.assert_close(together.logits, net(x))
    for name in names:
        A, G = textbook(net, x, name, [0, 2, 1])
        for held in (together, ch.capture(net, x, name)):
            torch.testing.assert_close(held.A[name], A)
            torch.testing.assert_close(held.gradients([0, 2, 1])[name], G)
        alone = ch.capture(net, x[1:2], name)
        torch.testing.assert_close(alone.A[name][0], A[1])
        torch.testing.assert_close(alone.gradients(2)[name][0], G[1])


class Branches(nn.Module):
    """Two parallel branches, one that the score does not reach, and one that is not run at all."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.idle, self.unused = (nn.Conv2d(3, 4, 3) for _ in range(4))

    def forward(self, x):
        self.idle(x)
        return (self.left(x).relu() + self.right(x).relu()).mean((2, 3))


@pytest.mark.parametrize("frozen", [False, True])
def test_parallel_branches(frozen):
    torch.manual_seed(0)
    net, x = Branches().requires_grad_(not frozen), batch()
    together = ch.capture(net, x, ["right", "left", "idle"]).gradients(0)
    for name in ("left", "right"):
        torch.testing.assert_close(together[name], ch.capture(net, x, name).gradients(0)[name])
        assert together[name].abs().sum() > 0
    assert together["idle"].count_nonzero() == 0


def test_a_module_that_runs_several_times_is_refused_and_never_chosen():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    net, x = nn.Sequential(nn.Conv2d(3, 3, 3), conv, nn.ReLU(), conv, nn.AdaptiveAvgPool2d(1), nn.Flatten()), batch()
    with pytest.raises(ValueError, match="'1' runs several times in a pass; name one that runs once"):
        ch.capture(net, x, "1")
    assert ch.capture(net, x).layers == ["2"]


def test_operations_in_place_change_neither_what_is_held_nor_the_input():
    torch.manual_seed(0)
    first, conv, relu = nn.ReLU(inplace=True), nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True)
    net = nn.Sequential(first, conv, relu, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).double()
    x = batch(2, 9, 7).double().requires_grad_()
    held, A = ch.capture(net, x, "1"), conv(x.relu()).detach()
    assert (A < 0).any()
    torch.testing.assert_close(held.A["1"], A)
    closed = net[-1].weight[3].detach().view(1, 6, 1, 1) / (7 * 5) * (A > 0)
    torch.testing.assert_close(held.gradients(3)["1"], closed)
    assert torch.equal(x, batch(2, 9, 7).double()) and x.grad is None and x.requires_grad and x.grad_fn is None


@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("mode", MODES)
def test_frozen_or_training_models_and_every_grad_mode_give_the_same(net, frozen, mode):
    expected = [ch.explain(net, batch(), layers=["layer2", "layer4"], target=t).heatmap("hybrid") for t in (None, 2)]
    net.requires_grad_(not frozen).train()
    with mode():
        ex = ch.explain(net, batch(), layers=["layer2", "layer4"])  # in the last mode an inference tensor
        np.testing.assert_allclose(ex.heatmap("hybrid"), expected[0], atol=1e-6)
    for other in MODES:  # what was captured in one mode can be asked in another
        with other():
            np.testing.assert_allclose(ex.heatmap("hybrid", target=torch.tensor([2, 2])), expected[1], atol=1e-6)


def test_under_bf16_autocast(net):
    asked = {"layers": ["layer2", "layer4"], "target": [0, 1]}
    expected = ch.explain(net, batch(), **asked)
    with torch.autocast("cpu", torch.bfloat16):
        ex = ch.explain(net, batch(), **asked)
        inside = ex.heatmap("hybrid")
    assert ex.capture.output.dtype == torch.bfloat16
    for method in ("gradcam", "gradcam++", "layercam", "hybrid", "xgradcam", "hirescam", "eigencam"):
        for layer in ("layer2", "layer4"):
            heat, right = (e.heatmap(method, layer=layer, size="native") for e in (ex, expected))
            assert heat.dtype == np.float32 and np.abs(heat - right).mean() < 0.05
    assert np.allclose(inside, ex.heatmap("hybrid"), atol=0.02)
    assert np.allclose(ex.probabilities, expected.probabilities, atol=0.02)


def test_a_callable_sees_one_sample_at_a_time(net):
    seen = []
    product = ch.capture(net, batch(3)).gradients(lambda out: seen.append(out.shape) or out[0] * out[1])
    assert seen == [(3,)] * 3
    alone = ch.capture(net, batch(3)[1:2]).gradients(lambda out: out[0] * out[1])
    torch.testing.assert_close(product["layer4"][1], alone["layer4"][0])
    assert sample({"a": (torch.arange(3), 7), "b": None}, 2, 3) == {"a": (torch.tensor(2), 7), "b": None}


class Named(NamedTuple):
    logits: torch.Tensor
    loss: float


@dataclass
class Answer:
    logits: torch.Tensor
    more: dict


def test_one_samples_part_is_cut_out_of_whatever_a_model_returns():
    x, found = torch.arange(6.0).reshape(3, 2), torch.arange(4.0).requires_grad_()
    assert sample(Named(x, 0.5), 1, 3)[0].tolist() == [2, 3] and sample(Named(x, 0.5), 1, 3).loss == 0.5
    part = sample(Answer(x, {"scale": 2, "anchors": torch.zeros(7), "deep": [x, (x,)]}), 2, 3)
    assert part.logits.tolist() == part.more["deep"][1][0].tolist() == [4, 5] and len(part.more["anchors"]) == 7
    assert sample([{"boxes": found}, {"boxes": found[:2]}], 1, 2)["boxes"].tolist() == [0, 1]  # a detector's
    assert sample([{"boxes": found}], 0, 1)["boxes"] is found and sample({"boxes": found}, 0, 1)["boxes"] is found
    with pytest.raises(TypeError, match=r"returns a tensor \(4,\), which has no part for each of 3 samples"):
        sample({"boxes": found}, 0, 3)


@pytest.mark.parametrize("training", [False, True])
def test_eight_threads_give_the_maps_of_one(net, training):
    net.train(training)
    inputs = [batch(1) + i for i in range(24)]

    def explained(x: torch.Tensor) -> np.ndarray:
        ex = ch.explain(nn.Sequential(net), x)  # a wrapper of its own for each
        places = ex.heatmap(place="effective") if x is inputs[0] else 0
        return np.stack([*(ex.heatmap(m, samples=2) for m in ("gradcam", "hybrid", "smoothgrad"))]) + places

    before = state(net)
    alone = [explained(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(explained, inputs))
    np.testing.assert_allclose(np.stack(together), np.stack(alone), atol=1e-6)
    assert state(net) == before


# what it costs -------------------------------------------------------------------------------------------------------


def test_one_forward_serves_every_layer_class_method_and_alpha(net):
    forwards, backwards = [], []
    net.stem[0].register_forward_pre_hook(lambda *_: forwards.append(1))
    net.fc.register_full_backward_pre_hook(lambda *_: backwards.append(1))
    ex = ch.explain(net, batch(), layers=["layer2", "layer4"])
    assert not backwards
    for method in cams():
        for alpha in (0, 0.5, 1):
            ex.heatmap(method, layer="layer2", alpha=alpha)
    assert (len(forwards), len(backwards)) == (1, 1)
    ex.heatmaps("all")
    ex.heatmaps("all", layer="layer2")
    assert len(forwards) == 1 and len(backwards) <= 1 + 3  # one short backward a class, whatever the layer


def test_the_trunk_before_the_first_layer_is_not_recorded(net):
    seen, todo = set(), [ch.capture(net, batch(), "layer3").output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(f for f, _ in node.next_functions)
    leaves = {id(node.variable) for node in seen if hasattr(node, "variable")}
    assert id(net.layer4.conv1.weight) in leaves
    assert not leaves & {id(p) for m in (net.stem, net.layer1, net.layer2, net.layer3) for p in m.parameters()}


def test_gradients_are_kept_for_a_few_targets_only(tiny_net):
    held = ch.capture(tiny_net(classes=tuple(f"{i}" for i in range(KEPT + 4))), batch(1))
    first = held.gradients(0)
    assert held.gradients([0]) is first
    for i in range(1, KEPT + 4):
        last = held.gradients(i)
    assert len(held._gradients) == KEPT and held.gradients(KEPT + 3) is last
    assert held.gradients(0) is not first and torch.equal(held.gradients(0)["layer4"], first["layer4"])


# what it leaves as it was --------------------------------------------------------------------------------------------

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
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        if self.fails:
            raise RuntimeError("the network broke")
        return self.fc(self.dropout(x).flatten(2).mean(2))


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
    "heatmap": lambda net, folder: [ch.explain(net, batch()).heatmap(m, samples=2) for m in ch.METHODS],
    "heat": lambda net, folder: [ch.explain(net, PICTURE).heat(m, samples=2) for m in ("layercam", "vargrad")],
    "heatmaps": lambda net, folder: ch.explain(net, PICTURE, layers=["layer2", "layer4"]).heatmaps("all"),
    "blank": lambda net, folder: ch.explain(net, batch()).blank("layercam", target=2),
    "overlay": lambda net, folder: ch.explain(net, PICTURE).overlay(),
    "panel": lambda net, folder: ch.explain(net, PICTURE).panel(["gradcam", "hybrid"]),
    "places": lambda net, folder: [ch.explain(net, PICTURE).heatmap(place=p) for p in ("geometric", "effective")],
    "mirror": lambda net, folder: ch.explain(net, batch()).heatmap(smooth="mirror", mirrors=(0, 1)),
    "reading": lambda net, folder: [repr(e := ch.explain(net, PICTURE)), e.logits, e.probabilities, e.label, e.title()],
    "predict": lambda net, folder: ch.predict(net, [PICTURE]),
    "noisy gradients": lambda net, folder: noisy_gradients(net, batch(), [0, 1], samples=2),
    "layers": lambda net, folder: [ch.layer_name(net), ch.layer_name(net, net.layer2), ch.stages(net)],
    "hash and save": lambda net, folder: [ch.model_hash(net), ch.save_model(net, net.card, folder / "m")],
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


def broken(call):
    def run(net):
        net.fails = True
        try:
            call(net)
        finally:
            del net.fails

    return run


def raises(*_):
    raise RuntimeError("the target broke")


FAILURES = {
    "the network fails": broken(lambda net: ch.explain(net, batch(), layers=["layer1", "layer3"])),
    "the network fails under noise": broken(lambda net: noisy_gradients(net, batch(), [0, 1])),
    "the network fails to predict": broken(lambda net: ch.predict(net, [PICTURE])),
    "no such layer": lambda net: ch.explain(net, batch(), layers=["layer1", "layer9"]),
    "no spatial map": lambda net: ch.explain(net, batch(), layers=["layer1", "fc"]),
    "wrong channels": lambda net: ch.capture(net, batch()[:, :1]),
    "NaN": lambda net: ch.capture(net, batch() * float("nan")),
    "no such class": lambda net: ch.explain(net, batch(), target=3),
    "too few targets": lambda net: ch.explain(net, batch(), target=[1]),
    "no such method": lambda net: ch.explain(net, batch()).heatmap("cam"),
    "a bad picture": lambda net: ch.explain(net, PICTURE * 300),
    "the target fails": lambda net: ch.explain(net, batch(), target=raises).heatmap(),
    "the target fails under noise": lambda net: ch.explain(net, batch(), target=raises).heatmap("vargrad"),
    "predict fails": lambda net: ch.predict(net, [PICTURE, PICTURE * 300]),
}


@pytest.mark.parametrize("entry", list(FAILURES))
def test_everything_is_as_it_was_after_an_error(used, entry):
    before = state(used)
    with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
        FAILURES[entry](used)
    assert ("broke" in str(caught.value)) == (" fails" in entry and entry != "predict fails")  # comes through as it is
    assert state(used) == before


def test_gradients_that_rounding_hides_are_told():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    net[1].register_forward_hook(lambda module, args, out: out.round())
    with pytest.warns(UserWarning, match="gradient at 0 is zero everywhere: .* rounding of a quantised layer"):
        assert not ch.explain(net, batch(), layers="0").heatmap().any()
