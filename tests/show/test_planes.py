"""Planes, projections, profiles, previews and the turning view, against plain numpy and what a rotation says."""

import io
import itertools

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from camhelpers import render
from camhelpers.cam.methods import METHODS
from camhelpers.evaluate import localisation
from camhelpers.io.volumes import read_volume
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


def shown(figure) -> list[np.ndarray]:
    return [axes.get_images()[0].get_array() for axes in figure.axes[:-1]]  # the last is the colour bar


@pytest.mark.parametrize("spacing", [OCT, (1, 1, 1), (5, 1, 1), (1, 3, 2), None])
def test_every_plane_has_its_physical_proportions_and_none_covers_another(spacing):
    extent = np.array(spacing or (1, 1, 1)) * VOLUME.shape
    figure = p.orthogonal(VOLUME, HEAT, (2, 3, 4), spacing, mask=MASK)
    figure.canvas.draw()
    cells = [axes.get_window_extent() for axes in figure.axes[:3]]
    for cell, (down, across) in zip(cells, p.SEEN, strict=True):
        assert cell.height == pytest.approx(cell.width * extent[down] / extent[across], abs=2)
        assert cell.width <= figure.bbox.width and cell.height <= figure.bbox.height
    assert not any(a.overlaps(b) for a, b in itertools.combinations(cells, 2))
    for box in (axes.get_tightbbox() for axes in figure.axes):
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1), "nothing is cut off"
        assert figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1)


def test_a_flat_volume_stands_beside_its_slices_and_a_cube_in_a_row():
    flat, row = (p.arrange(extent, 10, 4.6, (0.4, 0.7)) for extent in ((6, 2, 6), (1, 1, 1)))
    assert flat[0][0] == flat[2][0] > flat[1][0] == 0 and flat[2][1] > flat[0][1] and {box[1] for box in row} == {0}


def test_the_planes_figure_shows_the_overlay_and_says_where_it_is():
    figure = p.orthogonal(VOLUME, HEAT, (2, 3, 4), OCT, opacity=1.0, cmap="hot", mask=MASK, title="of $ and _")
    planes = HEAT[2], HEAT[:, 3], HEAT[:, :, 4].T  # depth runs down
    assert all(np.array_equal(a, render.colour(b, "hot")) for a, b in zip(shown(figure), planes, strict=True))
    assert figure.get_suptitle() == "of $ and _" and len(figure.axes[0].collections) == 1
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["slice z 3 (2.50 mm)", "depth y 4 (0.88 mm)", "width x 5 (2.70 mm)"]
    assert [(axes.get_ylabel(), axes.get_xlabel()) for axes in figure.axes[:3]] == [
        ("depth y", "width x"), ("slice z", "width x"), ("depth y", "slice z")
    ]  # fmt: skip
    bar, *cross = figure.axes[0].get_lines()
    assert [text.get_text() for text in figure.axes[0].texts] == ["orientation unknown", "1 mm"]
    long, wide = np.ptp(bar.get_xdata()), OCT[2] * 10
    assert long * wide == pytest.approx(1)
    x, y = 4.5 * OCT[2], 3.5 * OCT[1]
    assert all(set(line.get_xdata()) == {x} or set(line.get_ydata()) == {y} for line in cross) and len(cross) == 4
    assert all(np.hypot(line.get_xdata() - x, line.get_ydata() - y).min() > 0.2 for line in cross), "the voxel is free"
    hottest = p.orthogonal(VOLUME, HEAT)
    assert hottest.axes[0].get_title() == f"slice z {np.argwhere(HEAT.max() == HEAT)[0][0] + 1}"
    assert hottest.axes[0].texts[1].get_text() == "2 voxels"


