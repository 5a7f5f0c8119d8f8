"""The file formats of volumes: NumPy, multi-page TIFF and NIfTI, each as it is stored, before any windowing."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # nibabel and tifffile together cost 0.4 s, so each is imported where it is used
    import tifffile

Spacing = tuple[float, float, float]
SUFFIXES = (".npy", ".npz", ".tif", ".tiff", ".nii", ".nii.gz")
"""What is read by its ending, whatever the case; DICOM is known by its content."""

_MILLIMETRES = {"nm": 1e-6, "um": 1e-3, "micron": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1e3, "meter": 1e3, "inch": 25.4}
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, eq=False)
class Grid:
    """A NIfTI's own orientation, so that a map goes back on it voxel by voxel; affines in the file's own `units`."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    sform_code: int
    qform_code: int
    qform: np.ndarray | None
    """The qform's affine, where the file has one that differs from `affine`."""
    units: tuple[str, str]
    orientation: str = "LPS"
    """The directions that x, y and z of our volume run to, or "stored" for those of the file."""

    @property
    def order(self) -> np.ndarray:
        """For each source axis the patient's axis it lies along and the direction, as nibabel writes orientations."""
        from nibabel.orientations import io_orientation

        return io_orientation(self.affine)

    @property
    def ours(self) -> np.ndarray:
        """The same for our volume; as stored where the file states no orientation: no code, or the bare identity."""
        from nibabel.orientations import axcodes2ornt

        stated = (self.sform_code > 0 or self.qform_code > 0) and not np.array_equal(self.affine, np.eye(4))
        return axcodes2ornt(self.orientation) if stated and self.orientation != "stored" else self.order

    def restore(self, heat_zyx: np.ndarray) -> np.ndarray:
        """A map in our `(Z, Y, X)` order as the source's `(i, j, k)` array."""
        from nibabel.orientations import apply_orientation, ornt_transform

        back = apply_orientation(np.transpose(heat_zyx), ornt_transform(self.ours, self.order))
        if back.shape != self.shape:
            raise ValueError(f"The map is {back.shape} on the source's grid, which is {self.shape}; resample it first.")
        return back


def suffix(path: Path) -> str:
    """Which of `SUFFIXES` a name ends in, or nothing."""
    return next((ending for ending in SUFFIXES if path.name.lower().endswith(ending)), "")


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Whatever a decoder stumbles over inside the block becomes one sentence about the file `name`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a decoder's remarks on odd but readable headers are not for the reader
            yield
    except Exception as error:  # decoders fail on damaged files in more ways than can be listed
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{name} is damaged or truncated ({reason[:160]}); copy or download it again.") from error


def luma(values: np.ndarray) -> np.ndarray:
    """The brightness of `(..., 3)` colours as float32, slice by slice so that no copy of the whole is made.

    >>> luma(np.full((2, 4, 4, 3), 7, np.uint8)).max().item()
    7.0
    """
    return np.stack([(part @ _LUMA).astype(np.float32) for part in values])


