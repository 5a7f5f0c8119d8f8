"""The file formats of volumes: NumPy, multi-page TIFF, NIfTI, MGH, MetaImage, NRRD, each as stored."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .images import Unfit, decoding

if TYPE_CHECKING:  # nibabel and tifffile together cost 0.4 s, so each is imported where it is used
    import tifffile

ITK = (".mha", ".mhd", ".nrrd", ".nhdr")  # what SimpleITK reads, where it is installed
SUFFIXES = (".npy", ".npz", ".tif", ".tiff", ".nii", ".nii.gz", ".mgz", *ITK)  # DICOM is known by its content
FOREIGN = (".vol", ".e2e", ".fda", ".img", ".hdr", ".mnc", ".par", ".dcm", ".ima")  # scans that cannot be read so
_MILLIMETRES = {"um": 1e-3, "micron": 1e-3, "microns": 1e-3, "mm": 1.0, "cm": 10.0, "meter": 1e3, "inch": 25.4}


@dataclass(frozen=True, eq=False)
class Grid:
    """The geometry of a NIfTI's own voxels, so that a map goes back on them one by one."""

    header: Any  # a NIfTI header with the source's sform, qform, their codes and units, and nothing else of the source
    back: np.ndarray  # what turns our x, y, z to the source's axes, as nibabel writes orientations

    def restore(self, heat: np.ndarray) -> np.ndarray:
        """A map in our `(Z, Y, X)` order as the source's `(i, j, k)` array."""
        from nibabel.orientations import apply_orientation

        return apply_orientation(heat.transpose(), self.back)


@dataclass(eq=False)
class Stored:
    """A volume as its file has it: values `(Z, Y, X)` or `(Z, Y, X, 3)`, and what else the file states."""

    values: np.ndarray
    about: dict[str, Any]  # what it is, for the metadata of a result; nothing about the patient
    spacing: tuple[float, float, float] | None = None  # millimetres (z, y, x)
    affine: np.ndarray | None = None  # voxel (x, y, z) to RAS millimetres
    window: tuple[float, float] | None = None
    grid: Grid | None = None

    @property
    def orientation(self) -> str | None:
        """The directions that x, y and z run to, such as LPS."""
        if self.affine is None:
            return None
        from nibabel import aff2axcodes

        return "".join(aff2axcodes(self.affine))


def suffix(path: Path) -> str:
    """Which of `SUFFIXES` a name ends in, or nothing."""
    return next((ending for ending in SUFFIXES if path.name.lower().endswith(ending)), "")


def read(path: Path, orientation: str) -> Stored:
    """Read the volume of a file that ends in one of `SUFFIXES`."""
    with decoding(str(path)):
        if suffix(path) in ITK:
            return _placed(_itk(path), orientation, suffix(path)[1:].upper())
        if suffix(path).startswith((".nii", ".mgz")):
            return _nifti(path, orientation)
        return _numpy(path) if suffix(path).startswith(".np") else _tiff(path)


def _numpy(path: Path) -> Stored:
    """The array of an `.npy` file (mapped, not loaded), or the only one or the one called `volume` of an `.npz`."""
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)  # since Python objects may run code when they are loaded
    if isinstance(loaded, np.ndarray):
        return Stored(loaded, {"format": "npy"})
    with loaded as archive:
        names = archive.files
        if len(names) != 1 and "volume" not in names:
            raise Unfit(f"holds {len(names)} arrays ({', '.join(names)}); keep one, or call the right one 'volume'")
        return Stored(archive["volume" if "volume" in names else names[0]], {"format": "npz"})


def _tiff(path: Path) -> Stored:
    """The pages of a TIFF, with the spacing that ImageJ's metadata state."""
    import tifffile

    logger = logging.getLogger("tifffile")
    logger.addFilter(_complain)
    try:
        with tifffile.TiffFile(path) as file:
            len(file.pages)  # walks to the last page, or to where the file breaks off
            return _stack(file)
    finally:
        logger.removeFilter(_complain)


def _stack(file: "tifffile.TiffFile") -> Stored:
    series = file.series
    if len(series) != 1:
        raise Unfit(f"holds {len(series)} series of pages of different kinds; save the one to explain on its own")
    page, axes = series[0].keyframe, series[0].get_axes(squeeze=True)
    if axes.replace("S", "") not in ("ZYX", "IYX", "QYX"):
        remedy = "keep one channel and one time point, or swap T and Z where the slices were taken for time"
        raise Unfit(f"has the axes {axes}; a volume has slices, rows, columns (ZYX): {remedy}")
    colours, kind = page.samplesperpixel - len(page.extrasamples), page.photometric.name
    kind = "MINISBLACK" if kind == "PALETTE" and series[0].kind == "imagej" else kind  # its table is for show only
    if (colours, kind) not in ((1, "MINISBLACK"), (1, "MINISWHITE"), (3, "RGB")):
        raise Unfit(f"has {kind} pixels of {colours} colours; save it as grey or RGB")
    values = series[0].asarray(squeeze=True)
    if "S" in axes:
        values = np.moveaxis(values, axes.index("S"), -1)  # some store one colour plane after another
        values = values[..., :3] if colours == 3 else values[..., 0]
    form = {"imagej": "ImageJ TIFF", "ome": "OME-TIFF"}.get(series[0].kind, "TIFF")
    about = {"format": form, "compression": page.compression.name, "inverted": kind == "MINISWHITE"}
    return Stored(values, about, _tiff_spacing(file))


