"""What the widgets share: controls over a caption and a picture, and pictures with a colour bar as arrays.

Callbacks set traits of `Image` and `HTML` only. `Output`, `interact` and `interactive_output` break nbval and now and
then hang papermill.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import ipywidgets as w
import numpy as np

from .. import render
from ..cam.methods import METHODS


class Explored(w.VBox):
    """Rows of controls, a caption and a picture, which `_refresh` draws again whenever a control changes."""

    def __init__(self, *rows: Sequence[w.Widget]):
        self.image = w.Image(format="jpeg", layout=w.Layout(max_width="100%", object_fit="contain"))
        self.caption = w.HTML()
        for control in (control for row in rows for control in row):
            control.observe(self._refresh, names="value")
        boxes = [w.HBox(row, layout=w.Layout(flex_flow="row wrap", align_items="center")) for row in rows]
        super().__init__([*boxes, self.caption, self.image])
        self._refresh()


def toggles(names: Iterable[str], value: str, description: str) -> w.ToggleButtons:
    """Buttons as wide as their words; a method has its title."""
    options = [(METHODS[name].title if name in METHODS else name, name) for name in names]
    return w.ToggleButtons(options=options, value=value, description=description, style={"button_width": "auto"})


def fraction(value: float, description: str, **options: Any) -> w.FloatSlider:
    """A slider from 0 to 1."""
    return w.FloatSlider(value=value, max=1.0, description=description, **{"step": 0.05, **options})


def colours(cmap: str) -> w.Dropdown:
    """The colour maps."""
    render.table(cmap)  # refuses a name that it does not know
    return w.Dropdown(options=render.CMAPS, value=cmap, description="colours")


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture at another size: axes that shrink are averaged, then those that grow smoothed."""
    import cv2

    less = tuple(min(n, m) for n, m in zip(size, picture.shape, strict=False))
    if less != picture.shape[:2]:
        picture = cv2.resize(picture, less[::-1], interpolation=cv2.INTER_AREA)
    return picture if less == tuple(size) else cv2.resize(picture, size[::-1], interpolation=cv2.INTER_CUBIC)


@cache
def font(size: int) -> Any:
    """The font of matplotlib's figures, for Pillow."""
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


@cache
def bar(cmap: str, height: int) -> np.ndarray:
    """A colour bar with numbers; drawn once for each colour map."""
    from PIL import Image, ImageDraw

    canvas = np.full((height, 64, 3), 255, np.uint8)
    canvas[:, :20] = render.colour(np.linspace(1, 0, height), cmap)[:, None]
    picture = Image.fromarray(canvas)
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = min(max((1 - value) * (height - 1), 8), height - 9)
        ImageDraw.Draw(picture).text((26, y), f"{value:.2f}", "black", font(14), anchor="lm")
    return np.asarray(picture)
