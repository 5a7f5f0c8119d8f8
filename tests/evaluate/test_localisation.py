import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from camhelpers.cam.methods import centre
from camhelpers.evaluate.localisation import (
    average_precision,
    calibrate_threshold,
    grid_cell,
    grid_share,
    heat_summary,
    iou,
    lesion_scores,
    lift,
    oracle,
    part_correlation,
    pointing_hit,
    profile,
    rank_correlation,
    relevance_mass,
    relevance_rank,
)

HEAT = np.zeros((20, 20))
HEAT[4, 4], HEAT[10, 10] = 1.0, 0.5
MASK = np.zeros((20, 20), bool)
MASK[8:12, 8:12] = True


# Heat against a mask --------------------------------------------------------------------------------------------------


def test_heat_that_is_the_same_everywhere_scores_the_masks_share_of_the_area():
    assert relevance_mass(HEAT, MASK) == pytest.approx(0.5 / 1.5)
    for score in (relevance_mass, relevance_rank, average_precision):
        assert score(np.ones((20, 20)), MASK) == pytest.approx(MASK.mean())


@pytest.mark.parametrize("size", [(224, 100), (448, 600)])
def test_the_pointing_game_forgives_fifteen_pixels_of_224_of_the_height(size):
    mask, radius = np.zeros(size, bool), 15 * size[0] // 224
    mask[50, 60] = True
    for way in ((0, 1), (1, 0)):
        for away, hit in ((0, 1), (radius, 1), (radius + 1, 0)):
            heat = np.zeros(size)
            heat[50 + away * way[0], 60 - away * way[1]] = 1
            assert pointing_hit(heat, mask) == hit


def test_pointing_tolerance_is_a_disc_around_the_maximum_and_tied_maxima_are_averaged():
    away = np.hypot(4, 4)  # from (4, 4) to the nearest masked pixel (8, 8)
    assert pointing_hit(HEAT, MASK, tolerance=0) == 0
    assert pointing_hit(HEAT, MASK, tolerance=(away - 0.01) / 20) == 0
    assert pointing_hit(HEAT, MASK, tolerance=(away + 0.01) / 20) == 1
    tied = HEAT.copy()
    tied[10, 10] = tied[11, 11] = 1.0
    assert pointing_hit(tied, MASK, tolerance=0) == pointing_hit(tied, MASK, tolerance=0.1) == pytest.approx(2 / 3)


def test_distance_is_millimetres_and_not_voxels_where_there_is_a_spacing():
    mask, spacing = np.zeros((6, 8, 10), bool), (0.1, 0.01, 0.02)
    mask[2, 5, 7] = True
    near, far = spot(2, 5, 4), spot(3, 5, 7)  # three voxels of 0.02 mm, one of 0.1 mm
    assert pointing_hit(near, mask, 0.07, spacing) == 1 and pointing_hit(far, mask, 0.07, spacing) == 0


def test_relevance_rank_counts_the_hottest_as_many_as_the_mask_has_and_ties_by_their_expectation():
    heat, mask = np.arange(16.0).reshape(4, 4), np.zeros((4, 4), bool)
    mask[3, 2:] = mask[0, :2] = True  # of the four hottest, 12 to 15, two are inside
    assert relevance_rank(heat, mask) == 0.5

    rng = np.random.default_rng(0)
    heat, mask = np.round(rng.random((8, 8)) * 4), rng.random((8, 8)) < 0.3
    drawn = []
    for _ in range(2000):
        order = np.argsort(-(heat + rng.permutation(64).reshape(8, 8) / 100), axis=None)
        drawn.append(mask.ravel()[order[: mask.sum()]].mean())
    assert relevance_rank(heat, mask) == pytest.approx(np.mean(drawn), abs=0.008)


def test_iou_by_hand():
    heat, mask = np.array([[2.0, 1.0], [0.9, 0.0]]), np.array([[True, False], [True, False]])
    assert iou(heat, mask, 0.5) == pytest.approx(1 / 3)  # found 2; both 1; either 3
    assert iou(heat, mask, 0.4) == pytest.approx(2 / 3)
    assert iou(5 * heat, mask, 0.4) == iou(heat, mask, 0.4)


