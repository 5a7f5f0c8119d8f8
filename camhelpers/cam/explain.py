"""The front door: `explain(model, picture)` predicts, and hands out heatmaps for any method, layer, class and alpha."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import methods
from .capture import Capture, Target, capture, eval_mode
from .gradients import PERCENTILE, SAMPLES, SPREAD, NoisyGradients, noisy_gradients
from .models import Card, layer_name

if TYPE_CHECKING:
    from ..io.volumes import Volume

Size = Literal["input", "model", "native"]


class Heat(NamedTuple):
    """A heatmap, and what leads from it back to the method's own numbers; of a batch, with an entry for each sample."""

    heatmap: np.ndarray
    """In 0..1, at the size that was asked for."""
    raw: np.ndarray
    """What the method gave, at the layer's own resolution."""
    clipped_at: np.ndarray | None
    """Where raw values were cut off before resizing; None for a CAM, which is not cut."""
    divided_by: np.ndarray
    """The maximum after resizing; 0 for a blank map."""


@dataclass(eq=False, repr=False)
class Explanation:
    """One pass over one input, or over a batch: its prediction, and every heatmap that can be drawn from it."""

    model: nn.Module
    capture: Capture
    inputs: Tensor
    target: Target
    card: Card | None
    single: bool
    pictures: np.ndarray | None
    """What was explained, `(N, H, W, 3)` in 0..1; None where the input is no picture."""
    view: tuple[int, int, int, int] | None
    """The box (top, left, height, width) of the pictures that the model saw; None for all of the input."""
    volumes: "list[Volume]" = field(default_factory=list)
    """What was explained, where it was read as volumes."""
    _noise: dict[Any, NoisyGradients] = field(default_factory=dict)

    # what the model says -------------------------------------------------------------------------------------------

    @property
    def layers(self) -> list[str]:
        """The captured layers, early to late."""
        return self.capture.layers

    @property
    def logits(self) -> np.ndarray:
        """The scores `(classes,)`, or `(N, classes)` for a batch."""
        return self._out(self.capture.logits)

    @property
    def probabilities(self) -> np.ndarray:
        """The softmax of the scores; the sigmoid, where there is but one."""
        return self._out(probabilities(self.capture.logits))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; their numbers, where the model has no names."""
        names = self.card.classes if self.card else ()
        count = self.capture.logits.shape[-1]
        return tuple(names) if len(names) == count else tuple(str(i) for i in range(count))

    @property
    def label(self) -> str | list[str]:
        """The predicted class by name."""
        names = [self.classes[i] for i in self.capture.logits.argmax(-1)]
        return names[0] if self.single else names

    @property
    def confidence(self) -> float | np.ndarray:
        """The probability of the predicted class."""
        top = np.max(self.probabilities, axis=-1)
        return float(top) if self.single else top

    # why -------------------------------------------------------------------------------------------------------------

    def heatmap(
        self,
        method: str = "gradcam",
        *,
        layer: str | nn.Module | None = None,
        target: Target = None,
        alpha: float = 0.7,
        seed: int = 0,
        samples: int = SAMPLES,
        spread: float = SPREAD,
        percentile: float = PERCENTILE,
        size: Size = "input",
        normalize: bool = True,
    ) -> np.ndarray:
        """The heat `(H, W)` or `(Z, Y, X)`, a batch's with `N` before it, as float32 in 0..1 (divided by its maximum).

        `layer`: one of those captured, the last unless given. `target`: another class than the one that was explained.
        `size`: "input" is that of the picture or volume, "model" that of the network's input, "native" the layer's own.
        `normalize=False` keeps the method's own scale. A map without positive evidence is blank: it stays zero, and
        `blank()` says so. "smoothgrad" and "vargrad" run the model `samples` times more, once for both; their maps end
        at `percentile`, since a few voxels would otherwise take all of the scale.
        """
        raw = self._raw(method, layer, target, alpha, seed, samples, spread)
        if not normalize:
            return self._out(self._resized(raw, size))
        return self._scaled(raw, method, percentile, size).heatmap

    def heat(
        self, method: str = "gradcam", *, percentile: float = PERCENTILE, size: Size = "input", **options: Any
    ) -> "Heat":
        """The map that `heatmap` gives with these options, the raw one, and the numbers that lie between the two."""
        return self._scaled(self._raw(method, **options), method, percentile, size)

    def heatmaps(self, classes: Sequence[int | str] | Literal["all"] = "all", **options: Any) -> np.ndarray:
        """Heatmaps of several classes on one shared scale, classes first: `(K, H, W)` or `(K, N, H, W)`."""
        chosen = range(len(self.classes)) if isinstance(classes, str) and classes == "all" else classes
        if len(chosen) == 0:
            raise ValueError("classes is empty; name at least one class, or 'all'.")
        options["normalize"], shared = False, options.get("normalize", True)
        maps = np.stack([self.heatmap(target=c, **options) for c in chosen])
        if not shared:
            return maps
        top = maps.max(axis=(0, *range(1 if self.single else 2, maps.ndim)), keepdims=True)
        return np.divide(maps, top, out=np.zeros_like(maps), where=top > 0)

    def blank(self, method: str = "gradcam", **options: Any) -> bool | np.ndarray:
        """Whether the map shows no positive evidence at all."""
        heat = self.heatmap(method, **{**options, "size": "native", "normalize": False})
        return bool(heat.max() <= 0) if self.single else heat.reshape(len(heat), -1).max(1) <= 0

    # to look at ------------------------------------------------------------------------------------------------------

    @property
    def picture(self) -> np.ndarray:
        """What was explained, `(H, W, 3)` in 0..1, or `(N, H, W, 3)` for a batch."""
        if self.pictures is None:
            raise ValueError("This input is no picture; draw its slices with camhelpers.render.overlay.")
        return self.pictures[0] if self.single else self.pictures

    @property
    def volume(self) -> "Volume":
        """What was explained, where it was one volume."""
        if not (self.single and self.volumes):
            raise ValueError("This input was not read as one volume; see `volumes`.")
        return self.volumes[0]

    def overlay(
        self,
        method: str = "gradcam",
        *,
        opacity: float = 0.4,
        cmap: str = "jet",
        contours: Sequence[float] = (),
        **options: Any,
    ) -> np.ndarray:
        """The picture under its heat, uint8 `(H, W, 3)` or `(N, H, W, 3)`; 0.4 is 40 % of colour, everywhere."""
        from ..render import overlay

        return overlay(self.picture, self.heatmap(method, **options), opacity=opacity, cmap=cmap, contours=contours)

    def panel(
        self,
        method: str | Sequence[str] = "gradcam",
        *,
        opacity: float = 0.4,
        cmap: str = "jet",
        index: int = 0,
        **options: Any,
    ):
        """A figure: the picture, and for each method its heat with a colour bar and its overlay."""
        from ..render import panel

        names = [method] if isinstance(method, str) else list(method)
        pick = (lambda x: x) if self.single else (lambda x: x[index])
        heats = {methods.title(name): pick(self.heatmap(name, **options)) for name in names}
        return panel(pick(self.picture), heats, title=self.title(index), opacity=opacity, cmap=cmap)

    def title(self, index: int = 0) -> str:
        """What the model says of one sample, for a heading: `cat 98 %`; nothing where it is no classifier."""
        output = self.capture.output
        if not isinstance(output, Tensor) or output.ndim != 2:
            return ""
        row = probabilities(self.capture.logits[index])
        top = int(row.argmax())
        return f"{self.classes[top]} {float(row[top]):.0%}".replace("%", " %")

    def __repr__(self) -> str:
        what = self.title() or "one picture" if self.single else f"batch of {len(self.inputs)}"
        return f"<Explanation: {what}, layers {', '.join(self.layers)}>"

    # how -------------------------------------------------------------------------------------------------------------

    def _raw(
        self,
        method: str,
        layer: str | nn.Module | None = None,
        target: Target = None,
        alpha: float = 0.7,
        seed: int | Sequence[int] = 0,
        samples: int = SAMPLES,
        spread: float = SPREAD,
    ) -> Tensor:
        """The method's own map at the layer's resolution, or at that of the input."""
        chosen = methods.method(method)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; it lies between 0 (LayerCAM) and 1 (Grad-CAM).")
        if chosen.forwards:
            return chosen.function(self._noisy(target, samples, spread, seed))
        name = self.layers[-1] if layer is None else layer_name(self.model, layer)
        if name not in self.layers:
            raise ValueError(
                f"Layer {name!r} was not captured, only {', '.join(self.layers)}; ask for it in explain(layers=...)."
            )
        A, G = self.capture.A[name], self.capture.gradients(self._asked(target))[name]
        return chosen(_full(A), _full(G), alpha=alpha, seed=seed)

    def _scaled(self, raw: Tensor, method: str, percentile: float, size: Size) -> "Heat":
        """A raw map in 0..1: cut off at a percentile where it is one of gradients, resized, divided by its maximum."""
        if not 0 < percentile <= 100:
            raise ValueError(f"percentile is {percentile}; it lies above 0, and 100 cuts nothing off.")
        heat, tops = raw.clamp_min(0), None  # a copy of our own
        if methods.method(method).forwards:
            tops = raw.new_tensor([np.percentile(one.cpu().numpy(), percentile) for one in raw])
            tops = tops.where(tops > 0, raw.flatten(1).amax(1))
            heat = heat.clamp_max_(tops.view(-1, *[1] * (raw.ndim - 1)))
        heat, divisor = methods.unit_(self._resized(heat, size))
        return Heat(*(None if x is None else self._out(x) for x in (heat, raw, tops, divisor)))

    def _asked(self, target: Target) -> Target:
        """The target of one call: the explanation's own unless another is given."""
        if target is None:
            return self.target
        return target if callable(target) else resolve_target(target, self.classes if self.card else ())

    def _noisy(self, target: Target, samples: int, spread: float, seed: int) -> NoisyGradients:
        """The run that both gradient methods share; the last one is kept."""
        target = self._asked(target)
        asked = target if callable(target) else self.capture.classes(target)
        key = (asked if callable(asked) else tuple(asked.tolist()), samples, spread, seed)
        if key not in self._noise:
            self._noise.clear()
            options = {"samples": samples, "spread": spread, "seed": seed}
            self._noise[key] = noisy_gradients(self.model, self.inputs, asked, **options)
        return self._noise[key]

    def _resized(self, heat: Tensor, size: Size) -> Tensor:
        if size == "native":
            return heat
        if size not in ("input", "model"):
            raise ValueError(f"size is {size!r}; it is 'input' (the picture's), 'model', or 'native' (the layer's).")
        if size == "model" or (self.view is None and not self.volumes):
            return upsample(heat, self.inputs.shape[2:])
        if self.volumes:
            shapes = {volume.data.shape for volume in self.volumes}
            return upsample(heat, shapes.pop() if len(shapes) == 1 else self.inputs.shape[2:])
        top, left, height, width = self.view  # what lies outside of a centre crop was never seen: no heat
        whole = heat.new_zeros(len(heat), *self.pictures.shape[1:3])
        whole[:, top : top + height, left : left + width] = upsample(heat, (height, width))
        return whole

    def _out(self, x: Tensor) -> np.ndarray:
        array = x.detach().float().cpu().numpy()
        return array[0] if self.single else array


