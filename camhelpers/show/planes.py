"""Volumes seen flat, in physical proportions: depth runs downwards, and the plane across x is `(Y, Z)`.

`look` is `opacity`, `cmap` and `title`; `spacing` is `(z, y, x)` in mm.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import render
from ..cam import methods
from ..evaluate import localisation
from ..files import atomic
from .views import AXES, SEEN, View, planes_through, views

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..io.volumes import Volume

Array, Spacing = np.ndarray, Sequence[float] | None


class Scale(NamedTuple):
    """The spacing and the extent of a volume along z, y and x, and their unit: voxels where no spacing is known."""

    steps: Array
    extent: Array
    unit: str


def checked(volume: Array, heat: Array | None = None, spacing: Spacing = None, mask: Array | None = None) -> Scale:
    """The scale of a volume in 0..1; heat and mask must be like it."""
    for array in (volume, heat, mask):
        if array is None:
            continue
        if array.ndim != 3 or not (array.shape == volume.shape and array.min() >= 0 and array.max() <= 1):
            raise ValueError("Give volume, heat and mask as (Z, Y, X) of one shape, with values in 0..1.")
    steps = np.array((1, 1, 1) if spacing is None else spacing, dtype=float)
    return Scale(steps, steps * volume.shape, "voxels" if spacing is None else "mm")


def hottest(heat: Array) -> tuple[int, int, int]:
    """The voxel `(z, y, x)` of the greatest heat, the first of them."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(heat), heat.shape))


def rgb(grey: Array) -> Array:
    """A grey plane in three equal channels."""
    return np.repeat(np.asarray(grey, dtype=np.float32)[..., None], 3, axis=-1)


def arrange(
    extent: Sequence[float], width: float, height: float, gap: tuple[float, float], seen: Sequence[View] = ()
) -> list[tuple[float, ...]]:
    """Boxes `(left, top, width, height)` for the planes across z, y and x, with gaps across and down.

    In a row, or the plane across y beside the other two; whichever shows the smallest plane larger.
    """
    (z, y, x), (across, down), seen = extent, gap, seen or views()
    sizes = np.array([(extent[view.across], extent[view.down]) for view in seen], float)
    sizes *= min((width - 2 * across) / sizes[:, 0].sum(), height / sizes[:, 1].max())
    row = [(float(sizes[:n, 0].sum() + n * across), 0.0, *map(float, size)) for n, size in enumerate(sizes)]
    if [view[:2] for view in seen] != list(SEEN):
        return row
    wide = max(x, z) / (2 * y)  # the width of the stacked planes for each unit of their height
    tall = min(height, (width - across + down * wide) / (x / z + wide))
    scale, left = (tall - down) / (2 * y), tall * x / z + across
    second = (tall + down) / 2
    stack = [(left, 0.0, x * scale, y * scale), (0.0, 0.0, tall * x / z, tall), (left, second, z * scale, y * scale)]
    return max(row, stack, key=lambda boxes: min(w * h for *_, w, h in boxes))


def scale_bar(extent: float, unit: str) -> tuple[float, str]:
    """A round length of about a quarter of `extent`, and what to write beside it.

    >>> scale_bar(6, "mm"), scale_bar(0.3, "mm")
    ((1.0, '1 mm'), (0.05, '50 µm'))
    """
    ten = 10.0 ** math.floor(math.log10(extent / 3.5))
    length = max(step * ten for step in (1, 2, 5) if step * ten <= extent / 3.5)
    return length, f"{length * 1000:g} µm" if unit == "mm" and length < 0.1 else f"{length:g} {unit}"


def plane_title(axis: int, index: int, scale: Scale, name: str = "") -> str:
    """Where a plane lies, in words: counted from 1, and in mm, the middle of its voxels from the volume's edge."""
    where = f" ({(index + 0.5) * scale.steps[axis]:.2f} mm)" if scale.unit == "mm" else ""
    return f"{name or AXES[axis]} {index + 1}{where}"


def lesion_key(cell: Any, **options: Any) -> None:
    """Say on a picture what its white line is."""
    from matplotlib.lines import Line2D

    edge, box = Line2D([], [], color="white", linewidth=1.1), {"facecolor": "black", "framealpha": 0.6}
    look = {"loc": "upper left", "fontsize": 10, "labelcolor": "white", "frameon": True, **box, **options}
    cell.legend([edge], ["edge of the lesion"], **look)


