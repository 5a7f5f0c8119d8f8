"""Where cells lie on the input, against closed forms and impulses; and resizing heat, as OpenCV and PyTorch do it."""

import gc

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from camhelpers.cam import geometry as room
from camhelpers.cam.geometry import effective_offset, geometry, trace, upsample
from camhelpers.cam.models import import_torchvision
from camhelpers.cam.nets import SmallResNet

# resizing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 5), (1, 9), (3, 200), (12, 20, 16), (7, 5, 9), (2, 3, 8)])
def test_it_is_opencvs_resize_in_two_axes_and_the_trilinear_interpolation_in_three(size):
    heat = torch.rand(2, *(3, 5, 4)[: len(size)], generator=torch.Generator().manual_seed(0))
    if len(size) == 2:
        expected = torch.tensor(
            np.stack([cv2.resize(h, size[::-1], interpolation=cv2.INTER_LINEAR) for h in heat.numpy()])
        )
    else:
        expected = F.interpolate(heat[:, None], size, mode="trilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(upsample(heat, size), expected, rtol=0, atol=1e-5)
    assert upsample(heat.double(), size).dtype == torch.float64
    plain = [((after / before - 1) / 2, after / before) for before, after in zip(heat.shape[1:], size, strict=True)]
    torch.testing.assert_close(upsample(heat, size, plain), expected, rtol=0, atol=1e-5)


def test_cells_with_centres_of_their_own_are_met_there_and_held_beyond():
    heat, lines = torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(0)), [(1, 4), (0, 2), (-3, 6)]
    found = upsample(heat, (12, 9, 5), lines)
    torch.testing.assert_close(found[:, 1::4, 0:7:2, 3], heat[..., 1])
    between = 0.75 * heat[:, 0, 1] + 0.25 * heat[:, 1, 1]
    ramp = between[:, :1] + (between[:, 1:] - between[:, :1]) * torch.tensor([3, 4, 5, 6, 6]) / 6
    torch.testing.assert_close(found[:, 2, 2], ramp)
    torch.testing.assert_close(found[:, 0], found[:, 1])
    torch.testing.assert_close(found[:, 9:], found[:, 9:10].expand(-1, 3, -1, -1))
    torch.testing.assert_close(upsample(heat[:, 0, 0], [4], [(1, 1)]), heat[:, 0, 0][:, [0, 0, 1, 1]])


# the geometric centre ------------------------------------------------------------------------------------------------


