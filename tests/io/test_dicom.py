"""DICOM series made here, read as SimpleITK reads them; every series that is no volume refused in one sentence."""

import json

import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    OphthalmicTomographyImageStorage,
    RLELossless,
    generate_uid,
)

from camhelpers.io.dicom import is_dicom, is_series, read_series
from camhelpers.io.volumes import find_volumes, read_volume

RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 4096, (6, 8, 9), dtype=np.uint16)
BYTES = RNG.integers(0, 256, (6, 8, 9), dtype=np.uint8)
AXIAL = [1, 0, 0, 0, 1, 0]
SAGITTAL = [0, 1, 0, 0, 0, -1]
OBLIQUE = [0.8, 0.6, 0, -0.36, 0.48, 0.8]


def base(pixels, uid, syntax=ExplicitVRLittleEndian, **fields):
    """A DICOM image with what every one of them states."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.StudyInstanceUID = uid, generate_uid()
    data.Modality, data.PatientName, data.PatientID = "CT", "Nobody^Anyhow", "patient 7"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    return data


def write_series(folder, volume=WORDS, way=AXIAL, gap=2.5, places=None, suffix=".dcm", uid=None, **fields):
    """Slices along their normal, under names that say nothing about their order."""
    folder.mkdir(parents=True, exist_ok=True)
    normal, uid = np.cross(way[:3], way[3:]), uid or generate_uid()
    names = RNG.permutation(1000)[: len(volume)]
    places = [index * gap for index in range(len(volume))] if places is None else places
    for index, (page, place) in enumerate(zip(volume, places, strict=True)):
        data = base(page, uid, **{"ImageOrientationPatient": way, "PixelSpacing": [0.8, 0.5], **fields})
        data.ImagePositionPatient = (np.array([-10.0, 20, 30]) + place * normal).tolist()
        data.InstanceNumber = len(volume) - index  # counts the other way, as some scanners do
        data.save_as(folder / f"IM{names[index]:04d}-{data.SOPInstanceUID[-6:]}{suffix}", enforce_file_format=True)
    return folder


def by_simpleitk(folder):
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def assert_same_place(volume, image):
    """Our affine (RAS) and SimpleITK's geometry (LPS) put voxels at the same points."""
    for index in ((0, 0, 0), (3, 2, 1), (8, 7, 5)):
        point = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], point, atol=1e-4)


@pytest.mark.parametrize("suffix", [".dcm", ""])
@pytest.mark.parametrize(
    ("way", "codes"), [(AXIAL, "LPS"), (SAGITTAL, "PIR"), (OBLIQUE, None)], ids=["axial", "sagittal", "oblique"]
)
def test_a_series_is_what_simpleitk_reads(tmp_path, way, codes, suffix):
    folder = write_series(tmp_path / "eye 1", WORDS, way, suffix=suffix, RescaleSlope=2, RescaleIntercept=-1024)
    (folder / "notes.txt").write_text("not an image")
    report = base(WORDS[0], generate_uid(), Modality="SR")
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = EnhancedSRStorage
    del report.Rows, report.Columns, report.PixelData
    report.save_as(folder / "report", enforce_file_format=True)
    image = by_simpleitk(folder)
    volume = read_volume(folder, window=(-1024, 7166))
    np.testing.assert_allclose(volume.data, (SimpleITK.GetArrayFromImage(image) + 1024.0) / 8190, atol=1e-6)
    assert volume.spacing == pytest.approx((2.5, 0.8, 0.5)) and volume.name == "eye 1" and volume.grid is None
    assert codes is None or codes == volume.source["orientation"]
    assert_same_place(volume, image)
    assert volume.spacing[::-1] == pytest.approx(image.GetSpacing())


def test_a_series_written_by_simpleitk(tmp_path):
    image = SimpleITK.GetImageFromArray(WORDS.astype(np.int16) - 1000)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    uid = generate_uid()
    for index in range(6):
        page = image[:, :, index]
        page.SetSpacing((0.5, 0.8))
        page.SetMetaData("0020|000e", uid)
        page.SetMetaData("0020|0037", "1\\0\\0\\0\\1\\0")
        page.SetMetaData("0020|0032", f"0\\0\\{30 - 3 * index}")  # from above to below
        writer.SetFileName(str(tmp_path / f"{index}.dcm"))
        writer.Execute(page)
    volume = read_volume(tmp_path, window=(-1000, 3095))
    np.testing.assert_allclose(volume.data, WORDS[::-1] / 4095, atol=1e-6)
    assert volume.spacing == pytest.approx((3, 0.8, 0.5)) and volume.source["dtype"] == "int16"
    assert_same_place(volume, by_simpleitk(tmp_path))