def explain(
    model: nn.Module,
    inputs: Any,
    *,
    layers: str | nn.Module | Sequence[str | nn.Module] | None = None,
    target: Target = None,
    size: Literal["model", "native"] = "model",
) -> Explanation:
    """Run `model` once on `inputs` and return its explanation.

    `inputs`: a picture (path, array, PIL image) or a list of them, prepared as the model's card says; for a model of
    volumes, a volume (path, array `(Z, Y, X)`, `Volume`) or a list; or a tensor `(N, C, *spatial)`, taken as ready.
    `layers`: the last stage with a spatial map unless given; name several, and one pass serves them all. `target`: the
    predicted class unless given; an index, a name, one for each sample, or a callable that turns one sample's output
    into the number to explain. `size="native"` shows the model a volume on its own grid, not at the size of its card.

    >>> import camhelpers as ch
    >>> ex = ch.explain(ch.load_model("scenes"), np.zeros((224, 224, 3)))
    >>> ex.heatmap("hybrid", alpha=0.7).shape
    (224, 224)
    """
    card = getattr(model, "card", None)
    single, pictures, view, volumes = False, None, None, []
    if size not in ("model", "native"):
        raise ValueError(f"size is {size!r}; it is 'model' (that of the model's card) or 'native' (the volume's own).")
    if isinstance(inputs, Tensor):
        x = inputs
        pictures = _pictures_of(x, card)
    else:
        card = _card_of(model)
        single = _is_single(inputs, card)
        given = [inputs] if single else inputs
        if len(card.size) == 3:
            x, volumes = _prepare_volumes(given, card, size)
        else:
            x, pictures, view = _prepare(given, card)
    x = _to_device_of(model, x)
    names = card.classes if card else ()
    target = resolve_target(target, names)
    held = capture(model, x, layers)
    if names and isinstance(held.output, Tensor) and held.output.ndim == 2 and len(names) != held.output.shape[1]:
        raise ValueError(
            f"The model's card names {len(names)} classes, but the model has {held.output.shape[1]} outputs."
        )
    if not callable(target):
        target = held.classes(target)
    return Explanation(model, held, x, target, card, single, pictures, view, volumes)


