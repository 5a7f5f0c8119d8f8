"""Volumes seen flat: three planes, maximum projections, profiles along each axis, and a light view that turns.

Arrays in, arrays or figures out. Slices stand as a reader expects them: depth downwards, so the plane across x is
`(Y, Z)`; every figure keeps the physical aspect.
"""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional as F

from .. import render
from ..cam import methods
from ..evaluate import localisation as anatomy
from ..files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = tuple(f"{name} {letter}" for name, letter in zip(anatomy.AXES, "zyx", strict=True))
"""What the three axes of a volume are called."""
SEEN = ((1, 2), (0, 2), (1, 0))
"""The axes that run down and across in the planes across z, y and x."""
LIMIT = 600_000  # bytes of an animation: several fit into one notebook
_DETAIL = 96  # voxels along each axis that the turning view keeps


# arrays --------------------------------------------------------------------------------------------------------------


def check(volume: np.ndarray, heat: np.ndarray | None = None, mask: np.ndarray | None = None) -> None:
    """Refuse what is no volume in 0..1, and heat or a mask of another shape, in one sentence."""
    for what, array in (("volume", volume), ("heat", heat), ("mask", mask)):
        if array is None:
            continue
        if not isinstance(array, np.ndarray):
            raise TypeError(f"The {what} is a {type(array).__name__}; give an array (Z, Y, X).")
        if array.ndim != 3 or not array.size:
            raise ValueError(f"The {what} has the shape {array.shape}; give (Z, Y, X).")
        if array.shape != volume.shape:
            raise ValueError(f"The {what} is {array.shape} and the volume {volume.shape}; they must agree.")
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise ValueError(f"The {what} reaches from {low:.3g} to {high:.3g}; bring it to 0..1 first.")


def size(shape: Sequence[int], spacing: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray, str]:
    """The spacing and the extent along z, y and x, and their unit: mm, or voxels where the spacing is not known."""
    steps = np.ones(3) if spacing is None else np.asarray(spacing, dtype=float)
    if steps.shape != (3,) or not (np.isfinite(steps) & (steps > 0)).all():
        raise ValueError(f"The spacing is {spacing}; give three lengths above 0 in mm: (z, y, x).")
    return steps, steps * shape, "voxels" if spacing is None else "mm"


def hottest(heat: np.ndarray) -> tuple[int, int, int]:
    """The voxel `(z, y, x)` of the greatest heat, the first of them.

    >>> hottest(np.eye(3)[None] * np.arange(3))
    (0, 2, 2)
    """
    return tuple(int(i) for i in np.unravel_index(np.argmax(heat), heat.shape))


