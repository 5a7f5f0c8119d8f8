"""The slice viewer: three planes through a volume under heat, each with a slider."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as w
import numpy as np

from .. import render
from ..cam.methods import METHODS, cams, title
from ..io.images import encode
from . import planes
from .controls import Explored, bar, colours, font, fraction, resize, toggles

WIDTH, HEIGHT = 980, 420  # pixels for the three planes; they fit into a notebook
GAP, STRIP = 14, 24  # pixels between planes, and for the words above each
HINT = "Click a slider: the arrow keys then go slice by slice, Page Up and Page Down five, Home and End to the ends."


class VolumeViewer(Explored):
    """Planes across z, y and x through one voxel, the hottest at first, under the heat of the chosen method.

    `heats` maps names to heat `(Z, Y, X)` in 0..1, or is a function of method and alpha that computes it, which is
    asked once for each: `VolumeViewer(volume, lambda method, alpha: ex.heatmap(method, alpha=alpha), spacing)`.
    """

    def __init__(
        self, volume: np.ndarray, heats: Mapping[str, np.ndarray] | Callable[[str, float], np.ndarray],
        spacing: Sequence[float] | None = None, *, mask: np.ndarray | None = None, methods: Sequence[str] = (),
        alpha: float = 0.7, opacity: float = 0.4, cmap: str = "jet",
    ):  # fmt: skip
        self.scale = planes.checked(volume, spacing=spacing, mask=mask)
        self.volume, self.heats, self.mask = volume, heats, mask
        boxes = planes.arrange(self.scale.extent, WIDTH, HEIGHT, (GAP, GAP + STRIP))
        self.boxes = [(round(x), STRIP + round(y), *(max(2, round(n)) for n in size)) for x, y, *size in boxes]
        self.known: dict[tuple[str, float | None], tuple[np.ndarray, tuple[int, int, int]]] = {}
        computed = callable(heats)
        for heat in () if computed else heats.values():
            planes.checked(volume, heat)
        names = list(methods or (cams() if computed else heats))
        self.method = toggles(names, names[0], "method")
        self.alpha = fraction(alpha, "alpha", step=0.1, continuous_update=False)
        self.opacity, self.cmap = fraction(opacity, "opacity"), colours(cmap)
        self.lesion = w.Checkbox(
            value=mask is not None, disabled=mask is None, description="outline of the lesion", indent=False
        )
        self.hottest = w.Button(description="hottest voxel", icon="crosshairs", tooltip="Go where the heat is greatest")
        self.hottest.on_click(self.go_to_hottest)
        limits = zip(self.heat()[1], volume.shape, planes.AXES, strict=True)
        self.sliders = tuple(w.IntSlider(value=at, max=n - 1, description=name) for at, n, name in limits)
        looks = (*([self.alpha] if computed else []), self.opacity, self.cmap, self.lesion)
        super().__init__(self.sliders, (self.method, self.hottest), looks, [w.HTML(f"<small>{HINT}</small>")])

    def heat(self) -> tuple[np.ndarray, tuple[int, int, int]]:
        """The chosen heat as rows of the colour table, uint8, and its hottest voxel; kept, at a byte a voxel."""
        name = self.method.value
        self.alpha.disabled = name not in METHODS or "alpha" not in METHODS[name].takes
        key = (name, None if self.alpha.disabled else self.alpha.value)
        if key not in self.known:
            found = self.heats(name, self.alpha.value) if callable(self.heats) else self.heats[name]
            planes.checked(self.volume, found)
            self.known[key] = np.stack([render.index(plane) for plane in found]), planes.hottest(found)
        return self.known[key]

    def go_to_hottest(self, button: Any = None) -> None:
        """Move all three planes to the voxel of the greatest heat."""
        for slider, place in zip(self.sliders, self.heat()[1], strict=True):
            slider.value = place

    def refresh(self, change: Any = None) -> None:
        """Draw what is chosen now."""
        heat, point = self.heat()[0], tuple(slider.value for slider in self.sliders)
        value = f"<b>{heat[point] / 255:.2f}</b>" if heat.any() else "none: <b>the map is blank</b>"
        where = ", ".join(f"{(i + 0.5) * step:.2f}" for i, step in zip(point, self.scale.steps, strict=True))
        inside = "" if self.mask is None else f", {'inside' if self.mask[point] else 'outside'} the lesion"
        self.caption.value = (
            f"Voxel (z {point[0]}, y {point[1]}, x {point[2]})"
            + (f" at ({where}) mm" if self.scale.unit == "mm" else "")
            + f": {html.escape(title(self.method.value))} heat {value}, volume {self.volume[point]:.2f}{inside}."
        )
        self.image.value = encode(self._compose(heat, point), "jpeg", quality=80)

    def _compose(self, heat: np.ndarray, point: tuple[int, int, int]) -> np.ndarray:
        """The three planes with words, cross-hairs and scale bars, and a colour bar, as one picture."""
        from PIL import Image, ImageDraw

        right, below = (max(box[side] + box[side + 2] for box in self.boxes) for side in (0, 1))
        canvas = np.full((below, right + GAP + 64, 3), 255, np.uint8)
        canvas[STRIP:, right + GAP :] = bar(self.cmap.value, below - STRIP)
        greys, warms = planes.planes_through(self.volume, point), planes.planes_through(heat, point)
        for axis, (left, top, wide, tall) in enumerate(self.boxes):
            look = {"opacity": self.opacity.value, "cmap": self.cmap.value}
            shown = resize(render.overlay(planes.rgb(greys[axis]), warms[axis] / np.float32(255), **look), (tall, wide))
            if self.lesion.value:
                edge = planes.planes_through(self.mask, point)[axis].astype(np.float32)
                shown = render.outline(shown, resize(edge, (tall, wide)) >= 0.5, width=1)
            down, across = ((point[a] + 0.5) / self.volume.shape[a] for a in planes.SEEN[axis])
            row, column = int(down * tall), int(across * wide)
            for line, place in ((shown[row], column), (shown[:, column], row)):
                for part in (line[: max(0, place - 12)], line[place + 13 :]):  # what is looked at stays free
                    part[:] = (0.35 * part + 0.65 * 255).astype(np.uint8)
            canvas[top : top + tall, left : left + wide] = shown
        picture = Image.fromarray(canvas)
        draw = ImageDraw.Draw(picture)
        ink = {"fill": "white", "stroke_width": 2, "stroke_fill": "black", "font": font(13)}
        for axis, (left, top, wide, tall) in enumerate(self.boxes):
            words = planes.plane_title(axis, point[axis], self.scale)
            draw.text((left + wide / 2, top - STRIP / 2), words, "black", font(15), anchor="mm")
            down, across = ("zyx"[a] for a in planes.SEEN[axis])
            draw.text((left + 9, top + tall - 8), f"{down} ↓  {across} →", anchor="ls", **ink)
            extent = self.scale.extent[planes.SEEN[axis][1]]
            length, words = planes.scale_bar(extent, self.scale.unit)
            end, floor = left + wide - 10, top + tall - 10
            start = end - round(length / extent * wide)
            draw.rectangle((start, floor - 3, end, floor), "white", "black")
            draw.text(((start + end) / 2, floor - 8), words, anchor="ms", **ink)
        return np.asarray(picture)
