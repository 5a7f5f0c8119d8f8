"""DICOM: a folder of slices, or one multi-frame file, as a volume with its spacing and orientation."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..files import fingerprint
from .formats import Stored, suffix
from .images import decoding

if TYPE_CHECKING:  # pydicom costs 0.3 s, so it is imported where it is used
    from pydicom import Dataset

_Frame = list["Dataset"]
_Stack = list[tuple[Path, "Dataset"]]  # files that belong together, with their headers: one for each slice, or for all
_SAME_WAY = 1e-3  # direction cosines that differ by less are one orientation
_SAME = ("SeriesInstanceUID", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation",
         "BitsAllocated", "PixelRepresentation")  # fmt: skip
_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM counts to the left and to the back


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM files do, whatever its name."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def kind(path: Path) -> Literal["slice", "volume", ""]:
    """What a file or folder is to DICOM: one image, a volume (several images or frames), or nothing of interest."""
    if path.is_dir():
        return "volume" if is_series(path) else ""
    try:
        header = _header(path) if is_dicom(path) else None
    except ValueError:
        return "volume"  # reading will say what is wrong with it
    return "" if header is None else "slice" if _count(header) == 1 else "volume"


def is_series(folder: Path) -> bool:
    """Whether a folder is one volume: at least two DICOM images, and no volume of another format."""
    files = _files(folder)
    slices = (path for path in files if kind(path) == "slice")
    return not any(map(suffix, files)) and len(list(islice(slices, 2))) == 2  # the other headers need no reading


def read_series(
    place: Path, series: str | int | None = None, *, gap_tolerance: float | None = None, allow_incomplete: bool = False
) -> Stored:
    """The slices of a folder (or the frames of a file), sorted along their normal, after the modality LUT.

    `series` is a UID, or a number from 1. A series of which something is missing is refused, unless that is allowed.
    """
    stacks, unread = _stacks(place)
    stack = _choose(place, stacks, series)
    lacking = _lacking(stacks, stack, unread)
    if lacking and not allow_incomplete:
        how = "copy the series again, or take what there is with allow_incomplete (--allow-incomplete)"
        raise ValueError(f"{place} is incomplete: {'; '.join(lacking)}; {how}.")
    (path, first), frames, name = stack[0], _frames(stack), str(place)
    if (photometric := str(first.get("PhotometricInterpretation", ""))) == "PALETTE COLOR":
        raise ValueError(f"{name} has {photometric} pixels; export it as grey (MONOCHROME2) or RGB.")
    order, spacing, affine = _geometry(name, stack, frames, gap_tolerance)
    values, dtype = _pixels(stack, frames, order)
    windows = [window for window in map(_window, frames) if window]
    window = tuple(np.median(windows, axis=0).tolist()) if windows else None  # some series state one for each slice
    paths = [stack[index][0] for index in order] if len(stack) > 1 else [path]
    about = {"format": "DICOM", "files": [path.name for path in paths], "sha256": fingerprint(*paths), "dtype": dtype,
             "modality": str(first.get("Modality", "")), "photometric": photometric,
             "inverted": photometric == "MONOCHROME1", **({"left_out": lacking} if lacking else {})}  # fmt: skip
    return Stored(values, about, spacing, affine, window)


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]


def _header(path: Path) -> "Dataset | None":
    """What is said in a DICOM image, without its pixels; None for a report, a plan and the like."""
    import pydicom

    with decoding(str(path)):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if _count(header) and header.get("Rows") and "PixelRepresentation" in header:  # the last field of an image
            return header
        uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        name = uid.name if uid else ""
        if "Storage" in name and "Image Storage" not in name:
            return None
        raise ValueError("the header ends early")  # pydicom reads on without a word


def _count(header: "Dataset") -> int:
    return int(header.get("NumberOfFrames") or 1)


def _stacks(place: Path) -> tuple[list[_Stack], list[Path]]:
    """The images of a folder, each stack of one series, orientation, size and kind of pixels; and what is unreadable.

    A file that is no DICOM counts as unreadable where images beside it have the same suffix: a copy was interrupted.
    """
    stacks: list[_Stack] = []
    unread = []
    for path in _files(place):
        try:
            header = _header(path) if is_dicom(path) else None
        except ValueError:
            if not place.is_dir():
                raise
            header = None
            unread.append(path)
        if header is not None:
            stack = next((stack for stack in stacks if _alike(stack[0][1], header)), None)
            if stack is None:
                stacks.append(stack := [])
            stack.append((path, header))
    if not stacks:
        raise FileNotFoundError(f"{place} holds no DICOM image; name the folder whose files are the slices.")
    known = {path.suffix.lower() for stack in stacks for path, _ in stack}
    others = [path for path in _files(place) if path.suffix.lower() in known and not path.name.startswith(".")]
    return sorted(stacks, key=_uid), sorted({*unread, *(path for path in others if not is_dicom(path))})


def _lacking(stacks: list[_Stack], chosen: _Stack, unread: list[Path]) -> list[str]:
    """What is missing of a series, in words: unreadable files, and images that the others announce."""
    found = [f"{len(unread)} files cannot be read ({', '.join(path.name for path in unread[:20])})"] if unread else []
    headers = [header for stack in stacks if _uid(stack) == _uid(chosen) for _, header in stack]
    if len({header.get("AcquisitionNumber") for header in headers}) == 1:  # else the count is that of one of several
        stated = max(int(header.get(k) or 0) for header in headers for k in ("ImagesInAcquisition", "NumberOfSlices"))
        if stated > sum(map(_count, headers)):
            found.append(f"{stated} images are announced and {sum(map(_count, headers))} are there")
    numbers = sorted({int(header.InstanceNumber) for header in headers if header.get("InstanceNumber") is not None})
    steps = np.diff(numbers)
    if len(numbers) > 2 and steps.max() > steps.min():  # every second number is a habit of some scanners
        gone = np.setdiff1d(np.arange(numbers[0], numbers[-1], steps.min()), numbers).tolist()
        found.append(f"images with the numbers {', '.join(map(str, gone[:20]))} are missing")
    return found


def series_of(place: Path) -> list[int]:
    """The numbers of the series in a folder that are volumes."""
    return [n for n, stack in enumerate(_stacks(place)[0], 1) if len(_frames(stack)) > 1]


def _choose(place: Path, stacks: list[_Stack], series: str | int | None) -> _Stack:
    """The stack that forms the volume."""
    chosen = [s for n, s in enumerate(stacks, 1) if series is None or str(series) in (str(n), _uid(s))]
    if len(chosen) != 1:
        holds = f"holds {len(chosen)} series" if chosen else f"has no series {series!r}"
        listed = "; ".join(f"{n}: {_title(stack)}, {_uid(stack)}" for n, stack in enumerate(stacks, 1))
        raise ValueError(f"{place} {holds}; choose one with series (--series number, or all): {listed}.")
    if len(_frames(chosen[0])) < 2:
        raise ValueError(f"{place} holds one DICOM slice; a volume has at least 2, so name the folder of the series.")
    return chosen[0]


def _alike(first: "Dataset", second: "Dataset") -> bool:
    """Whether two images are slices of one volume."""
    if any(first.get(keyword) != second.get(keyword) for keyword in _SAME) or _count(first) > 1:
        return False
    ways = [_numbers([header], "ImageOrientationPatient", 6) for header in (first, second)]
    return ways[0] is ways[1] if any(way is None for way in ways) else np.allclose(*ways, atol=_SAME_WAY)


def _uid(stack: _Stack) -> str:
    return str(stack[0][1].get("SeriesInstanceUID"))


def _title(stack: _Stack) -> str:
    first = stack[0][1]
    title = first.get("SeriesDescription") or first.get("Modality") or "no description"
    return f"{title} ({len(_frames(stack))} slices of {first.Columns} x {first.Rows}, {first.BitsAllocated} bits)"


def _frames(stack: _Stack) -> list[_Frame]:
    """For each frame the data sets that may state something about it, the most particular first."""

    def parts(group) -> _Frame:
        return [item for element in group if element.VR == "SQ" for item in element.value]

    found = []
    for _, header in stack:
        shared = [item for group in header.get("SharedFunctionalGroupsSequence", []) for item in parts(group)]
        own = header.get("PerFrameFunctionalGroupsSequence") or [()] * _count(header)
        found += [[*parts(frame), *shared, header] for frame in own]
    return found


def _stating(frame: _Frame, keyword: str) -> "Dataset | None":
    return next((part for part in frame if part.get(keyword) not in (None, "")), None)


def _numbers(frame: _Frame, keyword: str, count: int) -> np.ndarray | None:
    place = _stating(frame, keyword)
    values = np.atleast_1d(np.asarray([] if place is None else place.get(keyword), np.float64))
    return values if len(values) == count and np.isfinite(values).all() else None


def _geometry(name: str, stack: _Stack, frames: list[_Frame], tolerance: float | None):
    """The order of the frames along their normal, and spacing and affine in mm where they are stated."""
    ways = [_numbers(frame, "ImageOrientationPatient", 6) for frame in frames]
    places = [_numbers(frame, "ImagePositionPatient", 3) for frame in frames]
    inside = _numbers(frames[0], "PixelSpacing", 2)
    if len(stack) == 1 and ways[0] is not None and len({tuple(place) for place in places if place is not None}) == 1:
        offsets, gap = (_numbers(frames[0], k, n) for k, n in (("GridFrameOffsetVector", len(frames)),
                                                               ("SpacingBetweenSlices", 1)))  # fmt: skip
        offsets = offsets if offsets is not None or gap is None else np.arange(len(frames)) * gap
        if offsets is not None:  # one position for all frames, such as that of a dose
            normal = np.cross(ways[0][:3], ways[0][3:])
            places = [places[0] + (offset - offsets[0]) * normal for offset in offsets]
    if any(value is None for value in ways + places):
        # some OCT slices state no place: then a file's frames are in order, and files in that of their own numbers
        numbers = [header.get("InstanceNumber") for _, header in stack] if len(stack) > 1 else range(len(frames))
        timed = any(keyword in stack[0][1] for keyword in ("FrameTime", "FrameTimeVector"))
        if timed or None in numbers or len(set(numbers)) < len(numbers):
            remedy = "export it with ImagePositionPatient; a clip over time is no volume"
            raise ValueError(f"{name} does not state where its slices lie: {remedy}.")
        stated = (_numbers(frames[0], keyword, 1) for keyword in ("SpacingBetweenSlices", "SliceThickness"))
        gap = next((gap.item() for gap in stated if gap is not None), 0)
        return np.argsort(numbers).tolist(), None if inside is None or gap <= 0 else (gap, *inside.tolist()), None
    way, places = ways[0], np.stack(places)
    depth = places @ np.cross(way[:3], way[3:])
    order = np.argsort(depth, kind="stable").tolist()
    gaps = np.diff(depth[order])
    usual = float(np.median(gaps))
    within = tolerance or max(0.01 * usual, min(0.01, 0.3 * usual))  # OCT slices lie closer than 0.01 mm at times
    for index, gap in enumerate(gaps, 1):
        if gap < 1e-4 or abs(gap - usual) > within:
            where = f"{gap:.3f} mm between slices {index} and {index + 1}, {usual:.3f} elsewhere"
            remedy = "export the series again where one is missing, keep one time point or echo, or, where positions "
            remedy += f"were rounded, raise the tolerance of {within:.3g} mm with gap_tolerance (--gap-tolerance)"
            raise ValueError(f"{name} has uneven gaps ({where}); {remedy}.")
    if inside is None:
        return order, None, None
    down, along = inside.tolist()
    step = (places[order[-1]] - places[order[0]]) / (len(order) - 1)  # leans where the gantry was tilted
    affine = np.eye(4)
    affine[:3] = _RAS @ np.column_stack([way[:3] * along, way[3:] * down, step, places[order[0]]])
    return order, (float(gaps.mean()), down, along), affine


def _pixels(stack: _Stack, frames: list[_Frame], order: Sequence[int]) -> tuple[np.ndarray, str]:
    """The frames in that order after the modality LUT, and the type of the stored pixels."""
    from pydicom.pixels import apply_modality_lut, pixel_array

    tables = [_stating(frame, "ModalityLUTSequence") or _stating(frame, "RescaleSlope") for frame in frames]
    linear = all(table is None or "ModalityLUTSequence" not in table for table in tables)
    plain = linear and all((t.RescaleSlope, t.get("RescaleIntercept", 0)) == (1, 0) for t in tables if t is not None)
    several, values = len(stack) > 1, None
    for place, index in enumerate(order):
        path = stack[index if several else 0][0]
        with decoding(str(path)):
            if several or not place:
                stored = pixel_array(path)
            page = stored if several else stored[index]
            if not plain and tables[index] is not None:
                page = apply_modality_lut(page, tables[index])
        if values is None:
            dtype = np.uint8 if plain and stored.dtype == np.uint8 else np.float32
            values = np.empty((len(order), *page.shape), dtype)  # uint8 stays, since 0..255 then means black to white
        values[place] = page
    return values, str(stored.dtype)


def _window(frame: _Frame) -> tuple[float, float] | None:
    """The first window that a frame states, as its lowest and highest value."""
    part = _stating(frame, "WindowCenter")
    if part is None or part.get("WindowWidth") in (None, ""):
        return None
    centre, width = (float(np.atleast_1d(part.get(keyword))[0]) for keyword in ("WindowCenter", "WindowWidth"))
    if part.get("VOILUTFunction", "LINEAR") == "LINEAR" and width > 1:
        centre, width = centre - 0.5, width - 1  # the standard's own formula for whole numbers
    return (centre - width / 2, centre + width / 2) if width > 0 else None
