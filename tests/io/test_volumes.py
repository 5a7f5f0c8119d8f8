"""Volumes in: what each format's own writer wrote comes back voxel by voxel, every fault in one sentence."""

import gzip
import itertools
import json
import pickle
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from nibabel.orientations import inv_ornt_aff, ornt2axcodes
from PIL import Image

from camhelpers.files import ROOT
from camhelpers.io.volumes import Found, find_volumes, read_volume, safe_name

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (5, 6, 7), dtype=np.uint8)
WORDS = RNG.integers(0, 4096, (5, 6, 7), dtype=np.uint16)
UNIT = (BYTES / 255).astype(np.float32)
FLOATS = RNG.random((5, 6, 7), dtype=np.float32)


def windowed(values, low, high):
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)


# Arrays and NumPy files


def test_an_array_becomes_a_volume():
    volume = read_volume(BYTES)
    np.testing.assert_array_equal(volume.data, UNIT)
    assert volume.data.dtype == np.float32 and volume.data.flags.c_contiguous
    assert (volume.name, volume.spacing, volume.window) == ("volume", (1, 1, 1), (0, 255))
    assert volume.affine is volume.grid is None
    assert volume.source["spacing_known"] is False and volume.source["shape"] == [5, 6, 7]
    assert len(volume.source["sha256"]) == 64
    json.dumps(volume.source)


def test_the_source_is_not_changed_and_not_shared():
    floats = FLOATS.copy()
    read_volume(floats).data[:] = 0
    np.testing.assert_array_equal(floats, FLOATS)


def test_a_volume_that_is_read_already_stays_itself():
    volume = read_volume(BYTES)
    assert read_volume(volume) is volume
    with pytest.raises(ValueError, match="read already"):
        read_volume(volume, spacing=(1, 1, 1))


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, order):
    np.save(tmp_path / "eye 1.npy", np.asarray(FLOATS, order=order))
    volume = read_volume(tmp_path / "eye 1.npy")
    np.testing.assert_array_equal(volume.data, FLOATS)
    assert volume.name == "eye 1" and volume.source["files"] == ["eye 1.npy"] and volume.data.flags.c_contiguous


def test_the_checksum_of_an_array_knows_its_shape_and_type():
    whole = np.zeros((4, 6, 8), np.uint8)
    others = [whole, whole.reshape(8, 6, 4), whole.view(np.int8), whole.view(np.uint16), whole[:, :, ::-1] + 1]
    assert len({read_volume(other).source["sha256"] for other in others}) == 5
    assert read_volume(whole.copy("F")).source["sha256"] == read_volume(whole).source["sha256"]


def test_npz_by_being_alone_or_by_name(tmp_path):
    np.savez(tmp_path / "one.npz", anything=BYTES)
    np.savez_compressed(tmp_path / "named.npz", mask=BYTES > 9, volume=BYTES)
    for name in ("one", "named"):
        np.testing.assert_array_equal(read_volume(tmp_path / f"{name}.npz").data, UNIT)
    np.savez(tmp_path / "two.npz", a=BYTES, b=BYTES)
    with pytest.raises(ValueError, match=r"holds 2 arrays \(a, b\); keep one"):
        read_volume(tmp_path / "two.npz")


# Windows


@pytest.mark.parametrize(
    ("values", "window", "rule"),
    [
        (BYTES, (0, 255), "8 bits"),
        (BYTES > 99, (0, 1), "truth values"),
        (FLOATS, (0, 1), "floats in 0..1"),
        (WORDS, tuple(np.percentile(WORDS, (0.5, 99.5))), "percentiles 0.5 and 99.5"),
        (FLOATS * 3000 - 1000, tuple(np.percentile(FLOATS * 3000 - 1000, (0.5, 99.5))), "percentiles 0.5 and 99.5"),
        (BYTES.astype(np.int64) * 10**7, tuple(np.percentile(BYTES * 1e7, (0.5, 99.5))), "percentiles 0.5 and 99.5"),
    ],
)
def test_the_window_nobody_asked_for(values, window, rule):
    volume = read_volume(values)
    assert volume.window == pytest.approx(window) and volume.source["window_rule"] == rule
    np.testing.assert_allclose(volume.data, windowed(values, *window), atol=1e-6)


