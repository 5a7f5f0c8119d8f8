"""The slice viewer: three planes through a volume under heat, each with a slider.

Callbacks set traits of `Image` and `HTML` only, as in `widgets`.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import ipywidgets as w
import numpy as np

from .. import render
from ..cam.methods import METHODS, title
from . import planes as projections
from .explorers import bar, resize

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

WIDTH, HEIGHT = 980, 420  # pixels for the three planes; they fit into a notebook
GAP, STRIP = 14, 24  # pixels between planes, and for the words above each
LIMIT = 120_000  # bytes of one refresh
HINT = "Click a slider: the arrow keys then go slice by slice, Page Up and Page Down five, Home and End to the ends."


class VolumeViewer(w.VBox):
    """Planes across z, y and x through one voxel, under the heat of the chosen method.

    `heats` maps names to heat `(Z, Y, X)` in 0..1, or is a function of method and alpha that computes it, which is
    asked once for each: `VolumeViewer(volume, lambda method, alpha: ex.heatmap(method, alpha=alpha), spacing)`.
    `spacing` is `(z, y, x)` in mm; the first voxel shown is the hottest unless `point` names one.
    """

    def __init__(
        self,
        volume: np.ndarray,
        heats: Mapping[str, np.ndarray] | Callable[[str, float], np.ndarray],
        spacing: Sequence[float] | None = None,
        *,
        mask: np.ndarray | None = None,
        methods: Sequence[str] | None = None,
        method: str | None = None,
        point: Sequence[int] | None = None,
        alpha: float = 0.7,
        opacity: float = 0.4,
        cmap: str = "jet",
    ):
        projections.check(volume, mask=mask)
        named = isinstance(heats, Mapping)
        methods = list(methods or (heats if named else ("gradcam", "gradcam++", "layercam", "hybrid")))
        if not methods:
            raise ValueError("There is no heat to show; give at least one method's.")
        method, offered = method or methods[0], list(heats) if named else methods
        strange = [m for m in methods if m not in offered] or [m for m in [method] if m not in methods]
        if strange:
            raise ValueError(f"There is no heat of {strange[0]!r}; choose one of {', '.join(offered)}.")
        for heat in heats.values() if named else ():
            projections.check(volume, heat)
        render.table(cmap)  # refuses a name that it does not know
        self.volume, self.heats, self.mask = volume, heats, mask
        self._steps, self._extent, self._unit = projections.size(volume.shape, spacing)
        boxes = projections.arrange(self._extent, WIDTH, HEIGHT, (GAP, GAP + STRIP))
        self._boxes = [
            (round(left), round(top), max(2, round(wide)), max(2, round(tall))) for left, top, wide, tall in boxes
        ]
        self._kept: dict[tuple[str, float | None], tuple[np.ndarray, tuple[int, int, int]]] = {}

        self.method = w.ToggleButtons(
            options=[(title(m), m) for m in methods], value=method, description="method"
        )
        self.method.style.button_width = "auto"
        share = {"min": 0.0, "max": 1.0, "readout_format": ".2f"}
        self.alpha = w.FloatSlider(value=alpha, step=0.1, description="alpha", continuous_update=False, **share)
        self.opacity = w.FloatSlider(value=opacity, step=0.05, description="opacity", **share)
        self.cmap = w.Dropdown(options=list(render.CMAPS), value=cmap, description="colours")
        self.lesion = w.Checkbox(
            value=mask is not None, disabled=mask is None, description="outline of the lesion", indent=False
        )
        self.hottest = w.Button(description="hottest voxel", icon="crosshairs", tooltip="Go where the heat is greatest")
        start = projections.inside(self.heat()[1] if point is None else point, volume.shape)
        self.sliders = tuple(
            w.IntSlider(value=place, max=length - 1, description=name)
            for place, length, name in zip(start, volume.shape, projections.AXES, strict=True)
        )
        self.image = w.Image(format="jpeg", layout=w.Layout(max_width="100%", object_fit="contain"))
        self.caption = w.HTML()
        for control in (*self.sliders, self.method, self.alpha, self.opacity, self.cmap, self.lesion):
            control.observe(self.refresh, names="value")
        self.hottest.on_click(self.go_to_hottest)
        rows = (
            self.sliders,
            (self.method, self.hottest),
            (*(() if named else (self.alpha,)), self.opacity, self.cmap, self.lesion),
        )
        super().__init__(
            [
                *(w.HBox(row, layout=w.Layout(flex_flow="row wrap", align_items="center")) for row in rows),
                w.HTML(f"<small>{HINT}</small>"),
                self.caption,
                self.image,
            ]
        )
        self.refresh()

    @property
    def point(self) -> tuple[int, int, int]:
        """The voxel `(z, y, x)` that the three planes share."""
        return tuple(slider.value for slider in self.sliders)

    def heat(self) -> tuple[np.ndarray, tuple[int, int, int]]:
        """The chosen heat as rows of the colour table, uint8, and its hottest voxel; kept, at a byte a voxel."""
        method = METHODS.get(self.method.value)
        takes_alpha = callable(self.heats) and method and "alpha" in method.takes
        self.alpha.disabled = not takes_alpha
        key = (self.method.value, self.alpha.value if takes_alpha else None)
        if key not in self._kept:
            if isinstance(self.heats, Mapping):
                found = self.heats[self.method.value]
            else:
                found = self.heats(self.method.value, self.alpha.value)
                projections.check(self.volume, found)
            rows = np.empty(found.shape, np.uint8)
            for z, plane in enumerate(found):  # slice by slice: no second volume of floats
                rows[z] = render.index(plane)
            self._kept[key] = rows, projections.hottest(found)
        return self._kept[key]

    def go_to_hottest(self, button: Any = None) -> None:
        """Move all three planes to the voxel of the greatest heat."""
        for slider, place in zip(self.sliders, self.heat()[1], strict=True):
            slider.value = place

    def refresh(self, change: Any = None) -> None:
        """Draw the present choice."""
        from ..io.images import encode

        heat, point = self.heat()[0], self.point
        value = f"<b>{heat[point] / 255:.2f}</b>" if heat.any() else "none: <b>the map is blank</b>"
        where = ", ".join(f"{(i + 0.5) * step:.2f}" for i, step in zip(point, self._steps, strict=True))
        inside = "" if self.mask is None else f", {'inside' if self.mask[point] else 'outside'} the lesion"
        self.caption.value = (
            f"Voxel (z {point[0]}, y {point[1]}, x {point[2]})"
            + (f" at ({where}) mm" if self._unit == "mm" else "")
            + f": {html.escape(title(self.method.value))} heat {value}, "
            + f"volume {self.volume[point]:.2f}{inside}."
        )
        picture = self._compose(heat, point)
        for quality in (90, 80, 70, 60, 45, 30):
            data = encode(picture, "jpeg", quality=quality)
            if len(data) <= LIMIT:
                break
        self.image.value = data

    def _compose(self, heat: np.ndarray, point: tuple[int, int, int]) -> np.ndarray:
        """The three planes with words, cross-hairs and scale bars, and a colour bar, as one picture."""
        from PIL import Image, ImageDraw

        right = max(left + wide for left, _, wide, _ in self._boxes)
        below = STRIP + max(top + tall for _, top, _, tall in self._boxes)
        canvas = np.full((below, right + GAP + 64, 3), 255, np.uint8)
        canvas[STRIP:, right + GAP :] = bar(self.cmap.value, below - STRIP)
        views = [projections.planes(array, point) for array in (self.volume, heat)]
        outlines = projections.planes(self.mask, point) if self.lesion.value else (None,) * 3
        for axis, (left, top, wide, tall) in enumerate(self._boxes):
            grey, warm = (view[axis] for view in views)
            shown = render.overlay(
                projections.rgb(grey), warm / np.float32(255), opacity=self.opacity.value, cmap=self.cmap.value
            )
            shown = resize(shown, (tall, wide))
            if outlines[axis] is not None:
                shown = render.outline(shown, resize(outlines[axis].astype(np.float32), (tall, wide)) >= 0.5, width=1)
            down, across = projections.SEEN[axis]
            row, column = (
                int((point[a] + 0.5) / self.volume.shape[a] * length) for a, length in ((down, tall), (across, wide))
            )
            _cross(shown, row, column)
            canvas[STRIP + top : STRIP + top + tall, left : left + wide] = shown
        picture = Image.fromarray(canvas)
        draw = ImageDraw.Draw(picture)
        for axis, (left, top, wide, tall) in enumerate(self._boxes):
            words = projections.at(axis, point[axis], self._steps, self._unit)
            draw.text((left + wide / 2, top + STRIP / 2), words, "black", _font(15), anchor="mm")
            down, across = (projections.AXES[a][-1] for a in projections.SEEN[axis])
            ink = {"fill": "white", "stroke_width": 2, "stroke_fill": "black"}
            draw.text((left + 9, top + STRIP + tall - 8), f"{down} ↓  {across} →", font=_font(13), anchor="ls", **ink)
            extent = self._extent[projections.SEEN[axis][1]]
            length, words = projections.scale_bar(extent, self._unit)
            end, floor = left + wide - 10, top + STRIP + tall - 10
            begin = end - round(length / extent * wide)
            draw.rectangle((begin - 1, floor - 4, end + 1, floor + 1), "black")
            draw.rectangle((begin, floor - 3, end, floor), "white")
            draw.text(((begin + end) / 2, floor - 8), words, font=_font(13), anchor="ms", **ink)
        return np.asarray(picture)


def _cross(picture: np.ndarray, row: int, column: int, clear: int = 12) -> None:
    """Lighten the lines through a pixel, in place; what lies about it stays free."""
    for line, at in ((picture[row], column), (picture[:, column], row)):
        for part in (line[: max(0, at - clear)], line[at + clear + 1 :]):
            part[:] = (0.35 * part + 0.65 * 255).astype(np.uint8)


@cache
def _font(size: int) -> "FreeTypeFont":
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
