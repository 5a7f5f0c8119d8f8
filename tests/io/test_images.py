"""Pictures in and out: what each format's own writer wrote comes back exactly."""

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile
from imagecodecs import png_encode
from PIL import Image

from camhelpers.files import ROOT
from camhelpers.io.images import encode, list_images, read_image, save_image

RNG = np.random.default_rng(0)
RGB8 = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (6, 9, 3), dtype=np.uint16)
FLOATS = RNG.random((6, 9, 3), dtype=np.float32)
RGBA8, RGBA16 = np.dstack([RGB8, RGB8[..., 1]]), np.dstack([RGB16, RGB16[..., 1]])


def grey(x):
    return np.repeat(x[..., :1], 3, axis=2)


def unit(x):
    return x.astype(np.float32) / np.float32(np.iinfo(x.dtype).max)


def on_white(colour, alpha):
    return unit(colour) * unit(alpha) + (1 - unit(alpha))


def pil(array, mode, fmt, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, fmt, **options)
    return buffer.getvalue()


def tiff(array, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


EXACT = {
    "png rgb": (pil(RGB8, "RGB", "PNG"), unit(RGB8)),
    "png alpha": (pil(RGBA8, "RGBA", "PNG"), on_white(RGB8, RGB8[..., 1:2])),
    "png 16 rgb": (png_encode(RGB16), unit(RGB16)),
    "png 16 grey": (png_encode(RGB16[..., 0].copy()), unit(grey(RGB16))),
    "png 16 alpha": (png_encode(RGBA16), on_white(RGB16, RGB16[..., 1:2])),
    "bmp rgb": (pil(RGB8, "RGB", "BMP"), unit(RGB8)),
    "webp alpha": (pil(RGBA8, "RGBA", "WEBP", lossless=True, exact=True), on_white(RGB8, RGB8[..., 1:2])),
    "tiff lzw": (tiff(RGB8, photometric="rgb", compression="lzw", predictor=True), unit(RGB8)),
    "tiff grey": (tiff(RGB8[..., 0]), unit(grey(RGB8))),
    "tiff 16 lzw": (tiff(RGB16, photometric="rgb", compression="lzw", predictor=True), unit(RGB16)),
    "tiff 16 big-endian": (tiff(RGB16, photometric="rgb", byteorder=">"), unit(RGB16)),
    "tiff 16 planes": (tiff(RGB16.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), unit(RGB16)),
    "tiff 16 grey": (tiff(RGB16[..., 0]), unit(grey(RGB16))),
    "tiff 16 alpha": (tiff(RGBA16, photometric="rgb", extrasamples=["unassalpha"]), on_white(RGB16, RGB16[..., 1:2])),
    "tiff float rgb": (tiff(FLOATS, photometric="rgb"), FLOATS),
    "tiff float64": (tiff(FLOATS[..., 0].astype(float)), grey(FLOATS)),
    "array uint8": (RGB8, unit(RGB8)),
    "array big-endian": (RGB16.astype(">u2"), unit(RGB16)),
    "array float64": (FLOATS.astype(float), FLOATS),
    "array (H, W)": (FLOATS[..., 0], grey(FLOATS)),
    "array (H, W, 4)": (RGBA8, on_white(RGB8, RGB8[..., 1:2])),
    "pil rgb": (Image.fromarray(RGB8), unit(RGB8)),
    "pil 16": (Image.fromarray(RGB16[..., 0]), unit(grey(RGB16))),
    "pil float": (Image.fromarray(FLOATS[..., 0]), grey(FLOATS)),
}


@pytest.mark.parametrize("name", EXACT)
def test_pixels_are_exact(name):
    source, expected = EXACT[name]
    picture = read_image(source)
    assert picture.dtype == np.float32 and picture.shape == (6, 9, 3) and picture.flags.c_contiguous
    np.testing.assert_allclose(picture, expected, rtol=0, atol=1e-7)
    picture[:] = 0  # what is returned is the caller's own
    assert not isinstance(source, np.ndarray) or source.any()


def test_palettes_and_their_transparency():
    indexed = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    buffer = io.BytesIO()
    indexed.save(buffer, "PNG", transparency=1)
    np.testing.assert_array_equal(read_image(buffer.getvalue()), [[[1, 0, 0], [1, 1, 1]], [[0, 0, 1], [1, 1, 1]]])


def test_jpeg_is_near_and_grey_jpeg_has_equal_channels():
    smooth = cv2.resize(RGB8, (64, 48), interpolation=cv2.INTER_CUBIC)
    assert np.abs(read_image(pil(smooth, "RGB", "JPEG", quality=98, subsampling=0)) - unit(smooth)).mean() < 0.01
    assert np.ptp(read_image(pil(smooth[..., 0], "L", "JPEG")), axis=2).max() == 0


FLIP = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (0,), 7: (0, 1), 8: (1,)}  # after a transposition from 5 on