def test_the_projections_figure_lays_maxima_over_means():
    hot = shown(p.projections(VOLUME, HEAT, OCT, opacity=1.0, mask=MASK))
    for axis, flat in enumerate((HEAT.max(0), HEAT.max(1), HEAT.max(2).T)):
        assert np.array_equal(hot[axis], render.colour(flat))
    flat = 0.5 + 0.1 * RNG.random((30, 30, 30), dtype=np.float32)
    flat[:, 0, 0] = 1  # an outlier, which must not darken the rest
    grounds = shown(p.projections(flat, np.zeros_like(flat), opacity=0.0))
    for ground, mean in zip(grounds, (flat.mean(0), flat.mean(1), flat.mean(2).T), strict=True):
        low, high = np.percentile(mean, (0.5, 99.5))
        assert np.allclose(ground[..., 0], 255 * ((mean - low) / (high - low)).clip(0, 1), atol=0.6)


def test_profiles_draw_each_share_over_the_lesions_own():
    figure = p.profiles({"gradcam": HEAT, "<b>": np.zeros_like(HEAT)}, OCT, mask=MASK)
    for axis, (cell, below) in enumerate(zip(figure.axes[:3], figure.axes[3:], strict=True)):
        (warm,), (none,) = cell.get_lines(), below.get_lines()
        assert np.allclose(warm.get_ydata(), 100 * localisation.profile(HEAT, axis)) and not none.get_ydata().any()
        assert np.allclose(warm.get_xdata(), (np.arange(VOLUME.shape[axis]) + 0.5) * OCT[axis])
        assert warm.get_color() == METHODS["gradcam"].colour
        top = cell.collections[0].get_paths()[0].vertices[:, 1].max()
        assert top == pytest.approx(100 * localisation.profile(MASK, axis).max())
        assert below.get_xlabel() == f"{p.AXES[axis]} (mm)"
    assert [cell.get_ylabel() for cell in figure.axes[::3]] == ["Grad-CAM", "<b>\n(blank)"]


def test_a_preview_shows_slices_where_the_heat_is(tmp_path):
    heat = np.zeros((100, 8, 10), np.float32)
    heat[40:60] = 0.01
    grey = RNG.random(heat.shape, dtype=np.float32)
    figure = p.preview(read_volume(grey, spacing=(1, 2, 1)), heat, mask=heat > 0, title="eye $_$", label="heat (share)")
    *cells, bar = figure.axes
    cells, bare = cells[1::2], cells[::2]
    numbers = [int(axes.get_title().removeprefix("slice ").removesuffix(" of 100")) for axes in bare]
    assert len(numbers) == 6 and numbers == sorted(set(numbers)) and numbers[0] > 40 and numbers[-1] <= 60
    assert bar.get_ylabel() == "heat (share)" and all(len(axes.collections) == 1 for axes in cells)
    for plain, picture, number in zip(shown(figure)[::2], shown(figure)[1::2], numbers, strict=True):
        assert np.array_equal(picture, render.overlay(p.rgb(grey[number - 1]), heat[number - 1]))
        assert np.array_equal(plain, p.rgb(grey[number - 1]))
    with Image.open(render.save(figure, tmp_path / "p.png")) as image:
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
    box = cells[0].get_window_extent()
    assert box.height == pytest.approx(box.width * 16 / 10, rel=0.01) and box.height <= 3.3 * 150
    assert not plt.get_fignums(), "threads would share pyplot's state"
    few = p.preview(read_volume(VOLUME[:3]), np.zeros((3, 8, 10)))
    assert len(shown(few)) == 6 and few.axes[0].texts[1].get_text().endswith("voxels")
    assert "window 0 to 1, voxels of 1 x 2 x 1 mm (z, y, x)" in figure.get_suptitle()


@pytest.mark.parametrize(("angle", "right"), [(0, 2), (90, 0), (180, -2), (270, 0)])
def test_one_hot_voxel_goes_where_the_rotation_says(angle, right):
    heat = np.zeros((41, 41, 41), np.float32)
    heat[20, 20, 30] = 1  # 10 voxels to the right of the middle
    (frame,) = p.turning(np.zeros_like(heat), heat, None, [angle], cmap="hot", side=160)
    rows, columns = np.nonzero(frame[..., 0].astype(int) - frame[..., 2] > 20)
    middle = (np.array(frame.shape[:2]) - 1) / 2
    pitch = 41 * (np.cos(np.radians(25)) + np.sqrt(2) * np.sin(np.radians(25))) / 160  # voxels for a pixel, upright
    away = {0: 0, 90: -10, 180: 0, 270: 10}[angle]
    assert (columns.mean() - middle[1]) * pitch == pytest.approx(5 * right, abs=0.4)
    assert (rows.mean() - middle[0]) * pitch == pytest.approx(-away * np.sin(np.radians(25)), abs=0.4), "from above"