def test_a_given_window():
    volume = read_volume(WORDS, window=(100, 1000))
    np.testing.assert_array_equal(volume.data, windowed(WORDS, 100, 1000))
    assert volume.window == (100, 1000) and volume.source["window_rule"] == "given"


@pytest.mark.parametrize("value", [0, -70, 4e9])
def test_a_constant_volume_is_all_zeros(value):
    assert not read_volume(np.full((3, 4, 5), value, np.float64)).data.any()


def test_a_speck_in_the_dark_is_not_lost():
    values = np.zeros((20, 20, 20))
    values[3, 4, 5] = 500
    assert read_volume(values).data[3, 4, 5] == 1


def test_colour_becomes_its_brightness():
    colour = RNG.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    np.testing.assert_allclose(read_volume(colour).data, colour @ [0.299, 0.587, 0.114] / 255, atol=1e-6)
    np.testing.assert_allclose(read_volume(np.repeat(BYTES[..., None], 3, 3)).data, UNIT, atol=1e-6)


# TIFF


@pytest.mark.parametrize("values", [BYTES, WORDS, FLOATS])
@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"metadata": None}, {"tile": (16, 16)}])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "lzma"])
def test_tiff(tmp_path, values, options, compression):
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", compression=compression, **options)
    volume = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.data, windowed(values, *volume.window))
    assert volume.source["spacing_known"] is False and volume.source["dtype"] == str(values.dtype)


def test_tiff_written_by_pillow(tmp_path):
    first, *others = (Image.fromarray(page) for page in BYTES)
    first.save(tmp_path / "a.TIFF", save_all=True, append_images=others, compression="tiff_lzw")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.TIFF").data, UNIT)


@pytest.mark.parametrize(
    ("unit", "factor"), [("um", 1e-3), ("\\u00B5m", 1e-3), ("micron", 1e-3), ("microns", 1e-3), ("mm", 1), ("cm", 10)]
)
def test_imagej_spacing(tmp_path, unit, factor):
    tifffile.imwrite(
        tmp_path / "a.tif",
        BYTES,
        imagej=True,
        resolution=(1 / 3, 1 / 4),
        metadata={"axes": "ZYX", "spacing": 12.0, "unit": unit},
    )
    volume = read_volume(tmp_path / "a.tif")
    assert volume.spacing == pytest.approx((12 * factor, 4 * factor, 3 * factor))
    assert volume.source["spacing_known"] is True and volume.source["format"] == "ImageJ TIFF"


def test_a_spacing_in_pixels_is_none(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", BYTES, imagej=True, metadata={"axes": "ZYX", "spacing": 3, "unit": "pixel"})
    assert read_volume(tmp_path / "a.tif").source["spacing_known"] is False


@pytest.mark.parametrize("unit", [{"unit": "um"}, {}])
def test_an_imagej_spacing_of_zero_is_refused(tmp_path, unit):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, BYTES, imagej=True, metadata={"axes": "ZYX", "spacing": 0, **unit})
    with pytest.raises(ValueError, match=r"a\.tif states a spacing of 0; give the right one with spacing="):
        read_volume(path)
    assert read_volume(path, spacing=(3, 2, 1)).spacing == (3, 2, 1)


@pytest.mark.parametrize("axis", "ZYX")
def test_an_ome_spacing_of_zero_is_refused_and_a_missing_one_unknown(tmp_path, axis):
    sizes = {"PhysicalSizeX": 3.0, "PhysicalSizeY": 4.0, "PhysicalSizeZ": 12.0}
    for name, size in (("zero", {f"PhysicalSize{axis}": 0.0}), ("missing", {f"PhysicalSize{axis}": None})):
        own = {key: value for key, value in (sizes | size).items() if value is not None}
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", WORDS, metadata={"axes": "ZYX", **own})
    with pytest.raises(ValueError, match="states a spacing of 0"):
        read_volume(tmp_path / "zero.ome.tif")
    volume = read_volume(tmp_path / "missing.ome.tif")
    assert volume.source["spacing_known"] is False and volume.spacing == (1, 1, 1)


