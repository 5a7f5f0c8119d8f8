"""Colour: exact opacity, one table for everything, and figures that say what they show."""

import base64
import io
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from IPython.core.formatters import DisplayFormatter
from matplotlib import pyplot as plt
from PIL import Image

from camhelpers import render
from camhelpers.render import CMAPS, colour, grid, index, outline, overlay, save, table


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


shapes = st.one_of(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.tuples(*[st.integers(1, 4)] * 3))
units = st.floats(0, 1, width=32)


@st.composite
def pictures_with_heat(draw):
    shape = draw(shapes)
    kind = draw(st.sampled_from((np.uint8, np.float32)))
    values = st.integers(0, 255) if kind == np.uint8 else units
    return draw(arrays(kind, (*shape, 3), elements=values)), draw(arrays(np.float32, shape, elements=units))


@given(pictures_with_heat(), st.floats(0, 1), st.sampled_from(CMAPS))
@settings(max_examples=100, deadline=None)
def test_forty_percent_is_forty_percent_at_every_pixel(case, opacity, cmap):
    picture, heat = case
    before = picture.copy(), heat.copy()
    mixed = overlay(picture, heat, opacity=opacity, cmap=cmap)
    assert mixed.shape == picture.shape and mixed.dtype == np.uint8
    ink = mpl.colormaps[cmap](np.round(heat * 255).astype(int))[..., :3] * 255  # from matplotlib, not from us
    bytes_ = picture.astype(float) * (1 if picture.dtype == np.uint8 else 255)
    assert np.abs(mixed - ((1 - opacity) * bytes_ + opacity * np.round(ink))).max() <= 0.5 + 1e-3
    assert np.array_equal(overlay(picture, heat, opacity=0, cmap=cmap), np.round(bytes_.astype(np.float32)))
    assert np.array_equal(overlay(picture, heat, opacity=1, cmap=cmap), colour(heat, cmap))
    alone = [overlay(picture[i : i + 1], heat[i : i + 1], opacity=opacity, cmap=cmap) for i in range(len(heat))]
    assert np.array_equal(np.concatenate(alone), mixed), "a stack is its slices"
    assert np.array_equal(picture, before[0]) and np.array_equal(heat, before[1]), "nothing that goes in is changed"


def test_an_opacity_that_grows_with_the_heat_leaves_cold_places_as_they_are():
    picture, heat = np.full((1, 4, 3), 0.5), np.float32([[0, 0.25, 0.5, 1]])
    ink, share = table("viridis")[[0, 64, 128, 255]], 0.7 * heat[0, :, None]
    assert (
        np.abs(overlay(picture, heat, opacity="heat", cmap="viridis")[0] - (127.5 * (1 - share) + ink * share)).max()
        < 0.6
    )


@pytest.mark.parametrize("cmap", CMAPS)
def test_the_table_is_matplotlibs(cmap):
    expected = np.round(mpl.colormaps[cmap](np.arange(256))[:, :3] * 255)
    assert table(cmap).shape == (256, 3) and table(cmap).dtype == np.uint8 and np.array_equal(table(cmap), expected)
    assert index(np.float32([0, 0.25, 0.5, 1])).tolist() == [0, 64, 128, 255], "the nearest row"
    assert np.array_equal(colour(np.ones((2, 3, 4)), "viridis")[1, 2, 3], table("viridis")[255])


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_outline_draws_the_edge_of_a_mask_on_any_memory_layout(kind):
    mask = np.zeros((30, 30), bool)
    mask[8:20, 8:20] = True
    picture = np.moveaxis(np.full((3, 30, 30), {np.uint8: 51, np.float32: 0.2}[kind], kind), 0, -1)
    drawn = outline(picture, mask, ink=(255, 0, 0))
    assert drawn.dtype == np.uint8 and drawn[8, 12].tolist() == [255, 0, 0] and drawn[14, 14].tolist() == [51] * 3
    assert np.ptp(picture) == 0, "the picture given is not drawn on"
    assert (outline(picture, mask, width=1)[..., 0] == 255).sum() < (drawn[..., 0] == 255).sum()


@pytest.mark.parametrize("count", [1, 5, 7])
def test_a_grid_shows_every_picture_once(count):
    names = [f"n{i}" for i in range(count)]
    pictures = [np.full((4, 4), i / 10) for i in range(count)]
    figure = grid(pictures, names, columns=5, rows=["upper", "lower"], cmap="jet")
    shown = [axes for axes in figure.axes[:-1] if axes.images]
    assert [axes.get_title() for axes in shown] == names
    assert [axes.images[0].get_array()[0, 0] for axes in shown] == [i / 10 for i in range(count)]
    assert all(axes.images[0].get_clim() == (0, 1) for axes in shown), "grey means the same in every picture"
    assert [axes.get_ylabel() for axes in shown] == ["upper", "", "", "", "", "lower", ""][:count]
    assert figure.axes[-1].get_ylabel() == ("heat (share of the maximum)" if count == 7 else "heat"), "if there is room"
    flat = grid([np.zeros((30, 60))] * 2, columns=2, cell=3, aspect=0.5)
    assert flat.axes[0].get_aspect() == 0.5 and np.allclose(flat.get_size_inches(), (6.2, 3 * 30 * 0.5 / 60 + 0.1))


def test_maps_with_a_sign_share_one_scale_with_zero_in_its_middle():
    figure = grid(
        [np.full((2, 2), 1.0), np.full((2, 2), -3.0), np.zeros((2, 2, 3))], signed="gradient", message="a " * 80
    )
    assert [axes.images[0].get_clim() for axes in figure.axes[:2]] == [(-3, 3)] * 2
    assert figure.axes[-1].get_ylabel() == "gradient" and figure.axes[-1].get_ylim() == (-3, 3)
    assert len(figure.get_suptitle().splitlines()) > 1, "a long message is broken into lines"


@pytest.mark.parametrize(("picture", "kind"), [(np.zeros((4, 4, 3)), "jpeg"), (np.zeros((4, 4)), "png")])
def test_a_notebook_gets_pictures_as_jpeg_and_charts_as_png_at_twice_the_resolution(picture, kind, monkeypatch):
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    with mpl.rc_context():
        render.use_style()
        data, metadata = shell.display_formatter.format(grid([picture], cell=1))
    assert {mime for mime in data if mime.startswith("image")} == {f"image/{kind}"}
    shown = Image.open(io.BytesIO(base64.b64decode(data[f"image/{kind}"])))
    assert shown.width > 200 and metadata[f"image/{kind}"] == {"width": shown.width // 2, "height": shown.height // 2}


def test_a_figure_is_written_whole_or_not_at_all_and_stays_as_it_was(tmp_path):
    with plt.rc_context(render.STYLE):
        figure = plt.figure(layout="none")
        figure.add_axes((0.1, 0.1, 0.8, 0.8))
        assert save(figure, tmp_path / "a.png") == tmp_path / "a.png"
        assert type(figure.get_layout_engine()).__name__ != "ConstrainedLayoutEngine", "it would move the axes"
        with pytest.raises(ValueError, match="not supported"):
            save(figure, tmp_path / "a.nonsense")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"] and (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
