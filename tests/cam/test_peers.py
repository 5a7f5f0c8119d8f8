"""Equality with the peers where they are right: on layers that are not directly before global pooling."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import camhelpers as ch
from camhelpers.cam import methods as cams
from camhelpers.cam.explain import upsample
from camhelpers.cam.models import import_torchvision

torchvision = import_torchvision()  # before the peers, which import it themselves

from captum.attr import LayerGradCam  # noqa: E402
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402
from torchcam import methods as torchcam  # noqa: E402

LAYERS = {
    "resnet18": "layer2",
    "vgg11": "features.10",
    "densenet121": "features.denseblock3",
    "mobilenet_v3_small": "features.6",
    "efficientnet_b0": "features.4",
}
METHODS = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam")


def network(name: str) -> nn.Module:
    """Random weights, scaled so that gradients at the layer are near 1: far above every peer's epsilon."""
    torch.manual_seed(0)
    quick = {"init_weights": False} if name == "vgg11" else {}  # its own takes seconds
    net = torchvision.models.get_model(name, weights=None, num_classes=8, **quick).eval()
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    largest = ch.capture(net, pictures(1), LAYERS[name]).gradients(0)[LAYERS[name]].abs().max()
    with torch.no_grad():
        last.weight *= 10 / largest
    return net


def pictures(n: int) -> torch.Tensor:
    return torch.randn(3, 3, 96, 64, generator=torch.Generator().manual_seed(1))[:n]


def telling_classes(net: nn.Module, layer: str) -> list[int]:
    """A class for each picture, all different, for which no method's map is blank: those would prove nothing."""
    held = ch.capture(net, pictures(3), layer)
    A, G = held.A[layer], [held.gradients(c)[layer] for c in range(8)]
    peak = torch.stack([torch.stack([cams.method(m)(A, g).flatten(1).amax(1) for m in METHODS]).amin(0) for g in G])
    chosen = []
    for i in range(3):
        chosen.append(max(set(range(8)) - set(chosen), key=lambda c: float(peak[c, i])))
        assert peak[chosen[-1], i] > 0
    return chosen


@pytest.fixture(scope="module", params=list(LAYERS))
def case(request) -> tuple[nn.Module, str, list[int]]:
    net, layer = network(request.param), LAYERS[request.param]
    return net, layer, telling_classes(net, layer)


def raw(net: nn.Module, layer: str, x: torch.Tensor, method: str, classes: list[int]) -> torch.Tensor:
    held = ch.capture(net, x, layer)
    return cams.method(method)(held.A[layer], held.gradients(classes[: len(x)])[layer])


def stretched(maps: np.ndarray) -> np.ndarray:
    """Each map's minimum to 0 and maximum to 1, as pytorch-grad-cam returns it."""
    axes = tuple(range(1, maps.ndim))
    low, high = maps.min(axes, keepdims=True), maps.max(axes, keepdims=True)
    return (maps - low) / (high - low)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("method", "peer"), [("gradcam", "GradCAM"), ("layercam", "LayerCAM")])
def test_torchcam(case, n, method, peer):
    net, layer, classes = case
    x = pictures(n)
    ours = raw(net, layer, x, method, classes)
    with getattr(torchcam, peer)(net, target_layer=layer) as extractor:
        theirs = extractor(classes[:n], net(x), normalized=False)[0]
    assert relative(ours, theirs.detach()) < 1e-5


@pytest.mark.parametrize("n", [1, 3])
def test_captum(case, n):
    net, layer, classes = case
    x = pictures(n)
    peer = LayerGradCam(net, net.get_submodule(layer))
    theirs = peer.attribute(x, target=classes[:n], relu_attributions=True)[:, 0].detach()
    assert relative(raw(net, layer, x, "gradcam", classes), theirs) < 1e-5


def distance(net: nn.Module, layer: str, classes: list[int], n: int, method: str, peer: type) -> float:
    """How far our map and pytorch-grad-cam's are apart, both stretched to 0..1 at the picture's size."""
    x = pictures(n)
    ours = upsample(raw(net, layer, x, method, classes), x.shape[2:]).numpy()
    with peer(model=net, target_layers=[net.get_submodule(layer)]) as cam:
        theirs = cam(input_tensor=x.clone(), targets=[ClassifierOutputTarget(c) for c in classes[:n]])
    net.zero_grad(set_to_none=True)  # it fills every .grad
    return float(np.abs(stretched(ours) - theirs).max())


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("method", "peer"), [("gradcam", GradCAM), ("layercam", LayerCAM), ("hirescam", HiResCAM)])
def test_pytorch_grad_cam(case, n, method, peer):
    assert distance(*case, n, method, peer) < 1e-5


# these divide by a sum over the map plus an epsilon; where activations are negative, that sum passes through zero
@pytest.mark.parametrize("case", ["resnet18", "vgg11"], indirect=True)
@pytest.mark.parametrize(("method", "peer"), [("gradcam++", GradCAMPlusPlus), ("xgradcam", XGradCAM)])
def test_pytorch_grad_cam_behind_a_relu(case, method, peer):
    assert distance(*case, 3, method, peer) < 1e-4


def test_captum_before_an_in_place_relu():
    # the one peer that is right there
    net, x = network("vgg11"), pictures(2)
    classes = telling_classes(net, "features.8")[:2]
    assert net.features[9].inplace
    theirs = LayerGradCam(net, net.features[8]).attribute(x, target=classes, relu_attributions=True)[:, 0].detach()
    assert relative(raw(net, "features.8", x, "gradcam", classes), theirs) < 1e-5


def test_heatmaps_are_the_peers_maps_at_the_pictures_size():
    net, x = network("resnet18"), pictures(3)
    classes = telling_classes(net, "layer2")
    heat = ch.explain(net, x, layers="layer2", target=classes).heatmap("gradcam")
    with torchcam.GradCAM(net, target_layer="layer2") as extractor:
        theirs = extractor(classes, net(x), normalized=False)[0].detach().numpy()
    for ours, native in zip(heat, theirs, strict=True):
        large = cv2.resize(native, (64, 96), interpolation=cv2.INTER_LINEAR)
        assert np.abs(ours - large / large.max()).max() < 1e-5