def test_the_description_names_no_patient(tmp_path):
    source = read_volume(write_series(tmp_path, SeriesDescription="Nobody's eye")).source
    text = json.dumps(source)
    assert "Nobody" not in text and "patient" not in text
    assert source["format"] == "DICOM" and len(source["files"]) == 6 and source["modality"] == "CT"


def test_the_checksum_follows_the_slices_and_not_their_names(tmp_path):
    folder = write_series(tmp_path / "a")
    first = read_volume(folder).source["sha256"]
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"new{number}")
    assert read_volume(folder).source["sha256"] == first
    assert read_volume(write_series(tmp_path / "b")).source["sha256"] != first


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({"WindowCenter": 1000, "WindowWidth": 501}, (749.5, 1249.5)),
        ({"WindowCenter": [1000, 5], "WindowWidth": [501, 9]}, (749.5, 1249.5)),
        ({"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "LINEAR_EXACT"}, (750, 1250)),
        ({"WindowCenter": 1, "WindowWidth": 1}, (0.5, 1.5)),
    ],
)
def test_the_files_own_window(tmp_path, fields, window):
    volume = read_volume(write_series(tmp_path, **fields))
    assert volume.window == pytest.approx(window) and volume.source["window_rule"] == "the file's window"
    expected = np.clip((WORDS - float(window[0])) / (window[1] - window[0]), 0, 1)
    np.testing.assert_allclose(volume.data, expected, atol=1e-6)
    assert read_volume(tmp_path, window=(0, 10)).window == (0, 10)


def test_a_window_as_pydicom_applies_it(tmp_path):
    from pydicom import dcmread
    from pydicom.pixels import apply_windowing

    folder = write_series(tmp_path, WindowCenter=2000, WindowWidth=1001)
    volume = read_volume(folder)
    for path in folder.iterdir():
        data = dcmread(path)
        page = round((data.ImagePositionPatient[2] - 30) / 2.5)
        shown = apply_windowing(data.pixel_array, data)
        np.testing.assert_allclose(volume.data[page], shown / 65535, atol=1e-3)


@pytest.mark.parametrize("fields", [{}, {"WindowCenter": 100, "WindowWidth": 101}])
def test_monochrome1_is_turned_round(tmp_path, fields):
    dark = read_volume(write_series(tmp_path / "1", BYTES, PhotometricInterpretation="MONOCHROME1", **fields))
    light = read_volume(write_series(tmp_path / "2", BYTES, **fields))
    np.testing.assert_allclose(dark.data, 1 - light.data, atol=1e-6)
    assert dark.window == light.window[::-1] and dark.source["inverted"] is True
    if not fields:
        np.testing.assert_array_equal(light.data, (BYTES / 255).astype(np.float32))


def test_a_modality_table(tmp_path):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "US"
    table.LUTData = (np.arange(256, dtype="<u2") ** 2).tobytes()
    table["LUTData"].VR = "OW"
    values = read_series(write_series(tmp_path, BYTES, ModalityLUTSequence=[table]))[0]
    np.testing.assert_array_equal(values, BYTES.astype(np.float32) ** 2)


