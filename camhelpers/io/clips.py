"""Clips in and out: video files, GIF, folders of frames, arrays and DICOM in; WebM for browsers and GIF out."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic
from . import dicom
from .images import Unfit, decoding, list_images, read_image

SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".npy", ".webm")  # DICOM is known by its content
UNSTATED = 20.0  # frames per second where a source states none, as folders and arrays do not
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames over time, float32 RGB `(T, H, W, 3)` in 0..1, and how many a second; `source` is what the file said."""

    frames: np.ndarray
    fps: float
    name: str = "clip"
    source: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def grey(self) -> np.ndarray:
        """The frames without colour, `(T, H, W)`, which is what a model of grey clips takes."""
        return self.frames @ _LUMA


def read_clip(source: str | Path | np.ndarray | Clip, *, fps: float | None = None, start: int = 0,
              count: int | None = None) -> Clip:  # fmt: skip
    """Read a clip: AVI, MP4, WebM and other videos, GIF, `.npy`, multi-frame DICOM, a folder of frames, or an array.

    An array is `(T, H, W)` or `(T, H, W, 3)` of uint8, or of floats in 0..1. `start` and `count` choose the frames, so
    that of a long video no more is kept. `fps` overrides what the file states. A video is read until it ends, since
    headers err about the number of frames; `source["stated"]` is what the header said.

    >>> clip = read_clip(np.zeros((8, 30, 40), np.uint8), fps=25)
    >>> clip.frames.shape, clip.fps
    ((8, 30, 40, 3), 25.0)
    """
    if isinstance(source, Clip):
        return source
    if (fps is not None and not 0 < fps < math.inf) or start < 0 or (count is not None and count < 2):
        rule = "use a rate above 0, a start from 0 on, and a count of 2 or more"
        raise ValueError(f"Cannot read a clip with {fps=}, {start=} and {count=}; {rule}.")
    if isinstance(source, np.ndarray):
        name, label, place = "clip", "The array", None
    else:
        place = Path(source)
        name, label = place.stem or place.name, str(source)
        if not place.exists():
            raise FileNotFoundError(f"{label} does not exist; name a video, a GIF, a DICOM or a folder of frames.")
    files = list_images(place) if place and place.is_dir() else []
    with decoding(label):
        if place is None:
            pages, about = source, {"format": "array"}
        elif files:
            pages, about = map(read_image, files), {"format": "frames"}
        elif dicom.is_dicom(place):
            pages, about = _dicom(place)
        elif place.suffix.lower() == ".npy":
            pages, about = np.load(place, mmap_mode="r", allow_pickle=False), {"format": "npy"}
        elif place.suffix.lower() in SUFFIXES:
            pages, about = _video(place)
        else:
            raise Unfit(f"is no clip that can be read; use {', '.join(SUFFIXES)}, DICOM or a folder of frames")
        frames = _frames(pages, start, count)
    stated, rate = about.get("stated"), about.pop("fps", None)
    if stated is not None and count is None and stated != start + len(frames):
        warnings.warn(f"{label} states {stated} frames and holds {start + len(frames)}.", stacklevel=2)
    if fps is None and rate is not None and not 0 < rate < 1000:
        raise ValueError(f"{label} states {rate:g} frames a second; give the rate as fps=25.")
    return Clip(frames, float(fps or rate or UNSTATED), name, {**about, "fps_known": bool(fps or rate)})


