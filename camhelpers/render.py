"""Heat made visible: colour tables, overlays, panels and grids. Arrays in, arrays or figures out."""

import base64
import io
import math
import textwrap
from collections.abc import Sequence
from functools import cache, partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Opacity = float | Literal["heat"]
CMAPS = ("jet", "hot", "viridis", "plasma", "inferno", "magma", "cividis", "turbo")
HEAT = "heat (share of the maximum)"  # what colour bars say
SIGNED = "RdBu_r"  # numbers with a sign: red above zero, blue below
STYLE: dict[str, Any] = {
    "figure.dpi": 100, "savefig.dpi": 200, "savefig.bbox": "tight", "savefig.pad_inches": 0.05,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans", "font.size": 12, "axes.titlesize": 13, "axes.titlepad": 7, "axes.labelsize": 12,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "image.interpolation": "auto",
    "legend.frameon": False, "lines.linewidth": 2,
}  # fmt: skip


def use_style() -> None:
    """Give every figure of a notebook one look, at twice the screen's resolution."""
    import matplotlib as mpl
    from IPython import get_ipython
    from matplotlib.figure import Figure
    from matplotlib_inline import backend_inline  # noqa: F401  it sets formats of its own when it is first imported

    mpl.rcParams.update(STYLE)
    if shell := get_ipython():
        for kind in ("png", "jpeg"):
            shell.display_formatter.formatters[f"image/{kind}"].for_type(Figure, partial(_printed, kind=kind))


