"""What cannot be a picture or a volume is one clear sentence, and nothing is written."""

import re

import av
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from camhelpers.io.clips import read_clip, save_clip
from camhelpers.io.images import list_images, read_image, save_image
from camhelpers.io.volumes import find_volumes, read_volume

FLOATS = np.random.default_rng(0).random((6, 9, 3), dtype=np.float32)
BYTES = np.random.default_rng(0).integers(0, 256, (5, 6, 7), dtype=np.uint8)


class Trap:
    def __reduce__(self):
        return (print, ("run",))


@pytest.fixture(scope="module")
def here(tmp_path_factory, write_series):
    """A folder with one example of everything that is refused."""
    folder = tmp_path_factory.mktemp("refused")
    np.save(folder / "objects.npy", np.array([Trap()] * 8, object).reshape(2, 2, 2), allow_pickle=True)
    np.savez(folder / "two.npz", a=BYTES, b=BYTES)
    nibabel.save(nibabel.Nifti1Image(BYTES.repeat(9, 0), np.eye(4)), folder / "whole.nii.gz")
    (folder / "cut.nii.gz").write_bytes((folder / "whole.nii.gz").read_bytes()[:300])
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7, 3), np.uint8), np.eye(4)), folder / "times.nii")
    flat = nibabel.Nifti1Image(BYTES, None)
    flat.header.set_sform(np.diag([1, 1, 0, 1.0]), 1)
    nibabel.save(flat, folder / "flat.nii")
    for name in ("words.npy", "words.tif", "words.nii", "words.mp3"):
        (folder / name).write_text("<!DOCTYPE html> no volume at all, only words, though more than a few of them")
    (folder / "void.png").touch()
    tifffile.imwrite(folder / "page.tif", BYTES[0])
    tifffile.imwrite(folder / "stack.tif", BYTES, photometric="minisblack")
    tifffile.imwrite(folder / "palette.tif", BYTES, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    tifffile.imwrite(folder / "times.tif", BYTES, imagej=True, metadata={"axes": "TYX"})
    tifffile.imwrite(folder / "floats.tif", FLOATS * 300, photometric="rgb")
    tifffile.imwrite(folder / "white.tif", FLOATS[..., 0].astype(np.uint16), photometric="miniswhite")
    tifffile.imwrite(folder / "turned.tif", BYTES[0].astype(np.uint16), extratags=[(274, 3, 1, 6, True)])
    with tifffile.TiffWriter(folder / "mixed.tif") as file:
        file.write(np.zeros((6, 7), np.uint8))
        file.write(np.zeros((8, 9), np.uint8))
    Image.new("CMYK", (8, 8)).save(folder / "ink.jpg")
    Image.new("P", (8, 8)).save(folder / "moves.gif")
    Image.fromarray(BYTES[0]).save(folder / "still.gif")
    (folder / "empty.mp4").touch()
    with av.open(str(folder / "whole.mp4"), "w") as file:
        stream = file.add_stream("libx264", 12)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for grey in range(0, 240, 20):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey, np.uint8), "rgb24")))
        file.mux(stream.encode())
    (folder / "cut.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:900])
    for i, size in enumerate([(20, 10), (20, 10), (16, 10)]):
        (folder / "sizes").mkdir(exist_ok=True)
        Image.new("RGB", size).save(folder / "sizes" / f"{i}.png")
    np.save(folder / "flat.npy", BYTES[0])
    np.save(folder / "large.npy", BYTES * 7.0)
    (folder / "empty").mkdir()
    np.save((folder / "both" / "class").mkdir(parents=True) or folder / "both" / "class" / "a.npy", BYTES)
    np.save(folder / "both" / "b.npy", BYTES)
    write_series(folder / "study" / "twice", BYTES, places=[0, 0, 2, 2, 4])
    write_series(folder / "study" / "same", BYTES, places=[0, 0, 0, 0, 0])
    write_series(folder / "study" / "nowhere", BYTES, ImagePositionPatient=None, InstanceNumber=None)
    write_series(folder / "study" / "palette", BYTES, PhotometricInterpretation="PALETTE COLOR")
    write_series(folder / "one", BYTES[:1])
    return folder


FILES = [
    (read_image, "nowhere.png", FileNotFoundError, "is no file; name a picture"),
    (read_image, "void.png", ValueError, "is not a picture that can be read; use PNG, JPEG"),
    (read_image, "moves.gif", ValueError, "is not a picture"),
    (read_image, "ink.jpg", ValueError, "CMYK colours"),
    (read_image, "stack.tif", ValueError, "holds 5 pages"),
    (read_image, "floats.tif", ValueError, "or floats in 0..1, such as pixels / 255"),
    (read_image, "white.tif", ValueError, "unusual pixels (16 bits MINISWHITE)"),
    (read_image, "turned.tif", ValueError, "save it upright"),
    (list_images, "nowhere", FileNotFoundError, "not a folder"),
    (list_images, "study", FileNotFoundError, "itself holds no picture (.bmp"),
    (read_volume, "nowhere.npy", FileNotFoundError, "does not exist; check the name"),
    (find_volumes, "words.mp3", ValueError, "is no volume that can be read; use .npy"),
    (read_volume, "words.npy", ValueError, "cannot be read"),
    (read_volume, "words.tif", ValueError, "cannot be read"),
    (read_volume, "words.nii", ValueError, "cannot be read"),
    (read_volume, "cut.nii.gz", ValueError, "cannot be read"),
    (read_volume, "objects.npy", ValueError, "Python objects"),
    (read_volume, "two.npz", ValueError, "holds 2 arrays (a, b); keep one"),
    (read_volume, "page.tif", ValueError, "has the axes YX;"),
    (read_volume, "times.tif", ValueError, "has the axes TYX; a volume has slices, rows, columns (ZYX): keep one"),
    (read_volume, "mixed.tif", ValueError, "holds 2 series of pages"),
    (read_volume, "palette.tif", ValueError, "PALETTE"),
    (read_volume, "times.nii", ValueError, "has the shape (5, 6, 7, 3); a volume has 3 axes"),
    (read_volume, "flat.nii", ValueError, "gives its voxels no size"),
    (read_volume, "empty", FileNotFoundError, "holds no DICOM image"),
    (read_volume, "one", ValueError, "holds one DICOM slice"),
    (read_volume, "study/twice", ValueError, "(0.000 mm between slices 1 and 2, 1.000 elsewhere)"),
    (read_volume, "study/same", ValueError, "(0.000 mm between slices 1 and 2, 0.000 elsewhere)"),
    (read_volume, "study/nowhere", ValueError, "does not state where its slices lie"),
    (read_volume, "study/palette", ValueError, "PALETTE COLOR pixels; export it as grey"),
    (find_volumes, "one", FileNotFoundError, "holds no volume; name a volume (.npy"),
    (find_volumes, "both", ValueError, "b.npy beside the class folder class"),
    (read_clip, "nowhere.avi", FileNotFoundError, "does not exist; name a video"),
    (read_clip, "empty.mp4", ValueError, "cannot be read"),
    (read_clip, "words.mp3", ValueError, "is no clip that can be read; use .avi"),
    (read_clip, "cut.mp4", ValueError, "copy or download it again if it is damaged or truncated"),
    (read_clip, "still.gif", ValueError, "has 1 frame from frame 0 on; a clip has at least 2"),
    (read_clip, "sizes", ValueError, "has frames of 20 x 10 and 16 x 10 pixels; save all in one size"),
    (read_clip, "empty", FileNotFoundError, "itself holds no picture"),
    (read_clip, "flat.npy", ValueError, "has the shape (6, 7); a clip is (T, H, W)"),
    (read_clip, "large.npy", ValueError, "has float64 values from 0.0 to 1743.0; use uint8, or floats in 0..1"),
    (read_clip, "objects.npy", ValueError, "Python objects"),
]


@pytest.mark.filterwarnings("ignore:Left out")
@pytest.mark.parametrize(("call", "name", "error", "word"), FILES, ids=[f"{c.__name__} {n}" for c, n, *_ in FILES])
def test_files(here, capsys, call, name, error, word):
    with pytest.raises(error, match=re.escape(word)) as caught:
        call(here / name)
    text = str(caught.value)
    assert text.startswith(str(here / name)) and text.endswith(".") and "\n" not in text
    assert capsys.readouterr().out == ""  # no object was unpickled


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda _: read_image(FLOATS * np.nan), "float32 pixels from nan to nan; use uint8"),
        (lambda _: read_image(FLOATS[..., :2]), "(6, 9, 2); use (H, W)"),
        (lambda _: read_image(FLOATS[:1]), "at least 2 x 2 pixels"),
        (lambda _: read_image(FLOATS > 0.5), "bool pixels from 0 to 1; use uint8"),
        (lambda _: read_image([[1, 2]]), "from a list"),
        (lambda new: save_image(new / "x.gif", FLOATS), "end the name in .png"),
        (lambda new: save_image(new / "x.png", FLOATS * 2), "use uint8, uint16, or floats in 0..1"),
        (lambda _: read_volume(BYTES[0]), "has the shape (6, 7) of uint8; a volume is integers or floats (Z, Y, X)"),
        (lambda _: read_volume(BYTES[:1]), "at least 2 slices, rows and columns"),
        (lambda _: read_volume(BYTES[:, :, :, None].repeat(4, 3)), "(Z, Y, X, 3) in colour"),
        (lambda _: read_volume(BYTES.astype(complex)), "of complex128; a volume is"),
        (lambda _: read_volume(np.where(BYTES < 9, np.inf, 1)), "has NaN or infinite values"),
        (lambda _: read_volume([1, 2]), "from a list; give a path or a NumPy array"),
        (lambda _: read_volume(BYTES, spacing=(0, 1, 1)), "use three numbers above 0 in mm (z, y, x)"),
        (lambda _: read_volume(BYTES, spacing=(1, np.nan, 1)), "spacing=(1.0, nan, 1.0)"),
        (lambda _: read_volume(BYTES, spacing=(1, 1)), "use three numbers"),
        (lambda _: read_volume(BYTES, window=(5, 5)), "window=(5.0, 5.0)"),
        (lambda _: read_volume(BYTES, window=(0, np.inf)), "two with low below high"),
        (lambda _: read_volume(BYTES, orientation="SPL"), "orientation='SPL'; use three"),
        (lambda _: read_volume(read_volume(BYTES), spacing=(1, 1, 1)), "read already"),
        (lambda _: read_clip(BYTES, fps=0), "fps=0, start=0 and count=None; use a rate above 0"),
        (lambda _: read_clip(BYTES, count=1), "a count of 2 or more"),
        (lambda _: read_clip(BYTES, start=5), "has 0 frames from frame 5 on"),
        (lambda new: save_clip(new / "disc.mp4", read_clip(BYTES)), "end the name in .webm or .gif"),
    ],
)
def test_values(here, call, word):
    with pytest.raises((ValueError, TypeError), match=re.escape(word)) as caught:
        call(here / "new")
    assert str(caught.value).endswith(".") and not (here / "new").exists()