def planes(volume: np.ndarray, point: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The planes through a voxel `(z, y, x)`: across z `(Y, X)`, across y `(Z, X)` and across x `(Y, Z)`; no copies.

    >>> [plane.shape for plane in planes(np.zeros((2, 3, 4)), (0, 0, 0))]
    [(3, 4), (2, 4), (3, 2)]
    """
    z, y, x = inside(point, volume.shape)
    return volume[z], volume[:, y], volume[:, :, x].T


def maximum(volume: np.ndarray, axis: int) -> np.ndarray:
    """The greatest value along an axis (0 is z, 1 is y, 2 is x), turned as `planes` shows that plane.

    >>> maximum(np.arange(8).reshape(2, 2, 2), 1).tolist()
    [[2, 3], [6, 7]]
    """
    return _stand(volume.max(_axis(axis)), axis)


def mean(volume: np.ndarray, axis: int) -> np.ndarray:
    """The mean along an axis, turned likewise; across y it is a clinician's view of the retina, en face."""
    return _stand(volume.mean(_axis(axis), dtype=np.float64).astype(np.float32), axis)


def _axis(axis: int) -> int:
    if axis not in (0, 1, 2):
        raise ValueError(f"There is no axis {axis!r}; 0 is z, 1 is y and 2 is x.")
    return axis


def _stand(plane: np.ndarray, axis: int) -> np.ndarray:
    return plane.T if axis == 2 else plane


def inside(point: Sequence[int], shape: Sequence[int]) -> tuple[int, int, int]:
    """The voxel as a tuple, or one sentence if it lies outside the volume."""
    if len(point) != 3 or not all(0 <= at < length for at, length in zip(point, shape, strict=True)):
        raise ValueError(
            f"The point {tuple(point)} lies outside the volume of {' x '.join(map(str, shape))} voxels; "
            "give (z, y, x), counted from 0."
        )
    return tuple(int(at) for at in point)


# three planes on one sheet -------------------------------------------------------------------------------------------


def arrange(extent: Sequence[float], width: float, height: float, gap: tuple[float, float]) -> list[tuple[float, ...]]:
    """Boxes `(left, top, width, height)` for the planes across z, y and x on a sheet, each in its physical aspect.

    Either all three in a row, or, as suits a flat volume, the plane across y beside the other two; whichever shows the
    smallest plane larger. `gap` is what lies between them, across and down.
    """
    z, y, x = (float(length) for length in extent)
    across, down = gap
    scale = min((width - 2 * across) / (2 * x + z), height / max(y, z))
    row, left = [], 0.0
    for w, h in ((x, y), (x, z), (z, y)):
        row.append((left, 0.0, w * scale, h * scale))
        left += w * scale + across
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


def at(axis: int, place: int, steps: np.ndarray, unit: str) -> str:
    """Where a plane lies, in words: in mm, the middle of its voxels from the volume's edge.

    >>> at(0, 95, np.ones(3) / 32, "mm")
    'slice z 95 (2.98 mm)'
    """
    return f"{AXES[axis]} {place}" + (f" ({(place + 0.5) * steps[axis]:.2f} mm)" if unit == "mm" else "")


def _sheet(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    spacing: tuple[np.ndarray, np.ndarray, str],
    outlines: Sequence[np.ndarray] | None,
    cmap: str,
    title: str,
) -> tuple["Figure", list["Axes"]]:
    """A figure with the three planes, their axes' names, scale bars and one colour bar."""
    import matplotlib.pyplot as plt
    from matplotlib.patheffects import withStroke

    steps, extent, unit = spacing
    boxes = arrange(extent, 10.0, 4.6, (0.45, 0.72))  # inches
    left, top, right, below = 0.35, 0.75 if title else 0.35, 1.0, 0.35
    wide, tall = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    whole = np.array([left + wide + right, top + tall + below])
    figure = plt.figure(figsize=whole, layout="none")
    dark = [withStroke(linewidth=2.5, foreground="black")]
    axes = []
    for axis, (picture, box) in enumerate(zip(pictures, boxes, strict=True)):
        place = (left + box[0], whole[1] - top - box[1] - box[3], box[2], box[3])
        cell = figure.add_axes(tuple(np.array(place) / whole[[0, 1, 0, 1]]))
        down, across = SEEN[axis]
        render.show(cell, picture, titles[axis], aspect="auto", interpolation="auto",
                    extent=(0, extent[across], extent[down], 0))  # fmt: skip
        cell.set_xlabel(AXES[across], labelpad=2), cell.set_ylabel(AXES[down], labelpad=2)
        if outlines is not None and outlines[axis].any() and min(outlines[axis].shape) > 1:
            grid = [
                (np.arange(length) + 0.5) * steps[a] for length, a in zip(picture.shape, (down, across), strict=False)
            ]
            lines = cell.contour(grid[1], grid[0], outlines[axis], levels=[0.5], colors="white", linewidths=1.1)
            lines.set_path_effects(dark)
        length, words = scale_bar(extent[across], unit)
        px = 0.12 / box[2] * extent[across], 0.12 / box[3] * extent[down]  # 0.12 inches off the corner
        end = extent[across] - px[0]
        cell.plot([end - length, end], [extent[down] - px[1]] * 2, color="white", linewidth=2.5,
                  solid_capstyle="butt", path_effects=[withStroke(linewidth=4, foreground="black")])  # fmt: skip
        cell.text(end - length / 2, extent[down] - 1.5 * px[1], words, color="white", fontsize=10, ha="center",
                  va="bottom", path_effects=dark)  # fmt: skip
        cell.set(xlim=(0, extent[across]), ylim=(extent[down], 0))
        axes.append(cell)
    bar = figure.add_axes((1 - (right - 0.15) / whole[0], below / whole[1], 0.16 / whole[0], tall / whole[1]))
    render.colour_bar(figure, None, cmap, cax=bar)
    if title:
        figure.suptitle(title, y=1 - 0.08 / whole[1], va="top")
    return figure, axes


def orthogonal(
    volume: np.ndarray,
    heat: np.ndarray,
    point: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    *,
    mask: np.ndarray | None = None,
    opacity: float = 0.4,
    cmap: str = "jet",
    title: str = "",
) -> "Figure":
    """Three planes through a voxel `(z, y, x)`, the hottest unless given, under heat, with cross-hairs.

    `spacing` is `(z, y, x)` in mm; `mask` is outlined.
    """
    from matplotlib.patheffects import withStroke

    check(volume, heat, mask)
    scale = steps, extent, unit = size(volume.shape, spacing)
    point = inside(hottest(heat) if point is None else point, volume.shape)
    pictures = [
        render.overlay(rgb(grey), warm, opacity=opacity, cmap=cmap)
        for grey, warm in zip(planes(volume, point), planes(heat, point), strict=True)
    ]
    titles = [at(axis, place, steps, unit) for axis, place in enumerate(point)]
    figure, axes = _sheet(pictures, titles, scale, mask if mask is None else planes(mask, point), cmap, title)
    here = (np.array(point) + 0.5) * steps
    line = {"color": "white", "linewidth": 0.9, "path_effects": [withStroke(linewidth=2, foreground="#00000088")]}
    for cell, (down, across) in zip(axes, SEEN, strict=True):
        clear = 0.05 * extent[[down, across]].max()  # what is looked at stays free
        for start, stop in ((0, here[across] - clear), (here[across] + clear, extent[across])):
            cell.plot([start, stop], [here[down]] * 2, **line) if start < stop else None
        for start, stop in ((0, here[down] - clear), (here[down] + clear, extent[down])):
            cell.plot([here[across]] * 2, [start, stop], **line) if start < stop else None
    return figure


def projections(
    volume: np.ndarray,
    heat: np.ndarray,
    spacing: Sequence[float] | None = None,
    *,
    ground: Literal["mean", "max"] = "mean",
    mask: np.ndarray | None = None,
    opacity: float = 0.4,
    cmap: str = "jet",
    title: str = "",
) -> "Figure":
    """Maximum projections of the heat along each axis over the volume's mean (or maximum) projections.

    A mean over a volume is flat, so that ground is stretched to its own percentiles 0.5 and 99.5; `mask` is outlined
    where any of its voxels lies on the way.
    """
    check(volume, heat, mask)
    if ground not in ("mean", "max"):
        raise ValueError(f"There is no ground {ground!r}; choose 'mean' or 'max'.")
    grounds = [_stretched(mean(volume, axis)) if ground == "mean" else maximum(volume, axis) for axis in range(3)]
    pictures = [
        render.overlay(rgb(grey), maximum(heat, axis), opacity=opacity, cmap=cmap) for axis, grey in enumerate(grounds)
    ]
    titles = [f"maximum along {name[-1]}" for name in AXES]
    outlines = mask if mask is None else [maximum(mask, axis) for axis in range(3)]
    return _sheet(pictures, titles, size(volume.shape, spacing), outlines, cmap, title)[0]


def rgb(grey: np.ndarray) -> np.ndarray:
    """A grey plane in three equal channels."""
    return np.repeat(np.asarray(grey, dtype=np.float32)[..., None], 3, axis=-1)


def _stretched(grey: np.ndarray) -> np.ndarray:
    low, high = np.percentile(grey, (0.5, 99.5))
    return ((grey - low) / (high - low)).clip(0, 1) if high > low else grey


def profiles(
    heats: Mapping[str, np.ndarray],
    spacing: Sequence[float] | None = None,
    *,
    mask: np.ndarray | None = None,
    title: str = "",
) -> "Figure":
    """Where several methods look along each axis: the share of the heat in each slice, over the lesion's true share."""
    import matplotlib.pyplot as plt

    if not heats:
        raise ValueError("There is no heat to show; give at least one method's.")
    shape = np.shape(next(iter(heats.values())))
    for name, heat in heats.items():
        if np.ndim(heat) != 3 or np.shape(heat) != shape:
            raise ValueError(f"The heat of {name} is {np.shape(heat)}, the first {shape}; all need one (Z, Y, X).")
    if mask is not None and np.shape(mask) != shape:
        raise ValueError(f"The mask is {np.shape(mask)} and the heat {shape}; they must agree.")
    steps, extent, unit = size(shape, spacing)
    figure, cells = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
    for axis, cell in enumerate(cells):
        places = (np.arange(shape[axis]) + 0.5) * steps[axis]
        if mask is not None and mask.any():
            cell.fill_between(
                places, 100 * anatomy.profile(mask, axis), color="0.85", linewidth=0, label="lesion, its true share"
            )
        for name, heat in heats.items():
            blank = "" if heat.any() else " (blank)"
            cell.plot(
                places,
                100 * anatomy.profile(heat, axis),
                color=methods.colour(name),
                label=methods.title(name) + blank,
            )
        cell.set(xlim=(0, extent[axis]), ylim=(0, None), xlabel=f"{AXES[axis]} ({unit})")
        cell.locator_params(nbins=6)
    cells[0].set_ylabel("share of all heat in a slice (%)")
    handles, labels = cells[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    if title:
        figure.suptitle(title)
    return figure


# the turning view ----------------------------------------------------------------------------------------------------


def turn(
    stack: np.ndarray | torch.Tensor,
    spacing: Sequence[float] | None = None,
    angle: float = 0.0,
    *,
    tilt: float = 0.0,
    cue: float | Sequence[float] = 0.0,
    pitch: float | None = None,
) -> np.ndarray:
    """The maximum projection of a volume `(Z, Y, X)`, or of several `(C, Z, Y, X)`, turned about its vertical axis.

    At 0 degrees one looks along z, at 90 along x with z to the right, at 180 from behind; `tilt` raises the eye by so
    many degrees. `cue` is the share of brightness that the farthest slice loses, of all volumes or of each. `pitch` is
    the size of a pixel, in the spacing's unit. The canvas has the same size at every angle.

    >>> turn(np.ones((4, 4, 4), np.float32)).max(0).tolist()
    [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    """
    import cv2

    if not -80 <= tilt <= 80:
        raise ValueError(f"The tilt is {tilt}; give degrees from -80 to 80.")
    stack = stack if isinstance(stack, torch.Tensor) else _tensor(stack)
    volumes = stack if stack.ndim == 4 else stack[None]
    count, depth, height, width = volumes.shape
    steps, extent, _ = size(volumes.shape[1:], spacing)
    pitch, step = pitch or steps.min(), max(steps[0], steps[2])
    across = math.hypot(extent[0], extent[2])
    right, away = _centred(across, pitch, width), _centred(across, step, depth)[:, None]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, z = right * cos - away * sin, right * sin + away * cos
    where = torch.stack([x * (2 / extent[2]), z * (2 / extent[0])], -1)[None]  # -1..1 goes from face to face
    rows = volumes.transpose(1, 2).reshape(1, count * height, depth, width)  # y takes no part in the turn
    layers = F.grid_sample(rows, where, align_corners=False).view(count, height, len(away), len(right))
    layers *= 1 - torch.linspace(0, 1, len(away))[:, None] * torch.as_tensor(cue).reshape(-1, 1, 1, 1)
    layers = layers.numpy()
    lower = away[:, 0] * (math.tan(math.radians(tilt)) / steps[1])  # a raised eye sees what is far higher up, by rows
    margin = math.ceil(lower.abs().max())
    seen = np.zeros((count, height + 2 * margin, len(right)), np.float32)
    for number, top in enumerate((margin - lower).round().int().tolist()):
        window = seen[:, top : top + height]
        np.maximum(window, layers[:, :, number], out=window)  # torch's threads cost more than they save on so little
    lines = max(1, round(seen.shape[1] * steps[1] * math.cos(math.radians(tilt)) / pitch))
    if lines != seen.shape[1]:
        way = cv2.INTER_AREA if lines < seen.shape[1] else cv2.INTER_LINEAR
        seen = np.stack([cv2.resize(one, (len(right), lines), interpolation=way) for one in seen])
    return seen if stack.ndim == 4 else seen[0]


def _centred(length: float, step: float, voxels: int) -> torch.Tensor:
    """Places a step apart that cover a length about 0: as even in number as the voxels, so that they can coincide."""
    count = math.ceil(length / step - 1e-6)
    count += (count - voxels) % 2
    return ((torch.arange(count) - (count - 1) / 2) * step).float()


def turning(
    volume: np.ndarray,
    heat: np.ndarray,
    spacing: Sequence[float] | None = None,
    angles: Sequence[float] = tuple(range(0, 360, 15)),
    *,
    tilt: float = 25.0,
    cue: float = 0.5,
    opacity: float = 0.9,
    cmap: str = "jet",
    side: int = 200,
) -> np.ndarray:
    """Frames `(N, H, W, 3)`, uint8, of the volume as it turns: grey maximum projections, the heat's over them.

    Here alone the heat covers in proportion to its value, up to `opacity`: cold heat must not hide what lies behind.
    Both are averaged down to 96 voxels an axis first.
    """
    check(volume, heat)
    if not len(angles):
        raise ValueError("There is no angle to look from; give at least one, in degrees.")
    extent = size(volume.shape, spacing)[1]
    small = torch.cat([_smaller(volume), _smaller(heat)])
    steps = extent / small.shape[1:]
    rise, across = math.radians(tilt), math.hypot(extent[0], extent[2])
    pitch = max(across, extent[1] * math.cos(rise) + across * math.sin(rise)) / (side - 2)  # pixels spare for the box
    frames = []
    for angle in angles:
        grey, warm = turn(small, steps, angle, tilt=tilt, cue=(cue, 0.0), pitch=pitch)
        behind, before = _box(grey.shape, extent / pitch, angle, tilt)
        share = (opacity * warm)[..., None]
        frame = np.maximum(255 * grey, behind)[..., None] * (1 - share) + render.colour(warm.clip(0, 1), cmap) * share
        frames.append(np.maximum(frame, before[..., None]).round().astype(np.uint8))
    return np.stack(frames)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor, without a copy where torch can do without."""
    return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))


def _smaller(volume: np.ndarray) -> torch.Tensor:
    return F.interpolate(_tensor(volume)[None, None], [min(length, _DETAIL) for length in volume.shape], mode="area")[0]


def _box(shape: tuple[int, int], extent: np.ndarray, angle: float, tilt: float) -> tuple[np.ndarray, np.ndarray]:
    """The edges of the turned box, in grey: the three that meet in the farthest corner, and the other nine."""
    import cv2

    rise, spin = math.radians(tilt), math.radians(angle)
    corners = np.array([(z, y, x) for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)]) * extent / 2
    z, y, x = corners.T
    level = z * math.cos(spin) - x * math.sin(spin)
    right, down = x * math.cos(spin) + z * math.sin(spin), y * math.cos(rise) - level * math.sin(rise)
    farthest = np.argmax(y * math.sin(rise) + level * math.cos(rise))
    places = np.round(16 * (np.stack([right, down], 1) + (np.array(shape[::-1]) - 1) / 2)).astype(int)
    drawn = np.zeros((2, *shape), np.uint8)
    for a in range(8):
        for b in (a | 1, a | 2, a | 4):
            if a != b:
                far = farthest in (a, b)
                cv2.line(drawn[0 if far else 1], places[a].tolist(), places[b].tolist(), 60 if far else 130, 1,
                         cv2.LINE_AA, 4)  # fmt: skip
    return drawn[0], drawn[1]


def animation(frames: np.ndarray, format: Literal["webp", "gif"] = "webp", *, fps: float = 10.0) -> bytes:
    """The frames as an animated WebP or GIF that loops for ever, below 600 KB.

    >>> animation(np.zeros((2, 8, 8, 3), np.uint8), "gif")[:6]
    b'GIF89a'
    """
    from PIL import Image

    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"The frames are {frames.dtype} {frames.shape}; give uint8 (N, H, W, 3).")
    if format not in ("webp", "gif"):
        raise ValueError(f"Cannot write an animation as {format!r}; use 'webp' or 'gif'.")
    pictures = [Image.fromarray(frame) for frame in frames]
    options = {"save_all": True, "duration": round(1000 / fps), "loop": 0, "format": format.upper()}
    for quality, colours in ((85, 256), (70, 128), (50, 64), (30, 32)):
        if format == "gif":  # one palette for all, so that nothing flickers
            palette = Image.fromarray(np.vstack(frames)).quantize(colours)
            shown = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
        else:
            shown, options["quality"], options["method"] = pictures, quality, 4
        file = BytesIO()
        shown[0].save(file, append_images=shown[1:], **options)
        if file.tell() < LIMIT:
            return file.getvalue()
    size = f"{len(frames)} frames of {frames.shape[2]} x {frames.shape[1]} pixels"
    raise ValueError(f"{size} do not go below {LIMIT // 1000} KB; use fewer or smaller ones.")


def save_animation(path: str | Path, frames: np.ndarray, *, fps: float = 10.0) -> Path:
    """Write the frames as the animated WebP or GIF that `path` asks for, whole or not at all."""
    path = Path(path)
    if path.suffix.lower() not in (".webp", ".gif"):
        raise ValueError(f"Cannot write an animation as {path.name!r}; end the name in .webp or .gif.")
    data = animation(frames, path.suffix[1:].lower(), fps=fps)
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return path


def strip(frames: np.ndarray, angles: Sequence[float], *, columns: int = 3) -> "Figure":
    """Frames of the turning view on a sheet, each under its angle."""
    return render.grid(list(frames), [f"{angle:g}°" for angle in angles], columns=columns, cell=3.4)
