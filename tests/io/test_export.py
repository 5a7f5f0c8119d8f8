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
from camhelpers.io import export as stacks
from camhelpers.io.volumes import Volume, read_volume

SHAPE, SPACING = (8, 20, 24), (0.25, 0.02, 0.05)
CODES = ["RAS", "LPS", "ASR", "PIR", "SLA", "IRP"]


def volume(shape=SHAPE, spacing=SPACING, affine=None, known=True) -> Volume:
    data = np.random.default_rng(0).random(shape, np.float32)
    return Volume(data, spacing, "eye", (0.0, 1.0), affine, None, {"spacing_known": known})


@pytest.fixture
def heat():
    return np.random.default_rng(1).random(SHAPE, np.float32)


# TIFF -----------------------------------------------------------------------------------------------------------------


def test_the_stack_is_what_imagej_wants(tmp_path, heat):
    path = stacks.write_stack(tmp_path / "h.tiff", stacks.heat_pages(heat), SHAPE, SPACING, description="Heat of ü")
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej and not file.is_bigtiff and len(file.pages) == SHAPE[0]
        for page in file.pages:
            assert page.shape == (20, 24, 3) and page.dtype == np.uint8
            assert page.photometric == tifffile.PHOTOMETRIC.RGB
            assert page.compression == tifffile.COMPRESSION.LZW
            assert page.predictor == tifffile.PREDICTOR.HORIZONTAL
        told = file.imagej_metadata
        assert told["unit"] == "um" and told["spacing"] == pytest.approx(250) and told["slices"] == SHAPE[0]
        assert told["Info"] == "Heat of ü"
        resolution = file.pages[0].tags
        x, y = (np.divide(*resolution[name].value) for name in ("XResolution", "YResolution"))
        assert 1 / x == pytest.approx(50, rel=1e-5) and 1 / y == pytest.approx(20, rel=1e-5)


@pytest.mark.parametrize("shape", [SHAPE, (3, 300, 310)])  # a page below and above tifffile's usual strip
def test_every_reader_sees_the_same_pixels(tmp_path, shape):
    heat = np.random.default_rng(1).random(shape, np.float32)
    path = stacks.write_stack(tmp_path / "h.tiff", stacks.heat_pages(heat), shape, SPACING)
    whole = render.table("jet")[render.index(heat)]
    assert (tifffile.imread(path) == whole).all()
    with Image.open(path) as image:
        assert image.n_frames == shape[0] and image.mode == "RGB"
        assert all(
            (np.asarray(page) == own).all() for page, own in zip(ImageSequence.Iterator(image), whole, strict=True)
        )
    read, pages = cv2.imreadmulti(str(path), flags=cv2.IMREAD_COLOR)
    assert read and (np.stack(pages)[..., ::-1] == whole).all()


def test_wide_spacing_is_in_millimetres(tmp_path, heat):
    path = stacks.write_stack(tmp_path / "h.tiff", stacks.heat_pages(heat), SHAPE, (3, 0.5, 0.5))
    with tifffile.TiffFile(path) as file:
        assert file.imagej_metadata["unit"] == "mm" and file.imagej_metadata["spacing"] == 3


@pytest.mark.parametrize("big", [False, True])
def test_an_unknown_spacing_is_told_in_pixels(tmp_path, heat, big, monkeypatch):
    if big:
        monkeypatch.setattr(stacks, "IMAGEJ_BYTES", 0)
    path = stacks.write_stack(tmp_path / "h.tiff", stacks.heat_pages(heat), SHAPE, None)
    with tifffile.TiffFile(path) as file:
        told, tags = file.shaped_metadata[0] if big else file.imagej_metadata, file.pages[0].tags
        assert told["unit"] == "pixel" and told.get("spacing", 1) == 1
        assert tags["XResolution"].value == tags["YResolution"].value == (1, 1)
    assert read_volume(path).source["spacing_known"] is False