def test_ome_spacing(tmp_path):
    sizes = {"PhysicalSizeX": 3.0, "PhysicalSizeY": 4.0, "PhysicalSizeZ": 12.0}
    units = {f"{axis}Unit": "\u00b5m" for axis in sizes}
    tifffile.imwrite(tmp_path / "a.ome.tif", WORDS, metadata={"axes": "ZYX", **sizes, **units})
    volume = read_volume(tmp_path / "a.ome.tif")
    assert volume.spacing == pytest.approx((0.012, 0.004, 0.003)) and volume.name == "a.ome"


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_an_rgb_stack_turns_grey(tmp_path, planar):
    colour = RNG.integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
    stored = colour if planar == "contig" else np.moveaxis(colour, -1, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    np.testing.assert_allclose(read_volume(tmp_path / "a.tif").data, colour @ [0.299, 0.587, 0.114] / 255, atol=1e-6)


def test_alpha_is_left_out(tmp_path):
    colour = np.repeat(BYTES[..., None], 4, axis=3)
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_allclose(read_volume(tmp_path / "a.tif").data, UNIT, atol=1e-6)


def test_white_is_zero_is_turned_round(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", BYTES, photometric="miniswhite")
    volume = read_volume(tmp_path / "a.tif")
    np.testing.assert_allclose(volume.data, 1 - UNIT, atol=1e-6)
    assert volume.window == (255, 0)


@pytest.mark.parametrize(
    ("axes", "shape"), [("TZYX", (2, 5, 6, 7)), ("ZCYX", (5, 2, 6, 7)), ("TYX", (5, 6, 7)), ("CYX", (5, 6, 7))]
)
def test_a_hyperstack_is_refused_with_its_axes(tmp_path, axes, shape):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), imagej=True, metadata={"axes": axes})
    with pytest.raises(ValueError, match=rf"has the axes {axes} \({axes[0]} {shape[0]}, .*keep one channel"):
        read_volume(tmp_path / "a.tif")


def test_a_tiff_of_one_page_or_of_several_sizes(tmp_path):
    tifffile.imwrite(tmp_path / "one.tif", BYTES[0])
    with pytest.raises(ValueError, match="holds one page of 7 x 6; a volume has at least 2 slices"):
        read_volume(tmp_path / "one.tif")
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as file:
        file.write(np.zeros((6, 7), np.uint8))
        file.write(np.zeros((8, 9), np.uint8))
    with pytest.raises(ValueError, match=r"pages of different sizes \(7 x 6, 9 x 8\)"):
        read_volume(tmp_path / "mixed.tif")


