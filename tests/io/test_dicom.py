"""DICOM series made here, read as SimpleITK and pydicom read them."""

import json

import imagecodecs
import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_windowing
from pydicom.uid import JPEG2000Lossless, MediaStorageDirectoryStorage

from camhelpers.io.volumes import find_volumes, read_volume

RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 4096, (6, 8, 9), dtype=np.uint16)
BYTES = RNG.integers(0, 256, (6, 8, 9), dtype=np.uint8)
UNIT = (BYTES / 255).astype(np.float32)
RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "Rows": 8, "Columns": 9}
WAYS = {"LPS": [1, 0, 0, 0, 1, 0], "PIR": [0, 1, 0, 0, 0, -1], "oblique": [0.8, 0.6, 0, -0.36, 0.48, 0.8]}


def dataset(**fields):
    data = Dataset()
    for keyword, value in fields.items():
        setattr(data, keyword, [dataset(**value)] if isinstance(value, dict) else value)
    return data


@pytest.fixture
def multiframe(write_series):
    """An OPT cube as ophthalmic devices write them: one file, a functional group for each B-scan."""

    def write(folder, order=range(6), **fields):
        shared = dataset(
            PixelMeasuresSequence={"PixelSpacing": [0.004, 0.012], "SpacingBetweenSlices": 0.03},
            PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
            PixelValueTransformationSequence={"RescaleSlope": 0.5, "RescaleIntercept": 10},
            FrameVOILUTSequence={"WindowCenter": 1000, "WindowWidth": 2001},
        )
        frames = [dataset(PlanePositionSequence={"ImagePositionPatient": [0, round(0.03 * i, 4), 0]}) for i in order]
        fields |= {"PerFrameFunctionalGroupsSequence": frames} if frames else {}
        empty = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
        fields = {"Modality": "OPT", "NumberOfFrames": 6, "SharedFunctionalGroupsSequence": [shared], **empty, **fields}
        write_series(folder, [WORDS], **fields)
        return next(folder.iterdir()).rename(folder / "cube.dcm")

    return write


@pytest.mark.parametrize("way", WAYS)
def test_a_series_is_what_simpleitk_reads(tmp_path, write_series, way):
    folder = write_series(tmp_path / "eye 1", WORDS, WAYS[way], RescaleSlope=2, RescaleIntercept=-1024)
    (folder / "notes.txt").write_text("not an image")
    write_series(tmp_path / "report", WORDS[:1], SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22", Rows=None)
    next((tmp_path / "report").iterdir()).rename(folder / "report.dcm")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    volume = read_volume(folder, window=(-1024, 7166))
    np.testing.assert_allclose(volume.data, (SimpleITK.GetArrayFromImage(image) + 1024.0) / 8190, atol=1e-6)
    assert volume.spacing == pytest.approx((2.5, 0.8, 0.5)) and volume.name == "eye 1" and volume.grid is None
    assert way in (volume.source["orientation"], "oblique")
    for index in ((0, 0, 0), (3, 2, 1), (8, 7, 5)):
        point = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)  # LPS there, RAS here
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], point, atol=1e-4)
    next(folder.glob("IM*")).rename(folder / "0.dcm")  # the checksum follows the slices and not their names
    assert read_volume(folder).source["sha256"] == volume.source["sha256"]
    source = json.dumps(volume.source)
    assert "Nobody" not in source and "patient" not in source and len(volume.source["files"]) == 6


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({"WindowCenter": [2000, 5], "WindowWidth": [1001, 9]}, (1499.5, 2499.5)),
        ({"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "LINEAR_EXACT"}, (750, 1250)),
    ],
)
def test_the_files_own_window_is_applied_as_pydicom_does(tmp_path, write_series, fields, window):
    folder = write_series(tmp_path, WORDS, **fields)
    volume = read_volume(folder)
    assert volume.window == pytest.approx(window) and volume.source["window_rule"] == "the file's window"
    assert read_volume(folder, window=(0, 10)).window == (0, 10)
    for path in folder.iterdir():
        data = dcmread(path)
        page = round((data.ImagePositionPatient[2] - 30) / 2.5)
        np.testing.assert_allclose(volume.data[page], apply_windowing(data.pixel_array, data) / 65535, atol=1e-3)


