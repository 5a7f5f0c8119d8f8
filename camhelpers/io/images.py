"""Pictures in and out: the formats of still pictures are known here and nowhere else."""

import math
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..files import atomic, natural

if TYPE_CHECKING:  # Pillow, OpenCV and tifffile together cost 0.25 s, so each is imported where it is used
    from PIL.Image import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What `list_images` finds and `read_image` reads, whatever the case."""

_WRITES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff"}
_CHANNELS = (1, 3, 4)
_ORIENTATION = 274  # the EXIF and TIFF tag


def read_image(source: "str | Path | bytes | bytearray | memoryview | Image | np.ndarray") -> np.ndarray:
    """Read one picture as float32 RGB `(H, W, 3)` in 0..1, upright, at the full precision of its file.

    `source` is a PNG, JPEG, TIFF, BMP or WebP file, the bytes of one, a Pillow image, or an array: `(H, W)` or
    `(H, W, 1 | 3 | 4)` of uint8, uint16, or floats in 0..1. Grey becomes three equal channels, alpha is composited
    on white, CMYK goes through its embedded profile where there is one, and of an animation the first frame is read.

    >>> read_image(np.full((2, 2), 65535, np.uint16))[0, 0].tolist()
    [1.0, 1.0, 1.0]
    """
    name, pixels = _open(source)
    pixels = _unit_floats(pixels, name)
    if min(pixels.shape[:2]) < 2:
        height, width = pixels.shape[:2]
        raise ValueError(f"{name} is {width} x {height} pixels; a picture to explain needs at least 2 x 2.")
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:]
        pixels = pixels[..., :3] * alpha + (1 - alpha)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def list_images(folder: str | Path) -> list[Path]:
    """The pictures directly inside `folder`, in natural order: `cat2.png` before `cat10.png`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; name an existing folder of pictures.")
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    found = [path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        below = sorted(path.name for path in inside if path.is_dir())
        hint = f", only the folders {', '.join(below[:8])}; name one of them" if below else ""
        raise FileNotFoundError(f"{folder} holds no picture ({', '.join(SUFFIXES)}){hint}.")
    return sorted(found, key=natural)


def encode(picture: np.ndarray, format: Literal["png", "jpeg", "tiff"] = "png", quality: int = 90) -> bytes:
    """The bytes of a PNG, JPEG or TIFF (LZW) file with 8 bits a channel; `quality` (1 to 100) is JPEG's.

    >>> encode(np.zeros((4, 4, 3)))[1:4]
    b'PNG'
    """
    import cv2

    if format not in _WRITES.values():
        raise ValueError(f"Cannot write the picture format {format!r}; use 'png', 'jpeg' or 'tiff'.")
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality is {quality}; use 1 (smallest) to 100 (best).")
    picture = np.asarray(picture)
    if picture.dtype != np.uint8:
        picture = np.rint(_unit_floats(picture, "the picture") * 255).astype(np.uint8)
    picture = _with_channels(picture, "the picture")
    if format == "jpeg" and picture.shape[2] == 4:
        raise ValueError("JPEG cannot hold an alpha channel; write a PNG, or drop the fourth channel.")
    if picture.shape[2] > 1:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    options = {
        "png": [],
        "jpeg": [cv2.IMWRITE_JPEG_QUALITY, int(quality)],
        "tiff": [cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_LZW],
    }
    return cv2.imencode(f".{format}", picture, options[format])[1].tobytes()


def save_image(path: str | Path, picture: np.ndarray, quality: int = 90) -> Path:
    """Write a picture (floats in 0..1, or uint8) as the PNG, JPEG or TIFF that `path` asks for; folders are made."""
    path = Path(path)
    if path.suffix.lower() not in _WRITES:
        raise ValueError(f"Cannot write a picture as {path.name!r}; end the name in {', '.join(_WRITES)}.")
    data = encode(picture, _WRITES[path.suffix.lower()], quality)
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return path


def _open(source) -> tuple[str, np.ndarray]:
    """What to call the source in an error, and its pixels as they are stored."""
    from PIL import Image

    if isinstance(source, np.ndarray):
        return "The array", source
    if isinstance(source, Image.Image):
        return "The Pillow image", _decoded("The Pillow image", lambda: (_from_pillow(source), 1))
    if isinstance(source, bytes | bytearray | memoryview):
        name, data = "The picture", bytes(source)
    elif isinstance(source, str | Path):
        name, path = str(source), Path(source)
        if path.is_dir():
            raise ValueError(f"{name} is a folder, not a picture; list_images() lists the pictures inside.")
        if not path.exists():
            raise FileNotFoundError(f"{name} does not exist; check the name, which counts from {Path.cwd()}.")
        data = path.read_bytes()
    else:
        raise TypeError(f"Cannot read a picture from a {type(source).__name__}; give a path, bytes, array, PIL image.")
    if not data:
        raise ValueError(f"{name} is empty (0 bytes); copy or download it again.")
    is_tiff = data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    return name, _decoded(name, lambda: _from_tiff(data) if is_tiff else (_from_file(data), 1))


def _decoded(name: str, decode) -> np.ndarray:
    """Run a decoder; whatever it stumbles over becomes one sentence."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pixels, frames = decode()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"
        raise ValueError(f"{name} claims more than {limit}; shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS.") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a picture that can be read; use PNG, JPEG, TIFF, BMP or WebP.") from None
    except Exception as error:  # decoders fail on damaged files in more ways than can be listed
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} is damaged or truncated ({reason}); copy or download it again.") from error
    if frames > 1:
        raise ValueError(f"{name} holds {frames} pages; a picture has one: save that page, or read it as a volume.")
    return pixels


def _from_file(data: bytes) -> np.ndarray:
    from PIL import Image

    image = Image.open(BytesIO(data), formats=("PNG", "JPEG", "BMP", "WEBP"))
    image.load()
    if image.format == "PNG" and data[24] == 16 and image.mode != "I;16":
        import cv2  # Pillow keeps only the upper 8 bits of a 16-bit colour PNG

        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
        return _upright(pixels, image.getexif().get(_ORIENTATION, 1))
    return _from_pillow(image)


def _from_pillow(image: "Image") -> np.ndarray:
    from PIL import ImageCms, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # 16-bit, 32-bit and float grey: Pillow would clip them to 8 bits
        return np.asarray(image)
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        with suppress(ImageCms.PyCMSError):  # with a broken profile the plain formula below is what is left
            profile = BytesIO(image.info["icc_profile"])
            image = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _from_tiff(data: bytes) -> tuple[np.ndarray, int]:
    """The first page of a TIFF and the number of its pages; Pillow is right about 8 bits, tifffile about more."""
    import tifffile
    from PIL import Image

    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        frames = math.prod(file.series[0].shape) // math.prod(page.shape)  # thumbnails and pyramids do not count
        if page.bitspersample <= 8:
            return _from_pillow(Image.open(BytesIO(data), formats=("TIFF",))), frames
        if Image.MAX_IMAGE_PIXELS and page.imagewidth * page.imagelength > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        pixels = page.asarray()
    if page.axes[0] == "S":
        pixels = np.moveaxis(pixels, 0, -1)  # stored one colour plane after another
    pixels = pixels.reshape(page.imagelength, page.imagewidth, -1)
    if pixels.dtype.kind == "u":
        pixels = pixels / np.float32(2**page.bitspersample - 1)  # 10, 12 and 14 bits come in uint16 too
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            pixels = 1 - pixels
    colours = page.samplesperpixel - len(page.extrasamples)
    colour, alpha = pixels[..., :colours], pixels[..., colours : colours + 1]
    if page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
        colour = (1 - colour[..., :3]) * (1 - colour[..., 3:])
    if page.extrasamples and page.extrasamples[0] in (1, 2):  # 0 is an extra channel of no stated meaning
        if page.extrasamples[0] == tifffile.EXTRASAMPLE.ASSOCALPHA:
            colour = colour / np.where(alpha > 0, alpha, 1)
        colour = np.concatenate([np.broadcast_to(colour, (*colour.shape[:2], 3)), alpha], axis=-1)
    orientation = page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1
    return _upright(colour, orientation), frames


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8): a transposition for 5 and up, then flips."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(pixels, flips.get(orientation, ()))


def _with_channels(pixels: np.ndarray, name: str) -> np.ndarray:
    """The same pixels as `(H, W, C)`, or a sentence about their shape."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in _CHANNELS or not pixels.size:
        first = pixels.ndim == 3 and pixels.shape[0] in _CHANNELS
        hint = "; channels come last, so use np.moveaxis(picture, 0, -1)" if first else ""
        raise ValueError(f"{name} has the shape {pixels.shape}; use (H, W) or (H, W, C) with 1, 3 or 4 channels{hint}.")
    return pixels


def _unit_floats(pixels: np.ndarray, name: str) -> np.ndarray:
    """The same pixels as float32 `(H, W, C)` in 0..1, or a sentence about what they are instead."""
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind != "f" and (kind != "u" or size > 2):
        raise ValueError(f"{name} holds {pixels.dtype} pixels; use uint8, uint16, or floats in 0..1.")
    pixels = _with_channels(pixels, name)
    if kind == "u":
        return pixels.astype(np.float32) / np.float32(256**size - 1)
    if not np.isfinite(pixels).all():
        bad = int(np.sum(~np.isfinite(pixels)))
        raise ValueError(f"{name} has {bad} NaN or infinite values; replace them, for instance with np.nan_to_num.")
    low, high = float(pixels.min()), float(pixels.max())
    if low < -1e-6 or high > 1 + 1e-6:  # resizing may overshoot by a rounding error, which is clipped
        bytes_like = low >= 0 and high <= 255
        remedy = "divide by 255" if bytes_like else "rescale with (x - x.min()) / (x.max() - x.min())"
        raise ValueError(f"{name} has floats from {low:.4g} to {high:.4g}; they must lie in 0..1: {remedy}.")
    return np.clip(pixels, 0, 1).astype(np.float32)
