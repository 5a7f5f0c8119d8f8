"""What pictures and widgets refuse, each with one sentence before anything is drawn."""

import numpy as np
import pytest

from camhelpers import render
from camhelpers.cam.models import load_model
from camhelpers.show import planes
from camhelpers.show.explorers import Explorer
from camhelpers.show.viewer import VolumeViewer

CUBE = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)
PICTURE, HEAT = np.zeros((4, 5, 3)), np.linspace(0, 1, 20).reshape(4, 5)
REFUSALS = [
    (lambda: render.overlay(PICTURE, HEAT, opacity=1.01), "opacity is 1.01; it lies between 0"),
    (lambda: render.overlay(PICTURE, HEAT, opacity=float("nan")), "opacity is nan"),
    (lambda: render.overlay(PICTURE, HEAT, cmap="rainbow"), "no colour map 'rainbow'; choose one of jet, hot"),
    (lambda: render.overlay(PICTURE, HEAT[:3]), r"picture is \(4, 5, 3\), the heat \(3, 5\)"),
    (lambda: render.overlay(PICTURE, HEAT * 2), "heat reaches from 0 to 2; bring it to 0..1 first"),
    (lambda: render.overlay(PICTURE, HEAT - 1), "heat reaches from -1 to 0"),
    (lambda: render.colour(HEAT * np.nan), "heat reaches from nan"),
    (lambda: render.grid([]), "no pictures to show"),
    (lambda: planes.orthogonal(CUBE[0], CUBE[0]), "of one shape, with values in 0..1"),
    (lambda: planes.orthogonal(CUBE, CUBE, mask=CUBE[:2] > 0), "of one shape"),
    (lambda: planes.projections(CUBE * 300, CUBE), "values in 0..1"),
    (lambda: planes.projections(CUBE * np.nan, CUBE), "values in 0..1"),
    (lambda: VolumeViewer(CUBE, {"a": CUBE, "b": CUBE[1:]}), "of one shape"),
    (lambda: VolumeViewer(CUBE, {"a": CUBE - 1}), "values in 0..1"),
    (lambda: VolumeViewer(CUBE, {"a": CUBE}, cmap="rainbow"), "no colour map 'rainbow'; choose one of jet"),
    (lambda: Explorer(load_model("scenes"), {"a": PICTURE}, method="grad"), "no method 'grad'; choose one of gradcam"),
]


@pytest.mark.parametrize(("call", "words"), REFUSALS)
def test_bad_input_gets_one_clear_sentence(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