def predict(model: nn.Module, pictures: Sequence[Any], *, batch: int = 32) -> np.ndarray:
    """Probabilities `(N, classes)` of many pictures, without any explanation; the model is left as it was."""
    card = _card_of(model)
    if len(pictures) == 0:
        raise ValueError("There is no picture to predict; give at least one.")
    rows = []
    with eval_mode(model), torch.inference_mode():
        for start in range(0, len(pictures), batch):
            some = pictures[start : start + batch]
            if len(card.size) == 3:  # each is let go as soon as it is small
                x = torch.cat([_prepare_volumes([one], card)[0] for one in some])
            else:
                x, _, _ = _prepare(some, card)
            rows.append(probabilities(model(_to_device_of(model, x))).cpu().numpy())
    return np.concatenate(rows)


def probabilities(logits: Tensor) -> Tensor:
    """The softmax over the last axis; of a single score, which a softmax would make 1 whatever it is, the sigmoid.

    >>> probabilities(torch.tensor([[0.0], [2.0]])).flatten().tolist()
    [0.5, 0.8807970285415649]
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)


def resolve_target(target: Target, classes: Sequence[str]) -> Target:
    """Turn class names into indices; leave the rest as it is.

    >>> resolve_target("dog", ["cat", "dog"])
    1
    """
    if isinstance(target, str):
        if target not in classes:
            known = (
                f"it knows {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}"
                if classes
                else "it has no names"
            )
            raise ValueError(f"The model has no class {target!r}; {known}.")
        return list(classes).index(target)
    if isinstance(target, np.ndarray):
        target = target.tolist()
    if isinstance(target, (list, tuple)):
        return [resolve_target(t.item() if isinstance(t, np.generic) else t, classes) for t in target]
    return target


def upsample(heat: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps `(N, *spatial)` linearly along every axis, as OpenCV's `resize` does (`align_corners=False`)."""
    if tuple(heat.shape[1:]) == tuple(size):
        return heat
    if len(size) < 3:
        mode = "bilinear" if len(size) == 2 else "linear"
        return F.interpolate(heat[:, None], tuple(size), mode=mode, align_corners=False)[:, 0]
    z, y, x = (_linear(before, after).to(heat) for before, after in zip(heat.shape[1:], size, strict=True))
    slices = (y @ (heat @ x.T)).flatten(2)  # one axis after another: much faster than trilinear interpolation
    out = heat.new_empty(0)
    if heat.device.type == "cpu":  # NumPy asks for large pages of memory, and fresh small ones take half of the time
        out = torch.from_numpy(np.empty((len(heat), size[0], slices.shape[2]), heat[:0].numpy().dtype))
    return torch.matmul(z, slices, out=out).unflatten(2, size[1:])


