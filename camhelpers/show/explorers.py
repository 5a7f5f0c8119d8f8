"""The explorers: toggles over explanations that are already computed, so that every answer is instant."""

import html
import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import ipywidgets as w
import numpy as np
from torch import nn

from .. import render
from ..cam.explain import Explanation, explain
from ..cam.layers import stages
from ..cam.methods import METHODS, cams, title
from ..cam.methods import method as registered
from ..evaluate.faithfulness import auc, curves, masked
from ..io.images import encode
from .controls import Explored, bar, colours, fraction, resize, toggles

SIDE = 380  # pixels of each picture on the screen; two fit beside each other in a notebook


class Explorer(Explored):
    """Picture, class, method, layer, alpha, colour map and opacity, with the picture and its heat beneath.

    Every picture is explained once, when it is first chosen; after that nothing runs the model.
    """

    def __init__(
        self, model: nn.Module, pictures: Mapping[str, Any], *, methods: Sequence[str] = (), method: str = "hybrid",
        layers: Sequence[str] = (), layer: str | None = None, alpha: float = 0.7, cmap: str = "jet",
        opacity: float = 0.4,
    ):  # fmt: skip
        layers = list(layers or stages(model)[-4:])
        self.explanation = cache(lambda name: explain(model, pictures[name], layers=layers))
        self.picture = w.Dropdown(options=list(pictures), description="picture")
        classes = self.explanation(self.picture.value).classes
        self.target = w.Dropdown(options=[("predicted class", None), *((c, c) for c in classes)], description="class")
        self.method = toggles(methods or cams(), registered(method).name, "method")
        self.layer = toggles(layers, layer or layers[-1], "layer")
        self.alpha, self.opacity, self.cmap = fraction(alpha, "alpha"), fraction(opacity, "opacity"), colours(cmap)
        rows = (self.picture, self.target, self.cmap), (self.method,), (self.layer,), (self.alpha, self.opacity)
        super().__init__(*rows)

    def _refresh(self, change: Any = None) -> None:
        ex: Explanation = self.explanation(self.picture.value)
        method, target = self.method.value, self.target.value
        self.alpha.disabled = "alpha" not in METHODS[method].takes
        heat = ex.heatmap(method, layer=self.layer.value, target=target, alpha=self.alpha.value)
        what = title(method) + ("" if self.alpha.disabled else f" (alpha {self.alpha.value:.2f})")
        self.caption.value = (
            f"The model sees <b>{html.escape(str(ex.label))}</b> ({ex.confidence:.1%}). "
            f"Heat: {what} at {self.layer.value} for <b>{html.escape(str(target or ex.label))}</b>."
            + ("" if heat.any() else " <b>Blank: nothing in this layer speaks for the class.</b>")
        )
        shown = render.overlay(ex.picture, heat, opacity=self.opacity.value, cmap=self.cmap.value)
        size = tuple(max(1, round(n * SIDE / max(heat.shape))) for n in heat.shape)
        plain, gap = np.round(ex.picture * 255).astype(np.uint8), np.full((size[0], 12, 3), 255, np.uint8)
        whole = [resize(plain, size), gap, resize(shown, size), gap, bar(self.cmap.value, size[0])]
        self.image.value = encode(np.hstack(whole), "jpeg", quality=92)


class CurveExplorer(Explored):
    """A picture and a method: the insertion and deletion curves that follow, and masked pictures on the way."""

    def __init__(
        self, model: nn.Module, pictures: Mapping[str, Any], *, layer: str | None = None, baseline: str = "mean",
        steps: int = 10,
    ):  # fmt: skip
        self.model, self.pictures, self.baseline, self.steps = model, pictures, baseline, steps
        self.layer, self.drawn = layer or stages(model)[-1], cache(self._draw)  # what was measured once is kept
        self.picture = w.Dropdown(options=list(pictures), description="picture")
        self.method = toggles(("gradcam", "layercam", "hybrid"), "gradcam", "method")
        super().__init__((self.picture, self.method))

    def _refresh(self, change: Any = None) -> None:
        self.image.value = self.drawn(self.picture.value, self.method.value)

    def _draw(self, picture: str, method: str) -> bytes:
        import matplotlib.pyplot as plt

        ex = explain(self.model, self.pictures[picture], layers=self.layer)
        heat = ex.heatmap(method, size="model")  # on the network's own input, whose pixels the curves take away
        found = curves(self.model, ex.inputs, ex.target, heat[None, None], steps=self.steps, baselines=[self.baseline])
        figure = plt.figure(figsize=(11, 4.8))
        cells = figure.add_gridspec(2, 5, width_ratios=(1.9, 0.1, 1, 1, 1))
        axes = figure.add_subplot(cells[:, 0])
        directions = (("insertion", "#009E73", "shown"), ("deletion", "#D55E00", "gone"))
        for row, (direction, ink, verb) in enumerate(directions):
            line = found.probability[direction, self.baseline][0, 0]
            axes.plot(found.fractions, line, color=ink)
            axes.fill_between(found.fractions, line, color=ink, alpha=0.12, linewidth=0)
            words = f"{direction} {auc(line, found.fractions):.3f}"
            axes.text(0.98, 0.55 - 0.1 * row, words, color=ink, ha="right", transform=axes.transAxes)
            for column, share in enumerate((0.1, 0.3, 0.6), start=2):
                seen = masked(ex.inputs[0], heat, share, direction=direction, baseline=self.baseline, card=ex.card)
                shown = ex.card.display(seen[None])[0].permute(1, 2, 0).numpy()
                render.show(figure.add_subplot(cells[row, column]), shown, f"{share:.0%} {verb}")
        axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="share of pixels", ylabel=f"probability of {ex.label}")
        axes.set_title(f"{title(method)} at {self.layer}")
        data = io.BytesIO()
        figure.savefig(data, format="jpeg", dpi=90, pil_kwargs={"quality": 82})
        plt.close(figure)
        return data.getvalue()