def test_palette_colours_are_refused(tmp_path):
    table = RNG.integers(0, 65536, (3, 256), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", BYTES, photometric="palette", colormap=table)
    with pytest.raises(ValueError, match="palette colours; save it as grey or RGB"):
        read_volume(tmp_path / "a.tif")


def whole_tiffs(folder):
    big = RNG.integers(0, 256, (20, 64, 48), dtype=np.uint8)
    styles = [{}, {"imagej": True, "metadata": {"axes": "ZYX"}}, {"compression": "lzw"}, {"metadata": None}]
    for number, style in enumerate(styles):
        tifffile.imwrite(folder / f"{number}.tif", big, photometric="minisblack", **style)
    first, *others = (Image.fromarray(page) for page in big)
    first.save(folder / "pillow.tif", save_all=True, append_images=others)
    return big, sorted(folder.glob("*.tif"))


def test_a_truncated_tiff_is_never_read_as_a_shorter_one(tmp_path, caplog):
    big, paths = whole_tiffs(tmp_path)
    assert len(paths) == 5
    for path in paths:
        data = path.read_bytes()
        np.testing.assert_array_equal(read_volume(path).data, windowed(big, 0, 255))
        for share in (0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
            path.write_bytes(data[: int(len(data) * share)])
            with pytest.raises(ValueError, match="is damaged or truncated"):
                read_volume(path)
    assert not caplog.records  # one sentence, and no noise from the decoder beside it


# NIfTI

ORDERS = [
    np.array(list(zip(axes, flips, strict=True)))
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
STRAIGHT = np.array([[0.5, 0, 0, -10], [0, 0.8, 0, 20], [0, 0, 2.5, -30], [0, 0, 0, 1]])


def turned(degrees):
    """The straight affine, turned about two axes."""
    a, b = np.radians(degrees), np.radians(degrees / 2)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = STRAIGHT.copy()
    affine[:3, :3] = about_z @ about_x @ affine[:3, :3]
    return affine


@pytest.mark.parametrize("degrees", [0, 17], ids=["straight", "oblique"])
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(ornt2axcodes(order)))
def test_every_orientation_there_and_back(tmp_path, order, degrees):
    canonical = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)  # x, y, z in RAS
    stored = nibabel.orientations.apply_orientation(
        canonical, nibabel.orientations.ornt_transform(np.c_[np.arange(3), np.ones(3)], order)
    )
    affine = turned(degrees) @ inv_ornt_aff(
        nibabel.orientations.ornt_transform(np.c_[np.arange(3), np.ones(3)], order), canonical.shape
    )
    nibabel.save(nibabel.Nifti1Image(stored, affine), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz", window=(0, 209), orientation="RAS")
    np.testing.assert_array_equal(volume.data, windowed(canonical.transpose(), 0, 209))
    np.testing.assert_allclose(volume.affine, turned(degrees), atol=1e-4)
    assert volume.spacing == pytest.approx((2.5, 0.8, 0.5), rel=1e-5) and volume.source["orientation"] == "RAS"
    np.testing.assert_array_equal(volume.grid.restore(volume.data), windowed(stored, 0, 209))
    np.testing.assert_allclose(volume.grid.affine, affine, atol=1e-4)

    heat = np.zeros_like(volume.data)  # a marker set in our order keeps its place in the world
    heat[4, 1, 3] = 1
    (index,) = np.argwhere(volume.grid.restore(heat))
    np.testing.assert_allclose(volume.grid.affine @ [*index, 1], volume.affine @ [3, 1, 4, 1], atol=1e-3)

    left = read_volume(tmp_path / "a.nii.gz", window=(0, 209))  # LPS, unless asked otherwise
    np.testing.assert_array_equal(left.data, volume.data[:, ::-1, ::-1])
    np.testing.assert_allclose(left.affine @ [5 - 1 - 3, 6 - 1 - 1, 4, 1], volume.affine @ [3, 1, 4, 1], atol=1e-3)
    as_is = read_volume(tmp_path / "a.nii.gz", window=(0, 209), orientation="stored")
    np.testing.assert_array_equal(as_is.data, windowed(stored, 0, 209).transpose())
    np.testing.assert_allclose(as_is.affine, affine, atol=1e-4)
    for other in (left, as_is):
        np.testing.assert_array_equal(other.grid.restore(other.data), windowed(stored, 0, 209))


def test_a_bare_identity_states_no_orientation_and_nonsense_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(BYTES, np.eye(4)), tmp_path / "a.nii")
    for orientation in ("LPS", "RAS", "stored"):
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nii", orientation=orientation).data, UNIT.transpose())
    with pytest.raises(ValueError, match="orientation 'SPL'; choose from LPS, RAS, stored"):
        read_volume(tmp_path / "a.nii", orientation="SPL")


def test_nifti_written_by_simpleitk(tmp_path):
    image = SimpleITK.GetImageFromArray(WORDS)
    image.SetSpacing((0.5, 0.8, 2.5))
    image.SetOrigin((10, 20, 30))
    SimpleITK.WriteImage(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii", window=(0, 4095))
    np.testing.assert_array_equal(volume.data, windowed(WORDS, 0, 4095))  # ITK's own order is ours
    assert volume.spacing == pytest.approx((2.5, 0.8, 0.5))
    z, y, x = 1, 2, 3
    world = np.array(image.TransformIndexToPhysicalPoint((x, y, z))) * (-1, -1, 1)
    np.testing.assert_allclose((volume.affine @ [x, y, z, 1])[:3], world, atol=1e-4)


def save_nifti(path, values, affine=STRAIGHT, **fields):
    image = nibabel.Nifti1Image(values, affine)
    if "units" in fields:
        image.header.set_xyzt_units(fields["units"])
    if "slope" in fields:
        image.header.set_slope_inter(*fields["slope"])
    nibabel.save(image, path)
    return path


def test_scl_slope_and_time(tmp_path):
    path, stored = tmp_path / "a.nii.gz", WORDS[..., None].astype(np.int16)
    save_nifti(path, stored, slope=(2, -50))
    volume = read_volume(path, window=(0, 4000), orientation="RAS")
    np.testing.assert_array_equal(volume.data, windowed(WORDS.transpose() * 2.0 - 50, 0, 4000))
    assert volume.source["dtype"] == "int16" and volume.grid.shape == (5, 6, 7)
    save_nifti(path, np.zeros((5, 6, 7, 3), np.uint8))
    with pytest.raises(ValueError, match=r"has the shape \(5, 6, 7, 3\); .*one time point"):
        read_volume(path)


def test_micrometres(tmp_path):
    volume = read_volume(save_nifti(tmp_path / "a.nii", BYTES, units="micron"), orientation="RAS")
    assert volume.spacing == pytest.approx((0.0025, 0.0008, 0.0005))
    assert volume.affine[:3, 3] == pytest.approx((-0.01, 0.02, -0.03))
    assert volume.grid.units[0] == "micron" and volume.grid.affine[0, 0] == pytest.approx(0.5)


def test_codes_and_a_differing_qform_are_remembered(tmp_path):
    image = nibabel.Nifti1Image(BYTES, STRAIGHT)
    image.set_sform(turned(17), 4)
    image.set_qform(STRAIGHT, 1)
    nibabel.save(image, tmp_path / "a.nii")
    grid = read_volume(tmp_path / "a.nii").grid
    assert (grid.sform_code, grid.qform_code) == (4, 1)
    np.testing.assert_allclose(grid.affine, turned(17), atol=1e-5)
    np.testing.assert_allclose(grid.qform, STRAIGHT, atol=1e-5)


def test_without_a_code_the_file_states_no_orientation(tmp_path):
    image = nibabel.Nifti1Image(BYTES, None)
    image.header.set_zooms((0.5, 0.8, 2.5))
    nibabel.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.data, UNIT.transpose())
    assert volume.affine is None and volume.spacing == pytest.approx((2.5, 0.8, 0.5))
    np.testing.assert_array_equal(volume.grid.restore(volume.data), UNIT)


def test_colour_nifti(tmp_path):
    colour = np.zeros((5, 6, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in "RGB":
        colour[name] = BYTES
    volume = read_volume(save_nifti(tmp_path / "a.nii", colour), orientation="stored")
    np.testing.assert_allclose(volume.data, UNIT.transpose(), atol=1e-6)


def test_a_map_of_another_size_is_not_put_on_the_grid(tmp_path):
    grid = read_volume(save_nifti(tmp_path / "a.nii", BYTES)).grid
    with pytest.raises(ValueError, match="resample it first"):
        grid.restore(np.zeros((3, 3, 3), np.float32))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy", "a.npz"])
def test_truncated_files(tmp_path, name):
    path, values = tmp_path / name, RNG.integers(0, 256, (20, 30, 40), dtype=np.uint8)
    if ".nii" in name:
        save_nifti(path, values)
    else:
        (np.save if name == "a.npy" else np.savez)(path, values)
    data = path.read_bytes()
    for share in (0.002, 0.2, 0.6, 0.95):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ValueError, match=rf"{name} is damaged or truncated .*; copy or download it again"):
            read_volume(path)


def test_not_what_the_ending_says(tmp_path):
    for name in ("a.npy", "a.npz", "a.tif", "a.nii", "a.nii.gz"):
        (tmp_path / name).write_text("no volume at all, only words, though more than a few of them")
        with pytest.raises(ValueError, match=r"is damaged or truncated|holds Python objects"):
            read_volume(tmp_path / name)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"words"))
    with pytest.raises(ValueError, match="is damaged or truncated"):
        read_volume(tmp_path / "b.nii.gz")