class Step(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def found(*steps, size=(32, 40), channels=2, measure=False):
    """The geometry behind the steps, functions or layers, whose output must be what it says it is."""
    net = nn.Sequential(*(s if isinstance(s, nn.Module) else Step(s) for s in steps)).eval()
    x = torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cells = net(x).shape[2:]
    return geometry(net, str(len(steps) - 1), x, cells, measure=measure)


CONV = {2: nn.Conv2d, 3: nn.Conv3d}
# fmt: off
CLOSED = [
    ("a kernel in its middle", [nn.Conv2d(2, 4, 3, padding=1)], 0, 1),
    ("no padding", [nn.Conv2d(2, 4, 5)], 2, 1),
    ("an even kernel", [nn.Conv2d(2, 4, 4, 2, 1)], 0.5, 2),
    ("strides and paddings by axis", [nn.Conv2d(2, 4, (3, 5), (2, 1), (1, 0))], (0, 2), (2, 1)),
    ("dilation", [nn.Conv2d(2, 4, 3, 2, 1, dilation=3)], 2, 2),
    ("padding by name", [nn.Conv2d(2, 4, 5, padding="same", dilation=2)], 0, 1),
    ("groups", [nn.Conv2d(2, 2, 7, 2, 3, groups=2)], 0, 2),
    ("a ResNet's stem", [nn.Conv2d(2, 4, 7, 2, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 0, 4),
    ("a max pool with its stride", [nn.MaxPool2d(2)], 0.5, 2),
    ("a dilated max pool in ceil mode", [nn.MaxPool2d(3, 2, 0, dilation=2, ceil_mode=True)], 2, 2),
    ("an average pool in ceil mode", [nn.AvgPool2d(3, 2, 1, ceil_mode=True)], 0, 2),
    ("pools in a row", [nn.AvgPool2d(2), nn.AvgPool2d(2)], 1.5, 4),
    ("an adaptive pool", [nn.AdaptiveAvgPool2d((8, 10))], 1.5, 4),
    ("an adaptive max pool", [nn.AdaptiveMaxPool2d((16, 20))], 0.5, 2),
    ("TensorFlow's padding", [lambda x: F.pad(x, (0, 1, 0, 1)), nn.Conv2d(2, 4, 3, 2)], 1, 2),
    ("padding by axis", [lambda x: F.pad(x, (3, 0, 1, 0))], (-1, -3), 1),
    ("mirrored padding", [nn.ReflectionPad2d((2, 1, 0, 0))], (0, -2), 1),
    ("padded channels", [lambda x: F.pad(x, (1, 1, 0, 0, 2, 2))], (0, -1), 1),
    ("a crop by padding", [nn.ZeroPad2d(-2)], 2, 1),
    ("slicing", [lambda x: x[:, :, 3::2, -10:]], (3, 30), (2, 1)),
    ("a transposed convolution", [nn.ConvTranspose2d(2, 4, 4, 2, 1)], -0.25, 0.5),
    ("its odd kernel", [nn.ConvTranspose2d(2, 4, 3, 2, 1, output_padding=1)], 0, 0.5),
    ("down and up again", [nn.Conv2d(2, 4, 2, 2), nn.ConvTranspose2d(4, 4, 2, 2)], 0, 1),
    ("nearest neighbours", [nn.Upsample(scale_factor=2)], -0.25, 0.5),
    ("nearest neighbours downwards", [lambda x: F.interpolate(x, scale_factor=0.5)], 0, 2),
    ("interpolation", [nn.Upsample((64, 80), mode="bilinear")], -0.25, 0.5),
    ("interpolation from corner to corner", [nn.Upsample((63, 79), mode="bilinear", align_corners=True)], 0, 0.5),
    ("concatenated branches", [lambda x: torch.cat([F.max_pool2d(x, 3, 2, 1), x[:, :, ::2, ::2]], 1)], 0, 2),
    ("half of the channels", [lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), nn.Conv2d(2, 4, 3, 2, 1)], 0, 2),
    ("shuffled channels", [lambda x: x.view(1, 2, 1, 32, 40).transpose(1, 2).reshape(1, 2, 32, 40)], 0, 1),
    ("a gate", [nn.Conv2d(2, 2, 3), lambda x: x * F.hardsigmoid(x.mean((2, 3), keepdim=True))], 1, 1),
    ("a gate with layers", [nn.MaxPool2d(2), lambda x: x * nn.Conv2d(2, 2, 1)(F.adaptive_avg_pool2d(x, 1))], 0.5, 2),
    ("channels last and a linear layer", [nn.Conv2d(2, 6, 4, 4), lambda x: x.permute(0, 2, 3, 1), nn.LayerNorm(6),
                                          nn.Linear(6, 9), nn.GELU(), lambda x: x.permute(0, 3, 1, 2)], 1.5, 4),
    ("in place", [nn.Conv2d(2, 4, 3, 2), nn.ReLU(inplace=True), lambda x: x.mul_(2).add_(x)], 1, 2),
    ("each channel by itself", [lambda x: torch.cat([x[:, 1][:, None] * 2, x[:, :1]], 1), nn.MaxPool2d(2)], 0.5, 2),
]
# fmt: on


@pytest.mark.parametrize(("steps", "start", "jump"), [case[1:] for case in CLOSED], ids=[case[0] for case in CLOSED])
def test_strides_and_paddings_give_the_closed_form(steps, start, jump):
    where = found(*steps)
    assert where.unknown == "" and where.agree and where.effective is None
    assert np.array(where.lines) == pytest.approx(np.transpose([np.broadcast_to(v, 2) for v in (start, jump)]))


def test_three_axes():
    steps = [nn.Conv3d(2, 4, 3, (1, 2, 2), 1), nn.ReLU(), nn.MaxPool3d((1, 2, 3), (1, 2, 3)), nn.AvgPool3d(2)]
    where = found(*steps, size=(8, 32, 36))
    assert where.lines == ((0.5, 2), (3, 8), (5, 12)) and where.cells == (4, 4, 3)
    finer = found(nn.Upsample((16, 16, 64), mode="trilinear"), size=(8, 32, 32))
    assert finer.lines == ((-0.25, 0.5), (0.5, 2), (-0.25, 0.5))


def test_branches_that_disagree_are_averaged_and_it_is_said():
    where = found(nn.Conv2d(2, 4, 3, 1, 1), lambda x: F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, 2), nn.ReLU())
    assert not where.agree and not where.unknown
    assert where.lines == ((0.25, 2),) * 2  # the one lies on 2 i, the other half a pixel beyond


def test_the_networks_of_the_house_look_where_the_plain_grid_draws():
    net, x = SmallResNet(2).eval(), torch.zeros(1, 3, 224, 224)
    for name, n in (("layer1", 56), ("layer2", 28), ("layer3", 14), ("layer4", 7)):
        where = geometry(net, name, x, (n, n))
        assert where.agree and where.lines == where.grid


@pytest.mark.parametrize(
    ("step", "named"),
    [
        (lambda x: x.roll(1, 2), "roll"),
        (lambda x: F.pixel_shuffle(x.repeat(1, 2, 1, 1), 2), "repeat"),
        (lambda x: torch.cat([x, x], 2), "cat"),
        (lambda x: x + x.flip(-1), "flip"),
        (lambda x: x.index_select(2, torch.arange(31, -1, -1)), "index_select"),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), "max_unpool2d"),
        (lambda x: x.view(1, 2, 16, 2, 40).mean(3), "a change of shape"),
        (lambda x: torch.ones(1, 2, 16, 20) * float(x.sum()), "cannot be traced"),
        (lambda x: torch.from_numpy(x.numpy()), "cannot be traced"),
        (lambda x: torch.ones(1, 2, 16, 20), "a change of shape"),
    ],
)
def test_an_unknown_operation_is_named_and_leaves_the_plain_grid(step, named):
    where = found(nn.Conv2d(2, 2, 3, 1, 0), nn.ZeroPad2d((2, 0, 2, 0)), step)
    assert named in where.unknown and where.lines == where.grid and where.agree


