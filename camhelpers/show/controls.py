"""What the widgets share: controls over a caption and a picture, and pictures with a colour bar as arrays.

Callbacks set traits of `Image` and `HTML` only. `Output`, `interact` and `interactive_output` break nbval and now and
then hang papermill.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import ipywidgets as w
import numpy as np

from .. import render
from ..cam.methods import METHODS
from ..files import ROOT, results_dir
from ..io.images import encode, save_image


class Explored(w.VBox):
    """Rows of controls, a caption, and a picture that `_refresh` draws again when a control changes; and a button.

    `_refresh` hands its picture to `_show`, with a name for the file that the button writes into `out`.
    """

    def __init__(self, *rows: Sequence[w.Widget], kind: str = "jpeg", out: str = "results"):
        self.image = w.Image(format=kind, layout=w.Layout(max_width="min(100%, 1100px)", object_fit="contain"))
        self.caption, self.saved, self.out = w.HTML(), w.HTML(), out
        self.save = w.Button(description="save", icon="download", tooltip="Write this picture as a PNG")
        self.save.on_click(self._save)
        for control in (control for row in rows for control in row):
            control.observe(self._refresh, names="value")
        boxes = [w.HBox(row, layout=w.Layout(flex_flow="row wrap", align_items="center")) for row in rows]
        super().__init__([*boxes, self.caption, self.image, w.HBox((self.save, self.saved))])
        self._refresh()

    def _show(self, picture: np.ndarray, name: str) -> None:
        self.shown, self.name, self.saved.value = picture, re.sub(r"[^\w.+-]+", "_", name)[:150], ""
        self.image.value = encode(picture, self.image.format)

    def _save(self, button: w.Button) -> None:
        path = save_image(results_dir("explorer", out=self.out) / f"{self.name}.png", self.shown)
        self.saved.value = f"Written: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}"


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
    """The picture at another size: smoothed where it grows, averaged where it shrinks."""
    from PIL import Image

    return np.array(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))


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
    letters = max(14, height // 32)
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = min(max((1 - value) * (height - 1), 8), height - 9)
        ImageDraw.Draw(picture).text((26, y), f"{value:.2f}", "black", font(letters), anchor="lm")
    return np.asarray(picture)


def titled(picture: np.ndarray, lines: Sequence[str], size: int = 24) -> np.ndarray:
    """The picture under lines of text; a line that is too long is set smaller."""
    from PIL import Image, ImageDraw

    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (width, height + len(lines) * (size + 10)), "white")
    for i, line in enumerate(" ".join(line.split()) for line in lines):
        fitting = min(size, int(size * width / max(font(size).getlength(line), 1)))
        place = width / 2, (i + 0.5) * (size + 8)
        ImageDraw.Draw(canvas).text(place, line, "black", font(max(fitting, 8)), anchor="mm")
    canvas.paste(Image.fromarray(picture), (0, canvas.height - height))
    return np.asarray(canvas)
