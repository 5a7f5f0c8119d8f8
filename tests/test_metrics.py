import numpy as np
import pytest

from camhelpers.metrics import pointing_hit, relevance_mass

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