def test_the_calibrated_threshold_is_the_best_of_all_tried_one_by_one():
    rng = np.random.default_rng(0)
    heats = [rng.random((20, 20)).astype(np.float32) ** 2 for _ in range(6)] + [np.zeros((20, 20), np.float32)]
    masks = [h + rng.normal(0, 0.2, h.shape) > 0.4 for h in heats[:-1]] + [MASK]
    tried = np.arange(1, 100) / 100
    means = [np.nanmean([iou(h, m, t) for h, m in zip(heats, masks, strict=True)]) for t in tried]
    assert calibrate_threshold(heats, masks) == tried[int(np.argmax(means))]
    heat = np.where(MASK, 0.8, 0.5)
    assert calibrate_threshold([heat], [MASK]) == 0.63  # the lowest of the best, just above 0.5 / 0.8


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_is_precision_at_each_heat_weighted_by_the_recall_it_gains(levels):
    rng = np.random.default_rng(0)
    heat, inside = np.round(rng.random((6, 7)) * levels), rng.random((6, 7)) < 0.4
    area = recall = 0.0
    for threshold in sorted(set(heat.ravel()), reverse=True):
        found = heat >= threshold
        now = inside[found].sum() / inside.sum()
        area, recall = area + inside[found].mean() * (now - recall), now
    assert average_precision(heat, inside) == pytest.approx(area)
    assert average_precision(MASK.astype(float), MASK) == 1


def test_lift_is_one_for_a_map_that_knows_nothing():
    prior = centre(*torch.zeros(2, 1, 1, 20, 20))[0].numpy()
    assert lift(np.ones((20, 20)), MASK) == pytest.approx(1)
    assert lift(HEAT, MASK) == pytest.approx((1 / 3) / (16 / 400))
    assert lift(prior, MASK) > 1.5  # the mask is in the middle, so the centre alone does well


def test_the_oracle_orders_the_whole_picture_around_the_mask():
    heat = oracle(MASK)
    assert relevance_rank(heat, MASK) == average_precision(heat, MASK) == pointing_hit(heat, MASK, tolerance=0) == 1
    assert heat[0, 0] == 0 and heat[7, 8] > heat[5, 8] and heat[9, 9] > heat[8, 9]
    assert heat[MASK].min() > 0.5 > heat[~MASK].max()
    assert not oracle(np.zeros((4, 4), bool)).any() and oracle(np.ones((4, 4), bool)).all()


SCORES = [relevance_mass, relevance_rank, pointing_hit, average_precision, lift]


@pytest.mark.parametrize("score", [*SCORES, lambda h, m: iou(h, m, 0.5)])
def test_blank_maps_and_empty_masks_say_nothing(score):
    assert np.isnan(score(np.zeros((20, 20)), MASK)) and np.isnan(score(HEAT, np.zeros((20, 20), bool)))


# Ranks ----------------------------------------------------------------------------------------------------------------


def test_rank_correlation_is_scipys_for_each_pair_and_a_constant_map_ranks_nothing():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 3, 7, 7)).astype(float)  # with ties
    expected = [spearmanr(p.ravel(), q.ravel()).statistic for p, q in zip(a, b, strict=True)]
    assert rank_correlation(a, b) == pytest.approx(expected)
    assert np.isnan(rank_correlation(0 * a, b)).all()


def test_part_correlation_ranks_the_heat_of_each_part_for_each_pixel_and_knows_its_limits():
    heat = np.array([[0.1, 0.2, 0.1, 0.1], [0.3, 0.0, 0.1, 0.1]])
    places = np.array([[1, 2, 1, 1], [3, 0, 1, 1]])  # the largest has most of the heat, and is the coldest
    parts = {name: places == i for i, name in enumerate("abc", start=1)}
    assert part_correlation({"a": 1.0, "b": 5.0, "c": 7.0}, heat, parts) == pytest.approx(1)
    assert part_correlation({"a": 5.0, "b": 1.0, "c": 7.0}, heat, parts) == pytest.approx(0.5)
    assert np.isnan(part_correlation({"a": 1.0, "b": 2.0}, heat, parts))
    assert np.isnan(part_correlation(dict.fromkeys("abc", 1.0), heat, parts))
    for even in (0 * heat, 0 * heat + 1):  # a map that knows nothing says nothing, however large the parts are
        assert np.isnan(part_correlation({"a": 1.0, "b": 5.0, "c": 7.0}, even, parts))