@pytest.mark.parametrize("fields", [{}, {"WindowCenter": 100, "WindowWidth": 101}])
def test_monochrome1_is_turned_round_and_no_spacing_is_made_up(tmp_path, write_series, fields):
    dark = read_volume(write_series(tmp_path / "1", BYTES, PhotometricInterpretation="MONOCHROME1", **fields))
    light = read_volume(write_series(tmp_path / "2", BYTES, RescaleSlope=1, RescaleIntercept=0, **fields))
    np.testing.assert_allclose(dark.data, 1 - light.data, atol=1e-6)
    assert dark.window == light.window[::-1] and dark.source["inverted"] is True
    assert fields or np.array_equal(light.data, UNIT)
    unsized = read_volume(write_series(tmp_path / "3", BYTES, PixelSpacing=None))
    assert unsized.source["spacing_known"] is False and unsized.affine is None and unsized.spacing == (1, 1, 1)


def test_a_modality_table_and_colours(tmp_path, write_series):
    squares = (np.arange(256, dtype="<u2") ** 2).tobytes()
    table = dataset(LUTDescriptor=[256, 0, 16], ModalityLUTType="US", LUTData=squares)
    table["LUTData"].VR = "OW"
    volume = read_volume(write_series(tmp_path / "lut", BYTES, ModalityLUTSequence=[table]), window=(0, 65025))
    np.testing.assert_allclose(volume.data, UNIT**2, atol=1e-6)
    colour = RNG.integers(0, 256, (4, 8, 9, 3), dtype=np.uint8)
    volume = read_volume(write_series(tmp_path / "rgb", colour, **RGB))
    np.testing.assert_allclose(volume.data, colour @ [0.299, 0.587, 0.114] / 255, atol=1e-6)


@pytest.mark.parametrize("gone", [1, 3])
@pytest.mark.parametrize("gap", [2.5, 0.03, 0.004])
def test_a_missing_slice_is_refused_at_its_place_and_rounding_is_not(tmp_path, write_series, gone, gap):
    with pytest.raises(ValueError, match=rf"uneven gaps .* mm between slices {gone} and {gone + 1},.*missing"):
        read_volume(write_series(tmp_path / "gone", WORDS, places=np.delete(np.arange(7) * gap, gone)))
    places = np.arange(6) * gap
    places[[1, 4]] += 0.004 * gap
    assert read_volume(write_series(tmp_path / "near", WORDS, places=places)).spacing[0] == pytest.approx(gap)


def test_series_orientations_and_sizes_are_kept_apart_and_can_be_chosen(tmp_path, write_series):
    write_series(tmp_path, WORDS[:3], uid="1.2.3", SeriesDescription="thick")
    nearly = [1, 0.0004, 0, -0.0004, 1, 0]  # directions that differ by rounding are one series
    write_series(tmp_path, WORDS[3:], nearly, uid="1.2.3", places=[7.5, 10, 12.5], SeriesDescription="thick")
    write_series(tmp_path, WORDS[:4], uid="1.2.4", SeriesDescription="thin")
    listed = r"holds 2 series; choose one .*1: thick \(6 slices of 9 x 8, 16 bits\), 1\.2\.3; 2: thin \(4 slices"
    with pytest.raises(ValueError, match=listed):
        read_volume(tmp_path)
    assert len(read_volume(tmp_path, series=1).data) == len(read_volume(tmp_path, series="1.2.3").data) == 6
    assert len(read_volume(tmp_path, series="2").data) == len(read_volume(tmp_path, series="1.2.4").data) == 4
    write_series(tmp_path, WORDS[:2], WAYS["PIR"], uid="1.2.4")
    write_series(tmp_path, WORDS[:3, :5], uid="1.2.4")
    write_series(tmp_path, BYTES[:5], uid="1.2.4")
    with pytest.raises(ValueError, match="holds 4 series"):
        read_volume(tmp_path, series="1.2.4")
    assert sorted(len(read_volume(tmp_path, series=number).data) for number in range(1, 6)) == [2, 3, 4, 5, 6]


