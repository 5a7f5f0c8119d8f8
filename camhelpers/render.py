"""Heat made visible: colour tables, overlays, panels and grids. Arrays in, arrays or figures out."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

CMAPS = ("jet", "hot", "viridis", "plasma", "inferno", "magma", "cividis", "turbo")
HEAT = "heat (share of the maximum)"  # what colour bars say
STYLE: dict[str, Any] = {
    "figure.dpi": 100, "savefig.dpi": 150, "savefig.bbox": "tight", "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans", "font.size": 12, "axes.titlesize": 13, "axes.titlepad": 7, "axes.labelsize": 12,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "image.interpolation": "nearest",
    "legend.frameon": False, "lines.linewidth": 2,
}  # fmt: skip


def use_style() -> None:
    """Give every figure of a notebook one look; photographs go in as JPEG, which keeps a notebook under 1 MB."""
    import matplotlib as mpl
    from IPython import get_ipython
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    mpl.rcParams.update(STYLE)
    if get_ipython():
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 72}, bbox_inches=None)


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


def listed(cmap: str = "jet") -> "ListedColormap":
    """The same table for matplotlib's own functions."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(table(cmap) / 255)


def index(heat: np.ndarray) -> np.ndarray:
    """Heat in 0..1 as a row of the table, 0 to 255."""
    heat = np.asarray(heat)
    if not (heat.min() >= 0 and heat.max() <= 1):  # NaN is neither
        raise ValueError(f"The heat reaches from {heat.min():.3g} to {heat.max():.3g}; bring it to 0..1 first.")
    return np.round(heat * 255).astype(np.uint8)


def overlay(picture: np.ndarray, heat: np.ndarray, *, opacity: float = 0.4, cmap: str = "jet") -> np.ndarray:
    """Mix `1 - opacity` of the picture with `opacity` of the coloured heat, uint8 `(..., H, W, 3)`.

    Exactly so at every pixel, with no rescaling by the maximum: equal heat looks the same in every slice and frame.
    """
    picture, heat = np.asarray(picture), np.asarray(heat)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; it lies between 0 (the picture alone) and 1 (the heat alone).")
    if picture.shape != (*heat.shape, 3):
        raise ValueError(f"The picture is {picture.shape}, the heat {heat.shape}; but for 3 colours they must agree.")
    share, full = np.float32(opacity), np.float32(1 if picture.dtype == np.uint8 else 255)
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


def colour_bar(figure: "Figure", axes: Any, cmap: str = "jet", label: str = HEAT, **options: Any):
    """A colour bar with numbers for maps in 0..1 that were painted with `cmap`."""
    import matplotlib as mpl

    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), listed(cmap))
    bar = figure.colorbar(scale, ax=axes, **{"fraction": 0.046, "pad": 0.02, **options})
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1.0])
    bar.outline.set_visible(False)
    bar.set_label(label)
    return bar


def panel(
    picture: np.ndarray, heats: Mapping[str, np.ndarray], *, title: str = "", opacity: float = 0.4, cmap: str = "jet"
) -> "Figure":
    """The picture large, then a column for each heat under its title, with the overlay below and one colour bar."""
    import matplotlib.pyplot as plt

    height, width = picture.shape[:2]
    figure = plt.figure(figsize=(2.1 * (2 + len(heats)) + 0.9, 4.2 * height / width + 0.5))
    cells = figure.add_gridspec(2, 2 + len(heats))
    show(figure.add_subplot(cells[:, :2]), picture, title)
    for i, (name, heat) in enumerate(heats.items(), start=2):
        show(figure.add_subplot(cells[0, i]), colour(heat, cmap), name + ("" if heat.any() else " (blank)"))
        show(figure.add_subplot(cells[1, i]), overlay(picture, heat, opacity=opacity, cmap=cmap))
    colour_bar(figure, figure.axes[1:], cmap)
    return figure


def grid(
    pictures: Sequence[np.ndarray], titles: Sequence[str] = (), *, columns: int = 5, rows: Sequence[str] = (),
    cell: float = 2.2, cmap: str | None = None, aspect: float = 1.0,
) -> "Figure":  # fmt: skip
    """Pictures side by side; `rows` names the rows, `cmap` adds a colour bar, `aspect` is a pixel's height to width."""
    import matplotlib.pyplot as plt

    if not len(pictures):
        raise ValueError("There are no pictures to show.")
    lines, titled = (math.ceil(len(things) / columns) for things in (pictures, titles))
    height, width = np.shape(pictures[0])[0] * aspect, np.shape(pictures[0])[1]
    tall = 1 + max((t.count("\n") for t in titles), default=0)
    size = (cell * columns + (0.9 if cmap else 0), (cell * height / width + 0.05) * lines + 0.28 * titled * tall)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for place, picture, title in zip(axes.flat, pictures, chain(titles, repeat("")), strict=False):
        show(place, picture, title, aspect=aspect, cmap="gray", vmin=0, vmax=1)  # which a picture in colour ignores
    for place in axes.flat[len(pictures) :]:
        place.axis("off")
    for place, name in zip(axes[:, 0], rows, strict=False):
        place.set_ylabel(name, fontsize=STYLE["axes.titlesize"])
    if cmap:
        colour_bar(figure, axes, cmap)
    return figure


def save(figure: "Figure", path: Any) -> Any:
    """Write a figure, whole or not at all; the suffix names the format."""
    engine = figure.get_layout_engine()
    with atomic(path) as temporary:
        figure.savefig(temporary)
    figure.set_layout_engine(engine or "none")  # savefig falls back to the style's engine where there was none
    return path