# Volumes --------------------------------------------------------------------------------------------------------------

SPACING = (0.1, 0.01, 0.02)


def spot(z, y, x, shape=(6, 8, 10)):
    heat = np.zeros(shape, np.float32)
    heat[z, y, x] = 1
    return heat


def test_a_profile_is_the_share_at_each_place_and_sums_to_one():
    heat = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    for axis, others in enumerate([(1, 2), (0, 2), (0, 1)]):
        np.testing.assert_allclose(profile(heat, axis), heat.astype(float).sum(others) / heat.astype(float).sum())
    assert not profile(np.zeros((4, 5, 6), np.float32)).any()


def test_the_heat_of_a_single_voxel_is_where_it_is():
    assert heat_summary(spot(2, 5, 7), SPACING) == pytest.approx(
        {"hottest_slice": 2, "share_of_hottest_slice": 1, "slice_mm": 0.25, "depth_mm": 0.055, "width_mm": 0.15,
         "focus": 1 / 480}
    )  # fmt: skip
    assert all(np.isnan(value) for value in heat_summary(np.zeros((4, 4, 4)), SPACING).values())


def test_focus_is_the_smallest_share_that_holds_half_of_the_heat_whatever_its_scale():
    heat = np.random.default_rng(1).random((20, 30, 40)).astype(np.float32) ** 3
    ordered = np.cumsum(np.sort(heat, axis=None)[::-1], dtype=float)
    exact = (np.searchsorted(ordered, ordered[-1] / 2) + 1) / heat.size
    for scale in np.float32([1, 0.001, 43.7, 1 + 1 / 7]):
        assert heat_summary(heat * scale, SPACING)["focus"] == pytest.approx(exact, rel=2e-3)
    assert heat_summary(np.ones((4, 4, 4), np.float32), SPACING)["focus"] == 0.5


def test_lesion_scores_of_heat_that_misses_by_a_known_distance():
    mask = np.zeros((6, 8, 10), bool)
    mask[2, 3:5, 7] = True  # its middle lies at a depth of 0.04 mm
    found = lesion_scores(spot(2, 7, 7), mask, SPACING)
    assert found["pointing_game"] == 1 and found["pointing_exact"] == 0 and found["relevance_mass"] == 0
    assert found["depth_error_mm"] == pytest.approx(0.075 - 0.04)
    for apart, hit in ((0.149, 1), (0.151, 0)):  # 0.15 mm are forgiven
        assert lesion_scores(spot(3, 4, 7), mask, (apart, 0.01, 0.02))["pointing_game"] == hit
    inside = lesion_scores(mask.astype(np.float32), mask, SPACING)
    assert {inside[k] for k in ("pointing_exact", "relevance_mass", "relevance_rank", "average_precision")} == {1.0}
    assert inside["lift"] == pytest.approx(480 / 2) and inside["depth_error_mm"] == pytest.approx(0)
    for heat, where in ((0 * spot(1, 1, 1), mask), (spot(1, 1, 1), mask & False)):
        assert all(np.isnan(value) for value in lesion_scores(heat, where, SPACING).values())


def test_the_grid_pointing_game_gives_a_right_map_1_and_an_even_one_its_share():
    for cell, side in [(c, n) for n in (2, 3) for c in range(n**2)]:
        assert grid_share(grid_cell((12, 24), cell, side).astype(float), cell, side) == 1
        assert grid_share(np.ones((12, 24)), cell, side) == pytest.approx(1 / side**2)
    assert [grid_cell((5, 7), cell).sum() for cell in range(4)] == [12, 9, 8, 6]  # no pixel twice and none left out
    assert grid_share(np.array([[1.0, 3.0], [-9.0, 0.0]]), 1) == 0.75 and np.isnan(grid_share(np.zeros((2, 2)), 1))
