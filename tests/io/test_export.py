"""Heat on disk, as ImageJ, ITK and nibabel see it."""

import gzip
import itertools
import tracemalloc

import cv2
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image, ImageSequence

from camhelpers import render
from camhelpers.io import export
from camhelpers.io.volumes import Volume, read_volume

SHAPE, SPACING = (8, 20, 24), (0.25, 0.02, 0.05)


def volume(shape=SHAPE, spacing=SPACING, affine=None, known=True) -> Volume:
    data = np.random.default_rng(0).random(shape, np.float32)
    return Volume(data, spacing, "eye", (0.0, 1.0), affine, None, {"spacing_known": known})


@pytest.fixture
def heat():
    return np.random.default_rng(1).random(SHAPE, np.float32)


def test_the_stack_is_what_imagej_wants(tmp_path, heat):
    path = export.write_stack(tmp_path / "h.tiff", export.heat_pages(heat), SHAPE, SPACING, description="Heat of ü")
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej and not file.is_bigtiff and len(file.pages) == SHAPE[0]
        page, told = file.pages[3], file.imagej_metadata
        assert page.shape == (20, 24, 3) and page.dtype == np.uint8 and len(page.dataoffsets) == 1
        assert (page.photometric.name, page.compression.name, page.predictor.name) == ("RGB", "LZW", "HORIZONTAL")
        assert (told["unit"], told["slices"], told["Info"]) == ("um", SHAPE[0], "Heat of ü")
        x, y = (np.divide(*file.pages[0].tags[name].value) for name in ("XResolution", "YResolution"))
        assert (told["spacing"], 1 / x, 1 / y) == pytest.approx((250, 50, 20), rel=1e-5)
    export.write_stack(path, export.heat_pages(heat), SHAPE, (3, 0.5, 0.5))
    assert read_volume(path).spacing == pytest.approx((3, 0.5, 0.5))
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
    read, pages = cv2.imreadmulti(str(path), flags=cv2.IMREAD_COLOR)
    assert read and (np.stack(pages)[..., ::-1] == whole).all()


@pytest.mark.parametrize("big", [False, True])
def test_an_unknown_spacing_is_told_in_pixels(tmp_path, heat, big, monkeypatch):
    if big:
        monkeypatch.setattr(export, "IMAGEJ_BYTES", 0)
    path = export.write_stack(tmp_path / "h.tiff", export.heat_pages(heat), SHAPE, None)
    with tifffile.TiffFile(path) as file:
        told, tags = file.shaped_metadata[0] if big else file.imagej_metadata, file.pages[0].tags
        assert told["unit"] == "pixel" and told.get("spacing", 1) == 1
        assert tags["XResolution"].value == tags["YResolution"].value == (1, 1)
    assert read_volume(path).source["spacing_known"] is False


def test_what_imagej_cannot_open_is_a_bigtiff(tmp_path, heat, monkeypatch):
    monkeypatch.setattr(export, "IMAGEJ_BYTES", heat.size * 3 - 1)
    path = export.write_stack(tmp_path / "h.tiff", export.heat_pages(heat), SHAPE, SPACING)
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff and not file.is_imagej
        assert file.shaped_metadata[0]["spacing"] == 250 and file.shaped_metadata[0]["unit"] == "um"
        assert (file.asarray() == render.colour(heat)).all()
    monkeypatch.setattr(export, "IMAGEJ_BYTES", heat.size * 3)
    assert export.imagej_opens(SHAPE)


def test_the_overlay_is_sixty_of_grey_and_forty_of_jet(heat):
    grey = volume().data
    mixed = np.stack(list(export.overlay_pages(grey, heat)))
    exact = 0.6 * 255 * grey[..., None].astype(np.float64) + 0.4 * render.table("jet")[render.index(heat)]
    assert np.abs(mixed - exact).max() <= 0.5 + 1e-4
    strong = np.stack(list(export.overlay_pages(grey, heat, 1.0, "viridis")))
    assert (strong == render.colour(heat, "viridis")).all()


def test_a_long_stack_needs_no_more_memory_than_a_short_one(tmp_path):
    def peak(count: int) -> int:
        page = np.tile(np.arange(256, dtype=np.uint8)[:, None], (256, 1, 3))
        tracemalloc.start()
        pages = (page + np.uint8(i % 256) for i in range(count))
        export.write_stack(tmp_path / "h.tiff", pages, (count, 256, 256), SPACING)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(4)  # imports
    assert peak(300) < peak(60) + 2e6  # 300 pages are 59 MB