def test_what_imagej_cannot_open_is_a_bigtiff(tmp_path, heat, monkeypatch):
    monkeypatch.setattr(stacks, "IMAGEJ_BYTES", heat.size * 3 - 1)
    path = stacks.write_stack(tmp_path / "h.tiff", stacks.heat_pages(heat), SHAPE, SPACING)
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff and not file.is_imagej
        assert file.shaped_metadata[0]["spacing"] == 250 and file.shaped_metadata[0]["unit"] == "um"
        assert (file.asarray() == render.colour(heat)).all()


def test_the_overlay_is_sixty_of_grey_and_forty_of_jet(heat):
    grey = volume().data
    mixed = np.stack(list(stacks.overlay_pages(grey, heat)))
    exact = 0.6 * 255 * grey[..., None].astype(np.float64) + 0.4 * render.table("jet")[render.index(heat)]
    assert np.abs(mixed - exact).max() <= 0.5 + 1e-4
    assert (mixed == render.overlay(np.repeat(grey[..., None], 3, axis=-1), heat)).all()
    strong = np.stack(list(stacks.overlay_pages(grey, heat, 1.0, "viridis")))
    assert (strong == render.colour(heat, "viridis")).all()


def test_a_long_stack_needs_no_more_memory_than_a_short_one(tmp_path):
    def peak(count: int) -> int:
        page = np.tile(np.arange(256, dtype=np.uint8)[:, None], (256, 1, 3))
        tracemalloc.start()
        stacks.write_stack(
            tmp_path / "h.tiff", (page + np.uint8(i % 256) for i in range(count)), (count, 256, 256), SPACING
        )
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(4)  # imports
    assert peak(500) < peak(100) + 2e6  # 500 pages are 98 MB


@pytest.mark.parametrize(
    ("pages", "says"),
    [
        (np.zeros((7, 20, 24, 3), np.uint8), "The stack was to have 8 pages, and 7 came."),
        (np.zeros((8, 20, 23, 3), np.uint8), r"Page 1 is uint8 \(20, 23, 3\); the stack takes uint8 \(20, 24, 3\)."),
        (np.zeros((8, 20, 24, 3)), r"Page 1 is float64 \(20, 24, 3\)"),
    ],
)
def test_wrong_pages_leave_no_file(tmp_path, pages, says):
    with pytest.raises(ValueError, match=says):
        stacks.write_stack(tmp_path / "h.tiff", iter(pages), SHAPE, SPACING)
    assert list(tmp_path.iterdir()) == []


def test_heat_of_another_shape_is_refused(tmp_path, heat):
    for call in (
        lambda: list(stacks.overlay_pages(volume().data, heat[1:])),
        lambda: stacks.write_nifti(tmp_path / "h.nii", heat[1:], volume()),
    ):
        with pytest.raises(ValueError, match=r"The volume is \(8, 20, 24\) and the heat \(7, 20, 24\)"):
            call()


# NIfTI ----------------------------------------------------------------------------------------------------------------


def source(path, codes, oblique=False, qcode=1, scode=2):
    """A NIfTI of an orientation, with a secret in every field that could hold one."""
    shape, zooms = (9, 7, 5), (0.5, 0.75, 2.0)
    affine = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(codes), shape) @ np.diag([*zooms, 1])
    if oblique:
        c, s = np.cos(0.3), np.sin(0.3)
        affine = np.array([[c, -s, 0, 3], [s, c, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]]) @ affine
    values = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    image = nibabel.Nifti1Image(values, affine)
    image.set_sform(affine, scode)
    image.set_qform(affine, qcode)
    image.header.set_xyzt_units("mm", "sec")
    for field in ("descrip", "intent_name", "aux_file", "db_name"):
        image.header[field] = b"SECRET"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"SECRET"))
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(("codes", "oblique"), [*itertools.product(CODES, [False]), ("RAS", True), ("PIL", True)])
def test_heat_lies_on_the_grid_of_its_source(tmp_path, codes, oblique):
    path = source(tmp_path / "eye.nii.gz", codes, oblique)
    read = read_volume(path)
    written = stacks.write_nifti(tmp_path / "heat.nii.gz", read.data, read)  # the volume itself as heat: voxel by voxel
    mine, theirs = sitk.ReadImage(str(written)), sitk.ReadImage(str(path))
    for about in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(mine, about)(), getattr(theirs, about)(), atol=1e-5)
    assert mine.GetPixelIDTypeAsString() == "32-bit float" and mine.GetNumberOfComponentsPerPixel() == 1
    assert np.allclose(sitk.GetArrayFromImage(mine), sitk.GetArrayFromImage(theirs) / 255, atol=1e-6)
    header, was = nibabel.load(written).header, nibabel.load(path).header
    for key in ("qform_code", "sform_code", "xyzt_units"):
        assert header[key] == was[key]
    assert np.allclose(header.get_sform(), was.get_sform()) and np.allclose(header.get_qform(), was.get_qform())


