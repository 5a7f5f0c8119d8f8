"""Every CAM method, a pure function of activations `A` and gradients `G`, both `(N, C, *spatial)`.

Each returns its raw map `(N, *spatial)`. Adding one takes three lines; it then appears in every widget, command and
table:

    @register("mycam")
    def mycam(A, G):
        return torch.relu((A * G.abs()).sum(1))
"""

import inspect
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

METHODS: dict[str, Callable[..., Tensor]] = {}
CONTROLS = ("random", "centre")
"""Maps that know nothing of the model; a method is worth looking at where it beats them."""


def register(name: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Enter a function of `(A, G)`, and of keywords with defaults, under `name`."""

    def enter(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        METHODS[name] = function
        return function

    return enter


def method(name: str) -> Callable[..., Tensor]:
    """The registered function of that name.

    >>> method("gradcam").__name__
    'gradcam'
    """
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def apply(name: str, A: Tensor, G: Tensor, **options: object) -> Tensor:
    """Call a method with those of the options that it takes (`alpha` concerns the hybrid alone)."""
    function = method(name)
    takes = inspect.signature(function).parameters
    return function(A, G, **{key: value for key, value in options.items() if key in takes})


def variants(names: Sequence[str], alphas: Sequence[float]) -> list[tuple[str, float]]:
    """Every method once with every alpha that it takes; NaN for one that takes none.

    >>> variants(["gradcam", "hybrid"], [0.3, 0.7])
    [('gradcam', nan), ('hybrid', 0.3), ('hybrid', 0.7)]
    """
    found = []
    for name in dict.fromkeys(names):
        takes_alpha = "alpha" in inspect.signature(method(name)).parameters
        found += [(name, float(alpha)) for alpha in (dict.fromkeys(alphas) if takes_alpha else (math.nan,))]
    if not found:
        raise ValueError(f"There is no method to examine; name some of {', '.join(METHODS)}, and an alpha.")
    return found


def spatial(x: Tensor) -> tuple[int, ...]:
    """The axes behind batch and channel."""
    return tuple(range(2, x.ndim))


def unit(heat: Tensor) -> Tensor:
    """Divide each map by its maximum; negative evidence counts as none, and a blank map stays zero."""
    return unit_(heat.clamp_min(0))


def unit_(heat: Tensor) -> Tensor:
    """The same in place, for maps without negative numbers: every copy of a volume costs as much as its upsampling."""
    top = heat.flatten(1).amax(1).view(-1, *[1] * (heat.ndim - 1))
    return heat.div_(top.where(top > 0, 1))


@register("gradcam")
def gradcam(A: Tensor, G: Tensor) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient (Selvaraju et al., 2017)."""
    weights = G.mean(spatial(G), keepdim=True)
    return torch.relu((weights * A).sum(1))


@register("gradcam++")
def gradcam_plus_plus(A: Tensor, G: Tensor) -> Tensor:
    """Grad-CAM++: positive gradients, weighted so that each occurrence counts (Chattopadhay et al., 2018).

    The paper's `G^2 / (2 G^2 + sum(A) G^3)` is `1 / (2 + sum(A) G)` wherever G is not 0. That needs no epsilon,
    which at the usual 1e-6 moves maps by a tenth where gradients are near 1e-3.
    """
    below = 2 + A.sum(spatial(A), keepdim=True) * G
    weights = torch.where(below != 0, torch.relu(G) / below, 0).sum(spatial(A), keepdim=True)
    return torch.relu((weights * A).sum(1))


@register("xgradcam")
def xgradcam(A: Tensor, G: Tensor) -> Tensor:
    """XGrad-CAM: gradients averaged with the activation as weight (Fu et al., 2020)."""
    space = spatial(A)
    total = A.sum(space, keepdim=True)
    weights = torch.where(total != 0, (G * A).sum(space, keepdim=True) / total.where(total != 0, 1), 0)
    return torch.relu((weights * A).sum(1))


@register("hirescam")
def hirescam(A: Tensor, G: Tensor) -> Tensor:
    """HiResCAM: gradient times activation, element by element (Draelos and Carin, 2020)."""
    return torch.relu((G * A).sum(1))


@register("layercam")
def layercam(A: Tensor, G: Tensor) -> Tensor:
    """LayerCAM: each element weighted by its own positive gradient (Jiang et al., 2021)."""
    return torch.relu((torch.relu(G) * A).sum(1))


@register("hybrid")
def hybrid(A: Tensor, G: Tensor, alpha: float = 0.7) -> Tensor:
    """Hybrid Grad-LayerCAM: `(GC/max GC)^alpha * (LC/max LC)^(1-alpha)`; 1 is Grad-CAM, 0 is LayerCAM."""
    return unit(gradcam(A, G)) ** alpha * unit(layercam(A, G)) ** (1 - alpha)


@register("eigencam")
def eigencam(A: Tensor, G: Tensor) -> Tensor:
    """Eigen-CAM: the activations' first principal direction; asks no class (Muhammad and Yeasin, 2020)."""
    flat = A.flatten(2).mT.double()  # (N, positions, channels)
    if flat.shape[1] < flat.shape[2]:  # the smaller Gram matrix has the same leading direction
        squares, directions = torch.linalg.eigh(flat @ flat.mT)
        heat = directions[..., -1] * squares[..., -1:].clamp_min(0).sqrt()  # so that no activation is no heat
    else:
        heat = (flat @ torch.linalg.eigh(flat.mT @ flat).eigenvectors[..., -1:])[..., 0]
    heat = heat * torch.sign(heat.sum(1, keepdim=True))  # an eigenvector has no sign of its own
    return torch.relu(heat).view(A.shape[0], *A.shape[2:]).to(A.dtype)


@register("random")
def random(A: Tensor, G: Tensor, seed: int | Sequence[int] = 0) -> Tensor:
    """Control: uniform noise at the layer's resolution; `seed` counts up over the batch, or give one each."""
    seeds = [seed + i for i in range(len(A))] if isinstance(seed, int) else seed
    draws = [torch.rand(A.shape[2:], generator=torch.Generator().manual_seed(int(s))) for s in seeds]
    return torch.stack(draws).to(A)


@register("centre")
def centre(A: Tensor, G: Tensor) -> Tensor:
    """Control: a bell in the middle, of a quarter of the side; objects tend to be there."""
    heat = torch.ones((), dtype=A.dtype, device=A.device)
    for n in A.shape[2:]:
        x = (torch.arange(n, dtype=A.dtype, device=A.device) + 0.5) / n - 0.5
        heat = heat[..., None] * torch.exp(-((x / 0.25) ** 2) / 2)
    return heat.expand(A.shape[0], *A.shape[2:]).clone()
