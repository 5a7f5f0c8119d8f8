"""Heat in three dimensions on disk: TIFF stacks for ImageJ, NIfTI for medical viewers."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import atomic
from ..render import colour, overlay

if TYPE_CHECKING:
    from .volumes import Volume

IMAGEJ_BYTES = 2**32 - 2**25  # what ImageJ 1 opens, before compression; the rest is for the tables of the pages


def heat_pages(heat: np.ndarray, cmap: str = "jet") -> Iterator[np.ndarray]:
    """The slices of heat `(Z, Y, X)` in 0..1 in colour, uint8 `(Y, X, 3)`, one at a time."""
    return (colour(page, cmap) for page in heat)


def overlay_pages(
    volume: np.ndarray, heat: np.ndarray, opacity: float = 0.4, cmap: str = "jet"
) -> Iterator[np.ndarray]:
    """The slices of a volume in 0..1 under its heat, uint8 `(Y, X, 3)`, 60 % grey and 40 % colour, one at a time."""
    for grey, page in zip(volume, heat, strict=True):
        yield overlay(np.broadcast_to(grey[..., None], (*page.shape, 3)), page, opacity=opacity, cmap=cmap)


def write_stack(
    path: str | Path, pages: Iterable[np.ndarray], shape: Sequence[int], spacing: Sequence[float] | None, *,
    description: str = "", grey: bool = False,
) -> Path:  # fmt: skip
    """Stream RGB pages of `shape` (Z, Y, X) into a TIFF that ImageJ opens as one calibrated stack; whole or not at all.

    One page a slice, LZW with predictor, `spacing` (z, y, x) in mm, or None where it is unknown: then the unit is the
    pixel. ImageJ shows `description` under Image > Show Info. Above 4 GB, which ImageJ 1 cannot open, it is a BigTIFF.
    `grey` pages hold heat in 255 steps, which ImageJ measures as 0..1.
    """
    from tifffile import TiffWriter

    fits, kind = imagej_opens(shape), ("ZYX", tuple(shape), "minisblack") if grey else ("ZYXS", (*shape, 3), "rgb")
    unit, scale = ("pixel", 1) if spacing is None else ("um", 1000) if min(spacing) < 0.1 else ("mm", 1)
    z, y, x = (1.0, 1.0, 1.0) if spacing is None else (float(s) * scale for s in spacing)
    metadata = {"axes": kind[0], "spacing": z, "unit": unit, **({"Info": description} if description else {})}
    metadata |= {"cf": 0, "c0": 0.0, "c1": 1 / 255, "vunit": "heat"} if grey else {}  # 0 is ImageJ's straight line
    # without the predictor an overlay grows beyond its raw size; one strip a page is the plainest thing for a reader;
    # the buffer, in bytes, holds the pages that wait for a compressor
    with atomic(path) as temporary, TiffWriter(temporary, bigtiff=not fits, imagej=fits) as file:
        file.write(
            iter(pages), shape=kind[1], dtype="uint8", photometric=kind[2], metadata=metadata, software=False,
            compression="lzw", predictor=True, rowsperstrip=shape[1], maxworkers=min(4, os.cpu_count() or 1),
            buffersize=2**23, resolution=(1 / x, 1 / y), resolutionunit="none",
        )  # fmt: skip
    return Path(path)


def imagej_opens(shape: Sequence[int]) -> bool:
    """Whether an RGB stack of `shape` (Z, Y, X) is small enough for ImageJ 1."""
    return math.prod(shape) * 3 <= IMAGEJ_BYTES


def leans(affine: np.ndarray) -> bool:
    """Whether the axes of a grid are not at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3)


def _upright(values: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values `(x, y, z)` on a grid of the same planes, stacked along their normal and large enough to hold them all."""
    from scipy.ndimage import affine_transform

    x, y, z = affine[:3, :3].T
    normal = np.cross(x, y) / np.linalg.norm(np.cross(x, y))
    new = np.eye(4)
    new[:3, :3] = np.column_stack([x, y, normal * (z @ normal)])
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(values.shape) - 1)
    seen = (np.linalg.inv(new[:3, :3]) @ affine[:3, :3] @ corners.T).round(6)
    low, high = np.floor(seen.min(1)), np.ceil(seen.max(1))
    new[:3, 3] = affine[:3, 3] + new[:3, :3] @ low
    back = np.linalg.inv(affine) @ new
    shape = (high - low + 1).astype(int)
    return affine_transform(values, back[:3, :3], back[:3, 3], shape, order=1, mode="grid-constant"), new


def write_nifti(path: str | Path, heat: np.ndarray, volume: "Volume") -> Path:
    """Write heat `(Z, Y, X)` as a float32 `.nii` or `.nii.gz` on the grid of the volume's source, voxel by voxel.

    Nothing of the source's header is copied but its geometry: the rest may hold names and forces its own data type.
    Where the spacing is unknown (`source["spacing_known"]`), neither a unit nor a place in space is claimed. A grid
    that leans, as under a tilted gantry, is resampled to an upright one, since ITK and its like know no other.
    """
    import nibabel
    from imagecodecs import gzip_encode

    if volume.grid is not None:
        values, header = volume.grid.restore(heat), volume.grid.header.copy()
    else:
        known = volume.affine is not None or bool(volume.source.get("spacing_known"))
        z, y, x = volume.spacing if known else (1, 1, 1)
        straight = np.diag([-x, -y, z, 1.0])  # what ITK reads as no rotation, so that scan and heat lie on each other
        affine, code = (straight, 2 if known else 0) if volume.affine is None else (volume.affine, 1)  # 1: the scanner
        values, header = heat.transpose(), nibabel.Nifti1Header()
        if leans(affine):
            values, affine = _upright(values, affine)
        header.set_sform(affine, code)
        header.set_qform(affine, code)
        header.set_xyzt_units("mm" if known else "unknown")
    header.set_data_dtype(np.float32)
    header["cal_min"], header["cal_max"] = 0, 1  # the range that viewers show
    data = nibabel.Nifti1Image(np.asarray(values, np.float32), None, header).to_bytes()
    with atomic(path) as temporary:  # compressed in one piece, which is many times faster than slice by slice
        temporary.write_bytes(gzip_encode(data, 1) if Path(path).suffix == ".gz" else data)
    return Path(path)
