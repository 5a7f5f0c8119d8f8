"""Volumes in: what each format's own writer wrote comes back voxel by voxel."""

import itertools
import json

import nibabel
import numpy as np
import pytest
import tifffile
from nibabel.orientations import apply_orientation, inv_ornt_aff, ornt2axcodes, ornt_transform

from camhelpers.io.volumes import Found, find_volumes, read_volume, safe_name

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (5, 6, 7), dtype=np.uint8)
WORDS = RNG.integers(0, 4096, (5, 6, 7), dtype=np.uint16)
UNIT = (BYTES / 255).astype(np.float32)
FLOATS = RNG.random((5, 6, 7), dtype=np.float32)
COLOUR = RNG.integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
BRIGHTNESS = COLOUR @ [0.299, 0.587, 0.114] / 255


def windowed(values, low, high):
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)


def test_an_array_becomes_a_volume_of_its_own():
    floats = FLOATS.copy()
    read_volume(floats).data[:] = 0
    np.testing.assert_array_equal(floats, FLOATS)
    volume = read_volume(BYTES)
    np.testing.assert_array_equal(volume.data, UNIT)
    assert (volume.name, volume.spacing, volume.window) == ("volume", (1, 1, 1), (0, 255))
    assert volume.source["spacing_known"] is False and volume.affine is volume.grid is volume.source["orientation"]
    others = [BYTES.reshape(7, 6, 5), BYTES.view(np.int8), BYTES[:, :, ::-1], BYTES]
    assert len({json.dumps(read_volume(other).source["sha256"]) for other in others}) == 4
    assert read_volume(volume) is volume
    np.testing.assert_allclose(read_volume(COLOUR).data, BRIGHTNESS, atol=1e-6)


def test_numpy_files(tmp_path):
    np.save(tmp_path / "eye 1.npy", np.asfortranarray(FLOATS))
    volume = read_volume(tmp_path / "eye 1.npy")
    np.testing.assert_array_equal(volume.data, FLOATS)
    assert volume.name == "eye 1" and volume.source["files"] == ["eye 1.npy"] and volume.data.flags.c_contiguous
    for name, arrays in (("one", {"anything": BYTES}), ("named", {"mask": BYTES > 9, "volume": BYTES})):
        np.savez_compressed(tmp_path / f"{name}.npz", **arrays)
        np.testing.assert_array_equal(read_volume(tmp_path / f"{name}.npz").data, UNIT)


CUT = tuple(np.percentile(WORDS, (0.5, 99.5)))


@pytest.mark.parametrize(
    ("values", "given", "window", "rule"),
    [
        (BYTES, None, (0, 255), "8 bits"),
        (BYTES > 99, None, (0, 1), "within 0..1"),
        (FLOATS, None, (0, 1), "within 0..1"),
        (WORDS, None, CUT, "percentiles 0.5 and 99.5"),
        (WORDS - 1000.0, None, (CUT[0] - 1000, CUT[1] - 1000), "percentiles 0.5 and 99.5"),
        (np.where(np.arange(8000).reshape(20, 20, 20) == 77, 500, 0), None, (0, 500), "minimum and maximum"),  # a speck
        (np.full((3, 4, 5), -70), None, (-70, -69), "minimum and maximum"),
        (WORDS, (100, 1000), (100, 1000), "given"),
    ],
)
def test_windows(values, given, window, rule):
    volume = read_volume(values, window=given)
    assert volume.window == pytest.approx(window) and volume.source["window_rule"] == rule
    np.testing.assert_allclose(volume.data, windowed(values, *window), atol=1e-6)


# TIFF


@pytest.mark.parametrize("values", [BYTES, WORDS, FLOATS])
@pytest.mark.parametrize(
    "options",
    [{}, {"bigtiff": True}, {"byteorder": ">"}, {"metadata": None}, {"compression": "lzw"}, {"compression": "zstd"}],
)
def test_tiff(tmp_path, values, options):
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", **options)
    volume = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.data, windowed(values, *volume.window))
    assert volume.source["spacing_known"] is False and volume.source["dtype"] == str(values.dtype)