def test_a_multiframe_cube(tmp_path, multiframe):
    path = multiframe(tmp_path / "a", order=[5, 3, 4, 0, 1, 2], PixelSpacing=[9, 9])  # what is said of frames prevails
    volume = read_volume(path)
    expected = np.clip((WORDS[[3, 4, 5, 1, 2, 0]] * 0.5 + 10.5) / 2000, 0, 1)
    np.testing.assert_allclose(volume.data, expected, atol=1e-6)
    assert volume.spacing == pytest.approx((0.03, 0.004, 0.012)) and volume.window == (-0.5, 1999.5)
    affine = [[-0.012, 0, 0, 0], [0, 0, -0.03, 0], [0, -0.004, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, affine, atol=1e-9)
    assert volume.name == "cube" and volume.source["files"] == ["cube.dcm"] and volume.source["modality"] == "OPT"
    np.testing.assert_array_equal(read_volume(tmp_path / "a").data, volume.data)  # its folder does as well


def test_frames_without_positions_keep_their_order_and_clips_are_refused(tmp_path, multiframe):
    volume = read_volume(multiframe(tmp_path / "a", order=()), window=(10, 2057.5))
    np.testing.assert_allclose(volume.data, WORDS / 4095, atol=1e-6)
    assert volume.spacing == pytest.approx((0.03, 0.004, 0.012)) and volume.affine is None
    with pytest.raises(ValueError, match=r"not state where its slices lie.*a clip over time"):
        read_volume(multiframe(tmp_path / "b", order=(), FrameTime=33))


def test_slices_without_positions_go_by_their_numbers(tmp_path, write_series):
    volume = read_volume(write_series(tmp_path, BYTES, ImagePositionPatient=None, SliceThickness=2))
    np.testing.assert_allclose(volume.data, BYTES[::-1] / np.float32(255), atol=1e-6)
    assert volume.spacing == (2, 0.8, 0.5) and volume.affine is None


def test_a_compressed_series(tmp_path, write_series, monkeypatch):
    for path in write_series(tmp_path, BYTES).iterdir():
        data = dcmread(path)
        coded = imagecodecs.jpeg2k_encode(data.pixel_array, codecformat="j2k", reversible=True)
        data.PixelData, data.file_meta.TransferSyntaxUID = encapsulate([coded]), JPEG2000Lossless
        data["PixelData"].VR = "OB"
        data.save_as(path)
    np.testing.assert_array_equal(read_volume(tmp_path).data, UNIT)
    monkeypatch.setattr("pydicom.pixels.decoders.JPEG2000LosslessDecoder._available", {})
    with pytest.raises(ValueError, match=r"cannot be read .*JPEG 2000.*pylibjpeg-openjpeg"):
        read_volume(tmp_path)


def test_a_truncated_slice(tmp_path, write_series):
    folder = write_series(tmp_path, WORDS)
    path = sorted(folder.iterdir())[3]
    data = path.read_bytes()
    for length in range(133, len(data), 41):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=rf"{path.name} cannot be read|cannot be read .{path.name}.*allow"):
            read_volume(folder)
    assert [one.path for one in find_volumes(tmp_path)] == [tmp_path]  # so that it is read and the fault reported


def test_series_cubes_and_strays_in_a_tree_of_classes(tmp_path, write_series, multiframe):
    for stem in ("eye 10", "eye 2"):
        write_series(tmp_path / "normal" / stem, WORDS)
    multiframe(tmp_path / "fluid")
    (tmp_path / "fluid" / "cut.dcm").write_bytes(bytes(128) + b"DICM")
    np.save(tmp_path / "fluid" / "b.npy", BYTES)
    write_series(tmp_path / "fluid", WORDS[:1])  # such as the photograph that comes with a cube
    with pytest.warns(UserWarning, match=r"fluid: IM.*dcm \(single DICOM images\)") as told:
        found = find_volumes(tmp_path)
    names = [*(("fluid", name) for name in ("b", "cube", "cut")), ("normal", "eye 2"), ("normal", "eye 10")]
    assert [(one.label, one.name) for one in found] == names and len(told) == 1
    assert [read_volume(one.path).data.shape for one in found if one.name in ("cube", "eye 2")] == [(6, 8, 9)] * 2
    write_series(tmp_path / "fluid", WORDS)  # a whole series among volumes is no volume of its own either
    with pytest.warns(UserWarning, match="give a series a folder of its own"):
        assert [one.name for one in find_volumes(tmp_path / "fluid")] == ["b", "cube", "cut"]


