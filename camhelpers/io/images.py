"""Pictures in and out: the formats of still pictures are known here and nowhere else."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..files import atomic, natural

if TYPE_CHECKING:  # Pillow, OpenCV and tifffile together cost 0.25 s, so each is imported where it is used
    from PIL.Image import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # of what is found and read, whatever the case
_WRITES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff"}
_ORIENTATION = 274  # the TIFF tag


def read_image(source: "str | Path | bytes | Image | np.ndarray") -> np.ndarray:
    """Read one picture as float32 RGB `(H, W, 3)` in 0..1, upright, at the full precision of its file.

    `source` is a PNG, JPEG, TIFF, BMP or WebP file, the bytes of one, a Pillow image, or an array: `(H, W)` or
    `(H, W, 1 | 3 | 4)` of uint8, uint16, or floats in 0..1. Grey becomes three equal channels, alpha is composited
    on white, and of an animation the first frame is read.
    """
    pixels = _unit_floats(*_open(source))
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:]
        pixels = pixels[..., :3] * alpha + (1 - alpha)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def list_images(folder: str | Path) -> list[Path]:
    """The pictures directly inside `folder`, in natural order: `cat2.png` before `cat10.png`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; name an existing folder of pictures.")
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    found = [path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise FileNotFoundError(f"{folder} itself holds no picture ({', '.join(SUFFIXES)}).")
    return sorted(found, key=natural)


def encode(picture: np.ndarray, format: Literal["png", "jpeg", "tiff"] = "png", quality: int = 90) -> bytes:
    """The bytes of a PNG, JPEG or TIFF (LZW) file with 8 bits a channel; `quality` (1 to 100) is JPEG's."""
    import cv2

    if picture.dtype != np.uint8:
        picture = np.rint(_unit_floats("The picture", picture) * 255).astype(np.uint8)
    if picture.ndim == 3 and picture.shape[2] > 1:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == "jpeg" else []  # OpenCV warns of what it does not need
    return cv2.imencode(f".{format}", picture, options)[1].tobytes()


def save_image(path: str | Path, picture: np.ndarray, quality: int = 90) -> Path:
    """Write a picture (floats in 0..1, or uint8) as the PNG, JPEG or TIFF that `path` asks for; folders are made."""
    path = Path(path)
    if path.suffix.lower() not in _WRITES:
        raise ValueError(f"Cannot write a picture as {path.name!r}; end the name in {', '.join(_WRITES)}.")
    data = encode(picture, _WRITES[path.suffix.lower()], quality)
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return path


class Unfit(ValueError):
    """A file that is whole, but not of a kind that is read here."""


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Whatever a decoder stumbles over inside the block becomes one sentence about the file `name`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a decoder's remarks on odd but readable headers are not for the reader
            yield
    except Unfit as reason:
        raise ValueError(f"{name} {reason}.") from None
    except Exception as error:  # decoders fail on damaged files in more ways than can be listed
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        remedy = "copy or download it again if it is damaged or truncated"
        raise ValueError(f"{name} cannot be read ({reason[:300]}); {remedy}.") from error


def _open(source) -> tuple[str, np.ndarray]:
    """What to call the source in an error, and its pixels as they are stored."""
    from PIL import Image

    if isinstance(source, np.ndarray):
        return "The array", source
    name = str(source) if isinstance(source, str | Path) else "The picture"
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise FileNotFoundError(f"{name} is no file; name a picture, counted from {Path.cwd()}.")
        source = Path(source).read_bytes()
    if not isinstance(source, Image.Image | bytes):
        what = f"Cannot read a picture from a {type(source).__name__}"
        raise TypeError(f"{what}; give a path, bytes, array, PIL image (of a sample, its .pixels).")
    with decoding(name):
        return name, _from_pillow(source) if isinstance(source, Image.Image) else _from_file(source)


def _from_file(data: bytes) -> np.ndarray:
    """The pixels of a file, upright; Pillow is right about 8 bits a channel, and keeps no more of colours."""
    from PIL import Image, UnidentifiedImageError

    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _from_tiff(data)
    try:
        image = Image.open(BytesIO(data), formats=("PNG", "JPEG", "BMP", "WEBP"))
    except UnidentifiedImageError:
        raise Unfit("is not a picture that can be read; use PNG, JPEG, TIFF, BMP or WebP") from None
    if image.format == "PNG" and data[24] == 16:
        from imagecodecs import png_decode

        image.load()  # notices more kinds of damage
        return png_decode(data)
    return _from_pillow(image)


def _from_pillow(image: "Image") -> np.ndarray:
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # 16-bit, 32-bit and float grey: Pillow would clip them to 8 bits
        return np.asarray(image)
    if image.mode == "CMYK":
        raise Unfit("has CMYK colours, for print; save it as RGB")
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _from_tiff(data: bytes) -> np.ndarray:
    import tifffile
    from PIL import Image

    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        count = math.prod(file.series[0].shape) // math.prod(page.shape)  # thumbnails and pyramids do not count
        if count > 1:
            raise Unfit(f"holds {count} pages and a picture has one; save that page, or read it as a volume")
        if page.bitspersample <= 8:
            return _from_pillow(Image.open(BytesIO(data), formats=("TIFF",)))
        kind = f"{page.photometric.name} {''.join(extra.name for extra in page.extrasamples)}".strip()
        plain = kind in ("MINISBLACK", "RGB", "RGB UNASSALPHA") and page.bitspersample % 16 == 0
        if not plain or page.tags.valueof(_ORIENTATION, 1) != 1:
            raise Unfit(f"has unusual pixels ({page.bitspersample} bits {kind}); save it upright, as plain grey or RGB")
        pixels = page.asarray()
    return np.moveaxis(pixels, 0, -1) if page.axes[0] == "S" else pixels  # one colour plane after another


def _unit_floats(name: str, pixels: np.ndarray) -> np.ndarray:
    """The same pixels as float32 `(H, W, C)` in 0..1, or a sentence about what they are instead."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or min(pixels.shape[:2]) < 2:
        rule = "use (H, W) or (H, W, C) with 1, 3 or 4 channels, last, and at least 2 x 2 pixels"
        raise ValueError(f"{name} has the shape {pixels.shape}; {rule}.")
    if pixels.dtype.kind == "u" and pixels.itemsize <= 2:
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    low, high = float(pixels.min()), float(pixels.max())
    if pixels.dtype.kind != "f" or not (low >= -1e-6 and high <= 1 + 1e-6):  # resizing may overshoot a little
        remedy = "use uint8, uint16, or floats in 0..1, such as pixels / 255, without NaN"
        raise ValueError(f"{name} holds {pixels.dtype} pixels from {low:.4g} to {high:.4g}; {remedy}.")
    return np.clip(pixels, 0, 1).astype(np.float32)