# an impulse ----------------------------------------------------------------------------------------------------------


def linear(dims=2):
    """A positive network without bias, with strides, an even kernel, pools and a pad to one side."""
    conv, pool = CONV[dims], {2: nn.AvgPool2d, 3: nn.AvgPool3d}[dims]
    pad = {2: nn.ZeroPad2d, 3: nn.ZeroPad3d}[dims]((0, 3) * dims)
    net = nn.Sequential(conv(1, 2, 3, 2, 1, bias=False), pad, conv(2, 2, 5, 2, bias=False), pool(3, 1, 1),
                        conv(2, 2, 3, 1, 1, bias=False))  # fmt: skip
    for p in net.parameters():
        p.data.fill_(1)
    return net.eval()


@pytest.mark.parametrize("dims", [2, 3])
def test_one_bright_pixel_is_hottest_where_it_is(dims):
    net, n = linear(dims), 40
    x = torch.zeros(1, 1, *[n] * dims)
    where = geometry(net, "4", x, [10] * dims)
    assert where.lines == ((4, 4),) * dims and not where.unknown
    for cell in (3, 5):
        x.zero_()[(0, 0, *[4 + 4 * cell] * dims)] = 1
        with torch.no_grad():
            heat = net(x).sum(1)
        large = upsample(heat, [n] * dims, where.centres("geometric", (), [n] * dims))[0].numpy()
        assert np.unravel_index(large.argmax(), large.shape) == (4 + 4 * cell,) * dims
        doubled = upsample(heat, [2 * n] * dims, where.centres("geometric", (), [2 * n] * dims))[0].numpy()
        hottest = np.unravel_index(doubled.argmax(), doubled.shape)
        assert set(hottest) <= {2 * (4 + 4 * cell), 2 * (4 + 4 * cell) + 1}  # the bright pixel's own two