def test_colours_become_their_brightness(tmp_path):
    colour = RNG.integers(0, 256, (4, 8, 9, 3), dtype=np.uint8)
    fields = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "Rows": 8}
    folder = write_series(tmp_path / "rgb", colour, Columns=9, **fields)
    np.testing.assert_allclose(read_volume(folder).data, colour @ [0.299, 0.587, 0.114] / 255, atol=1e-6)
    folder = write_series(tmp_path / "palette", BYTES, PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(ValueError, match="has PALETTE COLOR colours; export it as grey"):
        read_volume(folder)


@pytest.mark.parametrize("gone", [1, 3])
@pytest.mark.parametrize("gap", [2.5, 0.03, 0.004])
def test_a_missing_slice_is_refused_at_its_place(tmp_path, gone, gap):
    places = np.delete(np.arange(7) * gap, gone)
    with pytest.raises(
        ValueError, match=rf"uneven gaps: .* mm between slices {gone} and {gone + 1} .*a slice is missing"
    ):
        read_volume(write_series(tmp_path, places=places))


def test_gaps_that_differ_by_rounding_pass_and_more_does_not(tmp_path):
    good, bad = np.arange(6) * 2.5, np.arange(6) * 2.5
    good[[1, 4]] += 0.01
    bad[3] += 0.05
    assert read_volume(write_series(tmp_path / "good", places=good)).spacing[0] == pytest.approx(2.5)
    with pytest.raises(ValueError, match="uneven gaps"):
        read_volume(write_series(tmp_path / "bad", places=bad))


def test_two_time_points_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has 4 slices at a place that another has .*keep one time point"):
        read_volume(write_series(tmp_path, places=[0, 0, 2, 2, 4, 4]))


def test_two_series_are_listed_and_can_be_chosen(tmp_path):
    write_series(tmp_path, WORDS, uid="1.2.3", SeriesDescription="thick")
    write_series(tmp_path, WORDS[:4] // 2, uid="1.2.4", SeriesDescription="thin")
    listed = (
        r"holds 2 series; choose one .*1: thick \(6 slices of 9 x 8, 1\.2\.3\); 2: thin \(4 slices of 9 x 8, 1\.2\.4\)"
    )
    with pytest.raises(ValueError, match=listed):
        read_volume(tmp_path)
    assert len(read_volume(tmp_path, series=1).data) == len(read_volume(tmp_path, series="1.2.3").data) == 6
    assert len(read_volume(tmp_path, series="2").data) == len(read_volume(tmp_path, series="1.2.4").data) == 4
    for wrong in (0, 3, -1, "1.2"):
        with pytest.raises(ValueError, match=r"has no series .*; it holds 1: thick"):
            read_volume(tmp_path, series=wrong)


def test_orientations_and_sizes_of_one_series_are_kept_apart(tmp_path):
    write_series(tmp_path, WORDS, AXIAL, uid="1.2.3")
    write_series(tmp_path, WORDS[:2], SAGITTAL, uid="1.2.3")
    write_series(tmp_path, WORDS[:3, :5], AXIAL, uid="1.2.3")
    with pytest.raises(ValueError, match=r"holds 3 series; .*9 x 5"):
        read_volume(tmp_path)
    with pytest.raises(ValueError, match=r"holds 3 series; choose one with series=number"):
        read_volume(tmp_path, series="1.2.3")
    assert sorted(len(read_volume(tmp_path, series=number).data) for number in (1, 2, 3)) == [2, 3, 6]


@pytest.mark.parametrize(
    ("pixels", "fields", "kind"),
    [
        (BYTES, {}, "8 bits MONOCHROME2"),
        (WORDS.astype(np.int16), {}, "16 bits signed MONOCHROME2"),
        (WORDS, {"PhotometricInterpretation": "MONOCHROME1"}, "16 bits MONOCHROME1"),
        (
            np.stack([BYTES] * 3, axis=-1),
            {
                "SamplesPerPixel": 3,
                "PhotometricInterpretation": "RGB",
                "PlanarConfiguration": 0,
                "Rows": 8,
                "Columns": 9,
            },
            "8 bits RGB",
        ),
    ],
)
def test_pixels_of_several_kinds_are_kept_apart(tmp_path, pixels, fields, kind):
    both = write_series(tmp_path / "both", WORDS[:3], uid="1.2.3")
    write_series(both, pixels[3:], uid="1.2.3", places=[7.5, 10, 12.5], **fields)
    with pytest.raises(ValueError, match=rf"holds 2 series; choose one .*\(3 slices of 9 x 8, 1\.2\.3\), {kind}\b"):
        read_volume(both)
    alone = [
        write_series(tmp_path / "a", WORDS[:3], uid="1.2.3"),
        write_series(tmp_path / "b", pixels[3:], uid="1.2.3", **fields),
    ]
    read = [read_volume(both, series=number).data for number in (1, 2)]
    expected = [read_volume(folder).data for folder in alone]
    if not np.array_equal(read[0], expected[0]):  # stacks of one UID come in the order of their files
        expected.reverse()
    np.testing.assert_array_equal(read, expected)


def test_directions_that_differ_by_rounding_are_one_series(tmp_path):
    write_series(tmp_path, WORDS[:3], [1, 0, 0, 0, 1, 0], uid="1.2.3")
    write_series(tmp_path, WORDS[3:], [1, 0.0004, 0, -0.0004, 1, 0], uid="1.2.3", places=[7.5, 10, 12.5])
    np.testing.assert_array_equal(read_volume(tmp_path, window=(0, 4095)).data, (WORDS / 4095).astype(np.float32))


def test_without_positions_the_instance_number_counts(tmp_path):
    folder = write_series(tmp_path, BYTES, SliceThickness=3)
    from pydicom import dcmread

    for path in folder.iterdir():
        data = dcmread(path)
        del data.ImagePositionPatient, data.ImageOrientationPatient
        data.save_as(path)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.data, (BYTES[::-1] / 255).astype(np.float32))  # numbers count down here
    assert volume.spacing == (3, 0.8, 0.5) and volume.affine is None
    for path in folder.iterdir():
        data = dcmread(path)
        data.InstanceNumber = 1
        data.save_as(path)
    with pytest.raises(ValueError, match=r"neither a position nor a number .*names of files say nothing about order"):
        read_volume(folder)


def test_without_pixel_spacing_nothing_is_claimed(tmp_path):
    volume = read_volume(write_series(tmp_path, PixelSpacing=None))
    assert volume.source["spacing_known"] is False and volume.affine is None and volume.spacing == (1, 1, 1)
    np.testing.assert_array_equal(volume.data, read_volume(tmp_path, spacing=(3, 2, 1)).data)
    with pytest.raises(ValueError, match=r"has the pixel spacing \[0\.0, 0\.5\]; it must be above 0"):
        read_volume(write_series(tmp_path / "zero", PixelSpacing=[0, 0.5]))


# Multi-frame files


def multiframe(path, volume=WORDS, positions=True, syntax=ExplicitVRLittleEndian, **fields):
    """An OPT cube as ophthalmic devices write them: one file, a functional group for each B-scan."""
    data = base(volume, generate_uid(), syntax, Modality="OPT", NumberOfFrames=len(volume), **fields)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = OphthalmicTomographyImageStorage

    def group(name, **values):
        item, holder = Dataset(), Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        setattr(holder, name, [item])
        return holder

    shared = group("PixelMeasuresSequence", PixelSpacing=[0.004, 0.012], SpacingBetweenSlices=0.03)
    shared.update(group("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 0, -1]))
    shared.update(group("PixelValueTransformationSequence", RescaleSlope=0.5, RescaleIntercept=10))
    shared.update(group("FrameVOILUTSequence", WindowCenter=1000, WindowWidth=2001))
    data.SharedFunctionalGroupsSequence = [shared]
    if positions:
        order = np.argsort(np.argsort(positions)) if positions is not True else range(len(volume))
        data.PerFrameFunctionalGroupsSequence = [
            group("PlanePositionSequence", ImagePositionPatient=[0, round(0.03 * int(place), 4), 0]) for place in order
        ]
    data.save_as(path, enforce_file_format=True)
    return path


def test_a_multiframe_file(tmp_path):
    path = multiframe(tmp_path / "cube.dcm")
    values, spacing, affine, window, about = read_series(path)
    np.testing.assert_array_equal(values, WORDS * np.float32(0.5) + 10)
    assert spacing == pytest.approx((0.03, 0.004, 0.012)) and window == (-0.5, 1999.5)
    np.testing.assert_allclose(
        affine, [[-0.012, 0, 0, 0], [0, 0, -0.03, 0], [0, -0.004, 0, 0], [0, 0, 0, 1]], atol=1e-9
    )
    assert about["files"] == ["cube.dcm"] and about["modality"] == "OPT"
    volume = read_volume(path)
    assert volume.name == "cube" and volume.data.shape == WORDS.shape
    np.testing.assert_array_equal(read_volume(tmp_path).data, volume.data)  # its folder does as well


def test_frames_are_sorted_by_position(tmp_path):
    values = read_series(multiframe(tmp_path / "a", positions=[5, 3, 4, 0, 1, 2]))[0]
    np.testing.assert_array_equal(values, WORDS[[3, 4, 5, 1, 2, 0]] * np.float32(0.5) + 10)


def test_frames_without_positions_keep_their_order_and_clips_are_refused(tmp_path):
    values, spacing, affine, *_ = read_series(multiframe(tmp_path / "a.dcm", positions=False))
    np.testing.assert_array_equal(values, WORDS * np.float32(0.5) + 10)
    assert spacing == pytest.approx((0.03, 0.004, 0.012)) and affine is None
    with pytest.raises(ValueError, match="is a clip over time, not a volume"):
        read_series(multiframe(tmp_path / "b.dcm", positions=False, FrameTime=33))


# Compression and damage


def compressed(folder, syntax, encode):
    folder = write_series(folder, BYTES)
    from pydicom import dcmread

    for path in folder.iterdir():
        data = dcmread(path)
        encode(data)
        data.file_meta.TransferSyntaxUID = syntax
        data.save_as(path)
    return folder


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=lambda syntax: syntax.name)
def test_compressed_series(tmp_path, syntax):
    def encode(data):
        if syntax == RLELossless:
            return data.compress(RLELossless)
        import imagecodecs

        data.PixelData = encapsulate([imagecodecs.jpeg2k_encode(data.pixel_array, codecformat="j2k", reversible=True)])
        data["PixelData"].VR = "OB"

    np.testing.assert_array_equal(
        read_volume(compressed(tmp_path, syntax, encode)).data, (BYTES / 255).astype(np.float32)
    )


def test_a_compression_that_needs_a_package_names_it(tmp_path, monkeypatch):
    def encode(data):
        data.PixelData = encapsulate([bytes(20)])
        data["PixelData"].VR = "OB"

    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(ValueError, match=r"is compressed as JPEG-LS Lossless.*pip install pylibjpeg"):
        read_volume(compressed(tmp_path, JPEGLSLossless, encode))


def test_a_truncated_slice(tmp_path):
    folder = write_series(tmp_path)
    path = sorted(folder.iterdir())[3]
    data = path.read_bytes()
    for length in range(133, len(data), 41):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=rf"{path.name} is damaged or truncated .*copy or download it again"):
            read_volume(folder)
    assert is_series(folder)  # so that a tree with it is read and the fault reported


def test_places_without_a_series(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no DICOM image\.$"):
        read_volume(tmp_path)
    folder = write_series(tmp_path / "study" / "series", WORDS)
    with pytest.raises(FileNotFoundError, match="holds no DICOM image, only the folders series; name one of them"):
        read_volume(tmp_path / "study")
    first = next(folder.iterdir())
    with pytest.raises(ValueError, match=r"holds one DICOM slice; .*name the folder of the series"):
        read_volume(first)
    assert is_dicom(first) and is_series(folder) and not is_series(tmp_path) and not is_dicom(folder)


def test_series_among_classes(tmp_path):
    write_series(tmp_path / "normal" / "eye 10")
    write_series(tmp_path / "normal" / "eye 2")
    (tmp_path / "fluid").mkdir()
    multiframe(tmp_path / "fluid" / "a.dcm")
    multiframe(tmp_path / "fluid" / "b.dcm")
    found = find_volumes(tmp_path)
    assert [(one.label, one.name) for one in found] == [
        ("fluid", "a"),
        ("fluid", "b"),
        ("normal", "eye 2"),
        ("normal", "eye 10"),
    ]
    assert [read_volume(one.path).data.shape for one in found] == [(6, 8, 9)] * 4
    (one,) = find_volumes(tmp_path / "normal" / "eye 2")
    assert (one.name, one.label) == ("eye 2", None)
    assert [one.label for one in find_volumes(tmp_path / "normal")] == [None, None]


# Strays and damage in a tree of classes


def names(found):
    return [(one.label, one.name) for one in found]


def shot(path, **fields):
    """A single image, such as the photograph of the fundus that comes with a cube."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base(BYTES[0], generate_uid(), **fields).save_as(path, enforce_file_format=True)
    return path


def cubes(folder, *stems):
    folder.mkdir(parents=True, exist_ok=True)
    return [multiframe(folder / f"{stem}.dcm") for stem in stems]


def test_a_stray_image_among_arrays_costs_no_volume(tmp_path):
    for label in ("normal", "fluid"):
        shot(tmp_path / label / "shot.dcm")
        for stem in "ab":
            np.save(tmp_path / label / f"{stem}.npy", BYTES)
    with pytest.warns(UserWarning, match=r"shot\.dcm \(single DICOM images among volumes\)") as told:
        found = find_volumes(tmp_path)
    assert len(told) == 2 and "fluid: shot.dcm" in str(told[0].message)
    assert names(found) == [("fluid", "a"), ("fluid", "b"), ("normal", "a"), ("normal", "b")]


def test_a_stray_image_among_cubes_costs_no_volume(tmp_path):
    cubes(tmp_path / "normal", "a", "b")
    cubes(tmp_path / "fluid", "c", "d")
    shot(tmp_path / "fluid" / "left.dcm"), shot(tmp_path / "fluid" / "right.dcm")
    with pytest.warns(UserWarning, match=r"fluid: left\.dcm, right\.dcm \(single"):
        found = find_volumes(tmp_path)
    assert names(found) == [("fluid", "c"), ("fluid", "d"), ("normal", "a"), ("normal", "b")]


def test_a_stray_image_beside_the_classes_costs_no_class(tmp_path):
    cubes(tmp_path / "normal", "a")
    cubes(tmp_path / "fluid", "b")
    shot(tmp_path / "shot.dcm")
    with pytest.warns(UserWarning, match=r"shot\.dcm \(single"):
        assert names(find_volumes(tmp_path)) == [("fluid", "b"), ("normal", "a")]
    shot(tmp_path / "one.dcm", SeriesInstanceUID="1.2.3"), shot(tmp_path / "two.dcm", SeriesInstanceUID="1.2.3")
    with pytest.warns(UserWarning, match=r"fluid.b\.dcm \(beside a DICOM series\)"):
        assert [one.path for one in find_volumes(tmp_path)] == [tmp_path]


@pytest.mark.parametrize("alone", [True, False])
def test_a_cube_cut_within_its_header_is_a_sample_that_fails(tmp_path, recwarn, alone):
    cubes(tmp_path / "normal", "a", "b")
    cut, *_ = cubes(tmp_path / "fluid", *("c" if alone else "cd"))
    data = cut.read_bytes()
    for length in (0, 100, 140, 300, 600):
        cut.write_bytes(data[:length])
        found = find_volumes(tmp_path)
        expected = [("fluid", "c"), ("fluid", "d"), ("normal", "a"), ("normal", "b")]
        assert names(found) == [one for one in expected if one != ("fluid", "d") or not alone]
        with pytest.raises(ValueError, match=r"c\.dcm is (damaged|empty|no volume)"):
            read_volume(found[0].path)
        assert read_volume(found[-1].path).data.shape == WORDS.shape
    assert not recwarn


def test_what_lies_beside_a_series_does_not_hide_it(tmp_path):
    for stem in ("eye 1", "eye 2"):
        folder = write_series(tmp_path / "normal" / stem)
        np.save(folder / "export.npy", BYTES)  # some converters write beside what they read
        sorted(folder.glob("*.dcm"))[0].write_bytes(bytes(128) + b"DICM")
    with pytest.warns(UserWarning, match=r"eye [12]: export\.npy \(beside a DICOM series\)"):
        assert names(find_volumes(tmp_path)) == [("normal", "eye 1"), ("normal", "eye 2")]
    with pytest.raises(ValueError, match="is damaged or truncated"):
        read_volume(tmp_path / "normal" / "eye 2")


def test_a_series_of_two_of_which_one_is_damaged(tmp_path):
    folder = write_series(tmp_path / "normal" / "eye", WORDS[:2])
    next(folder.iterdir()).write_bytes(bytes(128) + b"DICM")
    assert names(find_volumes(tmp_path)) == [("normal", "eye")]


def test_reports_beside_cubes_are_no_samples(tmp_path, recwarn):
    cubes(tmp_path, "a")
    report = base(WORDS[0], generate_uid(), Modality="SR")
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = EnhancedSRStorage
    del report.Rows, report.Columns, report.PixelData
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    assert names(find_volumes(tmp_path)) == [(None, "a")] and not recwarn


def test_few_headers_tell_a_series(tmp_path, monkeypatch):
    from camhelpers.io import dicom

    folder, read, header = write_series(tmp_path), [], dicom._header
    monkeypatch.setattr(dicom, "_header", lambda path: read.append(path) or header(path))
    assert is_series(folder) and len(read) == 2