@pytest.mark.parametrize("orientation", FLIP)
@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(fmt, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.flip(RGB8.swapaxes(0, 1) if orientation >= 5 else RGB8, FLIP[orientation])  # as the camera held it
    data = pil(np.ascontiguousarray(stored), "RGB", fmt, exif=exif)
    np.testing.assert_allclose(read_image(data), unit(RGB8), atol=1e-7)


@pytest.mark.parametrize("part", [0.5, 0.8])
@pytest.mark.parametrize("name", ["png rgb", "png 16 rgb", "bmp rgb", "webp alpha", "tiff lzw", "tiff 16 lzw", "jpeg"])
def test_a_truncated_file_is_refused(tmp_path, name, part):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = pil(noise, "RGB", "JPEG") if name == "jpeg" else EXACT[name][0]
    path = tmp_path / "half.bin"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ValueError, match=r"half\.bin (cannot be read|is not a picture).*[^.]\.$"):
        read_image(path)


def test_list_images_is_natural_and_choosy(tmp_path):
    for name in ("cat10.png", "cat2.PNG", "Cat1.jpg", "b.webp", "10.tif", "9.bmp", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    names = [path.name for path in list_images(tmp_path)]
    assert names == ["9.bmp", "10.tif", "b.webp", "Cat1.jpg", "cat2.PNG", "cat10.png"]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("picture", [RGB8, RGB8[..., 0], RGB8[..., :1], unit(RGB8) * (1 + 1e-7)])
def test_save_and_read_again(tmp_path, suffix, picture):
    path = save_image(tmp_path / "new" / "folder" / f"x{suffix}", picture)
    np.testing.assert_array_equal(read_image(path), unit(RGB8) if picture.shape[2:] == (3,) else unit(grey(RGB8)))
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_encode_keeps_colours_in_place_minds_quality_rounds_and_says_nothing(capfd):
    red = np.zeros((16, 16, 3), np.float32)
    red[..., 0] = 1
    for kind in ("png", "jpeg", "tiff"):
        np.testing.assert_allclose(read_image(encode(red, kind)), red, atol=0.02)
    assert Image.open(io.BytesIO(encode(red, "jpeg"))).format == "JPEG" and encode(red)[1:4] == b"PNG"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode(RGBA8)))), RGBA8)
    noise = RNG.random((64, 64, 3))
    assert len(encode(noise, "jpeg", quality=30)) < len(encode(noise, "jpeg")) < len(encode(noise, "jpeg", quality=99))
    assert read_image(encode(np.full((2, 2), 0.999))).min() == 1
    assert capfd.readouterr().err == ""  # OpenCV warns of an option that a format does not know


def test_importing_the_wing_loads_no_decoder():
    heavy = {"cv2", "PIL", "tifffile", "requests", "nibabel", "pydicom", "matplotlib"}
    code = f"import sys, camhelpers.io.images, camhelpers.io.volumes; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
