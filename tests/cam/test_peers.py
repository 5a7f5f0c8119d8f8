"""Equality with the peers where they are right: on layers that are not directly before global pooling."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import camhelpers as ch
from camhelpers.cam import methods
from camhelpers.cam.geometry import upsample
from camhelpers.cam.models import import_torchvision

torchvision = import_torchvision()  # before the peers, which import it themselves

from captum.attr import LayerGradCam  # noqa: E402
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402
from torchcam import methods as torchcam  # noqa: E402

NETWORKS = [
    ("resnet18", "layer2"),
    ("vgg11", "features.10"),
    ("densenet121", "features.denseblock3"),
    ("mobilenet_v3_small", "features.6"),
    ("efficientnet_b0", "features.4"),
]
METHODS = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam")
X = torch.randn(3, 3, 96, 64, generator=torch.Generator().manual_seed(1))


def network(name: str, layer: str) -> tuple[nn.Module, str, list[int]]:
    """A network of random weights, and a class for each picture, all different, for which no method's map is blank."""
    torch.manual_seed(0)
    if name == "vgg11":  # its own head has a hundred million weights
        features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"])
        head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(2048, 8))
        net = nn.Sequential(OrderedDict(features=features, head=head))
    else:
        net = torchvision.models.get_model(name, weights=None, num_classes=8)
    net.eval()
    with torch.no_grad():  # gradients at the layer near 1: far above every peer's epsilon
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
        last.weight *= 10 / ch.capture(net, X[:1], layer).gradients(0)[layer].abs().max()
    held, chosen = ch.capture(net, X, layer), []
    maps = [[methods.method(m)(held.A[layer], held.gradients(c)[layer]) for m in METHODS] for c in range(8)]
    for i in range(3):
        peaks = {c: min(float(one[i].max()) for one in maps[c]) for c in {*range(8)} - {*chosen}}
        chosen.append(max(peaks, key=peaks.get))
        assert peaks[chosen[-1]] > 0  # a blank map would prove nothing
    return net, layer, chosen


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda pair: pair[0])
def case(request) -> tuple[nn.Module, str, list[int]]:
    return network(*request.param)


def raw(net: nn.Module, layer: str, classes: list[int], method: str) -> torch.Tensor:
    held = ch.capture(net, X, layer)
    return methods.method(method)(held.A[layer], held.gradients(classes)[layer])


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5 * float(expected.detach().abs().max()))


@pytest.mark.parametrize(("method", "peer"), [("gradcam", "GradCAM"), ("layercam", "LayerCAM")])
def test_torchcam(case, method, peer):
    net, layer, classes = case
    with getattr(torchcam, peer)(net, target_layer=layer) as extractor:
        assert_equal(raw(*case, method), extractor(classes, net(X), normalized=False)[0])


# the second in front of a ReLU in place, where captum is the one peer that is right
@pytest.mark.parametrize("case", [*NETWORKS, ("vgg11", "features.8")], indirect=True)
def test_captum(case):
    net, layer, classes = case
    theirs = LayerGradCam(net, net.get_submodule(layer)).attribute(X, classes, relu_attributions=True)
    assert_equal(raw(*case, "gradcam"), theirs[:, 0])


def assert_equals_pytorch_grad_cam(
    case: tuple[nn.Module, str, list[int]], method: str, peer: type, atol: float
) -> None:
    """Both stretched to 0..1 at the picture's size."""
    net, layer, classes = case
    ours = upsample(raw(*case, method), X.shape[2:]).numpy()
    low, high = ours.min((1, 2), keepdims=True), ours.max((1, 2), keepdims=True)
    with peer(model=net, target_layers=[net.get_submodule(layer)]) as cam:
        theirs = cam(input_tensor=X.clone(), targets=[ClassifierOutputTarget(c) for c in classes])
    net.zero_grad(set_to_none=True)  # it fills every .grad
    np.testing.assert_allclose((ours - low) / (high - low), theirs, rtol=0, atol=atol)


@pytest.mark.parametrize(("method", "peer"), [("gradcam", GradCAM), ("layercam", LayerCAM), ("hirescam", HiResCAM)])
def test_pytorch_grad_cam(case, method, peer):
    assert_equals_pytorch_grad_cam(case, method, peer, 1e-5)


# these divide by a sum over the map plus an epsilon; where activations are negative, that sum passes through zero
@pytest.mark.parametrize("case", NETWORKS[:2], indirect=True)
@pytest.mark.parametrize(("method", "peer"), [("gradcam++", GradCAMPlusPlus), ("xgradcam", XGradCAM)])
def test_pytorch_grad_cam_behind_a_relu(case, method, peer):
    assert_equals_pytorch_grad_cam(case, method, peer, 1e-4)
