"""The small residual network."""

import pytest
import torch
from torch import nn

from camhelpers.cam.nets import BasicBlock, SmallResNet, folded

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


def maps(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The map behind each stage."""
    found = [x]
    for stage in STAGES:
        found.append(net.get_submodule(stage)(found[-1]))
    return found[1:]


def test_the_default_ends_in_a_7x7_map_whose_mean_the_logits_are_linear_in():
    net, x = SmallResNet(classes=10).eval(), torch.rand(2, 3, 224, 224)
    found = maps(net, x)
    sizes = [(24, 56, 56), (24, 56, 56), (48, 28, 28), (96, 14, 14), (192, 7, 7)]
    assert [tuple(each.shape[1:]) for each in found] == sizes
    torch.testing.assert_close(net(x), net.fc(found[-1].mean((2, 3))))
    assert sum(p.numel() for p in net.parameters()) * 4 < 3e6  # bytes: what ships


@pytest.mark.parametrize(
    ("strides", "shape", "last"),
    [
        ((4, 1, 2, 2, 2), (24, 40, 56), (1, 2, 2)),
        ((2, 1, 2, 2, 2), (1, 32, 17), (1, 2, 2)),  # an axis of one meets a stride
        (((1, 2, 2), 1, (1, 2, 2), 1, 2), (8, 16, 16), (4, 2, 2)),  # a stride for each axis
    ],
)
def test_volumes_of_any_shape_and_strides(strides, shape, last):
    net = SmallResNet(3, channels=1, widths=(4, 4, 4, 4), dims=3, strides=strides).eval()
    assert net(torch.rand(2, 1, *shape)).shape == (2, 3)
    assert maps(net, torch.rand(2, 1, *shape))[-1].shape == (2, 4, *last)


@pytest.mark.parametrize(("dims", "pool"), [(2, nn.AvgPool2d), (3, nn.AvgPool3d)])
def test_a_block_is_the_sum_of_its_two_paths_and_its_shortcut_averages(dims, pool):
    torch.manual_seed(0)
    block, x = BasicBlock(3, 5, 2, dims).eval(), torch.rand(1, 3, *(7, 8, 9)[:dims])
    short = block.shortcut[2](block.shortcut[1](pool(2, ceil_mode=True, count_include_pad=False)(x)))
    long = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    assert torch.equal(block(x), (long + short).relu())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_folded_copy_answers_alike_without_batch_norms_and_leaves_the_network_alone(dims, tiny_net):
    net, x = tiny_net(dims).train(), torch.randn(4, {2: 3, 3: 1}[dims], *[32] * dims)
    net(x)  # statistics other than the initial ones
    before = {name: value.clone() for name, value in net.eval().state_dict().items()}
    copy = folded(net)
    assert not any("BatchNorm" in type(module).__name__ for module in copy.modules())
    torch.testing.assert_close(copy(x), net(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_cannot_be_folded_is_used_as_it_is():
    class Choosing(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    hooked = SmallResNet(classes=2)
    hooked.register_forward_hook(lambda module, args, out: out * 2)
    for net in (Choosing().eval(), hooked.eval()):
        assert folded(net) is net