def _frames(pages: np.ndarray | Iterator[np.ndarray], start: int, count: int | None) -> np.ndarray:
    """The chosen frames as float32 RGB in 0..1, all of one size."""
    if isinstance(pages, np.ndarray):
        if pages.ndim not in (3, 4) or (pages.ndim == 4 and pages.shape[3] not in (1, 3)):
            raise Unfit(f"has the shape {pages.shape}; a clip is (T, H, W) or (T, H, W, 3)")
        pages = iter(pages)
    found: list[np.ndarray] = []
    for page in islice(pages, start, None if count is None else start + count):
        if found and page.shape != found[0].shape:
            sizes = " and ".join(f"{p.shape[1]} x {p.shape[0]}" for p in (found[0], page))
            raise Unfit(f"has frames of {sizes} pixels; save all in one size")
        found.append(page)
    if len(found) < 2:
        raise Unfit(f"has {len(found)} frame{'s' * (not found)} from frame {start} on; a clip has at least 2")
    frames = np.stack(found)
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.dtype == np.uint8:
        frames = frames / np.float32(255)
    elif frames.dtype.kind != "f" or not (frames.min() >= 0 and frames.max() <= 1):
        raise Unfit(f"has {frames.dtype} values from {frames.min()} to {frames.max()}; use uint8, or floats in 0..1")
    return np.broadcast_to(frames.astype(np.float32, copy=False), (*frames.shape[:3], 3)).copy()


def _video(path: Path) -> tuple[Iterator[np.ndarray], dict[str, Any]]:
    import av

    container = av.open(str(path))
    if not container.streams.video:
        raise Unfit("holds no video, only sound or text")
    stream = container.streams.video[0]
    rate = float(stream.average_rate or stream.base_rate or 0)
    if stream.codec_context.name == "gif" and stream.duration:  # each of its frames may stay for another while
        rate = float(stream.frames / (stream.duration * stream.time_base))
    about = {"format": path.suffix[1:].upper(), "codec": stream.codec_context.name, "fps": rate}
    pages = (page.to_ndarray(format="rgb24") for page in container.decode(stream))
    return pages, {**about, "stated": stream.frames} if stream.frames else about  # some containers do not say


def _dicom(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The frames of a DICOM in RGB or grey, and their rate from the time between two."""
    import pydicom
    from pydicom.pixels import pixel_array

    header = pydicom.dcmread(path, stop_before_pixels=True)
    pages = pixel_array(path)
    if int(header.get("NumberOfFrames") or 1) == 1:
        pages = pages[None]
    if pages.dtype != np.uint8:
        pages = np.clip(pages / np.float32(2 ** int(header.BitsStored) - 1), 0, 1)
    if header.PhotometricInterpretation == "MONOCHROME1":
        pages = pages.max() - pages
    wait = header.get("FrameTime") or np.mean(header.get("FrameTimeVector") or 0)
    rate = 1000 / float(wait) if wait else float(header.get("CineRate") or 0)
    about = {"format": "DICOM", "photometric": header.PhotometricInterpretation, "modality": header.get("Modality", "")}
    return pages, {**about, "fps": rate} if rate else about


def save_clip(path: str | Path, clip: Clip) -> Path:
    """Write a clip as WebM (VP9, which browsers play) or as an endless GIF, whole or not at all."""
    path = Path(path)
    if path.suffix.lower() not in (".webm", ".gif"):
        raise ValueError(f"Cannot write a clip as {path.name!r}; end the name in .webm or .gif.")
    frames = np.rint(clip.frames * 255).astype(np.uint8)
    with atomic(path) as temporary:
        if path.suffix.lower() == ".gif":
            from PIL import Image

            first, *rest = map(Image.fromarray, frames)
            ends = np.rint(np.arange(len(frames) + 1) * 100 / clip.fps)  # GIF counts in hundredths of a second
            waits = (np.diff(ends).clip(2) * 10).astype(int).tolist()  # and browsers slow down below two
            first.save(temporary, save_all=True, append_images=rest, duration=waits, loop=0)
        else:
            import av

            frames = np.pad(frames, [(0, 0), *((0, n % 2) for n in frames.shape[1:3]), (0, 0)], "edge")
            with av.open(str(temporary), "w") as container:
                rate = Fraction(clip.fps).limit_denominator(1000)
                stream = container.add_stream("libvpx-vp9", rate, {"crf": "16", "b": "0", "cpu-used": "4"})
                stream.height, stream.width = frames.shape[1:3]
                stream.pix_fmt = "yuv420p"  # which has one colour for two rows and columns, hence the even size
                for frame in frames:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
                container.mux(stream.encode())
    return path
