"""Volumes in: one way from any file format of 3-D images to values in 0..1 with their spacing and orientation."""

import hashlib
import re
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import natural, sha256
from . import dicom, formats
from .formats import SUFFIXES, Grid

__all__ = ["SUFFIXES", "Found", "Grid", "Volume", "find_volumes", "read_volume", "safe_name"]

ORIENTATIONS = ("LPS", "RAS", "stored")
"""The directions in which a NIfTI's x, y and z may be read; DICOM's are LPS for axial slices."""

_LONGEST = 120  # bytes: leaves room under the usual 255 for a method's name, a suffix and a temporary name


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in memory: values in 0..1, its spacing, and how to get back to the source's own grid.

    `data` is float32 `(Z, Y, X)`. NIfTI is turned to LPS unless asked otherwise: X runs to the patient's left, Y to the
    back, Z upwards, as in an axial DICOM series, so that row 0 of a slice is the front of the patient. DICOM, TIFF and
    arrays stay as stored, row 0 on top, and a DICOM series is sorted along the normal of its slices.
    `source["orientation"]` names the directions that X, Y and Z run to, or is None where the file does not say.
    """

    data: np.ndarray
    spacing: tuple[float, float, float]
    """Millimetres `(z, y, x)`; where the source states none (`source["spacing_known"]` is False), 1 each: voxels."""
    name: str
    window: tuple[float, float]
    """What 0 and 1 stand for in the source's values; the first is the larger one where the source is inverted."""
    affine: np.ndarray | None
    """Voxel indices `(x, y, z)` of `data` to RAS millimetres, 4 x 4; None where the file knows none."""
    grid: Grid | None
    source: dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A volume on disk: where it is, its name for files, and the class folder it lies in."""

    path: Path
    name: str
    label: str | None


def read_volume(
    source: str | Path | np.ndarray | Volume,
    *,
    spacing: tuple[float, float, float] | None = None,
    window: tuple[float, float] | None = None,
    series: str | int | None = None,
    orientation: str = "LPS",
) -> Volume:
    """Read a volume: `.npy`, `.npz`, multi-page TIFF, NIfTI, a folder (or multi-frame file) of DICOM, or an array.

    `window` is what 0 and 1 stand for in the source's values. Without it uint8 means 0..255, floats within 0..1 stay,
    DICOM has its own window, and everything else is cut at percentiles 0.5 and 99.5. `spacing` (mm, z y x) overrides
    the file's; `series` chooses among several DICOM series by UID or by number, from 1. RGB becomes grey. A NIfTI is
    turned to `orientation`, the directions of x, y and z ("LPS", "RAS"), or left as it is ("stored").

    >>> read_volume(np.full((2, 3, 4), 255, np.uint8)).data.max().item()
    1.0
    """
    if isinstance(source, Volume):
        if not spacing is window is series is None:
            raise ValueError("The Volume is read already; give spacing, window and series when reading its source.")
        return source
    if orientation not in ORIENTATIONS:
        raise ValueError(f"There is no orientation {orientation!r}; choose from {', '.join(ORIENTATIONS)}.")
    spacing = None if spacing is None else _three(spacing)
    window = None if window is None else _low_high(window)
    label = "The array" if isinstance(source, np.ndarray) else str(source)
    name, values, stated, affine, grid, own, about = _open(source, series, orientation)
    if stated and not spacing and 0 in stated:
        raise ValueError(f"{label} states a spacing of 0; give the right one with spacing=(z, y, x), in mm.")
    about = {"shape": list(values.shape), "dtype": str(values.dtype), **about}
    stored, values = values.dtype, _scalars(values, label)
    if window is not None:
        rule = "given"
    elif own is not None:
        window, rule = own, "the file's window"
    else:
        window, rule = _default_window(values, stored)
    if about.get("inverted"):
        window = window[::-1]
    if spacing and affine is not None:
        affine = affine @ np.diag([*np.divide(spacing[::-1], stated[::-1]), 1.0])
    about |= {"window_rule": rule, "spacing_known": bool(spacing or stated), "orientation": _orientation(affine)}
    size = spacing or stated or (1.0, 1.0, 1.0)
    return Volume(_windowed(values, window), size, name, window, affine, grid, about)


def find_volumes(source: str | Path) -> list[Found]:
    """The volumes of a file, a DICOM folder, a folder of volumes, or `DIR/<class>/<volume>`, in natural order.

    A warning tells what is left out: single DICOM images among volumes, volumes beside a DICOM series, or below those
    of a class.
    """
    path = _existing(source)
    if path.is_file() and not (formats.suffix(path) or dicom.is_dicom(path)):
        raise _unknown(path)
    if path.is_file() or dicom.is_series(path):
        return [_found(path, None)]
    found = _samples(path, None)
    below = []
    for folder in _folders(path):
        inside, deep = _samples(folder, safe_name(folder.name)), _deeper(folder)
        below += inside
        if deep:
            says = f"{deep.relative_to(path)} lies too deep; use DIR/CLASS/VOLUME."
            if not (found or inside):
                raise ValueError(says)
            warnings.warn(f"Left out: {says}", stacklevel=2)
    if found and below:
        raise ValueError(
            f"{path} holds volumes ({found[0].path.name}) beside class folders ({below[0].label}); move them into one."
        )
    if not found and not below:
        raise FileNotFoundError(f"{path} holds no volume; use {', '.join(SUFFIXES)} or DICOM, or folders with them.")
    return found or below


def safe_name(text: str) -> str:
    """A name from outside as a plain file name, or one clear ValueError.

    Separators, `..` and control characters are refused, since a name never leaves the output folder; characters that
    some systems cannot store become `_`.

    >>> safe_name("eye 12: left?")
    'eye 12_ left_'
    """
    if not isinstance(text, str):
        raise TypeError(f"A name is text, not {type(text).__name__}.")
    shown = ascii(text[:60])
    if "/" in text or "\\" in text or ".." in text:
        raise ValueError(f"The name {shown} holds a path separator or '..'; use a plain name such as 'eye_12'.")
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in text):
        raise ValueError(f"The name {shown} holds a control character; use letters, digits, '-' and '_'.")
    name = re.sub(r'[<>:"|?*]', "_", unicodedata.normalize("NFC", text)).strip().rstrip(".")
    if not name:
        raise ValueError(f"The name {shown} is empty; use a plain name such as 'eye_12'.")
    if len(name.encode()) > _LONGEST:
        raise ValueError(f"The name {shown}... is {len(name.encode())} bytes long; use at most {_LONGEST}.")
    if name[0] == "." or re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name):
        name = "_" + name  # a hidden file, or a device of Windows
    return name


def _open(source, series, orientation):
    """The name of a source, and its values, spacing, affine, grid, window and description as far as it states them."""
    stated = affine = grid = own = None
    if isinstance(source, np.ndarray):
        plain = source if source.dtype.kind in "biuf" else np.empty(0)  # the rest is refused in a moment
        digest = hashlib.sha256(f"{plain.dtype.str} {plain.shape}".encode())  # the same bytes may be another volume
        digest.update(np.ascontiguousarray(plain))
        about = {"format": "array", "files": [], "sha256": digest.hexdigest()}
        return "volume", source, stated, affine, grid, own, about
    if not isinstance(source, str | Path):
        raise TypeError(f"Cannot read a volume from a {type(source).__name__}; give a path or a NumPy array.")
    path = _existing(source)
    name, kind = _plain(path), formats.suffix(path)
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path} is empty (0 bytes); copy or download it again.")
    if path.is_dir() or (not kind and dicom.is_dicom(path)):
        values, stated, affine, own, about = dicom.read_series(path, series)
        return name, values, stated, affine, grid, own, about
    if series is not None:
        raise ValueError(f"series chooses a DICOM series; {path} is not DICOM.")
    if kind in (".npy", ".npz"):
        values, about = formats.read_numpy(path)
    elif kind in (".tif", ".tiff"):
        values, stated, about = formats.read_tiff(path)
    elif kind in (".nii", ".nii.gz"):
        values, stated, affine, grid, about = formats.read_nifti(path, orientation)
    else:
        raise _unknown(path)
    about |= {"files": [path.name], "sha256": sha256(path)}
    return name, values, stated, affine, grid, own, about


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the name, which counts from {Path.cwd()}.")
    return path


def _unknown(path: Path) -> ValueError:
    return ValueError(f"{path} is no volume that can be read; use {', '.join(SUFFIXES)} or DICOM.")


def _plain(path: Path) -> str:
    """The name of a sample: that of its file without ending, or of its folder."""
    name = path.resolve().name if path.is_dir() else path.name
    ending = re.search(r"(\.npy|\.npz|\.tiff?|\.nii(\.gz)?|\.dcm)?$", name, re.IGNORECASE)[0] if path.is_file() else ""
    return safe_name(name.removesuffix(ending) or name)


def _inside(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=natural)


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder that may be classes: neither DICOM series nor what camvis writes."""
    inside = (path for path in _inside(folder) if path.is_dir() and path.name != "CAMVis")
    return [path for path in inside if not dicom.is_series(path)]