def read_numpy(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The array of an `.npy` file (mapped, not loaded), or the only one or the one called `volume` of an `.npz`."""
    loaded = _load_numpy(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    if isinstance(loaded, np.ndarray):
        return loaded, {"format": "npy"}
    with loaded as archive:
        names = archive.files
        if len(names) != 1 and "volume" not in names:
            listed = ", ".join(names[:8]) or "none"
            raise ValueError(f"{path} holds {len(names)} arrays ({listed}); keep one, or call the right one 'volume'.")
        name = "volume" if "volume" in names else names[0]
        return _load_numpy(path, lambda: archive[name]), {"format": "npz"}


def _load_numpy(path: Path, load: Callable[[], Any]) -> Any:
    """Load an array but no Python objects, which may run code."""
    with decoding(str(path)):
        try:
            return load()
        except ValueError as error:
            if "pickle" not in str(error) and "Python objects" not in str(error):
                raise
    raise ValueError(f"{path} holds Python objects; a volume holds numbers: np.save(path, array.astype('float32')).")


def read_tiff(path: Path) -> tuple[np.ndarray, Spacing | None, dict[str, Any]]:
    """The pages of a TIFF as `(Z, Y, X)` or `(Z, Y, X, 3)`, its spacing where it states one, and what it is."""
    import tifffile

    complaints = _Complaints(logging.ERROR)
    logger = logging.getLogger("tifffile")
    logger.addHandler(complaints)
    propagate, logger.propagate = logger.propagate, False
    try:
        with decoding(str(path)):
            file = tifffile.TiffFile(path)
        with file:
            with decoding(str(path)):
                len(file.pages)  # walks to the last page, or to where the file breaks off
                series = file.series
                if not series:
                    raise ValueError("no page can be read")
                shapes = dict.fromkeys(f"{one.keyframe.imagewidth} x {one.keyframe.imagelength}" for one in series)
                _whole(complaints)
            axes = _check_tiff(str(path), series, list(shapes))
            with decoding(str(path)):
                values = series[0].asarray(squeeze=True)
                _whole(complaints)
                spacing = _tiff_spacing(file)
                page = series[0].keyframe
                about = {
                    "format": "ImageJ TIFF" if file.is_imagej else "OME-TIFF" if file.is_ome else "TIFF",
                    "compression": page.compression.name,
                    "inverted": page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
                }
            if "S" in axes:
                values = np.moveaxis(values, axes.index("S"), -1)  # some store one colour plane after another
                values = values[..., :3] if page.samplesperpixel - len(page.extrasamples) == 3 else values[..., 0]
            return values, spacing, about
    finally:
        logger.propagate = propagate
        logger.removeHandler(complaints)


class _Complaints(logging.Handler):
    """Keeps what tifffile only logs: it reads a truncated file without its last pages and says so nowhere else."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage().split("> ", 1)[-1])


def _whole(complaints: _Complaints) -> None:
    if complaints.texts:
        raise ValueError(complaints.texts[0])


def _check_tiff(name: str, series: "list[tifffile.TiffPageSeries]", shapes: list[str]) -> str:
    """The axes of the one series that is a stack of slices, or a sentence about what the file holds instead."""
    from tifffile import PHOTOMETRIC

    if len(shapes) > 1:
        raise ValueError(
            f"{name} holds pages of different sizes ({', '.join(shapes)}); a volume has slices of one size."
        )
    if len(series) != 1:
        raise ValueError(f"{name} holds {len(series)} series of {shapes[0]} pages; save the one to explain on its own.")
    axes, shape = series[0].get_axes(squeeze=True), series[0].get_shape(squeeze=True)
    listed = ", ".join(f"{axis} {length}" for axis, length in zip(axes, shape, strict=True))
    if axes.replace("S", "") == "YX":
        raise ValueError(f"{name} holds one page of {shapes[0]}; a volume has at least 2 slices.")
    if axes.replace("S", "") not in ("ZYX", "IYX", "QYX"):
        remedy = "keep one channel and one time point, or swap T and Z where the slices were taken for time"
        raise ValueError(f"{name} has the axes {axes} ({listed}); a volume has slices, rows, columns (ZYX): {remedy}.")
    page = series[0].keyframe
    colours = page.samplesperpixel - len(page.extrasamples)
    if colours not in (1, 3) or page.photometric == PHOTOMETRIC.SEPARATED:
        raise ValueError(f"{name} has {colours} colours a pixel; save it as grey or RGB.")
    if page.photometric == PHOTOMETRIC.PALETTE and series[0].kind != "imagej":  # ImageJ's table is for show only
        raise ValueError(f"{name} has palette colours; save it as grey or RGB.")
    return axes


def _tiff_spacing(file: "tifffile.TiffFile") -> Spacing | None:
    """Millimetres `(z, y, x)` where OME or ImageJ metadata state all three with their unit, or state a 0; else None."""
    if file.is_ome:
        from xml.etree import ElementTree

        pixels = ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels")
        sizes = [
            float(pixels.get(f"PhysicalSize{axis}", "nan")) * _millimetres(pixels.get(f"PhysicalSize{axis}Unit", "um"))
            for axis in "ZYX"
        ]
    elif file.is_imagej:
        metadata, tags = file.imagej_metadata, file.pages.first.tags
        scale = _millimetres(str(metadata.get("unit", "")))
        depth = float(metadata.get("spacing", 1))  # ImageJ leaves a depth of one unit out
        sizes = [depth and depth * scale]
        for tag in ("YResolution", "XResolution"):
            per_unit, over = tags[tag].value if tag in tags else (0, 1)
            sizes.append(scale * over / per_unit if per_unit else np.nan)
    else:
        return None
    return tuple(sizes) if 0 in sizes or all(0 < size < np.inf for size in sizes) else None


def _millimetres(unit: str) -> float:
    """How many millimetres a unit's name stands for; NaN for pixels and other things that are no length."""
    unit = unit.replace("\\u00B5", "u").replace("\u00b5", "u").replace("\u03bc", "u").strip().lower().rstrip("s")
    return _MILLIMETRES.get(unit, np.nan)


def read_nifti(
    path: Path, orientation: str = "LPS"
) -> tuple[np.ndarray, Spacing | None, np.ndarray | None, Grid, dict[str, Any]]:
    """A NIfTI in that order as `(Z, Y, X)`: its values after scl_slope, spacing and affine in mm, and its own grid."""
    import nibabel
    from nibabel.orientations import apply_orientation, ornt_transform

    name = str(path)
    with decoding(name):
        image = nibabel.load(path)
        header, shape = image.header, image.shape
        (units, sform, qform) = header.get_xyzt_units(), int(header["sform_code"]), int(header["qform_code"])
    if any(length != 1 for length in shape[3:]):
        raise ValueError(f"{name} has the shape {shape}; a volume has 3 axes: keep one time point or component.")
    if len(shape) < 3:
        raise ValueError(f"{name} has the shape {shape}, not a volume's; a volume has 3 axes of at least 2.")
    if not _spans_space(image.affine[:3, :3]):
        raise ValueError(f"{name} has an affine that gives its voxels no size; write a correct sform or qform.")
    grid = Grid(shape[:3], image.affine, sform, qform, _own_qform(image), units, orientation)
    with decoding(name):
        values = np.asanyarray(image.dataobj)
    dtype = str(header.get_data_dtype())
    if values.dtype.fields:  # NIfTI keeps colours as records
        values = np.stack([values[colour] for colour in "RGB"], axis=-1)
        dtype = "RGB uint8"
    turn = ornt_transform(grid.order, grid.ours)
    values = apply_orientation(values.reshape(*grid.shape, *values.shape[len(shape) :]), turn)
    values = np.moveaxis(values, (0, 1, 2), (2, 1, 0))
    scale = _MILLIMETRES.get(units[0], 1.0)  # an unknown unit is a millimetre in practice
    source = {"format": "NIfTI", "dtype": dtype, "shape": list(shape)}
    if not (sform or qform):
        sizes = tuple(float(abs(size)) * scale for size in header["pixdim"][3:0:-1])
        blank = units[0] == "unknown" and sizes == (1, 1, 1)  # what a header holds that nobody filled in
        stated = not blank and all(size > 0 for size in sizes)
        return values, sizes if stated else None, None, grid, source
    affine = image.affine @ nibabel.orientations.inv_ornt_aff(turn, grid.shape)
    affine[:3] *= scale
    sizes = tuple(float(size) for size in np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    return values, sizes, affine, grid, source


def _spans_space(axes: np.ndarray) -> bool:
    """Whether three voxel axes have a length each and do not lie in one plane."""
    lengths = np.linalg.norm(axes, axis=0)
    return bool(np.isfinite(axes).all() and (lengths > 0).all() and abs(np.linalg.det(axes / lengths)) > 1e-3)


def _own_qform(image) -> np.ndarray | None:
    """The qform's affine where it is in use beside a different sform."""
    qform = image.get_qform(coded=True)[0]
    return None if qform is None or np.allclose(qform, image.affine) else qform