def _printed(figure: "Figure", kind: str) -> tuple[str, dict[str, int]] | None:
    """A figure with pictures in colour as JPEG, every other one as PNG; with the size at which it is to be shown."""
    from IPython.core.pylabtools import print_figure
    from PIL import Image

    pictures = any(np.ndim(image.get_array()) == 3 for axes in figure.axes for image in axes.images)
    if (kind == "jpeg") != pictures:
        return None
    options = {"pil_kwargs": {"quality": 90, "optimize": True, "progressive": True}} if pictures else {}
    data = print_figure(figure, kind, dpi=2 * figure.dpi, **options)
    image = Image.open(io.BytesIO(data))
    if not any(axes.images for axes in figure.axes):  # of a chart 256 colours show all, in a third of the bytes
        image.convert("RGB").quantize(dither=Image.Dither.NONE).save(small := io.BytesIO(), "png", optimize=True)
        data = small.getvalue()
    width, height = image.size
    return base64.b64encode(data).decode(), {"width": width // 2, "height": height // 2}


@cache
def table(cmap: str = "jet") -> np.ndarray:
    """The 256 colours of a map, uint8 `(256, 3)`: the one table that pictures, volumes and colour bars share."""
    if cmap not in CMAPS:
        raise ValueError(f"There is no colour map {cmap!r}; choose one of {', '.join(CMAPS)}.")
    import matplotlib as mpl

    colours = np.round(mpl.colormaps[cmap](np.arange(256))[:, :3] * 255).astype(np.uint8)
    colours.setflags(write=False)  # it is shared
    return colours


def colour(heat: np.ndarray, cmap: str = "jet") -> np.ndarray:
    """Paint heat in 0..1, of any shape, in colour: uint8 `(*shape, 3)`."""
    return table(cmap)[index(heat)]


def index(heat: np.ndarray) -> np.ndarray:
    """Heat in 0..1 as a row of the table, 0 to 255."""
    heat = np.asarray(heat)
    if not (heat.min() >= 0 and heat.max() <= 1):  # NaN is neither
        raise ValueError(f"The heat reaches from {heat.min():.3g} to {heat.max():.3g}; bring it to 0..1 first.")
    return np.round(heat * 255).astype(np.uint8)


def overlay(picture: np.ndarray, heat: np.ndarray, *, opacity: Opacity = 0.4, cmap: str = "jet") -> np.ndarray:
    """Mix `1 - opacity` of the picture with `opacity` of the coloured heat, uint8 `(..., H, W, 3)`.

    Exactly so at every pixel, with no rescaling by the maximum: equal heat looks the same in every slice and frame.
    With `opacity="heat"` it is 0.7 times the heat, so that cold places keep the colours of the picture.
    """
    picture, heat = np.asarray(picture), np.asarray(heat)
    if opacity != "heat" and not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; it lies between 0 (the picture alone) and 1 (the heat alone).")
    if picture.shape != (*heat.shape, 3):
        raise ValueError(f"The picture is {picture.shape}, the heat {heat.shape}; but for 3 colours they must agree.")
    share = np.float32(0.7) * heat[..., None].astype(np.float32) if opacity == "heat" else np.float32(opacity)
    full = np.float32(1 if picture.dtype == np.uint8 else 255)
    mixed = picture.astype(np.float32) * (full * (1 - share)) + colour(heat, cmap) * share
    return np.round(mixed.clip(0, 255)).astype(np.uint8)


def outline(picture: np.ndarray, mask: np.ndarray, ink: Sequence[int] = (255, 255, 255), width: int = 2) -> np.ndarray:
    """The picture, uint8, with the edge of a mask drawn on it."""
    import cv2

    full = 1 if picture.dtype == np.uint8 else 255
    drawn = np.round(np.asarray(picture, dtype=np.float32, order="C") * full).clip(0, 255).astype(np.uint8)
    lines, _ = cv2.findContours(np.asarray(mask, dtype=np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, lines, -1, tuple(ink), width, cv2.LINE_AA)
    return drawn


def show(axes: "Axes", picture: np.ndarray, title: str = "", **options: Any) -> Any:
    """Put a picture, a map or a mask on axes without ticks."""
    image = axes.imshow(picture, **options)
    axes.set_xticks([]), axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title)
    return image


def headline(figure: "Figure", message: str) -> None:
    """A title over the whole figure, in as many lines as it needs, with room for them."""
    if message:
        wide, high = figure.get_size_inches()
        text = textwrap.fill(message, int(wide / 0.105), break_on_hyphens=False)
        figure.set_size_inches(wide, high + 0.36 + 0.22 * text.count("\n"))
        if engine := figure.get_layout_engine():
            engine.set(h_pad=0.07)
        figure.suptitle(text, fontsize=14)


def colour_bar(figure: "Figure", axes: Any, cmap: str = "jet", label: str = HEAT, limit: float = 0, **options: Any):
    """A colour bar for maps in 0..1 that were painted with `cmap`; from `-limit` to `limit` for maps with a sign."""
    import matplotlib as mpl

    scale = mpl.colors.Normalize(-limit, limit or 1)
    drawn = mpl.cm.ScalarMappable(scale, SIGNED if limit else cmap)
    options = {"fraction": 0.046, "pad": 0.02, "aspect": figure.get_figheight() / 0.15, **options}
    bar = figure.colorbar(drawn, ax=axes, **options)
    if not limit:
        bar.set_ticks([0, 0.25, 0.5, 0.75, 1.0])
    bar.outline.set_visible(False)
    bar.set_label(label)
    return bar


def grid(
    pictures: Sequence[np.ndarray], titles: Sequence[str] = (), message: str = "", *, columns: int = 5,
    rows: Sequence[str] = (), cell: float = 2.1, cmap: str | None = None, signed: str = "", aspect: float = 1.0,
) -> "Figure":  # fmt: skip
    """Pictures side by side, each under its title, and a message over all of them.

    `rows` names the rows. `cmap` adds a colour bar for heat. `signed` names what maps `(H, W)` hold that have a sign:
    they share one scale, red above zero and blue below, and its colour bar. `aspect` is a pixel's height to width.
    """
    import matplotlib.pyplot as plt

    if not len(pictures):
        raise ValueError("There are no pictures to show.")
    columns = min(columns, len(pictures))
    lines, titled = (math.ceil(len(things) / columns) for things in (pictures, titles))
    height, width = np.shape(pictures[0])[0] * aspect, np.shape(pictures[0])[1]
    tall = 1 + max((t.count("\n") for t in titles), default=0)
    longest = max((len(line) for title in titles for line in title.split("\n")), default=1)
    wide = (cell + 0.1) * columns + 1.05 * (bool(cmap) + bool(signed)) + 0.35 * bool(rows)
    high = (cell * height / width + 0.1) * lines + 0.24 * titled * tall
    figure, axes = plt.subplots(lines, columns, figsize=(wide, high), squeeze=False)
    limit = max((float(np.abs(p).max()) for p in pictures if np.ndim(p) == 2), default=0) or 1
    look = {"cmap": SIGNED, "vmin": -limit} if signed else {"cmap": "gray", "vmin": 0}  # pictures in colour ignore it
    for place, picture, title in zip(axes.flat, pictures, chain(titles, repeat("")), strict=False):
        show(place, picture, title, aspect=aspect, vmax=limit if signed else 1, **look)
        place.title.set_fontsize(min(STYLE["axes.titlesize"], 115 * cell / longest))  # so that none meets another
    for place in axes.flat[len(pictures) :]:
        place.axis("off")
    for place, name in zip(axes[:, 0], rows, strict=False):
        place.set_ylabel(name, fontsize=STYLE["axes.titlesize"])
    if signed:
        colour_bar(figure, axes, label=signed, limit=limit, fraction=0.2 / wide)
    if cmap:
        colour_bar(figure, axes, cmap, HEAT if high > 3.2 else "heat", fraction=0.2 / wide)
    headline(figure, message)
    return figure


def save(figure: "Figure", path: Any) -> Any:
    """Write a figure, whole or not at all; the suffix names the format."""
    engine = figure.get_layout_engine()
    with atomic(path) as temporary:
        figure.savefig(temporary)
    figure.set_layout_engine(engine or "none")  # savefig falls back to the style's engine where there was none
    return path
