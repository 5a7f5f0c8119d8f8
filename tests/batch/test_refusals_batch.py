"""What headless reruns refuse, each with one sentence before anything runs; the notebooks are the project's own."""

import pytest

from camhelpers.batch import notebooks as suite

REFUSALS = [
    ("02", {"layer": "layer9"}, "'layer': The model has no layer 'layer9'; it consists of stem, layer1"),
    ("03", {"layers": "layer2,layer9"}, "'layers': The model has no layer 'layer9'"),
    ("04", {"layers": ""}, "'layers' takes list[str]: a layer of the model; got ''"),
    ("06", {"layer": "features"}, "'layer': The model has no layer 'features'"),
    ("01", {"model": "mine.pt"}, "There is no checkpoint 'mine.pt'"),
    ("06", {"methods": "gradcam,cam"}, "'methods': There is no method 'cam'; choose one of gradcam"),
    ("06", {"methods": "hybrid@0.3"}, "'methods': There is no method 'hybrid@0.3'"),
    ("06", {"seed": "-1"}, "'seed' takes int [0..]; got '-1'"),
    ("06", {"samples": "1"}, "'samples' takes int [2..200]; got '1'"),
]
FAMILY = "family: list[str] = ['hybrid:gradcam']  # help {method:method} Comparisons", "parameters"
PAIRS = [
    ("hybrid:foo", "There is no method 'foo'; choose one of gradcam"),
    ("hybrid", "'hybrid' is not two methods, as in hybrid@0.3:gradcam"),
    ("gradcam:gradcam", "'gradcam:gradcam' is not two methods"),
    ("hybrid:", "There is no method ''; choose"),
    ("gradcam@0.3:hybrid", "'gradcam' takes no alpha '0.3'"),
    ("hybrid@3:gradcam", "'hybrid' takes no alpha '3'"),
    ("hybrid@nan:gradcam", "'hybrid' takes no alpha 'nan'"),
]


@pytest.mark.parametrize(("number", "given", "words"), REFUSALS)
def test_a_parameter_that_the_notebook_could_not_use(tmp_path, number, given, words):
    refused(tmp_path, words, [number], given)


@pytest.mark.parametrize(("pair", "words"), PAIRS)
def test_a_comparison_of_what_is_no_method(tmp_path, write_notebook, pair, words):
    write_notebook(tmp_path / "nb/01_a.ipynb", FAMILY)
    refused(tmp_path, words, ["01"], {"family": pair}, notebooks=tmp_path / "nb")


@pytest.mark.parametrize("options", [{"timeout": t} for t in (0, float("nan"), float("inf"))] + [{"jobs": 0}])
def test_a_limit_that_is_none(tmp_path, options):
    refused(tmp_path, "time limit must be positive. The limit is a finite number", ["01"], **options)


def refused(tmp_path, words, *call, **options):
    with pytest.raises((ValueError, OSError)) as caught:
        suite.run(*call, out=tmp_path / "out", **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