def _volumes(folder: Path) -> tuple[list[Path], list[Path]]:
    """The volumes directly inside a folder (files, multi-frame DICOM files, DICOM folders), and single DICOM images."""
    kinds = {}
    for path in _inside(folder):
        if path.is_dir():
            kinds[path] = "volume" if dicom.is_series(path) else ""
        else:
            kinds[path] = "volume" if formats.suffix(path) else dicom.kind(path)
    volumes = [path for path, kind in kinds.items() if kind in ("volume", "damaged")]  # reading will say what is wrong
    return volumes, [path for path, kind in kinds.items() if kind == "slice"]


def _samples(folder: Path, label: str | None) -> list[Found]:
    """The volumes directly inside a folder, under names that differ; a warning tells what is left out."""
    found: dict[str, Found] = {}
    volumes, strays = _volumes(folder)
    for path in volumes:
        one = _found(path, label)
        other = found.setdefault(one.name.lower(), one)  # some disks do not tell upper from lower case
        if other is not one:
            raise ValueError(f"{folder} holds {other.path.name} and {path.name}, two volumes of one name; rename one.")
    _left_out(folder, strays, "single DICOM images among volumes")
    return list(found.values())


def _found(path: Path, label: str | None) -> Found:
    if path.is_dir():
        beside, deep = [inside for inside in _inside(path) if formats.suffix(inside)], _deeper(path)
        _left_out(path, beside + [deep] * bool(deep), "beside a DICOM series")
    return Found(path, _plain(path), label)


