import numpy as np
import pytest
from scipy.stats import spearmanr

from camhelpers.evaluate.localisation import (
    calibrate_threshold,
    centre_prior,
    class_contrast,
    iou,
    lift,
    oracle,
    part_correlation,
    part_heat,
    pointing_hit,
    pxap,
    relevance_mass,
    relevance_rank,
)

HEAT = np.zeros((20, 20))
HEAT[4, 4], HEAT[10, 10] = 1.0, 0.5
MASK = np.zeros((20, 20), bool)
MASK[8:12, 8:12] = True


def test_relevance_mass_is_the_share_of_heat_inside():
    assert relevance_mass(HEAT, MASK) == pytest.approx(0.5 / 1.5)
    assert relevance_mass(HEAT, ~MASK) == pytest.approx(1 / 1.5)


def test_uniform_heat_has_the_mass_of_the_area():
    assert relevance_mass(np.ones((20, 20)), MASK) == pytest.approx(MASK.mean())


def test_pointing_tolerance_is_a_disc_around_the_maximum():
    away = np.hypot(4, 4)  # from (4, 4) to the nearest masked pixel (8, 8)
    assert pointing_hit(HEAT, MASK, tolerance=0) == 0
    assert pointing_hit(HEAT, MASK, tolerance=(away - 0.01) / 20) == 0
    assert pointing_hit(HEAT, MASK, tolerance=(away + 0.01) / 20) == 1


def test_tied_maxima_are_averaged():
    tied = HEAT.copy()
    tied[10, 10] = tied[11, 11] = 1.0
    assert pointing_hit(tied, MASK, tolerance=0) == pytest.approx(2 / 3)


@pytest.mark.parametrize("metric", [relevance_mass, pointing_hit])
def test_blank_maps_and_empty_masks_say_nothing(metric):
    assert np.isnan(metric(np.zeros((20, 20)), MASK))
    assert np.isnan(metric(HEAT, np.zeros((20, 20), bool)))


@pytest.mark.parametrize("metric", [relevance_mass, pointing_hit])
@pytest.mark.parametrize("mask", [MASK[:10], MASK.astype(float)])
def test_a_mask_that_does_not_fit_is_refused(metric, mask):
    with pytest.raises(ValueError, match="mask must be boolean and of the heat's shape"):
        metric(HEAT, mask)


# Rank, IoU, PxAP ------------------------------------------------------------------------------------------------------


def test_relevance_rank_counts_the_hottest_as_many_as_the_mask_has():
    heat = np.arange(16.0).reshape(4, 4)
    mask = np.zeros((4, 4), bool)
    mask[3, 2:] = mask[0, :2] = True  # of the four hottest, 12 to 15, two are inside
    assert relevance_rank(heat, mask) == 0.5


def test_relevance_rank_of_ties_is_its_expectation():
    rng = np.random.default_rng(0)
    heat, mask = np.round(rng.random((8, 8)) * 4), rng.random((8, 8)) < 0.3
    k = mask.sum()
    drawn = []
    for _ in range(4000):
        jitter = rng.permutation(64).reshape(8, 8) / 100
        drawn.append(mask[np.unravel_index(np.argsort(-(heat + jitter), axis=None)[:k], (8, 8))].mean())
    assert relevance_rank(heat, mask) == pytest.approx(np.mean(drawn), abs=0.005)


def test_uniform_heat_has_the_rank_of_the_area():
    assert relevance_rank(np.ones((20, 20)), MASK) == pytest.approx(MASK.mean())


def test_iou_by_hand():
    heat = np.array([[2.0, 1.0], [0.9, 0.0]])
    mask = np.array([[True, False], [True, False]])
    assert iou(heat, mask, 0.5) == pytest.approx(1 / 3)  # found 2; both 1; either 3
    assert iou(heat, mask, 0.4) == pytest.approx(2 / 3)
    assert iou(5 * heat, mask, 0.4) == iou(heat, mask, 0.4)


def test_the_calibrated_threshold_is_the_best_one():
    heat = np.where(MASK, 0.8, 0.3)
    heat[0, 0] = 1.0
    chosen = calibrate_threshold([heat, np.zeros((20, 20))], [MASK, MASK])
    assert 0.3 < chosen <= 0.8
    assert iou(heat, MASK, chosen) == pytest.approx(16 / 17)


def test_the_calibrated_threshold_is_the_best_of_all_tried_one_by_one():
    rng = np.random.default_rng(0)
    heats = [rng.random((20, 20)).astype(np.float32) ** 2 for _ in range(6)] + [np.zeros((20, 20), np.float32)]
    masks = [h + rng.normal(0, 0.2, h.shape) > 0.4 for h in heats[:-1]] + [MASK]
    tried = np.arange(1, 100) / 100
    means = [np.nanmean([iou(h, m, t) for h, m in zip(heats, masks, strict=True)]) for t in tried]
    assert calibrate_threshold(heats, masks) == tried[int(np.argmax(means))]


def average_precision(heat, inside):
    """Precision at every distinct threshold, weighted by the recall that it gains."""
    area, recall = 0.0, 0.0
    for threshold in sorted(set(heat.tolist()), reverse=True):
        found = heat >= threshold
        precision, now = inside[found].mean(), inside[found].sum() / inside.sum()
        area, recall = area + precision * (now - recall), now
    return area


