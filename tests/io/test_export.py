"""Heat on disk, as ImageJ, ITK and nibabel see it."""

import gzip
import tracemalloc

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image, ImageSequence
from pydicom import dcmread

from camhelpers import render
from camhelpers.io import export
from camhelpers.io.volumes import Volume, read_volume

SHAPE, SPACING = (8, 20, 24), (0.25, 0.02, 0.05)
HEAT = np.random.default_rng(1).random(SHAPE, np.float32)


def volume(affine=None, known=True) -> Volume:
    data = np.random.default_rng(0).random(SHAPE, np.float32)
    return Volume(data, SPACING, "eye", (0.0, 1.0), affine, None, {"spacing_known": known})


def test_the_stack_is_what_imagej_wants(tmp_path):
    path = export.write_stack(tmp_path / "h.tiff", export.heat_pages(HEAT), SHAPE, SPACING, description="Heat of ü")
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej and not file.is_bigtiff and len(file.pages) == SHAPE[0]
        page, told = file.pages[3], file.imagej_metadata
        assert page.shape == (20, 24, 3) and page.dtype == np.uint8 and len(page.dataoffsets) == 1
        assert (page.photometric.name, page.compression.name, page.predictor.name) == ("RGB", "LZW", "HORIZONTAL")
        assert (told["unit"], told["slices"], told["Info"]) == ("um", SHAPE[0], "Heat of ü")
        x, y = (np.divide(*file.pages[0].tags[name].value) for name in ("XResolution", "YResolution"))
        assert (told["spacing"], 1 / x, 1 / y) == pytest.approx((250, 50, 20), rel=1e-5)
    export.write_stack(path, export.heat_pages(HEAT), SHAPE, (1, 0.5, 0.5))
    assert read_volume(path).spacing == pytest.approx((1, 0.5, 0.5))
    with tifffile.TiffFile(path) as file:
        assert file.imagej_metadata["unit"] == "mm"


@pytest.mark.parametrize("shape", [SHAPE, (3, 300, 310)])  # a page below and above tifffile's usual strip
def test_every_reader_sees_the_same_pixels(tmp_path, shape):
    heat = np.random.default_rng(1).random(shape, np.float32)
    path = export.write_stack(tmp_path / "h.tiff", export.heat_pages(heat), shape, SPACING)
    whole = render.colour(heat)
    assert (tifffile.imread(path) == whole).all()
    with Image.open(path) as image:
        assert (np.stack([np.asarray(page) for page in ImageSequence.Iterator(image)]) == whole).all()


def test_an_unknown_spacing_is_in_pixels(tmp_path):
    path = export.write_stack(tmp_path / "h.tiff", export.heat_pages(HEAT), SHAPE, None)
    with tifffile.TiffFile(path) as file:
        assert (file.imagej_metadata.get("spacing", 1), file.imagej_metadata["unit"]) == (1, "pixel")
        assert file.pages[0].tags["XResolution"].value == file.pages[0].tags["YResolution"].value == (1, 1)
    assert read_volume(path).source["spacing_known"] is False


@pytest.mark.parametrize("over", [0, 1])
def test_what_imagej_cannot_open_is_a_bigtiff(tmp_path, over, monkeypatch):
    monkeypatch.setattr(export, "IMAGEJ_BYTES", HEAT.size * 3 - over)
    with tifffile.TiffFile(export.write_stack(tmp_path / "h.tiff", export.heat_pages(HEAT), SHAPE, SPACING)) as file:
        told = file.shaped_metadata[0] if over else file.imagej_metadata
        assert file.is_bigtiff == (not file.is_imagej) == bool(over) and (told["spacing"], told["unit"]) == (250, "um")
        assert (file.asarray() == render.colour(HEAT)).all()


def test_the_overlay_is_sixty_of_grey_and_forty_of_jet():
    grey = volume().data
    mixed = np.stack(list(export.overlay_pages(grey, HEAT)))
    exact = 0.6 * 255 * grey[..., None].astype(np.float64) + 0.4 * render.table("jet")[render.index(HEAT)]
    assert np.abs(mixed - exact).max() <= 0.5 + 1e-4
    strong = np.stack(list(export.overlay_pages(grey, HEAT, 1.0, "viridis")))
    assert (strong == render.colour(HEAT, "viridis")).all()


def test_a_long_stack_is_never_held_whole(tmp_path):
    export.write_stack(tmp_path / "h.tiff", np.zeros((4, 8, 8, 3), np.uint8), (4, 8, 8), SPACING)  # imports
    tracemalloc.start()
    pages = (np.full((256, 256, 3), i % 256, np.uint8) for i in range(300))
    export.write_stack(tmp_path / "h.tiff", pages, (300, 256, 256), SPACING)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e7  # 300 pages are 59 MB


# NIfTI


