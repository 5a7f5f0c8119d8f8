"""What the evaluation refuses, each in one sentence and before anything is written."""

import numpy as np
import pandas as pd
import pytest
import torch

from camhelpers.datasets.samples import Sample, samples
from camhelpers.evaluate import faithfulness, localisation, run, statistics, verdicts

HEAT, MASK, X = np.eye(20), np.eye(20, dtype=bool), torch.zeros(2, 3, 64, 64)
PIXELS = np.full((64, 64, 3), 0.5, np.float32)
MASKED, BARE = Sample("a", lambda: (PIXELS, PIXELS[..., 0] > 0), masked=True), Sample("a", lambda: (PIXELS, None))


def table(**means):
    rows = [(f"p{i}", who, "insertion", mean) for who, mean in means.items() for i in range(3)]
    return pd.DataFrame(rows, columns=["picture", "method", "metric", "value"])


def evaluate(some=(MASKED,), **options):
    return lambda net, folder: run.evaluate(net, some, out=folder / "out", **options)


def curves(heats):
    return lambda net, folder: faithfulness.curves(net, X, None, heats)


def plain(function, *arguments, **options):
    return lambda net, folder: function(*arguments, **options)


def of_model(function, *arguments, **options):
    return lambda net, folder: function(net, *arguments, **options)


CASES = [
    (evaluate([]), "at least one picture"),
    (evaluate([MASKED, MASKED]), "no two of the same name"),
    (evaluate([BARE], metrics=["lift"]), "lift is measured against masks"),
    (evaluate(metrics=["iou"]), "iou needs a threshold for gradcam at layer4"),
    (evaluate(metrics=["auc"]), "There is no metric 'auc'; choose from insertion"),
    (evaluate(methods=["gradcamm"]), "There is no method 'gradcamm'"),
    (evaluate(methods=[]), "no method to examine"),
    (evaluate(baselines=["grey"]), "There is no baseline 'grey'; choose from mean, blur, black, zero"),
    (evaluate(layers=["layer9"]), "no layer 'layer9'"),
    (evaluate(alphas=[1.5]), "alphas.0 is 1.5"),
    (evaluate(steps=0), "steps is 0"),
    (evaluate(batch=0), "batch is 0"),
    (evaluate(colour="red"), "colour is 'red'"),
    (of_model(run.calibrate, [BARE]), "chosen against masks"),
    (lambda net, folder: run.evaluate(torch.nn.Flatten(), [MASKED]), "with a card, which says how to prepare"),
    (plain(verdicts.family, ["gradcam"], [], 1, [("gradcam", "random")]), "at least two pictures, and there is 1"),
    (plain(verdicts.family, ["hybrid"], [0.3, 0.5], 9, [("hybrid", "random")]), "'hybrid@0.7' was declared but would"),
    (curves(np.ones((2, 64, 64))), r"The maps are \(2, 64, 64\); these pictures need \(M, 2, 64, 64\)"),
    (plain(localisation.relevance_mass, HEAT, MASK[:10]), "its mask boolean and of the same shape"),
    (plain(localisation.relevance_mass, HEAT, HEAT), "its mask boolean and of the same shape"),
    (plain(localisation.pointing_hit, HEAT - 1, MASK), "finite and not negative"),
    (plain(localisation.relevance_rank, HEAT + np.inf, MASK), "finite and not negative"),
    (plain(localisation.calibrate_threshold, [0 * HEAT], [MASK]), "no threshold can be chosen"),
    (plain(statistics.paired, [1.0, np.nan], [0.0, 0.0]), "at least two pairs, not 1"),
    (plain(statistics.compare, table(a=1, b=2), [("a", "c")]), "'c' was declared but not measured"),
    (plain(statistics.compare, table(a=1, b=2), []), "pairs is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "says"), CASES, ids=[says for _, says in CASES])
def test_bad_input_gets_one_sentence_and_nothing_is_written(tiny_net, tmp_path, call, says):
    with pytest.raises(ValueError, match=says):
        call(tiny_net(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_can_be_read(tiny_net, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"None of the 1 pictures could be read; .*a.png"):
        run.evaluate(tiny_net(), samples(tmp_path))
