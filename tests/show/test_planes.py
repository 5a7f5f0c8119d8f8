"""Planes, projections, profiles and the turning view, against plain numpy and against what a rotation says."""

import io
import time
import warnings

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from camhelpers.evaluate import localisation as anatomy
from camhelpers.show import planes as p

RNG = np.random.default_rng(0)
VOLUME = RNG.random((6, 8, 10), dtype=np.float32)
HEAT = RNG.random((6, 8, 10), dtype=np.float32)
MASK = np.zeros(VOLUME.shape, bool)
MASK[2:4, 3:6, 4:8] = True
OCT = (6 / 6, 2 / 8, 6 / 10)  # a flat volume: 6 x 2 x 6 mm


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_planes_and_maxima_are_numpys():
    across_z, across_y, across_x = p.planes(VOLUME, (2, 3, 4))
    assert np.array_equal(across_z, VOLUME[2])
    assert np.array_equal(across_y, VOLUME[:, 3])
    assert np.array_equal(across_x, VOLUME[:, :, 4].T), "depth runs down"
    assert all(np.shares_memory(plane, VOLUME) for plane in (across_z, across_y, across_x))
    for axis, turned in enumerate((False, False, True)):
        for ours, numpys in ((p.maximum, VOLUME.max(axis)), (p.mean, VOLUME.mean(axis, dtype=np.float64))):
            assert np.allclose(ours(VOLUME, axis), numpys.T if turned else numpys, atol=1e-7)
    assert p.hottest(HEAT) == tuple(np.argwhere(HEAT.max() == HEAT)[0])


@pytest.mark.parametrize("point", [(6, 0, 0), (0, -1, 0), (0, 0, 10), (1, 2)])
def test_a_point_outside_is_one_sentence(point):
    for call in (lambda: p.planes(VOLUME, point), lambda: p.orthogonal(VOLUME, HEAT, point)):
        with pytest.raises(ValueError, match=r"outside the volume of 6 x 8 x 10 voxels; give \(z, y, x\)"):
            call()


@pytest.mark.parametrize("figure", [p.orthogonal, p.projections, p.turning])
def test_what_does_not_agree_is_one_sentence(figure):
    with pytest.raises(ValueError, match=r"The heat is \(6, 8, 9\) and the volume \(6, 8, 10\); they must agree"):
        figure(VOLUME, HEAT[:, :, :9])
    with pytest.raises(ValueError, match=r"The volume has the shape \(8, 10\); give \(Z, Y, X\)"):
        figure(VOLUME[0], HEAT[0])
    with pytest.raises(TypeError, match=r"The heat is a list; give an array \(Z, Y, X\)"):
        figure(VOLUME, HEAT.tolist())
    with pytest.raises(ValueError, match="The heat reaches from nan to nan; bring it"):
        figure(VOLUME, HEAT * np.nan)
    with pytest.raises(ValueError, match=r"The volume reaches from .* to [23]\.?\d*; bring it to 0\.\.1"):
        figure(3 * VOLUME, HEAT)
    with pytest.raises(ValueError, match="give three lengths above 0 in mm"):
        figure(VOLUME, HEAT, spacing=(1, 0, 1))


def test_other_bad_input_is_one_sentence():
    with pytest.raises(ValueError, match=r"The mask is \(5, 8, 10\)"):
        p.orthogonal(VOLUME, HEAT, mask=MASK[:5])
    with pytest.raises(ValueError, match=r"The mask is \(5, 8, 10\)"):
        p.profiles({"a": HEAT}, mask=MASK[:5])
    with pytest.raises(ValueError, match="no heat to show"):
        p.profiles({})
    with pytest.raises(ValueError, match=r"The heat of b is \(5, 8, 10\), the first \(6, 8, 10\)"):
        p.profiles({"a": HEAT, "b": HEAT[:5]})
    with pytest.raises(ValueError, match="no axis 3; 0 is z"):
        p.maximum(VOLUME, 3)
    with pytest.raises(ValueError, match="no ground 'min'"):
        p.projections(VOLUME, HEAT, ground="min")
    with pytest.raises(ValueError, match="no angle"):
        p.turning(VOLUME, HEAT, angles=())
    with pytest.raises(ValueError, match="tilt is 90"):
        p.turn(VOLUME, tilt=90)