def test_a_voxel_without_size(tmp_path):
    image = nibabel.Nifti1Image(BYTES, STRAIGHT)
    image.set_sform(STRAIGHT, 1)
    nibabel.save(image, tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[312:328] = bytes(16)  # the sform's last row: every voxel in one plane
    (tmp_path / "a.nii").write_bytes(data)
    with pytest.raises(ValueError, match="gives its voxels no size"):
        read_volume(tmp_path / "a.nii")


# Bad input


class Trap:
    def __reduce__(self):
        return (print, ("run",))


def test_python_objects_are_never_unpickled(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.array([Trap()] * 8, object).reshape(2, 2, 2), allow_pickle=True)
    np.savez(tmp_path / "b.npz", np.array([Trap()] * 8, object).reshape(2, 2, 2), allow_pickle=True)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npy", "b.npz", "c.npy"):
        with pytest.raises(ValueError, match="holds Python objects; a volume holds numbers"):
            read_volume(tmp_path / name)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.zeros((6, 7)), r"has the shape \(6, 7\); a volume is \(Z, Y, X\)"),
        (np.zeros((1, 6, 7)), r"has the shape \(1, 6, 7\); a volume has at least 2 slices, rows and columns"),
        (np.zeros((5, 6, 1)), "at least 2 slices, rows and columns"),
        (np.zeros((0, 6, 7)), "at least 2 slices"),
        (np.zeros((2,) * 8), r"shape \(2, 2, 2, 2, 2, 2, 2, 2\); a volume is \(Z, Y, X\)"),
        (np.zeros((1, 1, 5, 6, 7)), "axes of length 1 with np.squeeze"),
        (np.zeros((5, 6, 7, 4)), r"\(Z, Y, X, 3\) in colour"),
        (np.zeros((5, 6, 7), complex), "holds complex128 values"),
        (np.zeros((5, 6, 7), object), "holds object values"),
        (np.where(BYTES < 9, np.nan, 1.0), f"has {np.sum(BYTES < 9)} NaN or infinite values"),
        (np.where(BYTES < 9, np.inf, 1.0), f"has {np.sum(BYTES < 9)} NaN or infinite values"),
    ],
)
def test_arrays_that_are_no_volume(values, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        read_volume(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spacing", [(0, 1, 1), (1, -1, 1), (1, 1), (1, 1, 1, 1), 3, "abc", (1, np.nan, 1), (1, 1, np.inf)]
)
def test_bad_spacings(spacing):
    with pytest.raises(ValueError, match=r"use three numbers above 0, in mm: \(z, y, x\)"):
        read_volume(BYTES, spacing=spacing)


@pytest.mark.parametrize("window", [(5, 5), (9, 1), (0,), (0, 1, 2), "ab", 7, (0, np.inf), (np.nan, 1)])
def test_bad_windows(window):
    with pytest.raises(ValueError, match=r"use two numbers, \(low, high\)"):
        read_volume(BYTES, window=window)


def test_a_given_spacing_overrides_the_file_and_its_affine(tmp_path):
    volume = read_volume(save_nifti(tmp_path / "a.nii", BYTES), spacing=[5, 1.6, 0.25], orientation="RAS")
    assert volume.spacing == (5.0, 1.6, 0.25) and volume.source["spacing_known"] is True
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([0.25, 1.6, 5]), atol=1e-6)
    assert volume.affine[:3, 3] == pytest.approx(STRAIGHT[:3, 3])


