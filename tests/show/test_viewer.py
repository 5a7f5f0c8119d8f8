"""The slice viewer: every control redraws, the caption tells the truth, the numbers fit the colours."""

import io
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from camhelpers import render
from camhelpers.show import planes
from camhelpers.show.controls import bar, font
from camhelpers.show.viewer import VolumeViewer

RNG = np.random.default_rng(0)
VOLUME = RNG.random((12, 16, 20), dtype=np.float32)
HEATS = {"gradcam": RNG.random(VOLUME.shape, dtype=np.float32), "<hot>": RNG.random(VOLUME.shape, dtype=np.float32)}
HEATS["gradcam"][6, 8, 10] = 1  # the hottest
MASK = np.zeros(VOLUME.shape, bool)
MASK[4:9, 5:12, 6:15] = True
OCT = (6 / 12, 2 / 16, 6 / 20)


@pytest.fixture
def viewer():
    return VolumeViewer(VOLUME, HEATS, OCT, mask=MASK)


def pixels(viewer):
    return np.asarray(Image.open(io.BytesIO(viewer.image.value)).convert("RGB"), dtype=float)


def crop(viewer, axis):
    left, top, wide, tall = viewer.boxes[axis]
    return pixels(viewer)[top : top + tall, left : left + wide]


@pytest.mark.parametrize("control, value", [("method", "<hot>"), ("opacity", 0.9), ("cmap", "hot"), ("lesion", False)])
def test_every_control_changes_the_picture(viewer, control, value):
    before = viewer.image.value
    getattr(viewer, control).value = value
    assert viewer.image.value != before


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_slider_moves_its_plane_and_the_cross_hairs_in_the_others(viewer, axis):
    before = [crop(viewer, i) for i in range(3)]
    viewer.sliders[axis].value += 1
    changed = [(np.abs(crop(viewer, i) - before[i]).max(-1) > 60).mean() for i in range(3)]
    assert changed[axis] > 0.1, "another plane"
    assert all(0 < share < 0.1 for i, share in enumerate(changed) if i != axis), "only its lines moved"


def test_the_first_state_is_drawn_at_the_hottest_voxel_and_the_button_goes_to_another(viewer):
    assert viewer.image.value[:3] == b"\xff\xd8\xff" and [s.value for s in viewer.sliders] == [7, 9, 11]
    viewer.method.value = "<hot>"
    viewer.hottest.click()
    assert tuple(s.value - 1 for s in viewer.sliders) == tuple(np.argwhere(HEATS["<hot>"] == HEATS["<hot>"].max())[0])
    assert "heat <b>1.00</b>" in viewer.caption.value


def test_the_caption_gives_voxel_millimetres_values_and_escapes_names(viewer):
    said = viewer.caption.value
    assert said.startswith("Voxel (z 7, y 9, x 11) at (3.25, 1.06, 3.15) mm: Grad-CAM heat <b>1.00</b>")
    assert f"volume {VOLUME[6, 8, 10]:.2f}, inside the lesion." in said
    viewer.sliders[0].value, viewer.method.value = 1, "<hot>"
    said = viewer.caption.value
    assert "outside the lesion" in said and "&lt;hot&gt;" in said and "<hot>" not in said
    assert float(said.split("<b>")[1].split("</b>")[0]) == pytest.approx(HEATS["<hot>"][0, 8, 10], abs=0.008)
    unknown = VolumeViewer(VOLUME, {"layercam": np.zeros_like(VOLUME)})
    assert "mm" not in unknown.caption.value and "lesion" not in unknown.caption.value and unknown.lesion.disabled
    assert "LayerCAM heat none: <b>the map is blank</b>" in unknown.caption.value


def test_the_heat_shown_is_the_heat_given(viewer):
    viewer.opacity.value, viewer.lesion.value, viewer.cmap.value = 1.0, False, "hot"
    for axis, plane in enumerate(planes.planes_through(HEATS["gradcam"], (6, 8, 10))):
        seen = crop(viewer, axis)
        expected = Image.fromarray(render.colour(plane, "hot")).resize(seen.shape[1::-1], Image.Resampling.BICUBIC)
        assert np.median(np.abs(seen - np.asarray(expected, dtype=float))) < 14  # JPEG; lines and words lie over it
    bar = pixels(viewer)[30:-6, -55]
    assert np.abs(bar[0] - render.table("hot")[250]).max() < 25 > np.abs(bar[-1] - render.table("hot")[3]).max()


def test_the_numbers_beside_the_colours_grow_upwards():
    for y, number in ((8, "1.00"), (99.5, "0.50"), (191, "0.00")):
        expected = Image.new("RGB", (64, 200), "white")
        ImageDraw.Draw(expected).text((26, y), number, "black", font(14), anchor="lm")
        rows = slice(int(y) - 7, int(y) + 7)
        assert np.array_equal(bar("jet", 200)[rows, 20:], np.asarray(expected)[rows, 20:])


@pytest.mark.parametrize("spacing", [OCT, (1, 1, 1), (3, 1, 1)])
def test_planes_have_their_physical_proportions_and_the_cross_hairs_meet_in_the_voxel(spacing):
    extent = np.array(spacing) * VOLUME.shape
    viewer = VolumeViewer(np.zeros_like(VOLUME), HEATS, spacing, opacity=0.0)
    for axis, (down, across) in enumerate(planes.SEEN):
        _, _, wide, tall = viewer.boxes[axis]
        assert tall == pytest.approx(wide * extent[down] / extent[across], abs=2)
        grey = crop(viewer, axis).mean(-1)
        place = [(p + 0.5) / n for p, n in zip((6, 8, 10), VOLUME.shape, strict=True)]
        lines = np.median(grey, axis=1).argmax(), np.median(grey, axis=0).argmax()
        assert lines == (int(place[down] * tall), int(place[across] * wide))
    assert 700 < pixels(viewer).shape[1] < 1100


@pytest.mark.slow
def test_a_full_cube_is_redrawn_at_once():
    cube = np.random.default_rng(1).random((192, 256, 256), dtype=np.float32)  # noise: no picture grows larger
    viewer, took = VolumeViewer(cube, {"gradcam": cube}, (6 / 192, 2 / 256, 6 / 256)), [time.process_time()]
    for step in range(12):
        viewer.sliders[step % 3].value = 20 + 10 * step
        took.append(time.process_time())
    assert np.diff(took).min() < 0.06 and len(viewer.image.value) < 320_000