@lru_cache(maxsize=32)
def _linear(before: int, after: int) -> Tensor:
    """The weights `(after, before)` of linear interpolation between cell centres, held at the ends."""
    return F.interpolate(torch.eye(before)[None], after, mode="linear", align_corners=False)[0].T.contiguous()


def _card_of(model: nn.Module) -> Card:
    card = getattr(model, "card", None)
    if card is None:
        raise TypeError(
            "The model has no card that says how to prepare a picture; pass a ready tensor (N, C, H, W), "
            "or give it one with load_model(model, classes=[...], size=..., mean=..., std=...)."
        )
    return card


def _prepare(inputs: Sequence[Any], card: Card) -> tuple[Tensor, np.ndarray, tuple[int, int, int, int] | None]:
    from ..io.images import read_image

    if len(inputs) == 0:
        raise ValueError("There is no picture to explain; give at least one.")
    read = [read_image(source) for source in inputs]
    x = torch.stack([card.prepare(picture) for picture in read])
    if len({picture.shape for picture in read}) == 1:
        height, width = read[0].shape[:2]
        return x, np.stack(read), card.view(height, width)
    return x, _pictures_of(x, card), None  # mixed sizes: shown as the model saw them


def _is_single(inputs: Any, card: Card) -> bool:
    """Whether this is one picture or volume; an array `(Z, Y, X, 3)` is one volume in colour."""
    if isinstance(inputs, np.ndarray):
        return inputs.ndim < 4 or (len(card.size) == 3 and inputs.ndim == 4 and inputs.shape[-1] == 3)
    return not isinstance(inputs, (list, tuple))