def test_places_where_no_volume_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.npy does not exist; check the name, which counts from"):
        read_volume(tmp_path / "missing.npy")
    (tmp_path / "void.nii").touch()
    with pytest.raises(ValueError, match=r"is empty \(0 bytes\)"):
        read_volume(tmp_path / "void.nii")
    (tmp_path / "a.mp3").write_text("la la la")
    with pytest.raises(ValueError, match=r"is no volume that can be read; use \.npy"):
        read_volume(tmp_path / "a.mp3")
    with pytest.raises(TypeError, match="from a list; give a path or a NumPy array"):
        read_volume([1, 2])
    np.save(tmp_path / "a.npy", BYTES)
    with pytest.raises(ValueError, match="series chooses a DICOM series"):
        read_volume(tmp_path / "a.npy", series=1)


# Names and folders


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("eye_12", "eye_12"),
        ("Auge links, übel", "Auge links, übel"),
        ("u\u0308", "\u00fc"),
        ("a:b*c?", "a_b_c_"),
        (".hidden", "_.hidden"),
        ("con", "_con"),
        ("nul.txt", "_nul.txt"),
        (" spaced. ", "spaced"),
        ("x" * 120, "x" * 120),
    ],
)
def test_harmless_names_are_kept_or_made_so(text, name):
    assert safe_name(text) == name == safe_name(name)