@pytest.mark.parametrize("unit", ["um", "\\u00B5m", "microns", "mm", "cm", "pixel"])
def test_imagej_spacing(tmp_path, unit):
    calibration = {"resolution": (1 / 3, 1 / 4), "metadata": {"axes": "ZYX", "spacing": 12.0, "unit": unit}}
    tifffile.imwrite(tmp_path / "a.tif", BYTES, imagej=True, **calibration)
    volume, factor = read_volume(tmp_path / "a.tif"), {"mm": 1, "cm": 10}.get(unit, 1e-3)
    known = unit != "pixel"
    assert volume.spacing == pytest.approx((12 * factor, 4 * factor, 3 * factor) if known else (1, 1, 1))
    assert volume.source["spacing_known"] is known and volume.source["format"] == "ImageJ TIFF"


def test_colours_alpha_and_white_is_zero(tmp_path):
    for planar, stored in (("contig", COLOUR), ("separate", np.moveaxis(COLOUR, -1, 1))):
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
        np.testing.assert_allclose(read_volume(tmp_path / "a.tif").data, BRIGHTNESS, atol=1e-6)
    alpha = np.repeat(BYTES[..., None], 4, axis=3)
    tifffile.imwrite(tmp_path / "b.tif", alpha, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_allclose(read_volume(tmp_path / "b.tif").data, UNIT, atol=1e-6)
    tifffile.imwrite(tmp_path / "c.tif", BYTES, photometric="miniswhite")
    volume = read_volume(tmp_path / "c.tif")
    np.testing.assert_allclose(volume.data, 1 - UNIT, atol=1e-6)
    assert volume.window == (255, 0)


@pytest.mark.parametrize("style", [{}, {"imagej": True, "metadata": {"axes": "ZYX"}}, {"compression": "lzw"}])
def test_a_truncated_tiff_is_never_read_as_a_shorter_one(tmp_path, style, caplog):
    big, path = RNG.integers(0, 256, (20, 64, 48), dtype=np.uint8), tmp_path / "a.tif"
    tifffile.imwrite(path, big, photometric="minisblack", **style)
    np.testing.assert_array_equal(read_volume(path).data, windowed(big, 0, 255))
    data = path.read_bytes()
    for part in (0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ValueError, match=r"a\.tif cannot be read"):
            read_volume(path)
    assert not caplog.records  # one sentence, and no noise from the decoder beside it


# NIfTI

AXES, SIGNS = list(itertools.permutations(range(3))), list(itertools.product((1, -1), repeat=3))
ORDERS = [np.array(list(zip(axes, signs, strict=True))) for axes in AXES for signs in SIGNS]
STRAIGHT = np.array([[0.5, 0, 0, -10], [0, 0.8, 0, 20], [0, 0, 2.5, -30], [0, 0, 0, 1]])
OBLIQUE = np.array([[0.8, -0.6, 0, 3], [0.6, 0.8, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]]) @ STRAIGHT


@pytest.mark.parametrize("canonical", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(ornt2axcodes(order)))
def test_every_orientation_there_and_back(tmp_path, order, canonical):
    values, path = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7), tmp_path / "a.nii"  # x, y, z in RAS
    turn = ornt_transform([[0, 1], [1, 1], [2, 1]], order)
    stored, affine = apply_orientation(values, turn), canonical @ inv_ornt_aff(turn, values.shape)
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)
    ras, lps, own = (read_volume(path, window=(0, 209), orientation=name) for name in ("RAS", "LPS", "stored"))
    np.testing.assert_array_equal(ras.data, windowed(values.transpose(), 0, 209))
    np.testing.assert_array_equal(lps.data, ras.data[:, ::-1, ::-1])
    np.testing.assert_array_equal(own.data, windowed(stored, 0, 209).transpose())
    assert ras.source["orientation"] == "RAS" and lps.source["orientation"] == "LPS"
    assert ras.spacing == pytest.approx((2.5, 0.8, 0.5), rel=1e-5)
    np.testing.assert_allclose(ras.affine, canonical, atol=1e-4)
    np.testing.assert_allclose(own.affine, affine, atol=1e-4)
    np.testing.assert_allclose(lps.affine @ [1, 4, 4, 1], canonical @ [3, 1, 4, 1], atol=1e-3)
    for volume in (ras, lps, own):
        np.testing.assert_array_equal(volume.grid.restore(volume.data), windowed(stored, 0, 209))


