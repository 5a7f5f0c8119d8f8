"""Small residual networks with the stages of a ResNet: stem, layer1 to layer4, fc."""

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

_PARTS = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}


class _Halve(nn.Module):
    """Average the blocks of a stride; an axis that is shorter than its stride is averaged as a whole."""

    def __init__(self, stride: int | tuple[int, ...], dims: int):
        super().__init__()
        self.stride = (stride,) * dims if isinstance(stride, int) else tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        return _averaged(x, self.stride)


def _averaged(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    kernel = [min(s, n) for s, n in zip(stride, x.shape[2:], strict=True)]
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    return pool(x, kernel, stride, ceil_mode=True, count_include_pad=False)


torch.fx.wrap("_averaged")  # it asks for the shape, which a trace of the network does not know


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., 2016), on a map that averaging halves first.

    Both branches see the same pixels, and a cell lies in the middle of those that it replaces, where heat is drawn. A
    strided convolution would look half a pixel up and left of its shortcut; at `layer4` the heat would lie off by 15.
    """

    def __init__(self, cin: int, cout: int, stride: int | tuple[int, ...] = 1, dims: int = 2):
        super().__init__()
        conv, norm = _PARTS[dims]
        self.halve = nn.Identity() if stride == 1 else _Halve(stride, dims)
        self.conv1, self.bn1 = conv(cin, cout, 3, 1, 1, bias=False), norm(cout)
        self.conv2, self.bn2 = conv(cout, cout, 3, 1, 1, bias=False), norm(cout)
        self.shortcut = nn.Identity() if cin == cout else nn.Sequential(conv(cin, cout, 1, bias=False), norm(cout))

    def forward(self, x: Tensor) -> Tensor:
        """Return ReLU(residual + shortcut)."""
        x = self.halve(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A ResNet that trains in minutes on two cores; its stages have the names of a ResNet-50's.

    `dims=2` takes pictures `(N, C, H, W)`, `dims=3` volumes or clips `(N, C, D, H, W)`. `strides` holds one stride for
    the stem and one for each layer; at 224x224 the default ends in a 7x7 map at `layer4`. The stem's kernel is wider
    than its stride by two, so its cells lie in the middle of their pixels too.
    """

    def __init__(
        self, classes: int, channels: int = 3, widths: tuple[int, int, int, int] = (24, 48, 96, 192), dims: int = 2,
        strides: tuple[int | tuple[int, ...], ...] = (4, 1, 2, 2, 2),
    ):  # fmt: skip
        super().__init__()
        (conv, norm), before = _PARTS[dims], widths[0]
        kernel = strides[0] + 2 if isinstance(strides[0], int) else tuple(s + 2 for s in strides[0])
        self.stem = nn.Sequential(conv(channels, before, kernel, strides[0], 1, bias=False), norm(before), nn.ReLU())
        for i, width in enumerate(widths, start=1):
            setattr(self, f"layer{i}", BasicBlock(before, width, strides[i], dims))
            before = width
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(N, classes)`."""
        x = self.stem(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.flatten(2).mean(2))


def folded(net: nn.Module) -> nn.Module:
    """A copy for inference with each batch norm folded into the convolution before it: a fifth faster on a CPU.

    The network itself, where it has hooks or `torch.fx` cannot follow it. A trace takes one way through the Python code
    between the layers, so compare one answer of the two before relying on it.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in net.modules()):
        return net
    from torch.fx.experimental.optimization import fuse

    try:
        return fuse(net)
    except Exception:  # a trace fails in more ways than can be listed, and nothing is lost by doing without
        return net