# the effective centre ------------------------------------------------------------------------------------------------


def test_the_effective_centre_of_even_weights_is_the_geometric_one():
    for dims in (2, 3):
        x = torch.zeros(1, 1, *[40] * dims)
        where = geometry(linear(dims), "4", x, [10] * dims, measure=True)
        geometric = where.lines[0][0] - where.grid[0][0]
        assert geometric == 2.5 and where.effective == pytest.approx([geometric] * dims, abs=0.2)


def test_weights_that_lean_move_it():
    def leaning(axis):
        conv = nn.Conv2d(3, 4, 9, 2, 4, bias=False)
        conv.weight.data.zero_().movedim(axis, 0)[-1].fill_(1.0)  # reads what lies 4 pixels beyond, nothing else
        if axis == 2:
            conv.weight.data[:, :, :, [0, 1, 2, 3, 5, 6, 7, 8]] = 0
        else:
            conv.weight.data[:, :, [0, 1, 2, 3, 5, 6, 7, 8]] = 0
        return nn.Sequential(conv, nn.ReLU())

    for axis, expected in ((2, (3.5, -0.5)), (3, (-0.5, 3.5))):  # the geometric centre lies on 2 i, the grid's between
        assert effective_offset(leaning(axis), "1", torch.zeros(1, 3, 32, 32)) == pytest.approx(expected, abs=1e-6)


def test_a_layer_without_gradient_stays_on_the_grid():
    conv = nn.Conv2d(3, 4, 3)
    conv.weight.data.zero_()
    assert effective_offset(nn.Sequential(conv), "0", torch.zeros(1, 3, 32, 32)) == (0, 0)


# kept ----------------------------------------------------------------------------------------------------------------


def test_it_is_kept_for_model_layer_and_shape_and_measured_again_after_training(tiny_net, monkeypatch):
    calls = []
    for name in ("trace", "effective_offset"):
        inner = getattr(room, name)
        monkeypatch.setattr(room, name, lambda *args, name=name, inner=inner: calls.append(name) or inner(*args))
    net, x = tiny_net(), torch.zeros(2, 3, 64, 64)
    first = geometry(net, "layer4", x, (8, 8), measure=True)
    assert geometry(net, "layer4", x[:1], (8, 8), measure=True) == first and calls == ["trace", "effective_offset"]
    assert geometry(net, "layer2", x, (16, 16)).lines[0][1] == 4 and calls[2:] == ["trace"]
    assert geometry(net, "layer2", x[..., :32], (16, 8)).size == (64, 32) and calls[3:] == ["trace"]
    with torch.no_grad():
        net.layer4.conv1.weight[..., :2] = 0  # nothing is read from the left any more
    assert geometry(net, "layer4", x, (8, 8), measure=True).effective[1] > first.effective[1]
    assert calls[4:] == ["effective_offset"]
    gc.collect()
    before = len(room._known)
    del net
    gc.collect()
    assert len(room._known) == before - 1


FAMILIES = [
    ("resnet18", "layer4", -15.5), ("vgg11", "features", 0), ("densenet121", "features", -1.5),
    ("efficientnet_b0", "features", -15.5), ("mobilenet_v3_small", "features", -15.5), ("convnext_tiny", "features", 0),
    ("mnasnet0_5", "layers", -15.5), ("googlenet", "inception5b", 6.5), ("shufflenet_v2_x0_5", "conv5", -15.5),
    ("squeezenet1_0", "features", 1.5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layer", "shift"), FAMILIES)
def test_the_families(name, layer, shift):
    extra = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):  # where cells lie asks for no weights
        net = import_torchvision().models.get_model(name, weights=None, **extra)
    where = trace(net, layer, torch.zeros(1, 3, 224, 224, device="meta"), (13 if name == "squeezenet1_0" else 7,) * 2)
    middle = [start + jump * (n - 1) / 2 for (start, jump), n in zip(where.lines, where.cells, strict=True)]
    assert middle == [111.5 + shift] * 2 and where.agree
