"""The explorers: toggles over explanations that are already computed, so that every answer is instant."""

import html
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import ipywidgets as w
import numpy as np
from torch import nn

from .. import render
from ..cam.explain import explain
from ..cam.layers import stages
from ..cam.methods import METHODS, cams, title
from ..cam.methods import method as registered
from ..evaluate.faithfulness import BASELINES, auc, curves, masked
from .controls import Explored, bar, colours, fraction, resize, titled, toggles

SIDE = 520  # pixels of a picture's longer side; a page shows it smaller, and sharp


class _OfPictures(Explored):
    """What both explorers offer of pictures, each of which is explained once, when it is first chosen."""

    def _offer(
        self, model: nn.Module, pictures: Mapping[str, Any], methods: Sequence[str], method: str,
        layers: Sequence[str], layer: str | None, alpha: float,
    ) -> None:  # fmt: skip
        layers = list(layers or stages(model)[-4:])
        pixels = {name: getattr(given, "pixels", given) for name, given in pictures.items()}
        self.explanation = cache(lambda name: explain(model, pixels[name], layers=layers))
        self.picture = w.Dropdown(options=list(pictures), description="picture")
        self.method = toggles(methods or cams(), registered(method).name, "method")
        self.layer, self.alpha = toggles(layers, layer or layers[-1], "layer"), fraction(alpha, "alpha")

    def _words(self, method: str) -> str:
        """A method as it is set: with alpha, where it takes one, and the layer."""
        alpha = f", alpha {self.alpha.value:.2f}," if "alpha" in METHODS[method].takes else ""
        return f"{title(method)}{alpha} at {self.layer.value}"


class Explorer(_OfPictures):
    """Picture, class, method, layer, alpha and looks, over the picture and its heat; `beside` shows a second method.

    `pictures` are what `explain` takes, or samples, whose masks are then drawn. What is shown carries its titles, so
    that it is a whole figure where nothing can be clicked.
    """

    def __init__(
        self, model: nn.Module, pictures: Mapping[str, Any], *, methods: Sequence[str] = (), method: str = "hybrid",
        beside: str | None = None, layers: Sequence[str] = (), layer: str | None = None, alpha: float = 0.7,
        cmap: str = "jet", opacity: float | str = 0.4, out: str = "results",
    ):  # fmt: skip
        self._offer(model, pictures, methods, method, layers, layer, alpha)
        self.masks = {name: getattr(given, "mask", None) for name, given in pictures.items()}
        classes = enumerate(self.explanation(self.picture.value).classes)
        asked = [("predicted class", None), *((name, i) for i, name in classes)]  # names may occur twice
        others = [("no other method", None), *self.method.options]
        self.target = w.Dropdown(options=asked, description="class")
        self.beside = w.Dropdown(options=others, value=beside, description="beside")
        self.fade = w.Checkbox(opacity == "heat", description="opacity grows with the heat", indent=False)
        self.opacity, self.cmap = fraction(0.4 if opacity == "heat" else opacity, "opacity"), colours(cmap)
        self.outline = w.Checkbox(True, description="outline of the object", indent=False)
        looks = (self.cmap, self.outline), (self.alpha, self.opacity, self.fade)
        super().__init__((self.picture, self.target, self.beside), (self.method,), (self.layer,), *looks, out=out)

    def _refresh(self, change: Any = None) -> None:
        name, ex = self.picture.value, self.explanation(self.picture.value)
        methods, mask = [m for m in (self.method.value, self.beside.value) if m], self.masks[name]
        self.alpha.disabled = not any("alpha" in METHODS[method].takes for method in methods)
        self.opacity.disabled, self.outline.disabled = self.fade.value, mask is None
        look = {"opacity": "heat" if self.fade.value else self.opacity.value, "cmap": self.cmap.value}
        target = int(ex.probabilities.argmax()) if self.target.value is None else self.target.value
        goal = f"{ex.classes[target]} ({ex.probabilities[target]:.1%})"
        plain = np.round(ex.picture * 255).astype(np.uint8)
        panels = [(plain, (name, f"the model says {ex.label} ({ex.confidence:.1%})"))]
        for method in methods:
            heat = ex.heatmap(method, layer=self.layer.value, target=target, alpha=self.alpha.value)
            found = f"heat for {goal}" if heat.any() else f"blank: nothing speaks for {goal}"
            panels.append((render.overlay(ex.picture, heat, **look), (self._words(method), found)))
        size, parts = tuple(max(2, round(n * SIDE / max(plain.shape))) for n in plain.shape[:2]), []
        for picture, lines in panels:
            shown = resize(picture, size)
            if self.outline.value and mask is not None:
                edge = resize(mask.astype(np.float32), size) >= 0.5
                shown = render.outline(render.outline(shown, edge, (0, 0, 0), 4), edge)
            parts.append(np.pad(titled(shown, lines), ((0, 0), (0, 14), (0, 0)), constant_values=255))
        self.caption.value = html.escape("; ".join(": ".join(lines) for _, lines in panels))
        file = " ".join([name, ex.classes[target], *map(self._words, methods)])
        self._show(np.hstack([*parts, titled(bar(self.cmap.value, size[0]), ("", "heat"))]), file)