def _sheet(
    figure: "Figure", scale: Scale, boxes: Sequence[tuple[float, ...]], planes: Iterable[tuple], seen: Sequence[View],
    *, opacity: render.Opacity = 0.4, cmap: str = "jet", title: str = "", label: str = render.HEAT,
) -> None:  # fmt: skip
    """Fill a figure with planes `(axis, title, grey, heat, mask)` in their boxes, scale bars and a colour bar.

    The colours of the bar are those that the heat has over mid-grey.
    """
    from matplotlib.patheffects import withStroke

    left, top, right, below = 0.35, 0.75 + 0.25 * title.count("\n") if title else 0.35, 1.0, 0.35
    wide, tall = (max(box[side] + box[side + 2] for box in boxes) for side in (0, 1))
    tall = max(tall, 2.4)  # as much as the colour bar's label needs
    whole = np.array([left + wide + right, top + tall + below])
    figure.set_size_inches(whole)
    thin, thick = ([withStroke(linewidth=width, foreground="black")] for width in (2.5, 4))
    for box, (axis, words, grey, heat, mask) in zip(boxes, planes, strict=True):
        place = np.array([left + box[0], whole[1] - top - box[1] - box[3], box[2], box[3]])
        cell = figure.add_axes(tuple(place / whole[[0, 1, 0, 1]]))
        (down, across, turned, name, letters), picture = seen[axis], rgb(grey)
        if heat is not None:
            picture = render.overlay(picture, heat, opacity=opacity, cmap=cmap)
        x, y = scale.extent[[across, down]]
        render.show(cell, picture, words, aspect="auto", interpolation="auto", extent=(0, x, y, 0))
        if name == AXES[axis]:
            cell.set_xlabel(AXES[across], labelpad=2), cell.set_ylabel(AXES[down], labelpad=2)
        ink = {"color": "w", "path_effects": thin, "transform": cell.transAxes}
        for letter, place, ha, va in zip(letters, ((0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015)),
                                         ("left", "right", *["center"] * 2),
                                         (*["center"] * 2, "top", "bottom"), strict=False):  # fmt: skip
            cell.text(*place, letter, ha=ha, va=va, fontsize=11, **ink)
        if not (letters or len(figure.axes) > 1):
            cell.text(0.01, 0.02, "orientation unknown", fontsize=8, **ink)
        if mask is not None and mask.any() and min(mask.shape) > 1:
            rows, columns = ((np.arange(len(m)) + 0.5) * scale.steps[a] for m, a in ((mask, down), (mask.T, across)))
            lines = cell.contour(columns, rows, mask, levels=[0.5], colors="white", linewidths=1.1)
            lines.set_path_effects(thin)
            if not any(other.get_legend() for other in figure.axes):
                lesion_key(cell, loc="lower left" if letters else "upper left")
        length, words = scale_bar(x, scale.unit)
        end, long = 1 - 0.12 / box[2], length / x  # off the corner
        cell.plot([end - long, end], [0.12 / box[3]] * 2, "w", linewidth=2.5, solid_capstyle="butt",
                  path_effects=thick, transform=cell.transAxes)  # fmt: skip
        cell.text(end - long / 2, 0.18 / box[3], words, fontsize=10, ha="center", va="bottom", **ink)
        cell.set(xlim=(x, 0) if turned[1] else (0, x), ylim=(0, y) if turned[0] else (y, 0))
    bar = figure.add_axes((1 - (right - 0.15) / whole[0], below / whole[1], 0.16 / whole[0], tall / whole[1]))
    ramp, grey = np.linspace(1, 0, 256, dtype=np.float32)[:, None], np.full((256, 1, 3), 0.5, np.float32)
    bar.imshow(render.overlay(grey, ramp, opacity=opacity, cmap=cmap), aspect="auto", extent=(0, 1, 0, 1))
    bar.set(xticks=[], yticks=[0, 0.25, 0.5, 0.75, 1], ylabel=label)
    bar.yaxis.tick_right(), bar.yaxis.set_label_position("right"), bar.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, y=1 - 0.08 / whole[1], va="top", parse_math=False)  # names of files hold $ too


def _three_planes(scale: Scale, seen: list[View], *parts: Sequence, **look: Any) -> "Figure":
    import matplotlib.pyplot as plt

    figure, boxes = plt.figure(layout="none"), arrange(scale.extent, 8.8, 4.0, (0.45, 0.72), seen)
    _sheet(figure, scale, boxes, zip(range(3), *parts, strict=True), seen, **look)
    return figure


