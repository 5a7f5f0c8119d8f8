"""The slice viewer: three planes through a volume under heat, each with a slider."""

import html
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import ipywidgets as w
import numpy as np

from .. import render
from ..cam.methods import title
from . import planes
from .controls import Explored, bar, colours, font, fraction, resize, toggles

WIDTH, HEIGHT = 980, 420  # pixels for the three planes; they fit into a notebook
GAP, STRIP = 14, 24  # pixels between planes, and for the words above each
HINT = "Click a slider: the arrow keys then go slice by slice, Page Up and Page Down five, Home and End to the ends."


class VolumeViewer(Explored):
    """Planes across z, y and x through one voxel, the hottest at first, under the heat `(Z, Y, X)` of each method."""

    def __init__(
        self, volume: np.ndarray, heats: Mapping[str, np.ndarray], spacing: Sequence[float] | None = None, *,
        mask: np.ndarray | None = None, opacity: float = 0.4, cmap: str = "jet", orientation: str | None = None,
    ):  # fmt: skip
        self.scale = planes.checked(volume, spacing=spacing, mask=mask)
        for heat in heats.values():
            planes.checked(volume, heat)
        self.volume, self.heats, self.mask = volume, heats, mask
        self.seen = planes.views(orientation)
        boxes = planes.arrange(self.scale.extent, WIDTH, HEIGHT, (GAP, GAP + STRIP), self.seen)
        self.boxes = [(round(x), STRIP + round(y), *(max(2, round(n)) for n in size)) for x, y, *size in boxes]
        self.heat = cache(self._heat)
        self.method = toggles(heats, next(iter(heats)), "method")
        self.opacity, self.cmap = fraction(opacity, "opacity"), colours(cmap)
        known = mask is not None
        self.lesion = w.Checkbox(known, disabled=not known, description="outline of the lesion", indent=False)
        self.hottest = w.Button(description="hottest voxel", icon="crosshairs", tooltip="Go where the heat is greatest")
        self.hottest.on_click(self._go_to_hottest)
        limits = zip(self.heat(self.method.value)[1], volume.shape, planes.AXES, strict=True)
        self.sliders = tuple(w.IntSlider(value=at + 1, min=1, max=n, description=name) for at, n, name in limits)
        looks = (self.opacity, self.cmap, self.lesion)
        super().__init__(self.sliders, (self.method, self.hottest), looks, [w.HTML(f"<small>{HINT}</small>")])

    def _heat(self, name: str) -> tuple[np.ndarray, tuple[int, int, int]]:
        """A heat as rows of the colour table, a byte a voxel, and its hottest voxel."""
        return np.stack([render.index(plane) for plane in self.heats[name]]), planes.hottest(self.heats[name])

    def _go_to_hottest(self, button: w.Button) -> None:
        for slider, place in zip(self.sliders, self.heat(self.method.value)[1], strict=True):
            slider.value = place + 1

    def _refresh(self, change: Any = None) -> None:
        heat, point = self.heat(self.method.value)[0], tuple(slider.value - 1 for slider in self.sliders)
        value = f"<b>{heat[point] / 255:.2f}</b>" if heat.any() else "none: <b>the map is blank</b>"
        where = ", ".join(f"{(i + 0.5) * step:.2f}" for i, step in zip(point, self.scale.steps, strict=True))
        inside = "" if self.mask is None else f", {'inside' if self.mask[point] else 'outside'} the lesion"
        z, y, x = (place + 1 for place in point)
        place = f"(z {z}, y {y}, x {x})" + (f" at ({where}) mm" if self.scale.unit == "mm" else "")
        heated = f"{html.escape(title(self.method.value))} heat {value}"
        self.caption.value = f"Voxel {place}: {heated}, volume {self.volume[point]:.2f}{inside}."
        self._show(self._compose(heat, point), f"{self.method.value} {place}")

    def _compose(self, heat: np.ndarray, point: tuple[int, int, int]) -> np.ndarray:
        from PIL import Image, ImageDraw

        right, below = (max(box[side] + box[side + 2] for box in self.boxes) for side in (0, 1))
        picture = Image.new("RGB", (right + GAP + 64, below), "white")
        picture.paste(Image.fromarray(bar(self.cmap.value, below - STRIP)), (right + GAP, STRIP))
        draw = ImageDraw.Draw(picture)
        ink = {"fill": "white", "stroke_width": 2, "stroke_fill": "black", "font": font(13)}
        greys, warms = (planes.planes_through(array, point, self.seen) for array in (self.volume, heat))
        look = {"opacity": self.opacity.value, "cmap": self.cmap.value}
        for axis, (left, top, wide, tall) in enumerate(self.boxes):
            shown = resize(render.overlay(planes.rgb(greys[axis]), warms[axis] / np.float32(255), **look), (tall, wide))
            if self.lesion.value:
                edge = planes.planes_through(self.mask, point, self.seen)[axis].astype(np.float32)
                shown = render.outline(shown, resize(edge, (tall, wide)) >= 0.5, width=1)
            down, across, turned, name, letters = self.seen[axis]
            shown = np.flip(shown, np.flatnonzero(turned)).copy()
            row, column = ((point[a] + 0.5) / self.volume.shape[a] for a in (down, across))
            row, column = int((1 - row if turned[0] else row) * tall), int((1 - column if turned[1] else column) * wide)
            for line, place in ((shown[row], column), (shown[:, column], row)):
                for part in (line[: max(0, place - 12)], line[place + 13 :]):  # what is looked at stays free
                    part[:] = (0.35 * part + 0.65 * 255).astype(np.uint8)
            picture.paste(Image.fromarray(shown), (left, top))
            title = planes.plane_title(axis, point[axis], self.scale, name)
            draw.text((left + wide / 2, top - STRIP / 2), title, "black", font(15), anchor="mm")
            places = (left + 5, top + tall / 2, "lm"), (left + wide - 5, top + tall / 2, "rm")
            places += (left + wide / 2, top + 4, "ma"), (left + wide / 2, top + tall - 4, "md")
            for letter, (x, y, anchor) in zip(letters, places, strict=False):
                draw.text((x, y), letter, anchor=anchor, **ink)
            if not letters:
                words = f"{'zyx'[down]} ↓  {'zyx'[across]} →, orientation unknown"
                draw.text((left + 9, top + tall - 8), words, anchor="ls", **ink)
            length, words = planes.scale_bar(self.scale.extent[across], self.scale.unit)
            end, floor = left + wide - 10, top + tall - 10
            start = end - round(length / self.scale.extent[across] * wide)
            draw.rectangle((start, floor - 3, end, floor), "white", "black")
            draw.text(((start + end) / 2, floor - 8), words, anchor="ms", **ink)
        return np.asarray(picture)
