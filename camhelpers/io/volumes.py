"""Volumes in: one way from any file format of 3-D images to values in 0..1 with their spacing and orientation."""

import re
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..files import fingerprint, natural, sha256
from . import dicom, formats
from .formats import SUFFIXES, Grid, Stored

ORIENTATIONS = ("LPS", "RAS", "stored")  # where a NIfTI's x, y and z may run; DICOM's are LPS for axial slices
_LUMA = np.array([0.299, 0.587, 0.114])  # the share of red, green and blue in brightness
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
    spacing: tuple[float, float, float]  # mm (z, y, x); 1 each where `source["spacing_known"]` is False: voxels
    name: str
    window: tuple[float, float]  # what 0 and 1 stand for in the source's values; the larger first where it is inverted
    affine: np.ndarray | None  # voxel (x, y, z) of `data` to RAS millimetres, 4 x 4; None where the file knows none
    grid: Grid | None
    source: dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A volume on disk: where it is, its name for files, and the class folder it lies in."""

    path: Path
    name: str
    label: str | None
    series: int | None = None


def read_volume(
    source: str | Path | np.ndarray | Volume, *, spacing: tuple[float, float, float] | None = None,
    window: tuple[float, float] | None = None, series: str | int | None = None, orientation: str = "LPS",
    gap_tolerance: float | None = None, allow_incomplete: bool = False,
) -> Volume:  # fmt: skip
    """Read a volume: an array, a folder or multi-frame file of DICOM, or a file that ends in one of `SUFFIXES`.

    `window` is what 0 and 1 stand for in the source's values. Without it uint8 means 0..255, floats within 0..1 stay,
    DICOM has its own window, and everything else is cut at percentiles 0.5 and 99.5. `spacing` (mm, z y x) overrides
    the file's; `series` chooses among several DICOM series by UID or by number, from 1. RGB becomes grey. A NIfTI is
    turned to `orientation`, the directions of x, y and z ("LPS", "RAS"), or left as it is ("stored").
    `gap_tolerance` is by how many mm the gaps between DICOM slices may differ, and `allow_incomplete` takes a series
    of which something is missing; `source["left_out"]` says what.
    """
    if isinstance(source, Volume):
        if not spacing is window is series is None:
            raise ValueError("The Volume is read already; give spacing, window and series when reading its source.")
        return source
    spacing, window = (None if given is None else tuple(map(float, given)) for given in (spacing, window))
    sized = spacing is None or (len(spacing) == 3 and all(0 < size < np.inf for size in spacing))
    ordered = window is None or (len(window) == 2 and -np.inf < window[0] < window[1] < np.inf)
    if not (sized and ordered and orientation in ORIENTATIONS):
        rule = f"three numbers above 0 in mm (z, y, x), two with low below high, and {', '.join(ORIENTATIONS)}"
        raise ValueError(f"Cannot read with {spacing=}, {window=} and {orientation=}; use {rule}.")
    label = "The array" if isinstance(source, np.ndarray) else str(source)
    dicoms = {"gap_tolerance": gap_tolerance, "allow_incomplete": allow_incomplete}
    name, stored = _open(source, series, orientation, dicoms)
    values, affine = _scalars(stored.values, label), stored.affine
    window, rule = _window(values, stored) if window is None else (window, "given")
    if stored.about.get("inverted"):
        window = window[::-1]
    if spacing and affine is not None:
        affine = affine @ np.diag([*np.divide(spacing[::-1], stored.spacing[::-1]), 1.0])
    about = {"shape": list(stored.values.shape), "dtype": str(stored.values.dtype), **stored.about}
    about |= {"window_rule": rule, "spacing_known": bool(spacing or stored.spacing), "orientation": stored.orientation}
    size = spacing or stored.spacing or (1.0, 1.0, 1.0)
    return Volume(_windowed(values, window), size, name, window, affine, stored.grid, about)


def find_volumes(source: str | Path, series: str | int | None = None) -> list[Found]:
    """The volumes of a file, a DICOM folder, a folder of volumes, or `DIR/<class>/<volume>`, in natural order.

    Those that lie deeper, such as `PATIENT/STUDY/SERIES`, have no class and their path as name. With `series="all"`,
    each DICOM series of a folder is a volume. Single DICOM images among volumes, such as a photograph beside an OCT
    cube, are left out with a warning.
    """
    if series == "all":
        each = [(f, dicom.series_of(f.path) if dicom.kind(f.path) else []) for f in find_volumes(source)]
        some = [[replace(f, name=f"{f.name}_{n}", series=n) for n in ns] if len(ns) > 1 else [f] for f, ns in each]
        return [f for several in some for f in several]
    path = _existing(source)
    if path.name.upper() == "DICOMDIR":
        path = path.absolute().parent
    if path.is_file() or dicom.is_series(path):
        return [Found(path, _stem(path), None)]
    found, below = _inside(path, None), []
    for folder in _folders(path):
        parts = folder.relative_to(path).parts
        inside = _inside(folder, safe_name(parts[0]) if len(parts) == 1 else None)
        below += inside if len(parts) == 1 else [replace(f, name=_joined([*parts, f.name])) for f in inside]
    if found and below:
        beside = f"{found[0].path.name} beside the class folder {below[0].label}"
        raise ValueError(f"{path} holds volumes and folders of volumes ({beside}); move them into one.")
    if not found and not below:
        ways = f"a volume ({', '.join(SUFFIXES)} or DICOM), a folder of volumes, or DIR with DIR/CLASS/VOLUME"
        raise FileNotFoundError(f"{path} holds no volume; name {ways}.")
    return found or below


def _folders(path: Path) -> Iterator[Path]:
    """The folders below a path, at any depth, that may hold volumes."""
    for folder in sorted((inside for inside in path.iterdir() if inside.is_dir()), key=natural):
        if not (folder.name.startswith(".") or folder.name == "CAMVis" or dicom.is_series(folder)):
            yield folder
            yield from _folders(folder)


def _joined(parts: list[str]) -> str:
    name = "_".join(parts)
    return safe_name(name if len(name) < 100 else f"{name[:80]}_{fingerprint(parts)[:8]}")


def safe_name(text: str) -> str:
    """A name from outside as a plain file name, or one clear ValueError.

    Separators, `..` and control characters are refused, since a name never leaves the output folder; characters that
    some systems cannot store become `_`, and so does the dot that would hide a file.

    >>> safe_name("eye 12: left?")
    'eye 12_ left_'
    """
    name = re.sub(r'[<>:"|?*]', "_", unicodedata.normalize("NFC", text)).strip().rstrip(".")
    if not name or not text.isprintable() or re.search(r"[/\\]|\.\.", text) or len(name.encode()) > _LONGEST:
        rule = f"at most {_LONGEST} bytes, no path separator, '..' or control character"
        raise ValueError(f"The name {text[:60]!a} cannot be a file's; use a plain name such as 'eye_12': {rule}.")
    return re.sub(r"^\.", "_.", name)


def _open(source, series, orientation, dicoms) -> tuple[str, Stored]:
    """The name of a source, and what it holds."""
    if isinstance(source, np.ndarray):
        return "volume", Stored(source, {"format": "array", "files": [], "sha256": fingerprint(source)})
    if not isinstance(source, str | Path):
        raise TypeError(f"Cannot read a volume from a {type(source).__name__}; give a path or a NumPy array.")
    path = _existing(source)
    if path.is_dir() or dicom.is_dicom(path):
        return _stem(path), dicom.read_series(path, series, **dicoms)
    stored = formats.read(path, orientation)
    stored.about |= {"files": [path.name], "sha256": sha256(path)}
    return _stem(path), stored


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the name, which counts from {Path.cwd()}.")
    if path.is_file() and not (formats.suffix(path) or dicom.is_dicom(path)):
        raise ValueError(f"{path} is no volume that can be read; use {', '.join(SUFFIXES)} or DICOM.")
    return path


def _stem(path: Path) -> str:
    """The name of a sample: that of its file without ending, or of its folder."""
    if path.is_dir():
        return safe_name(path.resolve().name)
    ending = formats.suffix(path) or next((e for e in formats.FOREIGN if path.name.lower().endswith(e)), "")
    return safe_name(path.name[: -len(ending) or None] or path.name)


def _inside(folder: Path, label: str | None) -> list[Found]:
    """The volumes directly inside a folder: files, multi-frame DICOM files, folders of DICOM slices."""
    paths = [path for path in sorted(folder.iterdir(), key=natural) if not path.name.startswith(".")]
    scans = (*SUFFIXES, *formats.FOREIGN)  # what cannot be read is listed as well, so that its failure is told
    kinds = [dicom.kind(path) or ("volume" if path.name.lower().endswith(scans) else "") for path in paths]
    found = [Found(path, _stem(path), label) for path, kind in zip(paths, kinds, strict=True) if kind == "volume"]
    if single := [path.name for path, kind in zip(paths, kinds, strict=True) if kind == "slice"]:
        says = f"Left out of {folder}: {', '.join(single)} (single DICOM images); give a series a folder of its own."
        warnings.warn(says, stacklevel=3)
    return found


def _scalars(values: np.ndarray, label: str) -> np.ndarray:
    """The same values as `(Z, Y, X)` of finite real numbers, or a sentence about what they are instead."""
    shape, colours = values.shape, values.ndim == 4 and values.shape[3] == 3
    if values.dtype.kind not in "biuf" or not (values.ndim == 3 or colours) or min(shape[:3]) < 2:
        what = "integers or floats (Z, Y, X), or (Z, Y, X, 3) in colour, with at least 2 slices, rows and columns"
        raise ValueError(f"{label} has the shape {shape} of {values.dtype}; a volume is {what}.")
    if colours:
        values = np.stack([(page @ _LUMA).astype(np.float32) for page in values])  # no copy of the whole in float64
    if values.dtype.kind == "f" and not all(np.isfinite(page).all() for page in values):
        raise ValueError(f"{label} has NaN or infinite values; replace them, for instance with np.nan_to_num.")
    return values


def _window(values: np.ndarray, stored: Stored) -> tuple[tuple[float, float], str]:
    """The window that a volume of scalar `values` gets unasked, and the rule that gave it."""
    if stored.window is not None:
        return stored.window, "the file's window"
    if stored.values.dtype == np.uint8:
        return (0.0, 255.0), "8 bits"
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "bf" and low >= 0 and high <= 1:
        return (0.0, 1.0), "within 0..1"
    cut = tuple(float(value) for value in np.percentile(values, (0.5, 99.5)))
    if cut[0] < cut[1]:
        return cut, "percentiles 0.5 and 99.5"
    return (low, high if high > low else low + 1), "minimum and maximum"  # nearly all voxels are alike


def _windowed(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Values as float32 in 0..1; slice by slice, so that double precision needs no second copy of the whole."""
    data = np.empty(values.shape, np.float32)
    start, end = window
    for index, part in enumerate(values):
        data[index] = np.clip((part.astype(np.float64) - start) / (end - start), 0, 1)
    return data
