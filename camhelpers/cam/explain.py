"""The front door: `explain(model, picture)` predicts, and hands out heatmaps for any method, layer, class and alpha."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from .. import render
from ..io.volumes import Volume
from ..render import Opacity
from . import methods
from .capture import Capture, Layers, Target, capture, eval_mode, resolve_target
from .cards import Card
from .geometry import Geometry, Place, geometry, upsample
from .gradients import PERCENTILE, SAMPLES, SPREAD, NoisyGradients, noisy_gradients
from .inputs import Inputs, card_of, prepare
from .layers import layer_name

Size = Literal["input", "model", "native"]
ALPHA = 0.7


class Heat(NamedTuple):
    """A heatmap, and the `raw` map that was clipped (None: a CAM is not), resized, and divided by its maximum there."""

    heatmap: np.ndarray | list[np.ndarray]
    raw: np.ndarray
    clipped_at: np.ndarray | None
    divided_by: np.ndarray


@dataclass(eq=False, repr=False)
class Explanation:
    """One pass over one input, or over a batch: its prediction, and every heatmap that can be drawn from it."""

    model: nn.Module
    capture: Capture
    source: Inputs
    target: Target
    card: Card | None
    _noise: dict[Any, NoisyGradients] = field(default_factory=dict)
    _mirrored: dict[tuple[int, ...], "Explanation"] = field(default_factory=dict)

    @property
    def inputs(self) -> Tensor:
        """What the model took, `(N, C, *spatial)`."""
        return self.source.tensor

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
        return names[0] if self.source.single else names

    @property
    def confidence(self) -> float | np.ndarray:
        """The probability of the predicted class."""
        top = np.max(self.probabilities, axis=-1)
        return float(top) if self.source.single else top

    def heatmap(
        self, method: str = "gradcam", *, size: Size = "input", percentile: float = PERCENTILE, normalize: bool = True,
        **options: Any,
    ) -> np.ndarray | list[np.ndarray]:  # fmt: skip
        """The heat `(H, W)` or `(Z, Y, X)`, float32 in 0..1; of a batch `(N, ...)`, or a list where sizes differ.

        `layer`: one of those captured, the last unless given. `target`: another class than the one that was explained.
        `alpha`: the hybrid's share of Grad-CAM. `size`: that of the "input", of what the "model" took, or "native", the
        layer's own. `normalize=False` keeps the method's own scale. `samples`, `spread`, `seed` and `percentile` (where
        the scale ends) belong to "smoothgrad" and "vargrad". `place`: cells lie on the plain "grid", as in all other
        libraries, where strides and paddings put them ("geometric"), or where they were measured to look ("effective").
        `smooth="mirror"`: the mean over the input mirrored along all combinations of the axes `mirrors`, a pass each.
        """
        if normalize:
            return self.heat(method, size=size, percentile=percentile, **options).heatmap
        return self._out(self._resized(*self._map(method, **options), size))

    def heat(self, method: str = "gradcam", *, size: Size = "input", percentile: float = PERCENTILE, **options) -> Heat:
        """The map that `heatmap` gives with these options, the raw one, and the numbers that lie between the two."""
        raw, lines = self._map(method, **options)
        heat, tops = raw.clamp_min(0), None  # a copy of our own
        if methods.method(method).forwards:
            tops = raw.new_tensor([np.percentile(one.cpu().numpy(), percentile) for one in raw])
            tops = tops.where(tops > 0, raw.flatten(1).amax(1))
            heat = heat.clamp_max_(tops.view(-1, *[1] * (raw.ndim - 1)))
        sized = self._resized(heat, lines, size)
        divisor = torch.cat([methods.unit_(one)[1] for one in (sized if isinstance(sized, list) else [sized])])
        return Heat(*(None if x is None else self._out(x) for x in (sized, raw, tops, divisor)))

    def geometry(self, layer: str | nn.Module | None = None, *, measure: bool = False) -> Geometry:
        """Where a captured layer's cells lie on the model's input; the effective centres only with `measure=True`."""
        name = self._layer(layer)
        return geometry(self.model, name, self.inputs, self.capture.A[name].shape[2:], measure=measure)

    def heatmaps(self, classes: Sequence[int | str] | Literal["all"] = "all", **options: Any):
        """Heatmaps of several classes on one shared scale, classes first: `(K, H, W)` or `(K, N, H, W)`."""
        chosen = range(len(self.classes)) if isinstance(classes, str) and classes == "all" else classes
        chosen = [chosen] if isinstance(chosen, (str, int)) else chosen
        first, free = self.heatmap(target=chosen[0], normalize=False, **options), psutil.virtual_memory().available
        if (needed := 2 * len(chosen) * sum(np.asarray(part).nbytes for part in first)) > free:
            what = f"The maps of {len(chosen)} classes take {needed / 1e9:.0f} GB, more than is free"
            raise ValueError(f"{what}; name fewer classes, or say size='model' or 'native'.")
        maps = [first, *(self.heatmap(target=each, normalize=False, **options) for each in chosen[1:])]
        stacks = [np.stack(one) for one in (zip(*maps, strict=True) if isinstance(maps[0], list) else [maps])]
        first = 1 if self.source.single or len(stacks) > 1 else 2  # each sample of a batch has its own scale
        for stack in stacks:
            top = stack.max(axis=(0, *range(first, stack.ndim)), keepdims=True)
            np.divide(stack, top, out=stack, where=top > 0)
        return stacks if len(stacks) > 1 else stacks[0]

    def blank(self, method: str = "gradcam", **options: Any) -> bool | np.ndarray:
        """Whether the map shows no positive evidence at all."""
        top = self.heat(method, **{**options, "size": "native"}).divided_by
        return bool(top == 0) if self.source.single else top == 0

    @property
    def picture(self) -> np.ndarray | list[np.ndarray]:
        """What was explained, `(H, W, 3)` in 0..1, or `(N, H, W, 3)` for a batch; a list, where sizes differ."""
        if self.source.pictures is None:
            raise ValueError("This input is no picture; draw its slices with camhelpers.render.overlay.")
        return self.source.pictures[0] if self.source.single else self.source.pictures

    @property
    def volume(self) -> Volume:
        """What was explained, where it was one volume."""
        if not (self.source.single and self.source.volumes):
            raise ValueError("This input was not read as one volume.")
        return self.source.volumes[0]

    def overlay(self, method: str = "gradcam", *, opacity: Opacity = 0.4, cmap: str = "jet", **options):
        """The picture under its heat, uint8 `(H, W, 3)` or `(N, H, W, 3)`; 0.4 is 40 % of colour, everywhere."""
        draw, heat = partial(render.overlay, opacity=opacity, cmap=cmap), self.heatmap(method, **options)
        return list(map(draw, self.picture, heat)) if isinstance(heat, list) else draw(self.picture, heat)

    def panel(self, method: str | Sequence[str] = "gradcam", *, opacity: Opacity = 0.4, cmap: str = "jet", **options):
        """A figure of the first picture: itself, and under the heat of each method, with a colour bar.

        The titles say what was asked where it is not what was predicted, and each map's method, alpha and layer.
        """
        first, drawn, titles = slice(None) if self.source.single else 0, [], []
        for name in [method] if isinstance(method, str) else method:
            drawn.append(self.overlay(name, opacity=opacity, cmap=cmap, **options)[first])
            chosen, blank = methods.method(name), bool(np.ravel(self.blank(name, **options))[0])
            alpha = f", alpha {options.get('alpha', ALPHA):g}" if "alpha" in chosen.takes else ""
            where = "at the input" if chosen.forwards else self._layer(options.get("layer"))
            titles.append(f"{chosen.title}{alpha}\n{where}" + " (blank)" * blank)
        said, asked = self.title(), self._asked(options.get("target"))
        what = "a score of its own" if callable(asked) else self.title(0, asked[0])
        said = said if said in ("", what) else f"asked: {what}\npredicted: {said}"
        return render.grid([self.picture[first], *drawn], [said, *titles], cell=3, columns=4, cmap=cmap)

    def title(self, index: int = 0, chosen: int | None = None) -> str:
        """What the model says of one sample, or of one class there: `cat 98 %`; nothing where it is no classifier."""
        if not _scores_classes(self.capture.output):
            return ""
        row = probabilities(self.capture.logits[index])
        chosen = int(row.argmax()) if chosen is None else chosen
        return f"{self.classes[chosen]} {float(row[chosen]):.0%}".replace("%", " %")

    def __repr__(self) -> str:
        what = self.title() or "one picture" if self.source.single else f"batch of {len(self.inputs)}"
        return f"<Explanation: {what}, layers {', '.join(self.layers)}>"

    def _map(self, method: str, *, place: Place = "grid", smooth=None, mirrors: Sequence[int] = (-1,), **options):
        """The method's own map, and a function that says where its cells lie at a size, if not on the plain grid."""
        if place not in get_args(Place) or smooth not in (None, "mirror"):
            raise ValueError(f"place is {place!r}, one of {get_args(Place)}, and smooth {smooth!r}, None or 'mirror'.")
        found, axes = [self._raw(method, **options)], {axis % (self.inputs.ndim - 2) for axis in mirrors if smooth}
        options["target"] = self._asked(options.get("target"))
        for flipped in (some for n in range(1, len(axes) + 1) for some in combinations(sorted(axes), n)):
            if flipped not in self._mirrored:
                x = self.inputs.flip([axis + 2 for axis in flipped])
                held, source = capture(self.model, x, self.layers), replace(self.source, tensor=x)
                self._mirrored[flipped] = replace(self, capture=held, source=source, _noise={}, _mirrored={})
            found.append(self._mirrored[flipped]._raw(method, **options).flip([axis + 1 for axis in flipped]))
        raw = torch.stack(found).mean(0) if smooth else found[0]
        if place == "grid" or methods.method(method).forwards:  # a gradient at the input lies where the input does
            return raw, None
        where = self.geometry(options.get("layer"), measure=place == "effective")
        if where.unknown and place == "geometric":
            warnings.warn(f"Cells are lost in {where.unknown}; their heat stays on the plain grid.", stacklevel=4)
        return raw, partial(where.centres, place, axes)

    def _raw(
        self, method: str, layer: str | nn.Module | None = None, target: Target = None, alpha: float = ALPHA,
        seed: int | Sequence[int] = 0, samples: int = SAMPLES, spread: float = SPREAD,
    ) -> Tensor:  # fmt: skip
        """The method's own map at the layer's resolution, or at that of the input."""
        chosen = methods.method(method)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; it lies between 0 (LayerCAM) and 1 (Grad-CAM).")
        if chosen.forwards:  # one run serves both gradient methods; the last one is kept
            key = (self._asked(target), samples, spread, int(np.ravel(seed)[0]))
            if (found := self._noise.get(key)) is None:
                found = noisy_gradients(self.model, self.inputs, *key)
                self._noise.clear()
                self._noise[key] = found
            return chosen.function(found)
        name = self._layer(layer)
        both = self.capture.A[name], self.capture.gradients(self._asked(target))[name]
        # half precision is for the network; the methods divide and take powers
        A, G = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in both)
        return chosen(A, G, alpha=alpha, seed=seed)

    def _layer(self, layer: str | nn.Module | None) -> str:
        name = self.layers[-1] if layer is None else layer_name(self.model, layer, self.inputs)
        if name not in self.layers:
            held = ", ".join(self.layers)
            raise ValueError(f"Layer {name!r} was not captured, only {held}; ask for it in explain(layers=...).")
        return name

    def _asked(self, target: Target) -> Callable[[Any], Tensor] | tuple[int, ...]:
        """What one call explains: a class for each sample, or a callable; the explanation's own unless given."""
        target = self.target if target is None else target
        if callable(target):
            return target
        return tuple(self.capture.classes(resolve_target(target, self.classes if self.card else ())).tolist())

    def _resized(self, heat: Tensor, lines: Any, size: Size) -> Tensor | list[Tensor]:
        if size not in ("input", "model", "native"):
            raise ValueError(f"size is {size!r}; it is 'input' (the picture's), 'model', or 'native' (the layer's).")
        if size == "native":
            return heat
        shapes = [self.inputs.shape[2:]] if size == "model" else self.source.shapes
        parts, found = [heat] if len(shapes) == 1 else heat.split(1), []
        if size == "model" or self.source.views is None:
            found = [upsample(part, shape, lines and lines(shape)) for part, shape in zip(parts, shapes, strict=True)]
        else:
            for part, shape, (top, left, *seen) in zip(parts, shapes, self.source.views, strict=True):
                found.append(part.new_zeros(len(part), *shape))  # what a centre crop cut off was never seen: no heat
                box = found[-1][:, top : top + seen[0], left : left + seen[1]]
                box.copy_(upsample(part, seen, lines and lines(seen)))
        return found if len(found) > 1 else found[0]

    def _out(self, x: Tensor | list[Tensor]) -> np.ndarray | list[np.ndarray]:
        if isinstance(x, list):
            return [one[0].detach().float().cpu().numpy() for one in x]
        array = x.detach().float().cpu().numpy()
        return array[0] if self.source.single else array


