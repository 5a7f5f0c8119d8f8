"""Colour: exact opacity, one table for everything, and figures that say what they show."""

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib import pyplot as plt

from camhelpers import render
from camhelpers.render import CMAPS, colour, grid, index, outline, overlay, panel, save, table


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


shapes = st.one_of(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.tuples(*[st.integers(1, 4)] * 3))
units = st.floats(0, 1, width=32)


@st.composite
def pictures_with_heat(draw, dtype=None):
    shape = draw(shapes)
    kind = dtype or draw(st.sampled_from((np.uint8, np.float32)))
    values = st.integers(0, 255) if kind == np.uint8 else units
    return draw(arrays(kind, (*shape, 3), elements=values)), draw(arrays(np.float32, shape, elements=units))


@given(pictures_with_heat(), st.floats(0, 1), st.sampled_from(CMAPS))
@settings(max_examples=200, deadline=None)
def test_forty_percent_is_forty_percent_at_every_pixel(case, opacity, cmap):
    picture, heat = case
    mixed = overlay(picture, heat, opacity=opacity, cmap=cmap)
    assert mixed.shape == picture.shape and mixed.dtype == np.uint8
    ink = mpl.colormaps[cmap](np.round(heat * 255).astype(int))[..., :3] * 255  # from matplotlib, not from us
    bytes_ = picture.astype(float) * (1 if picture.dtype == np.uint8 else 255)
    assert np.abs(mixed - ((1 - opacity) * bytes_ + opacity * np.round(ink))).max() <= 0.5 + 1e-3


@given(pictures_with_heat(), st.sampled_from(CMAPS))
@settings(max_examples=60, deadline=None)
def test_the_ends_of_opacity_are_the_picture_and_the_colours(case, cmap):
    picture, heat = case
    bytes_ = picture if picture.dtype == np.uint8 else np.round(picture * np.float32(255)).astype(np.uint8)
    assert np.array_equal(overlay(picture, heat, opacity=0, cmap=cmap), bytes_)
    assert np.array_equal(overlay(picture, heat, opacity=1, cmap=cmap), colour(heat, cmap))


@given(pictures_with_heat(), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_stack_is_its_slices(case, opacity):
    picture, heat = case
    whole = overlay(picture, heat, opacity=opacity)
    for i in range(len(heat)):
        assert np.array_equal(overlay(picture[i : i + 1], heat[i : i + 1], opacity=opacity)[0], whole[i])


@given(pictures_with_heat(np.float32))
@settings(max_examples=30, deadline=None)
def test_nothing_that_goes_in_is_changed(case):
    picture, heat = case
    before = picture.copy(), heat.copy()
    if heat.ndim == 2:
        overlay(picture, heat, contours=[0.5])
        outline(picture, heat > 0.5)
    overlay(picture, heat)
    assert np.array_equal(picture, before[0]) and np.array_equal(heat, before[1])


@pytest.mark.parametrize("cmap", CMAPS)
def test_the_table_is_matplotlibs(cmap):
    expected = np.round(mpl.colormaps[cmap](np.arange(256))[:, :3] * 255)
    assert table(cmap).shape == (256, 3) and table(cmap).dtype == np.uint8 and np.array_equal(table(cmap), expected)
    assert table(cmap) is table(cmap)
    with pytest.raises(ValueError, match="read-only"):
        table(cmap)[0] = 0


def test_index_rounds_to_the_nearest_row():
    assert index(np.float32([0, 0.25, 0.5, 1])).tolist() == [0, 64, 128, 255]
    assert colour(np.zeros((2, 3, 4))).shape == (2, 3, 4, 3)
    assert np.array_equal(colour(np.ones(1), "viridis")[0], table("viridis")[255])


def test_contours_are_drawn_at_their_level_only():
    heat = np.zeros((40, 40), np.float32)
    heat[10:30, 10:30] = 1
    plain, drawn = (overlay(np.full((40, 40, 3), 0.5), heat, contours=c) for c in ((), (0.5,)))
    changed = (plain != drawn).any(-1)
    assert changed[10, 15] and changed[29, 15] and changed[15, 10]
    assert not changed[16:24, 16:24].any() and not changed[:7].any() and not changed[:, :7].any()
    assert (drawn[10, 12:28] > 200).all()  # white on the level
    assert np.array_equal(overlay(np.full((40, 40, 3), 0.5), heat * 0, contours=(0.5,)), plain * 0 + plain[0, 0])


def test_contours_on_a_batch_and_on_any_memory_layout():
    channels_first = np.random.default_rng(0).random((2, 3, 20, 30), dtype=np.float32)
    heat = np.random.default_rng(1).random((2, 20, 30), dtype=np.float32)
    pictures = np.moveaxis(channels_first, 1, -1)  # as a tensor's picture lies in memory
    drawn = overlay(pictures, heat, contours=[0.5])
    assert np.array_equal(drawn, overlay(np.ascontiguousarray(pictures), heat, contours=[0.5]))
    assert np.array_equal(drawn[1], overlay(pictures[1], heat[1], contours=[0.5]))
    assert not np.array_equal(drawn, overlay(pictures, heat))


def test_outline_draws_the_edge_of_a_mask():
    mask = np.zeros((30, 30), bool)
    mask[8:20, 8:20] = True
    drawn = outline(np.zeros((30, 30, 3)), mask, ink=(255, 0, 0))
    assert drawn.dtype == np.uint8 and drawn[8, 12].tolist() == [255, 0, 0] and drawn[14, 14].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda p, h: overlay(p, h, opacity=1.01), "opacity is 1.01; it lies between 0 .* and 1"),
        (lambda p, h: overlay(p, h, opacity=-0.4), "opacity is -0.4; it lies between"),
        (lambda p, h: overlay(p, h, opacity=float("nan")), "opacity is nan; it lies between"),
        (
            lambda p, h: overlay(p, h, cmap="rainbow"),
            "no colour map 'rainbow'; choose one of jet, hot, viridis, plasma",
        ),
        (lambda p, h: overlay(p, h[:3]), r"picture is \(4, 5, 3\) and the heat \(3, 5\); they must agree"),
        (lambda p, h: overlay(p[..., 0], h), r"they must agree but for the 3 colours"),
        (lambda p, h: overlay(p, h * 2), "heat reaches from 0 to 2; bring it to 0..1 first"),
        (lambda p, h: overlay(p, h - 1), "heat reaches from -1 to 0; bring it"),
        (lambda p, h: colour(h * np.nan), "holds NaN or infinite values"),
        (lambda p, h: grid([]), "no pictures to show"),
    ],
)
def test_bad_input_gets_one_clear_sentence(bad, words):
    heat = np.linspace(0, 1, 20).reshape(4, 5)
    with pytest.raises(ValueError, match=words) as caught:
        bad(np.zeros((4, 5, 3)), heat)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


