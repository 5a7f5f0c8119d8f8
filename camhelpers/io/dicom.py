"""DICOM: a folder of slices, or one multi-frame file, as a volume with its spacing and orientation."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..files import sha256
from .formats import Spacing, decoding, suffix

if TYPE_CHECKING:  # pydicom costs 0.3 s, so it is imported where it is used
    from pydicom import Dataset

_Frame = tuple["Dataset", ...]
_SAME_WAY = 1e-3  # direction cosines that differ by less are one orientation
_LUT = "PixelValueTransformationSequence"
_PIXELS = ("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "PixelRepresentation")
# The only fields that are looked at; none of them is about the patient.
_USED = [
    "BitsAllocated", "Columns", "FrameTime", "FrameTimeVector", "FrameVOILUTSequence", "ImageOrientationPatient",
    "ImagePositionPatient", "InstanceNumber", "Modality", "ModalityLUTSequence", "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence", "PhotometricInterpretation", "PixelRepresentation", "PixelSpacing",
    "RescaleIntercept", "RescaleSlope", "Rows", "SamplesPerPixel", "SeriesDescription", "SeriesInstanceUID",
    "SharedFunctionalGroupsSequence", "SliceThickness", "SpacingBetweenSlices", "VOILUTFunction", "WindowCenter",
    "WindowWidth",
]  # fmt: skip
_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM counts to the left and to the back


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM files do, whatever its name."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_series(folder: Path) -> bool:
    """Whether a folder is one volume, a DICOM slice to a file.

    At least two slices of one series tell, and more than there are volumes of other formats; or a single slice with
    nothing but damaged ones beside it. Otherwise a single image is a stray among volumes.
    """
    inside = _files(folder)
    others = sum(bool(suffix(path)) for path in inside)
    slices, cubes = Counter(), False
    for path in inside:
        what, header = _kind(path)
        cubes |= what == "volume"
        if what == "slice":
            slices[uid := str(header.get("SeriesInstanceUID", ""))] += 1
            if slices[uid] >= max(2, others + 1):
                return True  # the other headers need no reading
    return bool(slices) and not (cubes or others or any(path.is_dir() for path in folder.iterdir()))


def kind(path: Path) -> Literal["slice", "volume", "damaged", ""]:
    """What a file is to DICOM: one image, several frames, a header that cannot be read, or nothing of interest."""
    return _kind(path)[0]


def read_series(
    folder: str | Path, series: str | int | None = None
) -> tuple[np.ndarray, Spacing | None, np.ndarray | None, tuple[float, float] | None, dict[str, Any]]:
    """The slices of a folder (or the frames of a file), sorted along their normal, after the modality LUT.

    With that array, `(Z, Y, X)` or `(Z, Y, X, 3)`, come its spacing in mm, its affine from voxel `(x, y, z)` to RAS mm,
    its window (low, high), each None where the files state none, and a description without any field about the patient.
    `series` is a UID, or a number from 1.
    """
    folder = Path(folder)
    stack = _choose(folder, _stacks(folder), series)
    colours = int(stack.headers[0].get("SamplesPerPixel", 1))
    photometric = str(stack.headers[0].get("PhotometricInterpretation", ""))
    if photometric == "PALETTE COLOR" or colours not in (1, 3):
        raise ValueError(f"{stack.name} has {photometric or colours} colours; export it as grey (MONOCHROME2) or RGB.")
    _check_decoder(stack)
    frames = stack.frames
    order, spacing, affine = _geometry(stack, frames)
    values, dtype = _pixels(stack, [frames[index] for index in order], order)
    spread = [window for window in map(_window, frames) if window]
    window = tuple(np.median(spread, axis=0).tolist()) if spread else None  # some series state one for each slice
    paths = [stack.paths[index] for index in order] if len(stack.paths) > 1 else stack.paths
    digests = [sha256(path) for path in paths]
    about = {
        "format": "DICOM",
        "files": [path.name for path in paths],
        "sha256": digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
        "shape": list(values.shape),
        "dtype": dtype,
        "modality": str(stack.headers[0].get("Modality", "")),
        "photometric": photometric,
        "inverted": photometric == "MONOCHROME1",
    }
    return values, spacing, affine, window, about


@dataclass(eq=False)
class _Stack:
    """Frames that belong together: one file for each, or one file for all."""

    name: str
    uid: str
    paths: list[Path] = field(default_factory=list)
    headers: list["Dataset"] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.headers) if len(self.headers) > 1 else _frames(self.headers[0])

    @property
    def frames(self) -> list[_Frame]:
        """For each frame the data sets that may state something about it, the most particular first."""
        found = []
        for header in self.headers:
            own = header.get("PerFrameFunctionalGroupsSequence") or [header] * _frames(header)
            found += [(frame, *(header.get("SharedFunctionalGroupsSequence") or []), header) for frame in own]
        if len(found) != self.count:
            raise ValueError(f"{self.name} describes {len(found)} frames and holds {self.count}; export it again.")
        return found

    @property
    def listed(self) -> str:
        """A line for choosing among several."""
        first = self.headers[0]
        title = str(first.get("SeriesDescription", "")) or str(first.get("Modality", "")) or "no description"
        return f"{title} ({self.count} slices of {first.Columns} x {first.Rows}, {self.uid})"

    @property
    def pixels(self) -> str:
        """What tells stacks apart whose pixels are of several kinds."""
        _, photometric, bits, signed = map(self.headers[0].get, _PIXELS)
        return f"{bits} bits{' signed' if signed else ''} {photometric}"


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]


def _headers(place: Path) -> Iterator[tuple[Path, "Dataset"]]:
    """What is said in the DICOM images of a folder or a file, without their pixels; other files are skipped."""
    for path in filter(is_dicom, _files(place)):
        header = _header(path)
        if _is_image(header):
            yield path, header


def _kind(path: Path) -> tuple[Literal["slice", "volume", "damaged", ""], "Dataset | None"]:
    if not is_dicom(path):
        return ("damaged" if path.suffix.lower() == ".dcm" else ""), None  # cut off before it says what it is
    try:
        header = _header(path)
    except ValueError:
        return "damaged", None
    if not _is_image(header):
        return "", header
    return ("slice" if _frames(header) == 1 else "volume"), header


def _header(path: Path) -> "Dataset":
    import pydicom
    from pydicom.multival import MultiValue

    with decoding(str(path)):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_USED)
        storage = header.file_meta.MediaStorageSOPClassUID.name
        no_image = "Storage" in storage and "Image Storage" not in storage  # reports, plans, DICOMDIR
        absent = [keyword for keyword in ("Rows", "Columns", *_PIXELS) if header.get(keyword) in (None, "")]
        if absent == ["PixelRepresentation"] and header.BitsAllocated > 16:
            absent = []  # floats have no such field
        if not no_image and (absent or not _is_image(header)):
            raise ValueError("the header ends early")  # pydicom reads on without a word
        for element in header.iterall():
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            if element.VR in ("DS", "IS") and any(value and isinstance(value, str) for value in values):
                raise ValueError(f"{element.name} is no number")  # pydicom keeps such a text without a word
    return header


def _is_image(header: "Dataset") -> bool:
    return bool(header.get("Rows") and header.get("Columns"))


def _frames(header: "Dataset") -> int:
    return int(header.get("NumberOfFrames") or 1)


def _stacks(place: Path) -> list[_Stack]:
    """The images of a folder by series, orientation, size and kind of pixels, in the order of their UIDs."""
    stacks: list[_Stack] = []
    for path, header in _headers(place):
        uid = str(header.get("SeriesInstanceUID", "no UID"))
        if _frames(header) > 1:
            stacks.append(_Stack(str(path), uid, [path], [header]))
            continue
        for stack in stacks:
            if stack.uid == uid and _frames(stack.headers[0]) == 1 and _alike(stack.headers[0], header):
                break
        else:
            stacks.append(stack := _Stack(str(place), uid))
        stack.paths.append(path)
        stack.headers.append(header)
    return sorted(stacks, key=lambda stack: stack.uid)


def _alike(first: "Dataset", second: "Dataset") -> bool:
    if any(first.get(keyword) != second.get(keyword) for keyword in ("Rows", "Columns", *_PIXELS)):
        return False
    ways = [_numbers((header,), "", "ImageOrientationPatient", 6) for header in (first, second)]
    if any(way is None for way in ways):
        return ways[0] is ways[1]
    return np.allclose(*ways, atol=_SAME_WAY)


def _choose(place: Path, stacks: list[_Stack], series: str | int | None) -> _Stack:
    if not stacks:
        below = sorted(path.name for path in place.iterdir() if path.is_dir())[:8] if place.is_dir() else []
        hint = f", only the folders {', '.join(below)}; name one of them" if below else ""
        raise FileNotFoundError(f"{place} holds no DICOM image{hint}.")
    several = len({stack.pixels for stack in stacks}) > 1
    titles = [stack.listed + f", {stack.pixels}" * several for stack in stacks]
    listed = "; ".join(f"{number}: {title}" for number, title in enumerate(titles, 1))
    if series is None:
        chosen = stacks
    elif str(series).isdecimal():
        chosen = stacks[int(series) - 1 : int(series)] if int(series) else []
    else:
        chosen = [stack for stack in stacks if stack.uid == series]
    if len(chosen) > 1:
        raise ValueError(f"{place} holds {len(chosen)} series; choose one with series=number: {listed}.")
    if not chosen:
        raise ValueError(f"{place} has no series {series!r}; it holds {listed}.")
    if chosen[0].count < 2:
        raise ValueError(f"{place} holds one DICOM slice; a volume has at least 2, so name the folder of the series.")
    return chosen[0]


def _check_decoder(stack: _Stack) -> None:
    """Say what to install where the pixels are compressed in a way that pydicom needs help with."""
    from pydicom.pixels import get_decoder

    with decoding(stack.name):
        syntaxes = {header.file_meta.TransferSyntaxUID for header in stack.headers}
        compressed = [syntax for syntax in syntaxes if syntax.is_compressed]
    for syntax in compressed:
        try:
            usable = get_decoder(syntax).is_available
        except NotImplementedError:
            usable = False
        if not usable:
            raise ValueError(
                f"{stack.name} is compressed as {syntax.name}, which needs one more package to be read: "
                "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg."
            )


def _place(frame: _Frame, group: str, keyword: str) -> "Dataset | None":
    """The first of the data sets that states something, by itself or in its functional group."""
    for part in frame:
        for place in [part, *(part.get(group) or [])]:
            if place.get(keyword) not in (None, ""):
                return place
    return None


def _numbers(frame: _Frame, group: str, keyword: str, count: int) -> np.ndarray | None:
    place = _place(frame, group, keyword)
    values = np.atleast_1d(np.asarray([] if place is None else place.get(keyword), np.float64))
    return values if len(values) == count and np.isfinite(values).all() else None


def _geometry(stack: _Stack, frames: list[_Frame]) -> tuple[list[int], Spacing | None, np.ndarray | None]:
    """The order of the frames along their normal, and spacing and affine in millimetres where they are stated."""
    ways = [_numbers(frame, "PlaneOrientationSequence", "ImageOrientationPatient", 6) for frame in frames]
    places = [_numbers(frame, "PlanePositionSequence", "ImagePositionPatient", 3) for frame in frames]
    inside = _numbers(frames[0], "PixelMeasuresSequence", "PixelSpacing", 2)
    if inside is not None and not (inside > 0).all():
        raise ValueError(f"{stack.name} has the pixel spacing {inside.tolist()}; it must be above 0.")
    if any(value is None for value in ways + places):
        return _unplaced(stack, frames[0], inside)
    way = ways[0]
    if not np.allclose(ways, way, atol=_SAME_WAY):
        raise ValueError(f"{stack.name} has slices in different orientations; a volume has parallel slices.")
    places = np.stack(places)
    depth = places @ np.cross(way[:3], way[3:])
    order = np.argsort(depth, kind="stable").tolist()
    gaps = np.diff(depth[order])
    usual = float(np.median(gaps))
    _check_gaps(stack.name, depth[order], gaps, usual)
    step = (places[order[-1]] - places[order[0]]) / (len(order) - 1)  # leans where the gantry was tilted
    known = inside is not None
    down, along = inside if known else (1.0, 1.0)
    affine = np.eye(4)
    affine[:3] = _RAS @ np.column_stack([way[:3] * along, way[3:] * down, step, places[order[0]]])
    return order, (float(gaps.mean()), float(down), float(along)) if known else None, affine if known else None


def _check_gaps(name: str, depth: np.ndarray, gaps: np.ndarray, usual: float) -> None:
    if (gaps < 1e-4).any():
        place = int(np.argmin(gaps))
        raise ValueError(
            f"{name} has {int((gaps < 1e-4).sum()) + 1} slices at a place that another has (slice {place + 1}, "
            f"{depth[place]:.2f} mm); keep one time point or echo."
        )
    odd = np.abs(gaps - usual) > max(
        0.01 * usual, min(0.01, 0.3 * usual)
    )  # OCT slices lie closer than 0.01 mm at times
    if odd.any():
        place = int(np.argmax(odd))
        raise ValueError(
            f"{name} has uneven gaps: {gaps[place]:.3f} mm between slices {place + 1} and {place + 2} (at "
            f"{depth[place]:.2f} mm), {usual:.3f} mm elsewhere; a slice is missing there, so export the series again."
        )


def _unplaced(stack: _Stack, first: _Frame, inside: np.ndarray | None) -> tuple[list[int], Spacing | None, None]:
    """Frames without a position: the stored order of a multi-frame file, or the instance numbers of a series."""
    if len(stack.headers) == 1:
        if any(stack.headers[0].get(keyword) is not None for keyword in ("FrameTime", "FrameTimeVector")):
            raise ValueError(f"{stack.name} is a clip over time, not a volume: its frames have times and no positions.")
        order = list(range(stack.count))
    else:
        numbers = [header.get("InstanceNumber") for header in stack.headers]
        if None in numbers or len(set(numbers)) < len(numbers):
            raise ValueError(
                f"{stack.name} has slices that state neither a position nor a number of their own, and names of files "
                "say nothing about order; export the series again with ImagePositionPatient."
            )
        order = np.argsort(numbers).tolist()
    gap = _numbers(first, "PixelMeasuresSequence", "SpacingBetweenSlices", 1)
    if gap is None:
        gap = _numbers(first, "PixelMeasuresSequence", "SliceThickness", 1)
    if gap is None or inside is None or not gap[0] > 0:
        return order, None, None
    return order, (float(gap[0]), float(inside[0]), float(inside[1])), None


def _pixels(stack: _Stack, frames: list[_Frame], order: list[int]) -> tuple[np.ndarray, str]:
    """The sorted `frames` after the modality LUT, and the type of the stored pixels."""
    from pydicom.pixels import apply_modality_lut, pixel_array

    tables = [_place(frame, _LUT, "ModalityLUTSequence") or _place(frame, _LUT, "RescaleSlope") for frame in frames]
    plain = all(table is None or _is_identity(table) for table in tables)
    values, dtype, several = None, "", len(stack.paths) > 1
    for index, (place, table) in enumerate(zip(order, tables, strict=True)):
        path = stack.paths[place if several else 0]
        with decoding(str(path)):
            if several or not index:
                stored = pixel_array(path)
            page = stored if several else stored[place]
            if not plain and table is not None:
                page = apply_modality_lut(page, table)
        if values is None:
            dtype = str(stored.dtype)
            kind = np.uint8 if plain and stored.dtype == np.uint8 else np.float32
            values = np.empty((len(order), *page.shape), kind)  # uint8 stays, since 0..255 then means black to white
        values[index] = page
    return values, dtype


def _is_identity(table: "Dataset") -> bool:
    return "ModalityLUTSequence" not in table and (table.RescaleSlope, table.get("RescaleIntercept", 0)) == (1, 0)


def _window(frame: _Frame) -> tuple[float, float] | None:
    """The first window that a frame states, as its lowest and highest value."""
    place = _place(frame, "FrameVOILUTSequence", "WindowCenter")
    if place is None or place.get("WindowWidth") in (None, ""):
        return None
    centre, width = (float(np.atleast_1d(place.get(keyword))[0]) for keyword in ("WindowCenter", "WindowWidth"))
    if place.get("VOILUTFunction", "LINEAR") == "LINEAR" and width > 1:
        centre, width = centre - 0.5, width - 1  # the standard's own formula for whole numbers
    return (centre - width / 2, centre + width / 2) if width > 0 else None
