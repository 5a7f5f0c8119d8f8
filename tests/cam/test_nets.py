"""The small residual network."""

import pytest
import torch
from torch import nn

from camhelpers.cam.nets import BasicBlock, SmallResNet, folded


def test_the_default_ends_in_a_7x7_map():
    net = SmallResNet(classes=10).eval()
    shapes = {}
    for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
        net.get_submodule(name).register_forward_hook(
            lambda m, a, out, n=name: shapes.update({n: tuple(out.shape[1:])})
        )
    assert net(torch.zeros(2, 3, 224, 224)).shape == (2, 10)
    assert shapes == {
        "stem": (24, 56, 56),
        "layer1": (24, 56, 56),
        "layer2": (48, 28, 28),
        "layer3": (96, 14, 14),
        "layer4": (192, 7, 7),
    }
    assert sum(p.numel() for p in net.parameters()) * 4 < 3e6  # bytes: what ships


@pytest.mark.parametrize(("dims", "shape"), [(2, (2, 1, 40, 56)), (3, (2, 1, 24, 40, 56))])
def test_pictures_and_volumes_of_any_shape(dims, shape):
    net = SmallResNet(3, channels=1, widths=(4, 6, 8, 10), dims=dims)
    assert net(torch.rand(shape)).shape == (2, 3)


def test_an_axis_of_one_meets_a_stride():
    net = SmallResNet(3, channels=1, widths=(4, 4, 4, 4), dims=3, strides=(2, 1, 2, 2, 2)).eval()
    assert net(torch.rand(1, 1, 1, 32, 17)).shape == (1, 3)
    assert net.layer2(torch.rand(1, 4, 1, 8, 8)).shape == (1, 4, 1, 4, 4)


@pytest.mark.parametrize(("dims", "pool"), [(2, nn.AvgPool2d), (3, nn.AvgPool3d)])
def test_the_shortcut_averages_as_torchs_own_pooling(dims, pool):
    x = torch.rand(1, 3, *(7, 8, 9)[:dims])
    expected = pool(2, ceil_mode=True, count_include_pad=False)(x)
    assert torch.equal(BasicBlock(3, 5, 2, dims).shortcut[0](x), expected)


def test_a_stride_for_each_axis():
    net = SmallResNet(3, widths=(4, 4, 4, 4), dims=3, strides=((1, 2, 2), 1, (1, 2, 2), 1, 2))
    assert net.layer3(net.layer2(net.layer1(net.stem(torch.rand(1, 3, 8, 16, 16))))).shape == (1, 4, 8, 4, 4)
    assert isinstance(net.layer1.shortcut, nn.Identity) and not isinstance(net.layer2.shortcut, nn.Identity)


def test_a_block_is_the_sum_of_its_two_paths():
    torch.manual_seed(0)
    block, x = BasicBlock(3, 5, 2).eval(), torch.rand(1, 3, 8, 8)
    long = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    assert torch.equal(block(x), (long + block.shortcut(x)).relu())


def test_the_logits_are_a_linear_function_of_the_pooled_map():
    net, x = SmallResNet(3, widths=(4, 4, 4, 4)).eval(), torch.rand(2, 3, 64, 64)
    maps = net.layer4(net.layer3(net.layer2(net.layer1(net.stem(x)))))
    torch.testing.assert_close(net(x), net.fc(maps.mean((2, 3))))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_folded_copy_answers_alike_without_batch_norms_and_leaves_the_network_alone(dims):
    torch.manual_seed(0)
    net = SmallResNet(classes=3, channels=1, dims=dims, widths=(4, 8, 8, 8))
    net(torch.randn(8, 1, *[32] * dims))  # statistics other than the initial ones
    net.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    copy, x = folded(net), torch.randn(2, 1, *[32] * dims)
    assert not any("BatchNorm" in type(module).__name__ for module in copy.modules())
    torch.testing.assert_close(copy(x), net(x), rtol=1e-4, atol=1e-5)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_cannot_be_folded_is_used_as_it_is():
    class Choosing(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    hooked = SmallResNet(classes=2)
    hooked.register_forward_hook(lambda module, args, out: out * 2)
    for net in (Choosing().eval(), hooked.eval()):
        assert folded(net) is net