def test_heat_of_another_shape_is_refused(tmp_path, heat):
    for call in (
        lambda: list(export.overlay_pages(volume().data, heat[1:])),
        lambda: export.write_nifti(tmp_path / "h.nii", heat[1:], volume()),
    ):
        with pytest.raises(ValueError, match=r"The volume is \(8, 20, 24\) and the heat \(7, 20, 24\)"):
            call()


# NIfTI


def source(path, codes, oblique=False, qcode=1, scode=2):
    """A NIfTI of an orientation, with a secret in every field that could hold one, and a qform of its own."""
    shape = (9, 7, 5)
    turned = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(codes), shape)
    affine = turned @ np.diag([0.5, 0.75, 2.0, 1])
    if oblique:
        c, s = np.cos(0.3), np.sin(0.3)
        affine = np.array([[c, -s, 0, 3], [s, c, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]]) @ affine
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
    ("codes", "oblique"), [*itertools.product(["RAS", "LPS", "ASR", "PIR", "IRP"], [False]), ("PIL", True)]
)
def test_heat_lies_on_the_grid_of_its_source(tmp_path, codes, oblique):
    path = source(tmp_path / "eye.nii.gz", codes, oblique)
    read = read_volume(path)
    written = export.write_nifti(tmp_path / "heat.nii.gz", read.data, read)  # the volume itself as heat: voxel by voxel
    mine, theirs = sitk.ReadImage(str(written)), sitk.ReadImage(str(path))
    for about in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(mine, about)(), getattr(theirs, about)(), atol=1e-5)
    assert mine.GetPixelIDTypeAsString() == "32-bit float" and mine.GetNumberOfComponentsPerPixel() == 1
    assert np.allclose(sitk.GetArrayFromImage(mine), sitk.GetArrayFromImage(theirs) / 255, atol=1e-6)
    header, was = nibabel.load(written).header, nibabel.load(path).header
    assert all(header[key] == was[key] for key in ("qform_code", "sform_code", "xyzt_units"))
    assert np.allclose(header.get_sform(), was.get_sform()) and np.allclose(header.get_qform(), was.get_qform())
    assert (header["cal_min"], header["cal_max"]) == (0, 1)


def test_nothing_but_geometry_comes_from_the_source(tmp_path):
    read = read_volume(source(tmp_path / "eye.nii.gz", "LAS"))
    assert b"SECRET" in gzip.decompress((tmp_path / "eye.nii.gz").read_bytes())
    data = gzip.decompress(export.write_nifti(tmp_path / "heat.nii.gz", read.data, read).read_bytes())
    assert b"SECRET" not in data and len(data) == 352 + read.data.nbytes


@pytest.mark.parametrize(("scode", "qcode"), [(0, 1), (1, 0), (0, 0)])
def test_codes_stay_as_they_were(tmp_path, scode, qcode):
    read = read_volume(source(tmp_path / "eye.nii", "LPS", scode=scode, qcode=qcode))
    header = nibabel.load(export.write_nifti(tmp_path / "heat.nii", read.data, read)).header
    assert (header["sform_code"], header["qform_code"]) == (scode, qcode)
    assert np.allclose(header.get_zooms(), (0.5, 0.75, 2.0))


@pytest.mark.parametrize("known", [True, False])
def test_without_a_grid_the_spacing_is_what_is_known(tmp_path, heat, known):
    path = export.write_nifti(tmp_path / "heat.nii.gz", heat, volume(known=known))
    image, header = sitk.ReadImage(str(path)), nibabel.load(path).header
    assert np.allclose(image.GetSpacing(), SPACING[::-1] if known else (1, 1, 1))
    assert (sitk.GetArrayFromImage(image) == heat).all()
    assert header.get_xyzt_units()[0] == ("mm" if known else "unknown")
    assert header["sform_code"] == header["qform_code"] == (2 if known else 0)
    assert read_volume(path).source["spacing_known"] is known


def test_the_affine_of_a_scanner_is_kept(tmp_path, heat):
    affine = np.array([[0, 0, 0.25, 7], [0.05, 0, 0, 8], [0, -0.02, 0, 9], [0, 0, 0, 1]])
    found = nibabel.load(export.write_nifti(tmp_path / "heat.nii", heat, volume(affine=affine)))
    assert np.allclose(found.affine, affine) and (np.asarray(found.dataobj) == heat.T).all()
    assert found.header["sform_code"] == 1