def test_nothing_but_geometry_comes_from_the_source(tmp_path):
    read = read_volume(source(tmp_path / "eye.nii.gz", "LAS"))
    assert b"SECRET" in gzip.decompress((tmp_path / "eye.nii.gz").read_bytes())
    written = stacks.write_nifti(tmp_path / "heat.nii.gz", read.data, read)
    data = gzip.decompress(written.read_bytes())
    assert b"SECRET" not in data and len(data) == 352 + read.data.nbytes
    header = nibabel.load(written).header
    assert all(not header[field].item().strip() for field in ("descrip", "intent_name", "aux_file", "db_name"))


@pytest.mark.parametrize(("scode", "qcode"), [(0, 1), (1, 0), (0, 0)])
def test_codes_stay_as_they_were(tmp_path, scode, qcode):
    read = read_volume(source(tmp_path / "eye.nii", "LPS", scode=scode, qcode=qcode))
    header = nibabel.load(stacks.write_nifti(tmp_path / "heat.nii", read.data, read)).header
    assert (header["sform_code"], header["qform_code"]) == (scode, qcode)
    assert np.allclose(header.get_zooms(), (0.5, 0.75, 2.0))


def test_without_a_grid_the_spacing_is_what_is_known(tmp_path, heat):
    image = sitk.ReadImage(str(stacks.write_nifti(tmp_path / "heat.nii.gz", heat, volume())))
    assert np.allclose(image.GetSpacing(), SPACING[::-1])
    assert (sitk.GetArrayFromImage(image) == heat).all()


def test_an_unknown_spacing_claims_no_millimetres(tmp_path, heat):
    path = stacks.write_nifti(tmp_path / "heat.nii.gz", heat, volume(known=False))
    header = nibabel.load(path).header
    assert header.get_xyzt_units() == ("unknown", "unknown")
    assert header["sform_code"] == header["qform_code"] == 0 and header.get_zooms() == (1, 1, 1)
    image = sitk.ReadImage(str(path))
    assert image.GetSpacing() == (1, 1, 1) and (sitk.GetArrayFromImage(image) == heat).all()
    assert read_volume(path).source["spacing_known"] is False


def test_the_affine_of_a_scanner_is_kept(tmp_path, heat):
    affine = np.array([[0, 0, 0.25, 7], [0.05, 0, 0, 8], [0, -0.02, 0, 9], [0, 0, 0, 1]])
    found = nibabel.load(stacks.write_nifti(tmp_path / "heat.nii", heat, volume(affine=affine)))
    assert np.allclose(found.affine, affine) and (np.asarray(found.dataobj) == heat.T).all()


def test_the_same_heat_is_the_same_bytes(tmp_path, heat):
    def write(folder):
        stacks.write_stack(folder / "a.tiff", stacks.overlay_pages(volume().data, heat), SHAPE, SPACING)
        stacks.write_nifti(folder / "a.nii.gz", heat, volume())
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert len(first) == 2 and first == second