def test_what_is_far_is_darker_and_heat_covers_by_its_value():
    near, far = np.zeros((20, 20, 20), np.float32), np.zeros((20, 20, 20), np.float32)
    near[:2] = far[-2:] = 1
    none = np.zeros_like(near)
    near, far = (p.turning(cube, none, None, [0])[0] for cube in (near, far))
    assert np.median(near[near > 140]) > 1.2 * np.median(far[far > 140])
    frames = p.turning(VOLUME, none[:6, :8, :10], OCT, (0, 90), side=200)
    assert frames.dtype == np.uint8 and len(frames) == 2 and max(frames.shape[1:3]) <= 200
    assert not np.ptp(frames, axis=-1).any(), "no heat, no colour"
    warm = none[:6, :8, :10].copy()
    warm[3, 4, 5] = 1
    strong, weak = (np.ptp(p.turning(VOLUME, heat, OCT, (90,))[0], axis=-1) for heat in (warm, 0.2 * warm))
    assert 0 < (strong > 8).mean() < 0.2 and 0 < weak.max() < 0.5 * strong.max() > 45
    (box,) = p.turning(none, none, None, (45,))
    middle = box[:, box.shape[1] // 2, 0]
    assert 0 < middle[middle > 0][5:20].max() <= 60 < middle.max(), "the far corner's edges are darker"


def test_an_animation_is_small_loops_and_holds_every_frame(tmp_path):
    noise = np.random.default_rng(2).random((40, 48, 48), dtype=np.float32)
    frames = p.turning(noise, noise**8, (1, 0.5, 1), range(0, 360, 30))
    data = p.animation(frames, tmp_path / "turning.webp")
    assert data == (tmp_path / "turning.webp").read_bytes() and len(data) < 600_000
    with Image.open(io.BytesIO(data)) as file:
        assert file.n_frames == 12 and file.info["loop"] == 0 and file.size == frames.shape[2:0:-1]
        file.seek(5)
        file.load()
        seen = np.asarray(file.convert("RGB"), dtype=float)
        assert file.info["duration"] == 100
    assert np.argmin(np.abs(seen - frames).mean((1, 2, 3))) == 5


@pytest.mark.parametrize("stored", ["LPS", "RAS", "LIP", "PIR", "ASL"])
def test_planes_are_hung_as_radiologists_hang_them_however_they_are_stored(stored):
    body = np.zeros((7, 8, 9), np.float32)
    body[5, 6, 7] = 1  # up, back and left in an array that runs to S, P and L
    axes = {letter: axis for axis, pair in enumerate(("SI", "PA", "LR")) for letter in pair}
    volume = body.transpose([axes[letter] for letter in stored[::-1]])
    volume = np.flip(volume, [axis for axis, letter in enumerate(stored[::-1]) if letter in "IAR"])
    figure = p.orthogonal(volume, volume, None, (1, 1, 1), orientation=stored, opacity=1.0)
    named = {axes.get_title().split()[0]: axes for axes in figure.axes[:3]}
    corners = {"axial": (True, False), "coronal": (True, True), "sagittal": (True, True)}  # right of, above the middle
    letters = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
    for name, (right, above) in corners.items():
        cell = named[name]
        assert "".join(text.get_text() for text in cell.texts[:4]) == letters[name]
        y, x = np.argwhere(cell.get_images()[0].get_array()[..., 0] == 128)[0] + 0.5  # the hottest of jet is dark red
        at = cell.transAxes.inverted().transform(cell.transData.transform((x, y)))
        assert ((at[0] > 0.5), (at[1] > 0.5)) == (right, above)
