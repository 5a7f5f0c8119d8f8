"""Every method in one registry. To add one, add a function here; it then appears in every widget, command and table.

A CAM is a pure function of activations `A` and gradients `G`, both `(N, C, *spatial)`, and returns its raw map
`(N, *spatial)`. A gradient method is one of the noisy gradients at the input itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .gradients import SAMPLES, NoisyGradients


@dataclass(frozen=True)
class Method:
    """One entry of the registry: the function, how figures show it, and what it takes and costs.

    `takes` names options of the function, `alpha` or `seed`. `forwards` are passes beyond the one that all methods
    share; a method that has any reads `NoisyGradients`. A `control` knows nothing of the model: methods must beat it.
    """

    name: str
    function: Callable[..., Tensor]
    title: str
    colour: str
    takes: tuple[str, ...] = ()
    forwards: int = 0
    control: bool = False

    def __call__(self, A: Tensor, G: Tensor, **options: Any) -> Tensor:
        """The raw map, with those of the options that the method takes."""
        return self.function(A, G, **{name: options[name] for name in self.takes if name in options})


METHODS: dict[str, Method] = {}


def register(
    name: str, *, title: str = "", colour: str = "#000000", takes: Sequence[str] = (), forwards: int = 0,
    control: bool = False,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:  # fmt: skip
    """Enter a function under `name`, with its title and colour in figures and the options that it takes."""

    def enter(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if name in METHODS and METHODS[name].function.__module__ == __name__ != function.__module__:
            raise ValueError(f"{name!r} is the name of a built-in method; register yours under another.")
        METHODS[name] = Method(name, function, title or name, colour, tuple(takes), forwards, control)
        return function

    return enter


def method(name: str) -> Method:
    """The registered method of that name."""
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def title(name: str) -> str:
    """A method's name as the papers write it; any other name, such as the oracle's, with a capital."""
    return METHODS[name].title if name in METHODS else name.capitalize()


def colour(name: str) -> str:
    """A method's colour in every chart (Okabe and Ito's palette, safe for colour-blind readers); black for others."""
    return METHODS[name].colour if name in METHODS else "#000000"


def cams() -> tuple[str, ...]:
    """The names of the methods that cost no pass of their own, controls included."""
    return tuple(name for name, found in METHODS.items() if not found.forwards)


def controls() -> tuple[str, ...]:
    """The names of the controls."""
    return tuple(name for name, found in METHODS.items() if found.control)


def variants(names: Sequence[str], alphas: Sequence[float]) -> list[tuple[str, float]]:
    """Every method once with every alpha that it takes; NaN for one that takes none."""
    found = []
    for name in dict.fromkeys(names):
        found += [(name, float(a)) for a in (dict.fromkeys(alphas) if "alpha" in method(name).takes else (math.nan,))]
    if not found:
        raise ValueError(f"There is no method to examine; name some of {', '.join(METHODS)}, and an alpha.")
    return found


def spatial(x: Tensor) -> tuple[int, ...]:
    """The axes behind batch and channel."""
    return tuple(range(2, x.ndim))


def unit(heat: Tensor) -> Tensor:
    """Divide each map by its maximum; negative evidence counts as none, and a blank map stays zero."""
    return unit_(heat.clamp_min(0))[0]


def unit_(heat: Tensor) -> tuple[Tensor, Tensor]:
    """The same in place, for maps without negative numbers, and the maxima: every copy of a volume costs time."""
    top = heat.flatten(1).amax(1)
    return heat.div_(top.where(top > 0, 1).view(-1, *[1] * (heat.ndim - 1))), top


@register("gradcam", title="Grad-CAM", colour="#0072B2")
def gradcam(A: Tensor, G: Tensor) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient (Selvaraju et al., 2017)."""
    return torch.relu((G.mean(spatial(G), keepdim=True) * A).sum(1))