@pytest.mark.parametrize("spacing", [OCT, (1, 1, 1), (5, 1, 1), (1, 3, 2), None])
def test_every_plane_has_its_physical_aspect_and_none_covers_another(spacing):
    extent = np.array(spacing or (1, 1, 1)) * VOLUME.shape
    figure = p.orthogonal(VOLUME, HEAT, (2, 3, 4), spacing, mask=MASK)
    figure.canvas.draw()
    cells = [axes.get_window_extent() for axes in figure.axes[:3]]
    for cell, (down, across) in zip(cells, p.SEEN, strict=True):
        assert cell.height == pytest.approx(cell.width * extent[down] / extent[across], abs=2)
        assert cell.width <= figure.bbox.width and cell.height <= figure.bbox.height
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not cells[a].overlaps(cells[b])
    words = [axes.get_tightbbox() for axes in figure.axes]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in words), "nothing is cut off"
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in words)


def test_a_flat_volume_stands_beside_its_slices_and_a_cube_in_a_row():
    flat = p.arrange((6, 2, 6), 10, 4.6, (0.4, 0.7))
    assert flat[0][0] == flat[2][0] > flat[1][0] == 0 and flat[2][1] > flat[0][1]
    assert {top for _, top, _, _ in p.arrange((1, 1, 1), 10, 4.6, (0.4, 0.7))} == {0}


def test_the_planes_figure_shows_the_overlay_and_says_where_it_is():
    figure = p.orthogonal(VOLUME, HEAT, (2, 3, 4), OCT, opacity=1.0, title="A title")
    from camhelpers import render

    shown = [axes.get_images()[0].get_array() for axes in figure.axes[:3]]
    for picture, plane in zip(shown, p.planes(HEAT, (2, 3, 4)), strict=True):
        assert np.array_equal(picture, render.colour(plane))
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["slice z 2 (2.50 mm)", "depth y 3 (0.88 mm)", "width x 4 (2.70 mm)"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1 mm"]
    unknown = p.orthogonal(VOLUME, HEAT)
    assert unknown.axes[0].get_title() == f"slice z {p.hottest(HEAT)[0]}"
    assert unknown.axes[0].texts[0].get_text() == "2 voxels"


def test_the_projections_figure_lays_maxima_over_means():
    from camhelpers import render

    figure = p.projections(VOLUME, HEAT, OCT, opacity=1.0, mask=MASK)
    for axis in range(3):
        assert np.array_equal(figure.axes[axis].get_images()[0].get_array(), render.colour(p.maximum(HEAT, axis)))
    grounds = [
        p.projections(VOLUME, HEAT, OCT, opacity=0.0, ground=g).axes[1].get_images()[0].get_array()[..., 0]
        for g in ("mean", "max")
    ]
    assert np.corrcoef(grounds[0].ravel(), VOLUME.mean(1).ravel())[0, 1] > 0.98
    assert np.array_equal(grounds[1], np.round(VOLUME.max(1) * 255))


def test_profiles_draw_each_share_over_the_lesions_own():
    blank = np.zeros_like(HEAT)
    figure = p.profiles({"gradcam": HEAT, "<b>": blank}, OCT, mask=MASK)
    for axis, cell in enumerate(figure.axes):
        warm, none = cell.get_lines()
        assert np.allclose(warm.get_ydata(), 100 * anatomy.profile(HEAT, axis)) and not none.get_ydata().any()
        assert np.allclose(warm.get_xdata(), (np.arange(VOLUME.shape[axis]) + 0.5) * OCT[axis])
        top = cell.collections[0].get_paths()[0].vertices[:, 1].max()
        assert top == pytest.approx(100 * anatomy.profile(MASK, axis).max())
        assert cell.get_xlabel() == f"{p.AXES[axis]} (mm)"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["lesion, its true share", "Grad-CAM", "<b> (blank)"]


# the turning view ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 8, 10), (7, 5, 9), (4, 9, 4)])
def test_at_0_degrees_it_is_the_plain_maximum_and_at_180_its_mirror(shape):
    volume = np.random.default_rng(1).random(shape, dtype=np.float32)
    for angle, seen in ((0, volume.max(0)), (180, volume.max(0)[:, ::-1])):
        turned = p.turn(volume, angle=angle)
        margin = (turned.shape[1] - shape[2]) // 2
        assert np.allclose(turned[:, margin : margin + shape[2]], seen, atol=1e-5)
        assert turned[:, :margin].max(initial=0) < 1e-5


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.0, 0.5, 1.0)])
@pytest.mark.parametrize("angle", [0, 90, 180, 270, 37])
@pytest.mark.parametrize("tilt", [0, 30])
def test_one_bright_voxel_goes_where_the_rotation_says(spacing, angle, tilt):
    volume, at = np.zeros((12, 16, 20), np.float32), (2, 5, 15)
    volume[at] = 1
    turned = p.turn(volume, spacing, angle, tilt=tilt, pitch=0.25)
    z, y, x = ((np.array(at) + 0.5) - np.array(volume.shape) / 2) * spacing
    spin, rise = np.radians(angle), np.radians(tilt)
    right, away = x * np.cos(spin) + z * np.sin(spin), z * np.cos(spin) - x * np.sin(spin)
    down = y * np.cos(rise) - away * np.sin(rise)
    rows, columns = np.indices(turned.shape)
    middle = (np.array(turned.shape) - 1) / 2
    found = np.array([(rows * turned).sum(), (columns * turned).sum()]) / turned.sum() - middle
    assert found * 0.25 == pytest.approx([down, right], abs=0.3)