def _left_out(folder: Path, paths: list[Path], what: str) -> None:
    if paths:
        names = ", ".join(str(path.relative_to(folder)) for path in paths[:4]) + ", ..." * (len(paths) > 4)
        says = f"Left out of {folder}: {names} ({what}); give a DICOM series a folder of its own."
        warnings.warn(says, stacklevel=3)


def _deeper(folder: Path) -> Path | None:
    """The first volume in the folders of a folder."""
    for below in _folders(folder):
        if deep := next(iter(_volumes(below)[0]), None) or _deeper(below):
            return deep
    return None


def _three(spacing) -> tuple[float, float, float]:
    try:
        sizes = tuple(float(size) for size in spacing)
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != 3 or not all(0 < size < np.inf for size in sizes):
        raise ValueError(f"The spacing is {spacing!r}; use three numbers above 0, in mm: (z, y, x).")
    return sizes


def _low_high(window) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in window)
    except (TypeError, ValueError):
        low = high = 0.0
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"The window is {window!r}; use two numbers, (low, high) with low below high.")
    return low, high


def _scalars(values: np.ndarray, label: str) -> np.ndarray:
    """The same values as `(Z, Y, X)` of finite real numbers, or a sentence about what they are instead."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{label} holds {values.dtype} values; a volume holds integers or floats.")
    shape = values.shape
    if values.ndim == 4 and shape[3] == 3:
        values = formats.luma(values)
    if values.ndim != 3:
        single = values.ndim > 3 and sum(length != 1 for length in shape) == 3
        remedy = ": remove the axes of length 1 with np.squeeze" if single else ""
        raise ValueError(f"{label} has the shape {shape}; a volume is (Z, Y, X), or (Z, Y, X, 3) in colour{remedy}.")
    if min(values.shape) < 2:
        raise ValueError(f"{label} has the shape {shape}; a volume has at least 2 slices, rows and columns.")
    if values.dtype.kind == "f":
        bad = sum(int(np.sum(~np.isfinite(part))) for part in values)
        if bad:
            raise ValueError(
                f"{label} has {bad} NaN or infinite values; replace them, for instance with np.nan_to_num."
            )
    return values


def _default_window(values: np.ndarray, stored: np.dtype) -> tuple[tuple[float, float], str]:
    """The window that a volume of scalar `values` gets unasked, and the rule that gave it."""
    if stored == np.uint8:
        return (0.0, 255.0), "8 bits"
    if stored == np.bool_:
        return (0.0, 1.0), "truth values"
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return (0.0, 1.0), "floats in 0..1"
    cut = tuple(float(value) for value in np.percentile(values, (0.5, 99.5)))
    if cut[0] < cut[1]:
        return cut, "percentiles 0.5 and 99.5"
    return (low, high if high > low else low + 1), "minimum and maximum"  # nearly all voxels are alike


def _windowed(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Values as float32 in 0..1; slice by slice, in double precision, without a second copy of the whole."""
    data = np.empty(values.shape, np.float32)
    start, end = window
    for ours, part in zip(data, values, strict=True):
        ours[:] = np.clip((part.astype(np.float64) - start) / (end - start), 0, 1)
    return data


def _orientation(affine: np.ndarray | None) -> str | None:
    if affine is None:
        return None
    from nibabel import aff2axcodes

    return "".join(aff2axcodes(affine))