@register("gradcam++", title="Grad-CAM++", colour="#56B4E9")
def gradcam_plus_plus(A: Tensor, G: Tensor) -> Tensor:
    """Grad-CAM++: positive gradients, weighted so that each occurrence counts (Chattopadhay et al., 2018).

    The paper's `G^2 / (2 G^2 + sum(A) G^3)` is `1 / (2 + sum(A) G)` wherever G is not 0. That needs no epsilon,
    which at the usual 1e-6 moves maps by a tenth where gradients are near 1e-3.
    """
    below = 2 + A.sum(spatial(A), keepdim=True) * G
    weights = torch.where(below != 0, torch.relu(G) / below, 0).sum(spatial(A), keepdim=True)
    return torch.relu((weights * A).sum(1))


@register("xgradcam", title="XGrad-CAM", colour="#009E73")
def xgradcam(A: Tensor, G: Tensor) -> Tensor:
    """XGrad-CAM: gradients averaged with the activation as weight (Fu et al., 2020)."""
    space = spatial(A)
    total = A.sum(space, keepdim=True)
    weights = torch.where(total != 0, (G * A).sum(space, keepdim=True) / total.where(total != 0, 1), 0)
    return torch.relu((weights * A).sum(1))


@register("hirescam", title="HiResCAM", colour="#CC79A7")
def hirescam(A: Tensor, G: Tensor) -> Tensor:
    """HiResCAM: gradient times activation, element by element (Draelos and Carin, 2020)."""
    return torch.relu((G * A).sum(1))


@register("layercam", title="LayerCAM", colour="#E69F00")
def layercam(A: Tensor, G: Tensor) -> Tensor:
    """LayerCAM: each element weighted by its own positive gradient (Jiang et al., 2021)."""
    return torch.relu((torch.relu(G) * A).sum(1))


@register("hybrid", title="Hybrid", colour="#D55E00", takes=("alpha",))
def hybrid(A: Tensor, G: Tensor, alpha: float = 0.7) -> Tensor:
    """Hybrid Grad-LayerCAM: `(GC/max GC)^alpha * (LC/max LC)^(1-alpha)`; 1 is Grad-CAM, 0 is LayerCAM."""
    return unit(gradcam(A, G)) ** alpha * unit(layercam(A, G)) ** (1 - alpha)


@register("eigencam", title="Eigen-CAM", colour="#7F6A00")
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


@register("smoothgrad", title="SmoothGrad", colour="#4B2E83", forwards=SAMPLES)
def smoothgrad(found: NoisyGradients) -> Tensor:
    """SmoothGrad: the size of the mean gradient under noise, summed over channels (Smilkov et al., 2017)."""
    return found.mean.abs().sum(1)


@register("vargrad", title="VarGrad", colour="#117733", forwards=SAMPLES)
def vargrad(found: NoisyGradients) -> Tensor:
    """VarGrad: how much the gradient varies under noise, a map of sensitivity (Adebayo et al., 2018)."""
    return found.variance.sum(1)


@register("random", title="Random", colour="#999999", takes=("seed",), control=True)
def random(A: Tensor, G: Tensor, seed: int | Sequence[int] = 0) -> Tensor:
    """Control: uniform noise at the layer's resolution; `seed` counts up over the batch, or give one each."""
    seeds = [seed + i for i in range(len(A))] if isinstance(seed, int) else seed
    return torch.stack([torch.rand(A.shape[2:], generator=torch.Generator().manual_seed(int(s))) for s in seeds]).to(A)


@register("centre", title="Centre", colour="#555555", control=True)
def centre(A: Tensor, G: Tensor) -> Tensor:
    """Control: a bell in the middle, of a quarter of the side; objects tend to be there."""
    heat = torch.ones((), dtype=A.dtype, device=A.device)
    for n in A.shape[2:]:
        x = (torch.arange(n, dtype=A.dtype, device=A.device) + 0.5) / n - 0.5
        heat = heat[..., None] * torch.exp(-((x / 0.25) ** 2) / 2)
    return heat.expand(A.shape[0], *A.shape[2:]).clone()