def source(path, codes, oblique=False, qcode=1, scode=2):
    """A NIfTI of an orientation, with a secret in every field that could hold one, and a qform of its own."""
    shape = (9, 7, 5)
    turned = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(codes), shape)
    affine = turned @ np.diag([0.5, 0.75, 2.0, 1])
    if oblique:
        affine = np.array([[0.8, -0.6, 0, 3], [0.6, 0.8, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]]) @ affine
    values = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    image = nibabel.Nifti1Image(values, affine)
    image.set_sform(affine, scode)
    image.set_qform(affine + np.array([[0, 0, 0, 4]] * 3 + [[0] * 4]) * (oblique and scode > 0), qcode)
    image.header.set_xyzt_units("mm", "sec")
    for field in ("descrip", "intent_name", "aux_file", "db_name"):
        image.header[field] = b"SECRET"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"SECRET"))
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(
    ("codes", "options"),
    [
        ("RAS", {}), ("LPS", {}), ("ASR", {}), ("IRP", {}), ("PIL", {"oblique": True}),
        ("LPS", {"scode": 0}), ("LPS", {"qcode": 0}), ("LPS", {"scode": 0, "qcode": 0}),
    ],
)  # fmt: skip
def test_heat_lies_on_the_grid_of_its_source_and_takes_nothing_else_along(tmp_path, codes, options):
    path = source(tmp_path / "eye.nii.gz", codes, **options)
    read = read_volume(path)
    written = export.write_nifti(tmp_path / "heat.nii.gz", read.data, read)  # the volume itself as heat: voxel by voxel
    mine, theirs = sitk.ReadImage(str(written)), sitk.ReadImage(str(path))
    for about in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(mine, about)(), getattr(theirs, about)(), atol=1e-5)
    assert mine.GetPixelIDTypeAsString() == "32-bit float" and mine.GetNumberOfComponentsPerPixel() == 1
    assert np.allclose(sitk.GetArrayFromImage(mine), sitk.GetArrayFromImage(theirs) / 255, atol=1e-6)
    header, was = nibabel.load(written).header, nibabel.load(path).header
    assert all(header[key] == was[key] for key in ("qform_code", "sform_code", "xyzt_units"))
    assert was["sform_code"] == 0 or np.allclose(header.get_sform(), was.get_sform())
    assert was["qform_code"] == 0 or np.allclose(header.get_qform(), was.get_qform())
    assert np.allclose(header.get_zooms(), was.get_zooms())
    assert (header["cal_min"], header["cal_max"]) == (0, 1)
    assert b"SECRET" in gzip.decompress(path.read_bytes())
    data = gzip.decompress(written.read_bytes())
    assert b"SECRET" not in data and len(data) == 352 + read.data.nbytes


@pytest.mark.parametrize("known", [True, False])
def test_without_a_grid_the_spacing_is_what_is_known(tmp_path, known):
    path = export.write_nifti(tmp_path / "heat.nii.gz", HEAT, volume(known=known))
    image, header = sitk.ReadImage(str(path)), nibabel.load(path).header
    assert np.allclose(image.GetSpacing(), SPACING[::-1] if known else (1, 1, 1))
    assert image.GetDirection() == tuple(np.eye(3).ravel()) and (sitk.GetArrayFromImage(image) == HEAT).all()
    assert header.get_xyzt_units()[0] == ("mm" if known else "unknown")
    assert header["sform_code"] == header["qform_code"] == (2 if known else 0)
    assert read_volume(path).source["spacing_known"] is known


def test_the_affine_of_a_scanner_is_kept(tmp_path):
    affine = np.array([[0, 0, 0.25, 7], [0.05, 0, 0, 8], [0, -0.02, 0, 9], [0, 0, 0, 1]])
    found = nibabel.load(export.write_nifti(tmp_path / "heat.nii", HEAT, volume(affine=affine)))
    assert np.allclose(found.affine, affine) and (np.asarray(found.dataobj) == HEAT.T).all()
    assert found.header["sform_code"] == 1


def test_heat_of_a_tilted_gantry_lies_where_the_scanner_was(tmp_path, write_series):
    tilt = np.radians(20)
    way = (1, 0, 0, 0, np.cos(tilt), -np.sin(tilt))
    scan = np.zeros((30, 40, 36), np.uint16)
    scan[4, 10, 8], scan[22, 30, 20], scan[29, 0, 35] = 900, 900, 900
    folder = write_series(tmp_path / "ct", scan, way)
    for path in folder.iterdir():  # the table moves along the patient, not along the normal of the slices
        data = dcmread(path)
        place = (np.array(data.ImagePositionPatient) - (-10, 20, 30)) @ np.cross(way[:3], way[3:]) / 2.5
        data.ImagePositionPatient = [-10, 20, 30 + 3.0 * round(place)]
        data.save_as(path)
    volume = read_volume(folder)
    heat = sitk.ReadImage(export.write_nifti(tmp_path / "heat.nii.gz", (volume.data > 0.5).astype(np.float32), volume))
    direction = np.reshape(heat.GetDirection(), (3, 3))
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-5)
    values = sitk.GetArrayFromImage(heat)
    header = nibabel.load(tmp_path / "heat.nii.gz").header
    np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=1e-4)
    assert values.sum() == pytest.approx(3, rel=1e-3), "nothing is lost"
    for z, y, x in ((4, 10, 8), (22, 30, 20), (29, 0, 35)):
        true = np.array([-10.0, 20, 30 + 3 * z]) + 0.5 * x * np.array(way[:3]) + 0.8 * y * np.array(way[3:])
        near = np.array(heat.TransformPhysicalPointToContinuousIndex(true.tolist()))[::-1]
        box = tuple(slice(max(0, round(n) - 2), round(n) + 3) for n in near)
        places = np.array(np.nonzero(values[box])) + np.array([[part.start] for part in box])
        assert np.average(places, axis=1, weights=values[box][np.nonzero(values[box])]) == pytest.approx(near, abs=0.02)


def test_grey_heat_is_measured_in_imagej(tmp_path):
    path = export.write_stack(tmp_path / "h.tiff", map(render.index, HEAT), SHAPE, SPACING, grey=True)
    with tifffile.TiffFile(path) as file:
        told, pages = file.imagej_metadata, file.asarray()
    assert (told["cf"], told["c0"], told["vunit"], told["unit"]) == (0, 0, "heat", "um")
    np.testing.assert_allclose(told["c0"] + told["c1"] * pages, HEAT, atol=0.002)  # as ImageJ computes it
    with Image.open(path) as image:
        assert image.n_frames == SHAPE[0] and image.mode == "L"