def orthogonal(
    volume: Array, heat: Array, point: Sequence[int] | None = None, spacing: Spacing = None, *,
    mask: Array | None = None, orientation: str | None = None, **look: Any,
) -> "Figure":  # fmt: skip
    """Three planes through a voxel `(z, y, x)`, the hottest unless given, under heat, with cross-hairs and the mask.

    Radiological, where `orientation` is known: the directions that x, y and z run to, such as "LPS".
    """
    from matplotlib.patheffects import withStroke

    scale = checked(volume, heat, spacing, mask)
    point = hottest(heat) if point is None else point
    seen = views(orientation)
    titles = [plane_title(axis, place, scale, seen[axis].name) for axis, place in enumerate(point)]
    outlines = [None] * 3 if mask is None else planes_through(mask, point, seen)
    greys, warms = planes_through(volume, point, seen), planes_through(heat, point, seen)
    figure = _three_planes(scale, seen, titles, greys, warms, outlines, **look)
    here = (np.array(point) + 0.5) * scale.steps
    line = {"color": "white", "linewidth": 0.9, "path_effects": [withStroke(linewidth=2, foreground="#00000088")]}
    for cell, (down, across, *_) in zip(figure.axes, seen, strict=False):
        (y, x), (tall, wide) = here[[down, across]], scale.extent[[down, across]]
        clear = 0.05 * max(tall, wide)  # what is looked at stays free; what lies beyond an edge is clipped
        for x_ends, y_ends in (((0, x - clear), (0, y - clear)), ((x + clear, wide), (y + clear, tall))):
            cell.plot(x_ends, (y, y), **line), cell.plot((x, x), y_ends, **line)
    return figure


def projections(
    volume: Array, heat: Array, spacing: Spacing = None, *, mask: Array | None = None, orientation: str | None = None,
    **look: Any,
) -> "Figure":  # fmt: skip
    """Maximum projections of heat and mask along each axis, over mean projections stretched to their own contrast."""
    scale = checked(volume, heat, spacing, mask)
    greys, heats, masks, seen = [], [], [], views(orientation)
    for axis, view in enumerate(seen):
        flat = [volume.mean(axis, dtype=np.float64), heat.max(axis), None if mask is None else mask.max(axis)]
        grey, warm, inside = (None if p is None else view.lay(p.T if axis == 2 else p, axis) for p in flat)
        low, high = np.percentile(grey, (0.5, 99.5))
        greys.append(((grey - low) / ((high - low) or 1)).clip(0, 1))
        heats.append(warm), masks.append(inside)
    words = [view.name if orientation else f"along {'zyx'[axis]}" for axis, view in enumerate(seen)]
    return _three_planes(scale, seen, [f"maximum, {word}" for word in words], greys, heats, masks, **look)