def _prepare_volumes(
    inputs: Sequence[Any], card: Card, size: Literal["model", "native"] = "model"
) -> tuple[Tensor, "list[Volume]"]:
    from ..io.volumes import read_volume

    if len(inputs) == 0:
        raise ValueError("There is no volume to explain; give at least one.")
    volumes = [read_volume(source, orientation=card.orientation) for source in inputs]
    shapes = {volume.data.shape for volume in volumes}
    if size == "native" and len(shapes) > 1:
        raise ValueError("The volumes differ in size; explain them one by one, or at the model's size.")
    return torch.stack([card.prepare_volume(volume.data, size) for volume in volumes]), volumes


def _pictures_of(x: Tensor, card: Card | None) -> np.ndarray | None:
    """A ready tensor as pictures: by the card's statistics, else stretched to 0..1 for each sample."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        return None
    x = x.detach().float().cpu()
    if card and len(card.mean) == x.shape[1]:
        shown = card.display(x)
    else:
        low, high = x.flatten(1).amin(1).view(-1, 1, 1, 1), x.flatten(1).amax(1).view(-1, 1, 1, 1)
        shown = (x - low) / (high - low).clamp_min(1e-12)
    return shown.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _to_device_of(model: nn.Module, x: Tensor) -> Tensor:
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return x if weight is None else x.to(weight.device)


def _full(x: Tensor) -> Tensor:
    """Half precision is for the network; the methods divide and take powers."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