def explain(
    model: nn.Module, inputs: Any, *, layers: Layers = None, target: Target = None,
    size: Literal["model", "native"] = "model",
) -> Explanation:  # fmt: skip
    """Run `model` once on `inputs` and return its explanation.

    `inputs`: a picture (path, array, PIL image), a volume (path, array `(Z, Y, X)`, `Volume`), a list of either, or a
    tensor `(N, C, *spatial)`, taken as ready. `layers`: the last stage with a spatial map unless given; one pass serves
    several. `target`: the predicted class unless given; an index, a name, one for each sample, or a callable on one
    sample's output. `size="native"` shows the model a volume on its own grid, not at the size of its card.

    >>> import camhelpers as ch
    >>> ex = ch.explain(ch.load_model("scenes"), np.zeros((224, 224, 3)))
    >>> ex.heatmap("hybrid", alpha=0.7).shape
    (224, 224)
    """
    source, card = prepare(model, inputs, size), getattr(model, "card", None)
    names = card.classes if card else ()
    target = resolve_target(target, names)
    held = capture(model, source.tensor, layers)
    if names and _scores_classes(held.output) and len(names) != held.output.shape[1]:
        count = held.output.shape[1]
        raise ValueError(f"The model's card names {len(names)} classes, but the model has {count} outputs.")
    return Explanation(model, held, source, target if callable(target) else held.classes(target), card)


def predict(model: nn.Module, pictures: Sequence[Any], *, batch: int = 32) -> np.ndarray:
    """Probabilities `(N, classes)` of many pictures or volumes, without an explanation; the model is left as it was."""
    batch = 1 if len(card_of(model).size) == 3 else batch  # a volume is let go as soon as it is small
    parts = [list(pictures[start : start + batch]) for start in range(0, len(pictures), batch)]
    with eval_mode(model), torch.inference_mode():
        return np.concatenate([probabilities(model(prepare(model, some).tensor)).cpu().numpy() for some in parts])


def probabilities(logits: Tensor) -> Tensor:
    """The softmax over the last axis; of a single score, which a softmax would make 1 whatever it is, the sigmoid."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)


def _scores_classes(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim == 2
