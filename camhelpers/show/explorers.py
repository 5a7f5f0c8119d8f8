"""The explorer: toggles over explanations that are already computed, so that every answer is instant.

Callbacks set traits of `Image` and `HTML` only. `Output`, `interact` and `interactive_output` break nbval and now and
then hang papermill.
"""

import html
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import ipywidgets as w
import numpy as np
from torch import nn

from .. import render
from ..cam.explain import Explanation, explain
from ..cam.methods import METHODS, cams, title
from ..cam.models import stages

SIDE = 380  # pixels of each picture on the screen; two fit beside each other in a notebook


class Explorer(w.VBox):
    """Picture, class, method, layer, alpha, colour map and opacity, with the picture and its heat beneath.

    Every picture is explained once, when it is first chosen; after that nothing runs the model.
    """

    def __init__(
        self,
        model: nn.Module,
        pictures: Mapping[str, Any] | Sequence[Any],
        *,
        method: str = "hybrid",
        layer: str | None = None,
        target: str | None = None,
        alpha: float = 0.7,
        cmap: str = "jet",
        opacity: float = 0.4,
        methods: Sequence[str] | None = None,
        layers: Sequence[str] | None = None,
    ):
        named = pictures if isinstance(pictures, Mapping) else {f"picture {i + 1}": p for i, p in enumerate(pictures)}
        if not named:
            raise ValueError("There is no picture to explore; give at least one.")
        self.model, self.pictures = model, dict(named)
        self.layers = list(layers or stages(model)[-4:])
        self._explained: dict[str, Explanation] = {}
        first = self.explanation(next(iter(self.pictures)))

        slider = {"min": 0.0, "max": 1.0, "step": 0.05, "readout_format": ".2f", "continuous_update": True}
        self.picture = w.Dropdown(options=list(self.pictures), description="picture")
        self.target = w.Dropdown(
            options=[("predicted class", ""), *((c, c) for c in first.classes)], value=target or "", description="class"
        )
        self.method = w.ToggleButtons(
            options=[(title(m), m) for m in methods or cams()], value=method, description="method"
        )
        self.layer = w.ToggleButtons(options=self.layers, value=layer or self.layers[-1], description="layer")
        self.alpha = w.FloatSlider(value=alpha, description="alpha", **slider)
        self.opacity = w.FloatSlider(value=opacity, description="opacity", **slider)
        self.cmap = w.Dropdown(options=list(render.CMAPS), value=cmap, description="colours")
        for toggle in (self.method, self.layer):
            toggle.style.button_width = "auto"
        self.image = w.Image(format="jpeg", layout=w.Layout(max_width="100%", object_fit="contain"))
        self.caption = w.HTML()
        controls = (self.picture, self.target, self.method, self.layer, self.alpha, self.opacity, self.cmap)
        for control in controls:
            control.observe(self.refresh, names="value")
        rows = ((self.picture, self.target, self.cmap), (self.method,), (self.layer,), (self.alpha, self.opacity))
        super().__init__(
            [*(w.HBox(row, layout=w.Layout(flex_flow="row wrap")) for row in rows), self.caption, self.image]
        )
        self.refresh()

    def explanation(self, name: str) -> Explanation:
        """The explanation of one picture, from the one pass that it ever gets."""
        if name not in self._explained:
            self._explained[name] = explain(self.model, self.pictures[name], layers=self.layers)
        return self._explained[name]

    def refresh(self, change: Any = None) -> None:
        """Draw the present choice."""
        ex = self.explanation(self.picture.value)
        takes_alpha = "alpha" in METHODS[self.method.value].takes
        self.alpha.disabled = not takes_alpha
        options = {"layer": self.layer.value, "target": self.target.value or None, "alpha": self.alpha.value}
        heat = ex.heatmap(self.method.value, **options)
        shown = ex.overlay(self.method.value, opacity=self.opacity.value, cmap=self.cmap.value, **options)
        asked = self.target.value or ex.label
        what = f"{title(self.method.value)}{f' (alpha {self.alpha.value:.2f})' if takes_alpha else ''}"
        note = "" if heat.any() else " <b>Blank: nothing in this layer speaks for the class.</b>"
        self.caption.value = (
            f"The model sees <b>{html.escape(str(ex.label))}</b> ({ex.confidence:.1%}). "
            f"Heat: {what} at {self.layer.value} for <b>{html.escape(str(asked))}</b>.{note}"
        )
        self.image.value = self._compose(ex.picture, shown)

    def _compose(self, picture: np.ndarray, shown: np.ndarray) -> bytes:
        """The picture, its overlay and a colour bar in one JPEG."""
        from ..io.images import encode

        size = _fit(shown.shape[:2])
        whole = [
            resize(np.round(picture * 255).astype(np.uint8), size),
            resize(shown, size),
            bar(self.cmap.value, size[0]),
        ]
        gap = np.full((size[0], 12, 3), 255, np.uint8)
        return encode(np.hstack([whole[0], gap, whole[1], gap, whole[2]]), "jpeg", quality=92)


