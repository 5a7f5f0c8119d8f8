"""What volumes in sessions are refused for, each with one sentence before anything is written."""

import numpy as np
import pytest
import torch

from camhelpers.batch.camvis import explain_volumes
from camhelpers.datasets.samples import Sample
from tests.batch.sessions import SHAPE, small

REFUSED = [
    ({"methods": ["gradcan"]}, "There is no method 'gradcan'; choose one of gradcam,"), ({"methods": []}, "methods is"),
    ({"alpha": 1.1}, "alpha is 1.1"), ({"samples": 1}, "samples is 1"), ({"spread": 0}, "spread is 0"),
    ({"percentile": 101}, "percentile is 101"), ({"opacity": -1}, "opacity is -1"), ({"seed": -1}, "seed is -1"),
    ({"size": "huge"}, "size is 'huge'"), ({"cmap": "rainbow"}, "There is no colour map 'rainbow'"),
    ({"layer": "layer9"}, "The model has no layer 'layer9'"), ({"spacing": (1, 1, 0)}, "spacing.2 is 0"),
    ({"target": "glaucoma"}, "The model has no class 'glaucoma'; it knows normal, drusen, fluid."),
    ({"target": 3}, "The model has no class 3; its classes are 0 to 2."),
    ({"window": (2, 1)}, "The window is (2.0, 1.0); use two numbers, (low, high) with low below high."),
    ({"session": "../x"}, "The name '../x' "), ({"split": "a/b"}, "The name 'a/b' "),
    ({"source": "nowhere"}, "nowhere does not exist"), ({"source": "retinas:test:0"}, "0 from 0 on are not among them"),
    ({"source": Sample("../../evil", lambda: None)}, "The name '../../evil' "),
    ({"source": [np.zeros(SHAPE), np.ones(SHAPE)]}, "Two volumes are called 'volume'; rename one"),
    ({"model": torch.nn.Conv3d(1, 1, 1)}, "Volumes need a network whose card says that it takes three axes"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "says"), REFUSED, ids=[str(given)[:40] for given, _ in REFUSED])
def test_bad_input_is_one_sentence_before_anything_is_written(tmp_path, net, given, says):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        explain_volumes(**{"model": net, "source": small(), "out": tmp_path / "out", **given})
    assert says in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "out").exists()