# figures ---------------------------------------------------------------------------------------------------------


def test_a_panel_names_its_methods_and_has_a_colour_bar_with_numbers():
    heat = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    figure = panel(np.zeros((4, 6, 3)), {"Grad-CAM++": heat, "LayerCAM": heat * 0}, title="cat 98 %", cmap="viridis")
    titles = [axes.get_title() for axes in figure.axes]
    assert {"cat 98 %", "Grad-CAM++", "LayerCAM (blank)"} <= set(titles)
    above = figure.axes[titles.index("Grad-CAM++")].images[0].get_array()
    assert np.array_equal(above, colour(heat, "viridis"))
    bar = figure.axes[-1]
    assert [t.get_text() for t in bar.get_yticklabels()] == ["0.00", "0.25", "0.50", "0.75", "1.00"]


@pytest.mark.parametrize("count", [1, 5, 7])
def test_a_grid_shows_every_picture_once(count):
    figure = grid([np.full((4, 4, 3), i / 10) for i in range(count)], [f"n{i}" for i in range(count)], columns=5)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"n{i}" for i in range(count)]
    assert [axes.images[0].get_array()[0, 0, 0] for axes in shown] == [i / 10 for i in range(count)]


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    figure = grid([np.zeros((4, 4, 3))])
    assert save(figure, tmp_path / "a.png") == tmp_path / "a.png"
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="not supported"):
        save(figure, tmp_path / "a.nonsense")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_the_pixels_of_a_scan_may_be_flat():
    figure = render.grid([np.zeros((30, 60))] * 2, columns=2, cell=3, aspect=0.5)
    assert figure.axes[0].get_aspect() == 0.5
    width, height = figure.get_size_inches()
    assert height == pytest.approx(3 * 30 * 0.5 / 60 + 0.05) and width == 6


def test_saving_leaves_a_figure_without_an_engine_of_layout_as_it_was(tmp_path):
    import matplotlib.pyplot as plt

    with plt.rc_context(render.STYLE):
        figure = plt.figure(layout="none")
        figure.add_axes((0.1, 0.1, 0.8, 0.8))
        render.save(figure, tmp_path / "figure.png")
        assert type(figure.get_layout_engine()).__name__ != "ConstrainedLayoutEngine", "it would move the axes"
    plt.close(figure)