@pytest.mark.parametrize("levels", [3, 1000])
def test_pxap_pools_the_pixels_of_all_pictures(levels):
    rng = np.random.default_rng(0)
    heats = [np.round(rng.random((6, 7)) * levels) * scale for scale in (1.0, 0.1, 7.0)]
    masks = [rng.random((6, 7)) < share for share in (0.2, 0.5, 0.7)]
    pooled = np.concatenate([(h / h.max()).ravel() for h in heats])
    inside = np.concatenate([m.ravel() for m in masks])
    assert pxap(heats, masks) == pytest.approx(average_precision(pooled, inside))


def test_pxap_of_the_mask_is_one_and_a_blank_map_costs_recall():
    blank = np.zeros((20, 20))
    assert pxap([MASK.astype(float)], [MASK]) == 1
    assert pxap([MASK.astype(float), blank], [MASK, MASK]) == pytest.approx((1 + MASK.mean()) / 2)
    assert np.isnan(pxap([blank], [MASK]))
    assert np.isnan(pxap([HEAT], [np.zeros((20, 20), bool)]))


# Lift, contrast, parts ------------------------------------------------------------------------------------------------


def test_lift_is_one_for_a_map_that_knows_nothing():
    assert lift(np.ones((20, 20)), MASK) == pytest.approx(1)
    assert lift(centre_prior((20, 20)), MASK, centre_prior((20, 20))) == pytest.approx(1)
    assert lift(HEAT, MASK) == pytest.approx((1 / 3) / (16 / 400))
    assert lift(centre_prior((20, 20)), MASK) > 1.5  # the mask is in the middle, so the centre alone does well
    assert lift(HEAT, MASK, centre_prior((20, 20))) < lift(HEAT, MASK)


def test_the_oracle_orders_the_whole_picture_around_the_mask():
    heat = oracle(MASK)
    assert relevance_rank(heat, MASK) == pxap([heat], [MASK]) == pointing_hit(heat, MASK, tolerance=0) == 1
    assert heat[0, 0] == 0 and heat[7, 8] > heat[5, 8] and heat[9, 9] > heat[8, 9]
    assert not oracle(np.zeros((4, 4), bool)).any() and oracle(np.ones((4, 4), bool)).all()


def test_class_contrast_is_zero_for_a_map_that_ignores_the_class():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[:, 0], b[:, 3] = True, True
    blind = np.random.default_rng(0).random((4, 4))
    assert class_contrast(blind, blind, a, b) == 0
    assert class_contrast(a.astype(float), b.astype(float), a, b) == 1
    assert class_contrast(b.astype(float), a.astype(float), a, b) == -1
    assert class_contrast(3.0 * a + b, 1.0 * a + b, a, b) == pytest.approx(3 / 4 - 1 / 2)
    assert np.isnan(class_contrast(a.astype(float), np.zeros((4, 4)), a, b))


def test_part_heat_leaves_hidden_parts_out():
    parts = {"head": MASK, "tail": np.zeros((20, 20), bool), "rest": ~MASK}
    assert part_heat(HEAT, parts) == pytest.approx({"head": 1 / 3, "rest": 2 / 3})


def test_part_correlation_equals_scipy_and_knows_its_limits():
    rng = np.random.default_rng(0)
    drops, heat = ({f"part {i}": float(v) for i, v in enumerate(np.round(rng.random(8), 1))} for _ in range(2))
    expected = spearmanr(list(drops.values()), list(heat.values())).statistic
    assert part_correlation(drops, heat) == pytest.approx(expected)
    assert part_correlation(drops, drops) == 1
    assert np.isnan(part_correlation({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}))
    assert np.isnan(part_correlation(dict.fromkeys("abc", 1.0), {"a": 1.0, "b": 2.0, "c": 3.0}))
    assert np.isnan(part_correlation({"a": 1.0, "b": 2.0, "c": 3.0}, dict.fromkeys("abc", float("nan"))))
    with pytest.raises(ValueError, match="The parts differ: a, b, c against a, b"):
        part_correlation({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "b": 2.0})


@pytest.mark.parametrize("metric", [relevance_rank, lambda h, m: iou(h, m, 0.5), lift])
def test_the_others_say_nothing_of_blank_maps_and_empty_masks_either(metric):
    assert np.isnan(metric(np.zeros((20, 20)), MASK))
    assert np.isnan(metric(HEAT, np.zeros((20, 20), bool)))
    with pytest.raises(ValueError, match="mask must be boolean and of the heat's shape"):
        metric(HEAT, MASK[:10])


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_heat_that_is_no_heat_is_refused(value):
    heat = HEAT.copy()
    heat[0, 0] = value
    with pytest.raises(ValueError, match="finite and not negative"):
        relevance_mass(heat, MASK)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: iou(HEAT, MASK, 0), "The threshold is 0; it is a share of the maximum"),
        (lambda: pxap([HEAT], [MASK, MASK]), "1 maps and 2 masks"),
        (lambda: pxap([], []), "0 maps and 0 masks"),
        (lambda: calibrate_threshold([np.zeros((20, 20))], [MASK]), "no threshold can be chosen"),
    ],
)
def test_what_cannot_be_measured_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
