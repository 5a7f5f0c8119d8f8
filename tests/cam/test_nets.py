"""The small residual network."""

import pytest
import torch
from torch import nn

from camhelpers.cam.nets import BasicBlock, SmallResNet, folded


def maps(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The map behind each stage."""
    found = [x]
    for stage in ("stem", "layer1", "layer2", "layer3", "layer4"):
        found.append(net.get_submodule(stage)(found[-1]))
    return found[1:]


def test_the_default_ends_in_a_7x7_map_whose_mean_the_logits_are_linear_in():
    net, x = SmallResNet(classes=10).eval(), torch.rand(2, 3, 224, 224)
    found = maps(net, x)
    sizes = [(24, 56, 56), (24, 56, 56), (48, 28, 28), (96, 14, 14), (192, 7, 7)]
    assert [tuple(each.shape[1:]) for each in found] == sizes
    torch.testing.assert_close(net(x), net.fc(found[-1].mean((2, 3))))
    assert sum(p.numel() for p in net.parameters()) * 4 < 3e6  # bytes: what ships


def test_volumes_take_a_stride_for_each_axis_and_may_have_an_axis_of_one():
    for strides, shape, last in (
        (((1, 2, 2), 1, 2, 2, 2), (1, 32, 16), (1, 2, 1)),
        (((1, 2, 2), 1, (1, 2, 2), 1, 2), (8, 16, 16), (4, 2, 2)),
    ):
        net = SmallResNet(3, channels=1, widths=(4, 4, 4, 4), dims=3, strides=strides).eval()
        assert maps(net, torch.rand(2, 1, *shape))[-1].shape == (2, 4, *last)


@pytest.mark.parametrize(("dims", "pool"), [(2, nn.AvgPool2d), (3, nn.AvgPool3d)])
def test_a_block_is_the_sum_of_its_two_paths_on_the_averaged_map(dims, pool):
    torch.manual_seed(0)
    block, x = BasicBlock(3, 5, 2, dims).eval(), torch.rand(1, 3, *(7, 8, 9)[:dims])
    half = pool(2, ceil_mode=True, count_include_pad=False)(x)
    short = block.shortcut[1](block.shortcut[0](half))
    long = block.bn2(block.conv2(block.bn1(block.conv1(half)).relu()))
    assert torch.equal(block(x), (long + short).relu())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_folded_copy_answers_alike_and_what_cannot_be_folded_is_used_as_it_is(dims, tiny_net):
    net, x = tiny_net(dims).train(), torch.randn(4, {2: 3, 3: 1}[dims], *[32] * dims)
    net(x)  # statistics other than the initial ones
    copy = folded(net.eval())
    assert not any("BatchNorm" in type(module).__name__ for module in copy.modules()) and net.layer4.bn2 is not None
    torch.testing.assert_close(copy(x), net(x), rtol=1e-4, atol=1e-5)
    net.register_forward_hook(lambda module, args, out: out * 2)
    assert folded(net) is net