def preview(volume: "Volume", heat: Array, *, mask: Array | None = None, title: str = "", **look: Any) -> "Figure":
    """Up to six slices, bare and under their heat, counted from 1 as in ImageJ; most are where most of the heat is."""
    from matplotlib.figure import Figure

    scale = checked(volume.data, heat, volume.spacing if volume.source.get("spacing_known") else None, mask)
    seen = views(volume.source.get("orientation"), volume.source.get("modality") != "OPT")
    y, x = scale.extent[[seen[0].down, seen[0].across]]
    wide, tall = min(2.9, 2.9 * x / y), min(2.9 * y / x, 2.9)  # inches
    columns, rows = max(wide, 1.5) + 0.45, max(tall, 0.6) + 0.72  # room for titles and names
    share = heat.sum(axis=(1, 2), dtype=np.float64)
    reached = (share if share.any() else share + 1).cumsum()
    shown = np.unique(np.searchsorted(reached, ((np.arange(6) + 0.5) / 6 - 1e-9) * reached[-1]))
    boxes = [(number % 4 * columns, number // 4 * rows, wide, tall) for number in range(2 * len(shown))]
    masks, planes, what = [None] * len(heat) if mask is None else mask, [], seen[0].letters and f"{seen[0].name} "
    for z in shown:
        grey, warm, inside = (None if p is None else seen[0].lay(p, 0) for p in (volume.data[z], heat[z], masks[z]))
        planes += [(0, f"{what or ''}slice {z + 1} of {len(heat)}", grey, None, None), (0, "", grey, warm, inside)]
    if title:
        sizes = f"voxels of {' x '.join(f'{n:.3g}' for n in scale.steps)} mm (z, y, x)" if scale.unit == "mm" else ""
        low, high = volume.window
        title += f"\nwindow {low:g} to {high:g}, {sizes or 'size of the voxels unknown'}"
    figure = Figure(dpi=150, layout="none")  # not through pyplot, whose state threads would share
    _sheet(figure, scale, boxes, planes, seen, title=title, **look)
    return figure


def profiles(heats: Mapping[str, Array], spacing: Spacing = None, *, mask: Array | None = None, title="") -> "Figure":
    """Where each method looks along each axis: the share of its heat in each slice, over the lesion's own share."""
    import matplotlib.pyplot as plt

    size = (10.5, 1.6 + 0.85 * len(heats))
    figure, cells = plt.subplots(len(heats), 3, figsize=size, squeeze=False, sharex="col", sharey="col")
    for row, (name, heat) in zip(cells, heats.items(), strict=True):
        scale = checked(heat, None, spacing, mask)
        words = methods.title(name) + ("" if heat.any() else "\n(blank)")
        row[0].set_ylabel(words, rotation=0, ha="right", va="center")
        for axis, cell in enumerate(row):
            places = (np.arange(heat.shape[axis]) + 0.5) * scale.steps[axis]
            if mask is not None and mask.any():
                true = 100 * localisation.profile(mask, axis)
                cell.fill_between(places, true, color="0.82", linewidth=0, label="the lesion's own share")
            cell.plot(places, 100 * localisation.profile(heat, axis), color=methods.colour(name), label="heat")
            cell.set(xlim=(0, scale.extent[axis]), ylim=(0, None))
            cell.locator_params(axis="y", nbins=3), cell.locator_params(axis="x", nbins=5)
            cells[-1][axis].set_xlabel(f"{AXES[axis]} ({scale.unit})")
    figure.legend(*cells[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.supylabel("share of the method's heat in each slice (%)", fontsize=11)
    figure.suptitle(title)
    return figure


def turning(
    volume: Array, heat: Array, spacing: Spacing = None, angles: Sequence[float] = tuple(range(0, 360, 15)), *,
    cmap: str = "jet", side: int = 480,
) -> Array:  # fmt: skip
    """Frames `(N, H, W, 3)`, at most `side` pixels, of maximum projections: from 25 degrees above, at 0 along z.

    What is far is darker, and heat covers in proportion to its value: cold heat must not hide what lies behind.
    """
    import cv2
    import torch
    from torch.nn import functional as F

    extent = checked(volume, heat, spacing).extent
    both = torch.from_numpy(np.stack([volume, heat]).astype(np.float32, copy=False))[None]
    both = F.interpolate(both, [min(length, 96) for length in volume.shape], mode="area")
    diagonal, up, level = math.hypot(extent[0], extent[2]), math.sin(math.radians(25)), math.cos(math.radians(25))
    spans = np.array([extent[1] * up + diagonal * level, extent[1] * level + diagonal * up, diagonal])  # away first
    size = np.round(side * spans[:0:-1] / spans[1:].max()).astype(int).tolist()  # in OpenCV's order
    corners = np.array(list(np.ndindex(2, 2, 2))) - 0.5
    edges = [(a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit]
    fade, frames = torch.linspace(1, 0.5, 96)[:, None, None], []
    for angle in np.radians(angles):
        sin, cos = math.sin(angle), math.cos(angle)
        seen = np.array([(cos * level, up, -sin * level), (-cos * up, level, sin * up), (sin, 0, cos)])
        back = (seen.T * spans / extent[:, None])[::-1, ::-1]  # what is seen, in voxels; torch counts x first
        grid = F.affine_grid(torch.tensor(np.column_stack([back, np.zeros(3)]))[None].float(),
                             [1, 2, 96, size[1] // 2, size[0] // 2], align_corners=False)  # fmt: skip
        grey, warm = F.grid_sample(both, grid, align_corners=False)[0]
        flat = np.stack([(grey * fade).amax(0), warm.amax(0)], -1)
        flat = cv2.resize(flat, size, interpolation=cv2.INTER_LINEAR).clip(0, 1)
        share = 0.9 * flat[..., 1:]
        frame = 255 * flat[..., :1] * (1 - share) + render.colour(flat[..., 1], cmap) * share
        ends = corners * extent @ seen.T / spans + 0.5
        farthest, box = ends[:, 0].argmax(), np.zeros(size[::-1], np.uint8)
        ends = np.round(16 * (ends[:, :0:-1] * (np.array(size) - 3) + 1)).astype(int).tolist()  # of a pixel, sixteenths
        for edge in edges:  # darker those that meet in the farthest corner
            cv2.line(box, *(ends[end] for end in edge), 60 if farthest in edge else 130, 2, cv2.LINE_AA, 4)
        frames.append(np.maximum(frame, box[..., None]).round().astype(np.uint8))
    return np.stack(frames)


def animation(frames: Array, path: str | Path) -> bytes:
    """The frames as an animated WebP that loops for ever, written to `path` as well."""
    from PIL import Image

    first, *others = [Image.fromarray(frame) for frame in frames]
    with atomic(path) as temporary:
        first.save(temporary, "WEBP", save_all=True, append_images=others, duration=100, loop=0, quality=85)
    return Path(path).read_bytes()
