"""Attention along the axes and against lesions, in closed forms."""

import numpy as np
import pytest

from camhelpers.evaluate import localisation as anatomy
from camhelpers.evaluate.localisation import pointing_hit

SPACING = (0.1, 0.01, 0.02)


def spot(z, y, x, shape=(6, 8, 10)):
    heat = np.zeros(shape, np.float32)
    heat[z, y, x] = 1
    return heat


def test_a_profile_is_the_share_at_each_place_and_sums_to_one():
    heat = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    for axis in range(3):
        found = anatomy.profile(heat, axis)
        others = tuple(a for a in range(3) if a != axis)
        np.testing.assert_allclose(found, heat.astype(float).sum(others) / heat.astype(float).sum())
        assert found.shape == (heat.shape[axis],)
    assert not anatomy.profile(np.zeros((4, 5, 6), np.float32)).any()


def test_attention_of_a_single_voxel_is_where_it_is():
    found = anatomy.attention(spot(2, 5, 7), SPACING)
    assert found["hottest_slice"] == 2 and found["share_of_hottest_slice"] == 1
    assert found["slice_mm"] == pytest.approx(0.25)
    assert found["depth_mm"] == pytest.approx(0.055)
    assert found["width_mm"] == pytest.approx(0.15)
    assert found["focus"] == pytest.approx(0.5 / 480)


def test_focus_is_the_smallest_share_that_holds_half_of_the_heat():
    heat = np.random.default_rng(1).random((20, 30, 40)).astype(np.float32) ** 3
    ordered = np.cumsum(np.sort(heat, axis=None)[::-1], dtype=float)
    exact = (np.searchsorted(ordered, ordered[-1] / 2) + 1) / heat.size
    assert anatomy.attention(heat, SPACING)["focus"] == pytest.approx(exact, rel=2e-3)


def test_raw_maps_of_any_scale_are_measured():
    for seed in range(300):
        heat = np.random.default_rng(seed).random((2, 3, 4)).astype(np.float32) * np.float32(1 + seed / 7)
        assert 0 < anatomy.attention(heat, SPACING)["focus"] <= 0.5


def test_a_haze_is_not_focused_and_a_blank_map_is_nowhere():
    assert anatomy.attention(np.ones((4, 4, 4), np.float32), SPACING)["focus"] == 0.5
    assert all(np.isnan(value) for value in anatomy.attention(np.zeros((4, 4, 4), np.float32), SPACING).values())


def test_lesion_metrics_of_heat_that_misses_by_a_known_distance():
    mask = np.zeros((6, 8, 10), bool)
    mask[2, 3:5, 7] = True  # its middle lies at a depth of 0.04 mm
    found = anatomy.lesion(spot(2, 7, 7), mask, SPACING, tolerance=0.03)  # three voxels of 0.01 mm below its last
    assert found["pointing_game"] == 1 and found["pointing_exact"] == 0 and found["relevance_mass"] == 0
    assert found["depth_error_mm"] == pytest.approx(0.075 - 0.04)
    assert anatomy.lesion(spot(2, 7, 7), mask, SPACING, tolerance=0.029)["pointing_game"] == 0
    inside = anatomy.lesion(mask.astype(np.float32), mask, SPACING)
    assert {inside[k] for k in ("pointing_exact", "relevance_mass", "relevance_rank", "average_precision")} == {1.0}
    assert inside["lift"] == pytest.approx(480 / 2) and inside["depth_error_mm"] == pytest.approx(0)


def test_distance_is_millimetres_and_not_voxels():
    mask = np.zeros((6, 8, 10), bool)
    mask[2, 5, 7] = True
    near, far = spot(2, 5, 4), spot(3, 5, 7)  # three voxels of 0.02 mm, one of 0.1 mm
    assert pointing_hit(near, mask, 0.07, SPACING) == 1 and pointing_hit(far, mask, 0.07, SPACING) == 0


def test_nothing_to_say_is_nan():
    heat, mask = spot(1, 1, 1), np.zeros((6, 8, 10), bool)
    assert all(np.isnan(value) for value in anatomy.lesion(heat, mask, SPACING).values())
    mask[0, 0, 0] = True
    assert all(np.isnan(value) for value in anatomy.lesion(heat * 0, mask, SPACING).values())


@pytest.mark.parametrize("heat", [np.ones((3, 3)), np.full((2, 2, 2), np.nan), -np.ones((2, 2, 2)), [[[1.0]]]])
def test_what_is_no_heat_gets_one_sentence(heat):
    with pytest.raises(ValueError, match=r"an array \(Z, Y, X\) of finite numbers"):
        anatomy.attention(heat, SPACING)


def test_an_axis_out_of_range_is_named():
    with pytest.raises(ValueError, match="axis is 3"):
        anatomy.profile(spot(0, 0, 0), 3)


def test_masks_and_spacings_that_do_not_fit_get_one_sentence():
    heat = spot(1, 1, 1)
    with pytest.raises(ValueError, match="mask must be boolean"):
        anatomy.lesion(heat, np.ones((6, 8, 9), bool), SPACING)
    for spacing in ((1, 1), (1, 0, 1), (1, 1, np.nan)):
        with pytest.raises(ValueError, match="three lengths above 0"):
            anatomy.attention(heat, spacing)