def test_the_farthest_is_darker_and_each_volume_has_its_own_cue():
    cube = np.ones((2, 8, 8, 8), np.float32)
    near, far = np.zeros((8, 8, 8), np.float32), np.zeros((8, 8, 8), np.float32)
    near[0], far[-1] = 1, 1
    assert p.turn(near, cue=0.5).max() > p.turn(far, cue=0.5).max() > 0.5
    dimmed, plain = p.turn(cube, cue=(0.5, 0.0))
    assert dimmed.max() < 0.95 and plain.max() == pytest.approx(1)


def test_frames_show_heat_where_it_is_and_grey_elsewhere():
    heat = np.zeros_like(VOLUME)
    heat[3, 4, 5] = 1
    frames = p.turning(VOLUME, heat, OCT, (0, 90))
    assert frames.dtype == np.uint8 and len(frames) == 2 and max(frames.shape[1:3]) <= 200
    for frame in frames:
        colourful = np.ptp(frame.astype(int), axis=-1) > 8
        assert 0 < colourful.mean() < 0.2
    cold = p.turning(VOLUME, np.zeros_like(heat), OCT, (0, 90))
    assert not np.ptp(cold, axis=-1).any(), "no heat, no colour"


def test_a_read_only_volume_will_do_and_nothing_is_written_into_it():
    volume, heat = VOLUME.copy(), HEAT.copy()
    volume.setflags(write=False), heat.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert p.turning(volume, heat, None, (0,)).any()
        assert np.array_equal(p.turn(volume[::-1]), p.turn(volume[::-1].astype(np.float64)))
    assert np.array_equal(volume, VOLUME)
    loose = VOLUME.copy()
    p.turning(loose, HEAT, None, (0, 45))
    assert np.array_equal(loose, VOLUME)


@pytest.mark.parametrize("format", ["webp", "gif"])
def test_an_animation_is_small_loops_and_holds_every_frame(tmp_path, format):
    noise = np.random.default_rng(2).random((40, 48, 48), dtype=np.float32)
    frames = p.turning(noise, noise**8, (1, 0.5, 1), range(0, 360, 10))
    path = p.save_animation(tmp_path / f"turning.{format}", frames, fps=12)
    data = path.read_bytes()
    assert data == p.animation(frames, format, fps=12) and len(data) < 600_000
    with Image.open(io.BytesIO(data)) as file:
        assert file.n_frames == 36 and file.info["loop"] == 0 and file.size == frames.shape[2:0:-1]
        file.seek(9)
        shown = np.asarray(file.convert("RGB"), dtype=float)
    assert np.argmin(np.abs(shown - frames).mean((1, 2, 3))) == 9
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_animation_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"end the name in \.webp or \.gif"):
        p.save_animation(tmp_path / "turning.mp4", frames)
    with pytest.raises(ValueError, match=r"give uint8 \(N, H, W, 3\)"):
        p.save_animation(tmp_path / "turning.gif", frames / 255)
    with pytest.raises(ValueError, match="use 'webp' or 'gif'"):
        p.animation(frames, "mp4")
    monkeypatch.setattr(p, "LIMIT", 1000)
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    for name in ("turning.gif", "turning.webp"):
        with pytest.raises(ValueError, match="3 frames of 50 x 40 pixels do not go below 1 KB"):
            p.save_animation(tmp_path / name, noise)
    assert not list(tmp_path.iterdir())


def test_a_strip_names_its_angles():
    figure = p.strip(p.turning(VOLUME, HEAT, OCT, (0, 60, 120)), (0, 60, 120))
    assert [axes.get_title() for axes in figure.axes] == ["0°", "60°", "120°"]


@pytest.mark.slow
def test_a_full_cube_turns_in_seconds_and_in_little_memory():
    import tracemalloc

    cube = np.random.default_rng(3).random((192, 256, 256), dtype=np.float32)
    tracemalloc.start()
    start = time.process_time()
    frames = p.turning(cube, cube, (6 / 192, 2 / 256, 6 / 256))
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(frames) == 24 and seconds < 8  # of processor time; 1 s when nothing else runs
    assert peak < 60e6, "no second copy of the volume"