def test_scl_slope_a_single_time_and_micrometres(tmp_path):
    image = nibabel.Nifti1Image(WORDS[..., None].astype(np.int16), STRAIGHT)
    image.header.set_slope_inter(2, -50)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii", window=(0, 4000), orientation="RAS")
    np.testing.assert_array_equal(volume.data, windowed(WORDS.transpose() * 2.0 - 50, 0, 4000))
    assert volume.source["dtype"] == "int16" and volume.spacing == pytest.approx((0.0025, 0.0008, 0.0005))
    assert volume.affine[:3, 3] == pytest.approx((-0.01, 0.02, -0.03))
    given = read_volume(tmp_path / "a.nii", spacing=[5, 1.6, 0.25], orientation="RAS")
    assert given.spacing == (5.0, 1.6, 0.25) and given.source["spacing_known"] is True
    np.testing.assert_allclose(given.affine[:3, :3], np.diag([0.25, 1.6, 5]), atol=1e-6)


@pytest.mark.parametrize("zooms", [(0.5, 0.8, 2.5), (1, 1, 1)])
def test_what_states_no_orientation_stays_as_stored(tmp_path, zooms):
    image = nibabel.Nifti1Image(BYTES, None)
    image.header.set_zooms(zooms)
    nibabel.save(image, tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image(BYTES, np.eye(4)), tmp_path / "b.nii")  # the bare identity says nothing either
    for name in "ab":
        np.testing.assert_array_equal(read_volume(tmp_path / f"{name}.nii").data, UNIT.transpose())
    volume = read_volume(tmp_path / "a.nii")
    assert volume.affine is None and volume.spacing == pytest.approx(zooms[::-1])
    assert volume.source["spacing_known"] is (zooms != (1, 1, 1))


# Names and folders


def test_harmless_names_are_kept_or_made_so():
    for name in ("Auge links, übel", "x" * 120):
        assert safe_name(name) == name
    found = [safe_name(name) for name in ("u\u0308", "a:b*c?", ".hidden", " spaced. ")]
    assert found == ["ü", "a_b_c_", "_.hidden", "spaced"]


@pytest.mark.parametrize(
    "text", ["", ".", "..", "../a", "a/b", "/etc/x", "a\\b", "a..b", "a\0b", "a\nb", "a\u202eb", "\udcff", "ä" * 61]
)
def test_names_that_could_leave_or_mislead_are_refused(text):
    with pytest.raises(ValueError, match=r"^The name ") as caught:
        safe_name(text)
    assert str(caught.value).isprintable()


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, BYTES) if name.endswith(".npy") else (folder / name).write_text("x")


def test_a_file_a_folder_of_files_and_a_tree_of_classes(tmp_path):
    put(tmp_path / "flat", "eye10.npy", "eye2.npy", "notes.txt", ".hidden.npy")
    put(tmp_path / "tree", "normal/eye10.npy", "normal/eye2.npy", "drusen/eye2.npy", "README.md", "empty/notes.txt")
    put(tmp_path / "tree", "CAMVis/session_1/x_raw.npy", "CAMVis/y.npy")  # our own results are no class
    flat, tree = tmp_path / "flat", tmp_path / "tree"
    assert find_volumes(flat / "eye2.npy") == [Found(flat / "eye2.npy", "eye2", None)]
    assert [(one.name, one.label) for one in find_volumes(flat)] == [("eye2", None), ("eye10", None)]
    assert find_volumes(str(tree)) == [
        Found(tree / "drusen" / "eye2.npy", "eye2", "drusen"),
        Found(tree / "normal" / "eye2.npy", "eye2", "normal"),
        Found(tree / "normal" / "eye10.npy", "eye10", "normal"),
    ]
