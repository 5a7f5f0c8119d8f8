"""The choice of a layer: by itself, by name, by position and as a module."""

from importlib import import_module

import pytest
import torch
from torch import nn

import camhelpers as ch
from camhelpers.cam.layers import layer_name, stages
from camhelpers.cam.models import import_torchvision

torchvision = import_torchvision()
FAMILIES = {
    "features": "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s mobilenet_v2 mobilenet_v3_small "
    "s3d squeezenet1_1 vgg11_bn",
    "layer4": "resnet18 resnext50_32x4d wide_resnet50_2 r3d_18 mc3_18",
    "trunk_output": "regnet_x_400mf regnet_y_400mf",
    "blocks.3": "maxvit_t",
    "conv5": "shufflenet_v2_x0_5",
    "inception5b": "googlenet",
    "layers": "mnasnet0_5",
    "Mixed_7c": "inception_v3",
}
CLIPS = {"r3d_18": (16, 64, 64), "mc3_18": (16, 64, 64), "s3d": (16, 224, 224)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer"), [(n, layer) for layer, names in FAMILIES.items() for n in names.split()])
def test_every_family_of_torchvision_has_an_automatic_layer_with_a_map(name, layer):
    torch.manual_seed(0)
    # their own initialisation takes seconds
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3", "vgg11_bn") else {}
    net = torchvision.models.get_model(name, weights=None, num_classes=4, **extra).eval()
    x = torch.rand(1, 3, *CLIPS.get(name, (224, 224) if name == "maxvit_t" else (128, 128)))
    offered = stages(net)
    assert layer_name(net) == offered[-1] == layer and len(offered) > 2
    chosen = [offered[0], offered[len(offered) // 2], layer]
    held = ch.capture(net, x, chosen)
    assert held.layers == chosen  # early to late
    last = held.A[layer]
    assert last.ndim == x.ndim and last.shape[1] >= 100 and last.shape[-1] == last.shape[-2] > 1
    assert held.gradients()[layer].abs().max() > 0


def test_the_automatic_layer_and_the_stages_of_a_network_of_ones_own(tiny_net):
    assert stages(tiny_net(3)) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    conv, other, head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), (nn.Flatten(), nn.Linear(4, 2))
    assert layer_name(nn.Sequential(other, nn.ReLU(), conv, *head)) == "2"
    assert layer_name(nn.Sequential(other, nn.Sequential(conv, *head, nn.Softmax(1)))) == "0"
    assert layer_name(nn.Sequential(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1)), *head)) == "0.0"  # before the pool
    assert layer_name(nn.Sequential(nn.ModuleList([conv]), *head)) == "0.0"  # a list gives no map of its own
    assert layer_name(nn.Sequential(tiny_net())) == "0.layer4"  # a classifier inside a module
    trunk = nn.Sequential(nn.Sequential(other, nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(3, 3, 3)), *head)
    assert stages(trunk) == ["0.0", "0.2", "0.4", "0"]


@pytest.mark.parametrize(("name", "layer"), [("vit", "encoder.layers.encoder_layer_0"), ("swin", "features.7")])
def test_tokens_are_no_map(name, layer):
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 8}
    net = torchvision.models.VisionTransformer(**sizes) if name == "vit" else torchvision.models.swin_t(weights=None)
    with pytest.raises(ValueError, match="passes on tokens, and a list of tokens has no spatial map; name a layer"):
        layer_name(net)
    with pytest.raises(ValueError, match="no spatial map"):
        ch.capture(net.eval(), torch.rand(1, 3, *[32 if name == "vit" else 64] * 2), layer)


@pytest.mark.parametrize(("name", "last"), [("mobilenetv3_small_050", "blocks.5"), ("convnext_atto", "stages.3")])
def test_a_network_of_timm_says_where_its_last_stage_is(name, last):
    net = import_module("timm").create_model(name)
    ex = ch.explain(net, torch.rand(1, 3, 64, 64))
    assert ex.layers == [last] == stages(net)[-1:] and ex.heatmap(size="native").shape == (1, 2, 2)


def test_a_layer_by_name_by_position_and_as_a_module():
    net = torchvision.models.resnet18(num_classes=2)
    for layer in ("layer4.1", "layer4[1]", "layer4[-1]", "layer4.-1", net.layer4[1]):
        assert layer_name(net, layer) == "layer4.1"
    assert layer_name(net, "layer4[-1].conv1") == layer_name(net, net.layer4[1].conv1) == "layer4.1.conv1"
    assert layer_name(nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1))), "[-1][-2]") == "0.0"
    for layer in ("layer5", "layer4[2]", "layer4[-3]", "fc[-1]", "nothing[-1]", "", 3):
        with pytest.raises(ValueError, match=r"has no layer .*; it has conv1, bn1, .*layer4, .* deeper ones") as caught:
            layer_name(net, layer)
        assert len(str(caught.value)) < 700