def _fit(shape: tuple[int, int]) -> tuple[int, int]:
    scale = SIDE / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture at another size, as one shows it: axes that shrink are averaged, then those that grow smoothed."""
    import cv2

    less = tuple(min(n, m) for n, m in zip(size, picture.shape, strict=False))
    if less != picture.shape[:2]:
        picture = cv2.resize(picture, less[::-1], interpolation=cv2.INTER_AREA)
    return picture if less == tuple(size) else cv2.resize(picture, size[::-1], interpolation=cv2.INTER_CUBIC)


@cache
def bar(cmap: str, height: int) -> np.ndarray:
    """A colour bar with numbers; drawn once for each colour map."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 14)
    canvas = Image.new("RGB", (64, height), "white")
    rows = np.linspace(255, 0, height).round().astype(int)
    canvas.paste(Image.fromarray(np.repeat(render.table(cmap)[rows][:, None], 20, axis=1)), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = min(max((1 - value) * (height - 1), 8), height - 9)
        draw.text((26, y), f"{value:.2f}", "black", font, anchor="lm")
    return np.asarray(canvas)


class CurveExplorer(w.VBox):
    """A picture and a method: the insertion and deletion curves that follow, and masked pictures on the way."""

    def __init__(
        self,
        model: nn.Module,
        pictures: Mapping[str, Any],
        *,
        methods: Sequence[str] = ("gradcam", "layercam", "hybrid"),
        layer: str | None = None,
        baseline: str = "mean",
        steps: int = 10,
    ):
        self.model, self.pictures, self.baseline, self.steps = model, dict(pictures), baseline, steps
        self.layer = layer or stages(model)[-1]
        self._drawn: dict[tuple[str, str], bytes] = {}
        self.picture = w.Dropdown(options=list(self.pictures), description="picture")
        self.method = w.ToggleButtons(options=[(title(m), m) for m in methods], description="method")
        self.method.style.button_width = "auto"
        self.image = w.Image(format="jpeg", layout=w.Layout(max_width="100%", object_fit="contain"))
        for control in (self.picture, self.method):
            control.observe(self.refresh, names="value")
        super().__init__([w.HBox([self.picture, self.method], layout=w.Layout(flex_flow="row wrap")), self.image])
        self.refresh()

    def refresh(self, change: Any = None) -> None:
        """Draw the present choice; what was measured once is kept."""
        key = (self.picture.value, self.method.value)
        if key not in self._drawn:
            self._drawn[key] = self._draw(*key)
        self.image.value = self._drawn[key]

    def _draw(self, picture: str, method: str) -> bytes:
        import io

        import matplotlib.pyplot as plt

        from ..evaluate.faithfulness import auc, curves, masked

        ex = explain(self.model, self.pictures[picture], layers=self.layer)
        heat = ex.heatmap(method, size="model")  # on the network's own input, whose pixels the curves take away
        options = {"steps": self.steps, "baselines": [self.baseline]}
        found = curves(self.model, ex.inputs, ex.target, heat[None, None], **options)
        shares = (0.1, 0.3, 0.6)
        figure = plt.figure(figsize=(11, 4.8))
        cells = figure.add_gridspec(2, 5, width_ratios=(1.9, 0.1, 1, 1, 1))
        axes = figure.add_subplot(cells[:, 0])
        for direction, colour in (("insertion", "#009E73"), ("deletion", "#D55E00")):
            line = found.probability[direction, self.baseline][0, 0]
            axes.plot(found.fractions, line, color=colour)
            axes.fill_between(found.fractions, line, color=colour, alpha=0.12, linewidth=0)
            axes.text(0.98, 0.55 - 0.1 * (direction == "deletion"), f"{direction} {auc(line, found.fractions):.3f}",
                      color=colour, ha="right", transform=axes.transAxes)  # fmt: skip
            for column, share in enumerate(shares, start=2):
                seen = masked(ex.inputs[0], heat, share, direction=direction, baseline=self.baseline, card=ex.card)
                shown = ex.card.display(seen[None])[0].permute(1, 2, 0).numpy()
                verb = "shown" if direction == "insertion" else "gone"
                render.show(
                    figure.add_subplot(cells[int(direction == "deletion"), column]), shown, f"{share:.0%} {verb}"
                )
        axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="share of pixels", ylabel=f"probability of {ex.label}")
        axes.set_title(f"{title(method)} at {self.layer}")
        data = io.BytesIO()
        figure.savefig(data, format="jpeg", dpi=90, pil_kwargs={"quality": 82})
        plt.close(figure)
        return data.getvalue()
