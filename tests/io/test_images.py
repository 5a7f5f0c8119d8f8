"""Pictures in and out: every format exactly, every fault in one sentence."""

import io
import math
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from camhelpers.files import ROOT
from camhelpers.io.images import SUFFIXES, encode, list_images, read_image, save_image

RNG = np.random.default_rng(0)
RGB8 = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (6, 9, 3), dtype=np.uint16)
FLOATS = RNG.random((6, 9, 3), dtype=np.float32)


def grey(x: np.ndarray) -> np.ndarray:
    return np.repeat(x[..., :1], 3, axis=2)


def unit(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) / np.float32(np.iinfo(x.dtype).max)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return unit(colour) * unit(alpha) + (1 - unit(alpha))


def pil(array, mode, fmt, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, fmt, **options)
    return buffer.getvalue()


def tiff(array, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def png(array: np.ndarray, colour: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A 16-bit PNG by hand, since Pillow writes none in colour and OpenCV none with further chunks."""

    def chunk(tag, body):
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    height, width = array.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


RGBA8, RGBA16 = np.dstack([RGB8, RGB8[..., 1]]), np.dstack([RGB16, RGB16[..., 1]])

EXACT = {
    "png rgb": (pil(RGB8, "RGB", "PNG"), unit(RGB8)),
    "png grey": (pil(RGB8[..., 0], "L", "PNG"), unit(grey(RGB8))),
    "png alpha": (pil(RGBA8, "RGBA", "PNG"), on_white(RGB8, RGB8[..., 1:2])),
    "png grey alpha": (pil(RGBA8[..., [0, 1]], "LA", "PNG"), on_white(grey(RGB8), RGB8[..., 1:2])),
    "png bilevel": (pil((RGB8[..., 0] > 99) * np.uint8(255), "1", "PNG"), grey(RGB8 > 99).astype(np.float32)),
    "png 16 rgb": (png(RGB16, 2), unit(RGB16)),
    "png 16 grey": (png(RGB16[..., 0], 0), unit(grey(RGB16))),
    "png 16 alpha": (png(RGBA16, 6), on_white(RGB16, RGB16[..., 1:2])),
    "png 16 grey alpha": (png(RGB16[..., :2], 4), on_white(grey(RGB16), RGB16[..., 1:2])),
    "bmp rgb": (pil(RGB8, "RGB", "BMP"), unit(RGB8)),
    "bmp grey": (pil(RGB8[..., 0], "L", "BMP"), unit(grey(RGB8))),
    "webp rgb": (pil(RGB8, "RGB", "WEBP", lossless=True), unit(RGB8)),
    "webp alpha": (pil(RGBA8, "RGBA", "WEBP", lossless=True, exact=True), on_white(RGB8, RGB8[..., 1:2])),
    "tiff rgb": (tiff(RGB8, photometric="rgb"), unit(RGB8)),
    "tiff lzw": (tiff(RGB8, photometric="rgb", compression="lzw", predictor=True), unit(RGB8)),
    "tiff grey": (tiff(RGB8[..., 0]), unit(grey(RGB8))),
    "tiff 16 rgb": (tiff(RGB16, photometric="rgb"), unit(RGB16)),
    "tiff 16 lzw": (tiff(RGB16, photometric="rgb", compression="lzw", predictor=True), unit(RGB16)),
    "tiff 16 big-endian": (tiff(RGB16, photometric="rgb", byteorder=">"), unit(RGB16)),
    "tiff 16 bigtiff": (tiff(RGB16, photometric="rgb", bigtiff=True), unit(RGB16)),
    "tiff 16 planes": (tiff(RGB16.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), unit(RGB16)),
    "tiff 16 grey": (tiff(RGB16[..., 0]), unit(grey(RGB16))),
    "tiff 16 white is zero": (tiff(RGB16[..., 0], photometric="miniswhite"), 1 - unit(grey(RGB16))),
    "tiff 16 alpha": (tiff(RGBA16, photometric="rgb", extrasamples=["unassalpha"]), on_white(RGB16, RGB16[..., 1:2])),
    "tiff 16 unnamed extra": (tiff(RGBA16, photometric="rgb", extrasamples=["unspecified"]), unit(RGB16)),
    "tiff float rgb": (tiff(FLOATS, photometric="rgb"), FLOATS),
    "tiff float grey": (tiff(FLOATS[..., 0]), grey(FLOATS)),
    "tiff float64": (tiff(FLOATS[..., 0].astype(float)), grey(FLOATS)),
    "array uint8": (RGB8, unit(RGB8)),
    "array uint16": (RGB16, unit(RGB16)),
    "array big-endian": (RGB16.astype(">u2"), unit(RGB16)),
    "array float64": (FLOATS.astype(float), FLOATS),
    "array float16": (FLOATS.astype(np.float16), FLOATS.astype(np.float16).astype(np.float32)),
    "array (H, W)": (FLOATS[..., 0], grey(FLOATS)),
    "array (H, W, 1)": (FLOATS[..., :1], grey(FLOATS)),
    "array (H, W, 4)": (RGBA8, on_white(RGB8, RGB8[..., 1:2])),
    "pil rgb": (Image.fromarray(RGB8), unit(RGB8)),
    "pil 16": (Image.fromarray(RGB16[..., 0]), unit(grey(RGB16))),
    "pil float": (Image.fromarray(FLOATS[..., 0]), grey(FLOATS)),
    "bytearray": (bytearray(pil(RGB8, "RGB", "PNG")), unit(RGB8)),
    "memoryview": (memoryview(pil(RGB8, "RGB", "PNG")), unit(RGB8)),
}


@pytest.mark.parametrize("name", EXACT)
def test_pixels_are_exact(name):
    source, expected = EXACT[name]
    picture = read_image(source)
    assert picture.dtype == np.float32 and picture.shape == (6, 9, 3) and picture.flags.c_contiguous
    np.testing.assert_allclose(picture, expected, rtol=0, atol=1e-7)
    assert picture.min() >= 0 and picture.max() <= 1


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix not in (".jpg", ".jpeg")])
def test_a_path_may_be_text_or_path_and_of_either_case(tmp_path, suffix):
    path = tmp_path / f"Überraschung 1{suffix.upper()}"
    Image.fromarray(RGB8).save(path, lossless=True)
    np.testing.assert_array_equal(read_image(path), unit(RGB8))
    np.testing.assert_array_equal(read_image(str(path)), unit(RGB8))


def test_what_is_returned_is_the_callers_own():
    source = FLOATS.copy()
    read_image(source)[:] = 0
    np.testing.assert_array_equal(source, FLOATS)


def test_16_bits_are_kept_to_the_last():
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for data in (png(ramp, 0), png(np.dstack([ramp] * 3), 2), tiff(ramp), tiff(np.dstack([ramp] * 3))):
        np.testing.assert_array_equal(np.rint(read_image(data)[..., 1] * 65535), ramp)


def test_12_bits_in_a_tiff_reach_white():
    values = np.array([[0, 4095], [1000, 2000]], np.uint16)
    packed = "".join(f"{v:012b}" for v in values.ravel())
    raw = int(packed, 2).to_bytes(6, "big")
    tags = [(256, 3, 2), (257, 3, 2), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 2)]
    tags.append((279, 4, len(raw)))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    data = b"II*\0" + struct.pack("<I", 14) + raw + struct.pack("<H", len(tags)) + entries + bytes(4)
    np.testing.assert_allclose(read_image(data)[..., 0], values / 4095, atol=1e-6)


def test_premultiplied_alpha_is_composited_once():
    alpha = np.full((6, 9, 1), 32768, np.uint16)
    straight = on_white(RGB16, alpha)
    multiplied = np.dstack([np.rint(RGB16 * unit(alpha)).astype(np.uint16), alpha])
    data = tiff(multiplied, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_allclose(read_image(data), straight, atol=2e-5)


def test_palettes_and_their_transparency():
    indexed = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    colours = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 1, 0]]], np.float32)
    for fmt in ("PNG", "BMP", "TIFF"):
        buffer = io.BytesIO()
        indexed.save(buffer, fmt)
        np.testing.assert_array_equal(read_image(buffer.getvalue()), colours)
    buffer = io.BytesIO()
    indexed.save(buffer, "PNG", transparency=1)
    colours[:, 1] = 1
    np.testing.assert_array_equal(read_image(buffer.getvalue()), colours)


def test_jpeg_is_near_and_grey_jpeg_has_equal_channels():
    smooth = cv2.resize(RGB8, (64, 48), interpolation=cv2.INTER_CUBIC)
    assert np.abs(read_image(pil(smooth, "RGB", "JPEG", quality=98, subsampling=0)) - unit(smooth)).mean() < 0.01
    picture = read_image(pil(smooth[..., 0], "L", "JPEG"))
    assert np.ptp(picture, axis=2).max() == 0


INKS = np.zeros((16, 16, 4), np.uint8)
INKS[:8, :, 0], INKS[8:, :, 3], INKS[:, 8:, 1] = 255, 128, 64
PAPER = (1 - unit(INKS[..., :3])) * (1 - unit(INKS[..., 3:]))


@pytest.mark.parametrize("fmt", ["JPEG", "TIFF", "TIFF16"])
def test_cmyk_is_ink(fmt):
    if fmt == "TIFF16":
        data = tiff(INKS.astype(np.uint16) * 257, photometric="separated")
    else:
        buffer = io.BytesIO()
        Image.fromarray(INKS, "CMYK").save(buffer, fmt, **({"quality": 100} if fmt == "JPEG" else {}))
        data = buffer.getvalue()
    if fmt == "JPEG":  # as Adobe's programs write it: marked, and with the inks inverted
        assert b"Adobe" in data and Image.open(io.BytesIO(data)).mode == "CMYK"
    np.testing.assert_allclose(read_image(data), PAPER, atol=0.03)


def test_a_broken_cmyk_profile_is_no_obstacle():
    buffer = io.BytesIO()
    Image.fromarray(INKS, "CMYK").save(buffer, "TIFF", icc_profile=b"no profile")
    np.testing.assert_allclose(read_image(buffer.getvalue()), PAPER, atol=0.005)


def cmyk_profile() -> bytes:
    """A tiny CMYK profile under which black is black and any other ink half-lightness grey, so that its use shows."""
    corners = [(255 if i == 0 else 128 * (1 - i % 2), 128, 128) for i in range(16)]  # L, a, b; i % 2 is black ink
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *[65536 if i % 4 == 0 else 0 for i in range(9)])
    lut += bytes(range(256)) * 4 + bytes(v for corner in corners for v in corner) + bytes(range(256)) * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    text = b"text" + bytes(4) + b"test\0\0\0\0"
    desc = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1)
    blobs = {b"A2B0": lut, b"wtpt": white, b"cprt": text, b"desc": desc}
    table, body, offset = b"", b"", 128 + 4 + 12 * len(blobs)
    for tag, blob in blobs.items():
        blob += bytes(-len(blob) % 4)
        table += tag + struct.pack(">II", offset + len(body), len(blob))
        body += blob
    head = bytearray(128)
    head[0:4] = struct.pack(">I", offset + len(body))
    head[8:12], head[12:16], head[16:20], head[20:24] = b"\x02\x40\0\0", b"prtr", b"CMYK", b"Lab "
    head[36:40], head[68:80] = b"acsp", struct.pack(">3i", 63190, 65536, 54061)
    return bytes(head) + struct.pack(">I", len(blobs)) + table + body


def test_an_embedded_cmyk_profile_is_used():
    profile = cmyk_profile()
    assert ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space == "CMYK"
    inks = np.zeros((4, 4, 4), np.uint8)
    inks[2:, :, 0] = 255
    buffer = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(buffer, "TIFF", icc_profile=profile)
    picture = read_image(buffer.getvalue())
    np.testing.assert_allclose(picture[0, 0], 1, atol=0.02)
    np.testing.assert_allclose(picture[3, 0], 0.467, atol=0.03)  # sRGB of lightness 50; plain cyan would be (0, 1, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "png 16", "tiff 16", "pil"])
def test_exif_orientation_is_applied(kind, orientation):
    turned = {  # what the camera stored, for a scene that is upright
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    if kind.endswith("16"):
        stored, expected = np.ascontiguousarray(turned(RGB16)), unit(RGB16)
        if kind == "tiff 16":
            data = tiff(stored, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        else:
            data = png(stored, 2, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    elif kind == "JPEG":
        scene = cv2.resize(RGB8, (72, 48), interpolation=cv2.INTER_NEAREST)
        stored, expected = np.ascontiguousarray(turned(scene)), unit(scene)
        data = pil(stored, "RGB", "JPEG", exif=exif, quality=100, subsampling=0)
    else:
        stored, expected = np.ascontiguousarray(turned(RGB8)), unit(RGB8)
        options = {"lossless": True} if kind == "WEBP" else {}
        data = pil(stored, "RGB", "PNG" if kind == "pil" else kind, exif=exif, **options)
    picture = read_image(Image.open(io.BytesIO(data)) if kind == "pil" else data)
    assert picture.shape == expected.shape
    np.testing.assert_allclose(picture, expected, atol=0.05 if kind == "JPEG" else 1e-7)


def test_a_phones_jpeg_of_several_pictures_gives_the_first():
    buffer = io.BytesIO()
    flat = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    flat[0].save(buffer, "MPO", save_all=True, append_images=flat[1:])
    assert read_image(buffer.getvalue()).min() > 0.98


DEEP = np.ones((4, 5, 6), np.float32)
BAD_ARRAYS = {
    "nan": (np.where(FLOATS > 0.9, np.nan, FLOATS), "NaN or infinite"),
    "inf": (np.where(FLOATS > 0.9, np.inf, FLOATS), "NaN or infinite"),
    "0..255 floats": (FLOATS * 255, "0..1: divide by 255"),
    "normalised floats": (FLOATS * 4 - 2, r"0\.\.1: rescale with"),
    "two channels": (FLOATS[..., :2], r"\(6, 9, 2\).*1, 3 or 4 channels"),
    "channels first": (FLOATS.transpose(2, 0, 1), r"moveaxis"),
    "batch": (FLOATS[None], r"shape \(1, 6, 9, 3\)"),
    "line": (FLOATS[0, 0], r"shape \(3,\)"),
    "nothing": (FLOATS[:0], r"shape \(0, 9, 3\)"),
    "one pixel": (FLOATS[:1, :1], "1 x 1 pixels"),
    "one row": (FLOATS[:1], "9 x 1 pixels"),
    "int64": (RGB8.astype(np.int64), "int64 pixels; use uint8"),
    "bool": (RGB8 > 9, "bool pixels"),
    "complex": (FLOATS.astype(complex), "complex128 pixels"),
    "text": (np.array([["a"]]), "pixels; use uint8"),
    "tiff of floats": (tiff(FLOATS * 300, photometric="rgb"), "floats from"),
    "tiff with nan": (tiff(np.full((4, 4), np.nan, np.float32)), "16 NaN"),
    "tiff of int16": (tiff(RGB16[..., 0].astype(np.int16)), "int16 pixels"),
    "tiff volume": (tiff(DEEP, photometric="minisblack"), "4 pages"),
    "imagej stack": (tiff(DEEP, imagej=True, metadata={"axes": "ZYX"}), "4 pages"),
    "png of one pixel": (pil(RGB8[:1, :1], "RGB", "PNG"), "1 x 1 pixels"),
    "gif": (pil(RGB8, "P", "GIF"), "use PNG, JPEG, TIFF, BMP or WebP"),
    "web page": (b"<!DOCTYPE html><html></html>", "not a picture that can be read"),
    "no bytes": (b"", "is empty"),
    "bare tiff header": (b"II*\0\x08\0\0\0", "damaged or truncated"),
}


def one_sentence(error: BaseException) -> bool:
    text = str(error)
    return "\n" not in text and text.endswith(".") and len(text) < 300


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_what_cannot_be_a_picture_is_one_sentence(name):
    source, message = BAD_ARRAYS[name]
    with pytest.raises(ValueError, match=message) as caught:
        read_image(source)
    assert one_sentence(caught.value)


TRUNCATABLE = ["png rgb", "png 16 rgb", "png 16 grey", "bmp rgb", "webp rgb", "tiff rgb", "tiff lzw", "tiff 16 lzw"]


@pytest.mark.parametrize("part", [0.5, 0.8])
@pytest.mark.parametrize("name", [*TRUNCATABLE, "tiff 16 rgb", "tiff float rgb", "jpeg"])
def test_a_truncated_file_is_refused(tmp_path, name, part):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = pil(noise, "RGB", "JPEG") if name == "jpeg" else EXACT[name][0]
    path = tmp_path / "half.bin"
    path.write_bytes(data[: math.floor(len(data) * part)])
    with pytest.raises(ValueError, match=r"half\.bin (is damaged or truncated|is not a picture)") as caught:
        read_image(path)
    assert one_sentence(caught.value)


def test_overshoot_of_a_rounding_error_is_clipped():
    picture = read_image(np.full((2, 2), 1 + 1e-7))
    assert picture.max() == 1


@pytest.mark.parametrize("side", [10_000, 60_000])  # Pillow only warns of the first
@pytest.mark.parametrize("kind", ["png", "tiff 16"])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(kind, side):
    if kind == "png":
        data = bytearray(png(RGB16, 2))
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        data = bytearray(tiff(RGB16, photometric="rgb"))
        for tag, size in ((256, 9), (257, 6)):
            at = data.find(struct.pack("<H", tag), 8)
            assert struct.unpack_from("<H", data, at + 8)[0] == size
            struct.pack_into("<HII", data, at + 2, 4, 1, side)
    with pytest.raises(ValueError, match="more than 89 million pixels") as caught:
        read_image(bytes(data))
    assert one_sentence(caught.value)


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png does not exist"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="is a folder, not a picture"):
        read_image(tmp_path)
    (tmp_path / "void.png").touch()
    with pytest.raises(ValueError, match=r"void\.png is empty \(0 bytes\)"):
        read_image(tmp_path / "void.png")
    with pytest.raises(TypeError, match="from a list"):
        read_image([[1, 2], [3, 4]])


def test_list_images_is_natural_and_choosy(tmp_path):
    for name in ("cat10.png", "cat2.PNG", "Cat1.jpg", "b.webp", "10.tif", "9.bmp", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    names = [path.name for path in list_images(tmp_path)]
    assert names == ["9.bmp", "10.tif", "b.webp", "Cat1.jpg", "cat2.PNG", "cat10.png"]
    assert list_images(str(tmp_path)) == list_images(tmp_path)


def test_list_images_says_why_there_is_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no picture \(\.bmp.*\)\.$"):
        list_images(tmp_path)
    (tmp_path / "dogs").mkdir()
    with pytest.raises(FileNotFoundError, match="only the folders dogs; name one of them"):
        list_images(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("picture", [RGB8, RGB8[..., 0], RGB8[..., :1], unit(RGB8), unit(RGB8).astype(float)])
def test_save_and_read_again(tmp_path, suffix, picture):
    path = save_image(tmp_path / "new" / "folder" / f"x{suffix}", picture)
    expected = unit(RGB8) if picture.shape[2:] == (3,) else unit(grey(RGB8))
    np.testing.assert_array_equal(read_image(path), expected)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_saved_files_are_what_they_say(tmp_path):
    assert Image.open(save_image(tmp_path / "x.jpg", RGB8)).format == "JPEG"
    assert Image.open(save_image(tmp_path / "x.tif", RGB8)).info["compression"] == "tiff_lzw"
    saved = Image.open(save_image(tmp_path / "x.png", RGBA8))
    np.testing.assert_array_equal(np.asarray(saved), RGBA8)


def test_encode_keeps_colours_in_place_and_minds_quality():
    red = np.zeros((16, 16, 3), np.float32)
    red[..., 0] = 1
    for kind in ("png", "jpeg", "tiff"):
        np.testing.assert_allclose(read_image(encode(red, kind)), red, atol=0.02)
    noise = RNG.random((64, 64, 3))
    assert len(encode(noise, "jpeg", quality=30)) < len(encode(noise, "jpeg")) < len(encode(noise, "jpeg", quality=99))


@pytest.mark.parametrize(
    ("name", "picture", "message"),
    [
        ("x.gif", RGB8, r"'x\.gif'; end the name in \.png"),
        ("x", RGB8, "end the name"),
        ("x.png", FLOATS * 2, "floats from"),
        ("x.png", FLOATS * np.nan, "NaN"),
        ("x.png", RGB8.astype(int), "int64 pixels"),
        ("x.png", FLOATS[None], "shape"),
        ("x.jpg", RGBA8, "alpha"),
    ],
)
def test_nothing_is_written_when_it_cannot_be_saved(tmp_path, name, picture, message):
    with pytest.raises(ValueError, match=message) as caught:
        save_image(tmp_path / "new" / name, picture)
    assert one_sentence(caught.value) and not list(tmp_path.iterdir())


def test_encode_rounds_to_the_nearest_level():
    assert read_image(encode(np.full((2, 2), 0.999))).min() == 1


def test_encode_refuses_unknown_formats_and_qualities():
    with pytest.raises(ValueError, match="'gif'; use 'png', 'jpeg' or 'tiff'"):
        encode(RGB8, "gif")
    with pytest.raises(ValueError, match="quality is 0; use 1"):
        encode(RGB8, "jpeg", quality=0)


def test_importing_the_room_loads_no_decoder():
    code = "import sys, camhelpers.io.images; print(sorted({'cv2', 'PIL', 'tifffile', 'requests'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