class CurveExplorer(_OfPictures):
    """Picture, method, layer, baseline and alpha: the insertion and deletion curves, and pictures on the way."""

    def __init__(
        self, model: nn.Module, pictures: Mapping[str, Any], *,
        methods: Sequence[str] = ("gradcam", "layercam", "hybrid"), method: str = "gradcam", layers: Sequence[str] = (),
        layer: str | None = None, alpha: float = 0.7, baseline: str = "mean", steps: int = 10, out: str = "results",
    ):  # fmt: skip
        self._offer(model, pictures, methods, method, layers, layer, alpha)
        self.model, self.steps, self.drawn = model, steps, cache(self._draw)  # what was measured once is kept
        self.baseline = toggles(BASELINES, baseline, "baseline")
        rows = (self.picture, self.alpha), (self.method,), (self.layer,), (self.baseline,)
        super().__init__(*rows, kind="png", out=out)

    def _refresh(self, change: Any = None) -> None:
        words = self._words(self.method.value)
        self.alpha.disabled = "alpha" not in words
        chosen = self.picture.value, self.method.value, self.layer.value, self.baseline.value
        drawn = self.drawn(*chosen, 0.0 if self.alpha.disabled else self.alpha.value)
        self._show(drawn, f"{self.picture.value} {words} {self.baseline.value}")

    def _draw(self, picture: str, method: str, layer: str, baseline: str, alpha: float) -> np.ndarray:
        import matplotlib.pyplot as plt

        ex = self.explanation(picture)
        heat = ex.heatmap(method, layer=layer, alpha=alpha, size="model")  # on the network's own input
        found = curves(self.model, ex.inputs, ex.target, heat[None, None], steps=self.steps, baselines=[baseline])
        figure = plt.figure(figsize=(11, 4.8), dpi=110, layout="constrained")
        cells = figure.add_gridspec(2, 5, width_ratios=(1.9, 0.1, 1, 1, 1))
        axes = figure.add_subplot(cells[:, 0])
        directions = (("insertion", "#009E73", "shown"), ("deletion", "#D55E00", "gone"))
        for row, (direction, ink, verb) in enumerate(directions):
            line = found.probability[direction, baseline][0, 0]
            axes.plot(found.fractions, line, color=ink, label=f"{direction}: area {auc(line, found.fractions):.3f}")
            for column, share in enumerate((0.1, 0.3, 0.6), start=2):
                seen = masked(ex.inputs[0], heat, share, direction=direction, baseline=baseline, card=ex.card)
                shown = ex.card.display(seen[None])[0].permute(1, 2, 0).numpy()
                render.show(figure.add_subplot(cells[row, column]), shown, f"{share:.0%} {verb}")
        axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="share of pixels", ylabel=f"probability of {ex.label}")
        axes.legend(loc="best")
        figure.suptitle(f"{picture}: {self._words(method)}; what is taken away turns into: {baseline}")
        figure.canvas.draw()
        drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
        plt.close(figure)
        return drawn