def _complain(record: logging.LogRecord) -> bool:
    """Raise what tifffile only logs: it reads a truncated file without its last pages and says so nowhere else."""
    if record.levelno >= logging.ERROR:
        raise ValueError(record.getMessage().split("> ", 1)[-1])
    return False


def _tiff_spacing(file: "tifffile.TiffFile") -> tuple[float, float, float] | None:
    """Millimetres `(z, y, x)` where ImageJ's metadata state them with their unit; else None."""
    metadata, tags = file.imagej_metadata or {}, file.pages.first.tags
    unit = metadata.get("unit", "").replace("\\u00B5", "u").replace("\u00b5", "u")  # Fiji writes the micro sign escaped
    if unit not in _MILLIMETRES:
        return None
    per_unit = [np.divide(*tags.valueof(name, (1, 1))) for name in ("YResolution", "XResolution")]
    sizes = np.array([metadata.get("spacing", 1), *np.divide(1, per_unit)]) * _MILLIMETRES[unit]  # 1 is left out
    return tuple(sizes.tolist()) if np.all((sizes > 0) & (sizes < np.inf)) else None


def _nifti(path: Path, orientation: str) -> Stored:
    import nibabel

    image = nibabel.load(path)
    if suffix(path) == ".mgz":  # FreeSurfer's, always in mm
        image = nibabel.Nifti1Image.from_image(image)
        image.header.set_xyzt_units("mm")
    return _placed(image, orientation, "MGH" if suffix(path) == ".mgz" else "NIfTI")


def _itk(path: Path) -> Any:
    """What SimpleITK reads as a NIfTI image."""
    import nibabel

    try:
        import SimpleITK
    except ImportError:
        raise Unfit("needs a library that is not installed: pip install SimpleITK") from None
    image = SimpleITK.ReadImage(str(path))
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise Unfit(f"has {image.GetDimension()} axes and {image.GetNumberOfComponentsPerPixel()} values a voxel; "
                    "a volume has 3 axes and one value")  # fmt: skip
    values, affine = SimpleITK.GetArrayFromImage(image).T, np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    wide = values.dtype.itemsize == 8  # which NIfTI readers may not know
    found = nibabel.Nifti1Image(values.astype(np.float32) if wide else values, np.diag([-1.0, -1, 1, 1]) @ affine)
    found.header.set_xyzt_units("mm")
    return found


def _placed(image: Any, orientation: str, form: str) -> Stored:
    """An image turned so that x, y, z run to `orientation`, its values after scl_slope, with its own grid."""
    import nibabel
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    image = nibabel.squeeze_image(image)
    source, sizes = image.header, np.linalg.norm(image.affine[:3, :3], axis=0)
    if len(image.shape) != 3:
        raise Unfit(f"has the shape {image.shape}; a volume has 3 axes: keep one time point or component")
    if not abs(np.linalg.det(image.affine[:3, :3])) > 1e-3 * np.prod(sizes):  # NaN is not above either
        raise Unfit("has an affine that gives its voxels no size; write a correct sform or qform")
    (sform, sform_code), (qform, qform_code) = (get(coded=True) for get in (source.get_sform, source.get_qform))
    coded, units = bool(sform_code or qform_code), source.get_xyzt_units()
    header = nibabel.Nifti1Header()
    header.set_sform(image.affine if sform is None else sform, int(sform_code))
    header.set_qform(image.affine if qform is None else qform, int(qform_code))
    header.set_xyzt_units(*units)
    own = io_orientation(image.affine)
    stays = orientation == "stored" or not coded or np.array_equal(image.affine, np.eye(4))  # nothing is stated
    wanted = own if stays else axcodes2ornt(orientation)
    turned = image.as_reoriented(ornt_transform(own, wanted))
    values, grid = np.asanyarray(turned.dataobj), Grid(header, ornt_transform(wanted, own))
    about = {"format": form, "dtype": str(source.get_data_dtype()), "shape": list(image.shape)}
    scale = _MILLIMETRES.get(units[0], 1.0)  # an unknown unit is a millimetre in practice
    affine = np.diag([scale, scale, scale, 1]) @ turned.affine
    spacing = tuple(float(size) for size in np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    blank = units[0] == "unknown" and spacing == (1, 1, 1)  # what a header holds that nobody filled in
    stated = None if blank and not coded else spacing
    return Stored(values.transpose(), about, stated, affine if coded else None, None, grid)