@pytest.mark.parametrize(
    "text",
    ["", " ", ".", "..", "../a", "a/b", "/etc/x", "a\\b", "a..b", "a\0b", "a\nb", "a\u202eb", "\udcff", "ä" * 61],
)
def test_names_that_could_leave_or_mislead_are_refused(text):
    with pytest.raises(ValueError, match=r"^The name ") as caught:
        safe_name(text)
    assert str(caught.value).isprintable()


def test_a_name_is_text():
    with pytest.raises(TypeError, match="A name is text, not int"):
        safe_name(3)


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, BYTES) if name.endswith(".npy") else (folder / name).write_text("x")


def test_a_file_a_folder_of_files_and_a_tree_of_classes(tmp_path):
    put(tmp_path / "flat", "eye10.npy", "eye2.npy", "notes.txt", ".hidden.npy")
    put(tmp_path / "tree", "normal/eye10.npy", "normal/eye2.npy", "drusen/eye2.npy", "README.md", "empty/notes.txt")
    flat, tree = tmp_path / "flat", tmp_path / "tree"
    assert find_volumes(flat / "eye2.npy") == [Found(flat / "eye2.npy", "eye2", None)]
    assert [(one.name, one.label) for one in find_volumes(flat)] == [("eye2", None), ("eye10", None)]
    assert find_volumes(str(tree)) == [
        Found(tree / "drusen" / "eye2.npy", "eye2", "drusen"),
        Found(tree / "normal" / "eye2.npy", "eye2", "normal"),
        Found(tree / "normal" / "eye10.npy", "eye10", "normal"),
    ]


def test_two_volumes_of_one_name_are_refused(tmp_path):
    put(tmp_path, "normal/eye.npy", "normal/Eye.tif")
    with pytest.raises(ValueError, match=r"holds (Eye\.tif|eye\.npy) and .*, two volumes of one name; rename one"):
        find_volumes(tmp_path)


def test_folders_without_a_volume_or_with_too_many_kinds(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no volume; use"):
        find_volumes(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_volumes(tmp_path / "missing")
    put(tmp_path, "stray.npy", "normal/eye.npy")
    with pytest.raises(ValueError, match=r"volumes \(stray\.npy\) beside class folders \(normal\)"):
        find_volumes(tmp_path)


def test_a_single_file_of_another_kind_is_refused(tmp_path):
    put(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match=r"notes\.txt is no volume that can be read; use \.npy, .* or DICOM\.$"):
        find_volumes(tmp_path / "notes.txt")


def test_volumes_too_deep_are_not_passed_over(tmp_path):
    put(tmp_path, "normal/a.npy", "fluid/p1/b.npy")
    with pytest.raises(ValueError, match=r"^fluid/p1/b\.npy lies too deep; use DIR/CLASS/VOLUME\.$"):
        find_volumes(tmp_path)
    put(tmp_path, "fluid/c.npy")
    with pytest.warns(UserWarning, match=r"^Left out: fluid/p1/b\.npy lies too deep"):
        assert [one.name for one in find_volumes(tmp_path)] == ["c", "a"]


def test_our_own_results_are_no_class(tmp_path, recwarn):
    put(tmp_path, "normal/a.npy", "fluid/b.npy")
    put(tmp_path, "CAMVis/session_1/x_raw.npy", "results/volumes/CAMVis/session_1/heatmaps/x_raw.npy")
    assert [(one.label, one.name) for one in find_volumes(tmp_path)] == [("fluid", "b"), ("normal", "a")]
    assert not recwarn


# What it costs


def test_reading_costs_little_beside_the_result(tmp_path):
    path = tmp_path / "cube.tif"
    tifffile.imwrite(path, RNG.integers(0, 256, (192, 256, 256), dtype=np.uint8), compression="lzw")
    code = (
        "import resource, sys, numpy, tifffile, imagecodecs, camhelpers.io.volumes as v\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "volume = v.read_volume(sys.argv[1])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, volume.data.nbytes // 1024)"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=ROOT)
    grown, result = map(int, run.stdout.split())
    assert grown < 3 * result


def test_the_room_is_light_to_import():
    code = "import sys, camhelpers.io.volumes; print([n for n in ('nibabel', 'pydicom', 'tifffile') if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"