def test_an_interrupted_copy_is_named_and_taken_only_where_that_is_allowed(tmp_path, write_series):
    folder = write_series(tmp_path / "cut", np.arange(40 * 6, dtype=np.uint16).reshape(40, 2, 3))
    by_place = sorted(folder.iterdir(), key=lambda path: float(dcmread(path).ImagePositionPatient[2]))
    for path in by_place[25:]:
        path.write_bytes(bytes(path.stat().st_size))  # what a copy leaves that reserved its space first
    (folder / "notes.txt").write_text("not an image")
    with pytest.raises(ValueError, match=r"is incomplete: 15 files cannot be read \(IM.*--allow-incomplete") as caught:
        read_volume(folder)
    assert all(path.name in str(caught.value) for path in by_place[25:]) and "notes" not in str(caught.value)
    volume = read_volume(folder, allow_incomplete=True)
    assert len(volume.data) == 25 and by_place[30].name in volume.source["left_out"][0]


@pytest.mark.parametrize(
    ("fields", "gone", "says"),
    [({"ImagesInAcquisition": 6}, [4, 5], "6 images are announced and 4 are there"),
     ({"NumberOfSlices": 8}, [], "8 images are announced and 6 are there"), ({}, [2], "numbers 4 are missing")],
)  # fmt: skip
def test_images_that_the_others_announce_are_missed(tmp_path, write_series, fields, gone, says):
    folder = write_series(tmp_path / "series", WORDS, **fields)
    for path in [path for path in folder.iterdir() if 6 - dcmread(path).InstanceNumber in gone]:
        path.unlink()
    with pytest.raises(ValueError, match=f"is incomplete: .*{says}"):
        read_volume(folder)
    if gone != [2]:
        assert says in read_volume(folder, allow_incomplete=True).source["left_out"][0]


def test_rounded_positions_are_read_with_a_stated_tolerance(tmp_path, write_series):
    places = np.round(np.arange(6) * 0.625, 1)
    folder = write_series(tmp_path / "rounded", WORDS, places=places)
    with pytest.raises(ValueError, match=r"raise the tolerance of 0.01 mm with gap_tolerance \(--gap-tolerance\)"):
        read_volume(folder)
    assert read_volume(folder, gap_tolerance=0.1).spacing[0] == pytest.approx(0.62)


@pytest.mark.parametrize(
    "fields", [{"GridFrameOffsetVector": [0.0, 3, 6, 9, 12, 15]}, {"SpacingBetweenSlices": 3}]
)
def test_one_position_for_all_frames_and_their_offsets(tmp_path, write_series, fields):
    folder = write_series(tmp_path, [WORDS], NumberOfFrames=6, **fields)
    volume = read_volume(next(folder.iterdir()))
    assert volume.spacing == (3, 0.8, 0.5) and volume.source["orientation"] == "LPS"
    np.testing.assert_allclose(volume.affine @ [0, 0, 5, 1], [10, -20, 45, 1])


def test_a_tree_of_any_depth_and_every_series_of_a_folder(tmp_path, write_series):
    for place in ("DICOM/PAT7/STUDY1/SER1", "DICOM/PAT7/STUDY1/SER2", "DICOM/PAT8/ONE"):
        write_series(tmp_path / place, WORDS)
    write_series(tmp_path / "DICOM/PAT8/ONE", WORDS[:4] + 1)  # a second series in the same folder
    directory = write_series(tmp_path / "d", WORDS[:1], SOPClassUID=MediaStorageDirectoryStorage, Rows=None)
    next(directory.iterdir()).rename(tmp_path / "DICOMDIR")
    names = ["DICOM_PAT7_STUDY1_SER1", "DICOM_PAT7_STUDY1_SER2", "DICOM_PAT8_ONE"]
    for source in (tmp_path, tmp_path / "DICOMDIR"):
        assert [(one.name, one.label) for one in find_volumes(source)] == [(name, None) for name in names]
    with pytest.raises(ValueError, match=r"holds 2 series; choose one with series \(--series number, or all\)"):
        read_volume(tmp_path / "DICOM/PAT8/ONE")
    every = find_volumes(tmp_path, "all")
    assert [one.name for one in every] == [*names[:2], "DICOM_PAT8_ONE_1", "DICOM_PAT8_ONE_2"]
    assert {len(read_volume(one.path, series=one.series).data) for one in every[2:]} == {4, 6}
