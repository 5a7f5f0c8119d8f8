"""The choice of a layer: by itself in one recorded pass, by name, by position and as a module."""

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
    "permute": "swin_t",
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
    offered = stages(net, x)
    assert layer_name(net, inputs=x) == offered[-1] == layer and len(offered) >= 2
    chosen = list(dict.fromkeys([offered[0], offered[len(offered) // 2], layer]))
    held = ch.capture(net, x, chosen)
    assert held.layers == chosen  # early to late
    last = held.A[layer]
    assert last.ndim == x.ndim and last.shape[1] >= 100 and last.shape[-1] == last.shape[-2] > 1
    assert held.gradients()[layer].abs().max() > 0


# timm's own heads: a convolution behind the pooling, one before it, norms and activations, tokens in between
TIMM = {
    "layer4": "resnet18 seresnet50 skresnet18 resnest14d res2net50_26w_4s",
    "blocks": "mobilenetv3_small_050 lcnet_050 ghostnet_100 hardcorenas_a",
    "bn2": "tf_efficientnet_lite0 mixnet_s tinynet_e",
    "stages": "convnext_atto edgenext_xx_small pvt_v2_b0 poolformer_s12 repvgg_a0 cspresnet50",
    "norm": "starnet_s1",
    "final_layer": "hrnet_w18_small",
    "level5": "dla34",
    "s4": "regnety_002",
    "": "vit_tiny_patch16_224 swin_tiny_patch4_window7_224 levit_128s",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer"), [(n, layer) for layer, names in TIMM.items() for n in names.split()])
def test_networks_of_timm(name, layer):
    net = import_module("timm").create_model(name, num_classes=3).eval()
    x = torch.rand(1, 3, *[96 if layer else 224] * 2)
    if layer:
        ex = ch.explain(net, x, target=0)
        assert ex.layers == [layer] and ex.capture.gradients(0)[layer].any()
    else:
        with pytest.raises(ValueError, match="passes on tokens, and a list of tokens has no spatial map; name a layer"):
            ch.explain(net, x)


def test_the_automatic_layer_and_the_stages_of_a_network_of_ones_own(tiny_net):
    assert stages(tiny_net(3)) == ["layer1", "layer2", "layer3", "layer4"]
    conv, other, head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    assert layer_name(nn.Sequential(other, nn.ReLU(), conv, *head)) == "2"
    assert layer_name(nn.Sequential(other, nn.Sequential(conv, *head, nn.Softmax(1)))) == "1.0"
    assert layer_name(nn.Sequential(nn.Sequential(conv, nn.ReLU(), head[0]), *head)) == "0.1"  # before the pool
    assert layer_name(nn.Sequential(tiny_net())) == "0.layer4"  # a classifier inside a module
    trunk = nn.Sequential(nn.Sequential(other, nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(3, 3, 3)), *head)
    assert stages(trunk) == ["0.0", "0.2", "0"]


class Gated(nn.Module):
    """Its trunk is declared last but one, an attention branch runs last, and what is declared last never runs."""

    def __init__(self):
        super().__init__()
        self.gate, self.conv, self.act = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid()), nn.Conv2d(3, 8, 3), nn.ReLU()
        self.fc, self.idle = nn.Linear(8, 2), nn.Conv2d(3, 64, 3)

    def forward(self, x):
        x = self.act(self.conv(x))
        return self.fc((x * self.gate(x)).mean((2, 3)))


class UNet(nn.Module):
    """Two levels down and up, with a skip connection on each, into a map of two classes."""

    def __init__(self):
        super().__init__()
        self.out, (self.up1, self.up2) = nn.Conv2d(8, 2, 1), (nn.Conv2d(48, 16, 3, 1, 1), nn.Conv2d(24, 8, 3, 1, 1))
        self.one, self.two, self.deep = (nn.Conv2d(a, b, 3, 1, 1) for a, b in ((3, 8), (8, 16), (16, 32)))

    def forward(self, x):
        pool, up = nn.functional.max_pool2d, lambda x: nn.functional.interpolate(x, scale_factor=2)
        one = self.one(x).relu()
        two = self.two(pool(one, 2)).relu()
        deep = self.deep(pool(two, 2)).relu()
        return self.out(self.up2(torch.cat([up(self.up1(torch.cat([up(deep), two], 1))), one], 1)))


def test_branches_and_u_shapes():
    assert layer_name(Gated(), inputs=torch.rand(1, 3, 16, 16)) == "act"
    with pytest.warns(UserWarning, match=r"passes on all .*\(a U-shape, or branches\); 'deep' was taken, the widest"):
        ex = ch.explain(UNet(), torch.rand(2, 3, 32, 32), target=lambda out: out[1].mean())
    assert ex.layers == ["deep"] and ex.heatmap().shape == (2, 32, 32)
    with pytest.warns(UserWarning, match="a U-shape"):
        assert stages(UNet()) == ["one", "two", "deep"]
    assert ch.capture(UNet(), torch.rand(1, 3, 32, 32), "up2").layers == ["up2"]


def test_the_pass_is_recorded_once_for_a_network_and_a_shape(tiny_net):
    net, ran = tiny_net(), []
    net.register_forward_hook(lambda module, args, out: ran.append(len(out)))
    for x in (torch.rand(2, 3, 64, 64),) * 2 + (torch.rand(2, 3, 48, 64),):
        ch.explain(net, x)
    assert ran == [1, 2, 2, 1, 2]


def test_tokens_are_no_map():
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 8}
    net, x = torchvision.models.VisionTransformer(**sizes).eval(), torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match="passes on tokens, and a list of tokens has no spatial map; name a layer"):
        layer_name(net, inputs=x)
    with pytest.raises(ValueError, match="no spatial map"):
        ch.capture(net, x, "encoder.layers.encoder_layer_0")


def test_a_layer_by_name_by_position_and_as_a_module():
    net = torchvision.models.resnet18(num_classes=2)
    for layer in ("layer4.1", "layer4[1]", "layer4[-1]", "layer4.-1", net.layer4[1]):
        assert layer_name(net, layer) == "layer4.1"
    assert layer_name(net, "layer4[-1].conv1") == layer_name(net, net.layer4[1].conv1) == "layer4.1.conv1"
    assert layer_name(nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1))), "[-1][-2]") == "0.0"
    for layer in ("layer5", "layer4[2]", "layer4[-3]", "fc[-1]", "nothing[-1]", "", 3):
        with pytest.raises(ValueError, match=r"has no layer .*; it consists of conv1, .*layer4, .*fc; named_m"):
            layer_name(net, layer)
