import re
from pathlib import Path

import pytest
import torch

from camhelpers.batch.parameters import check, parse_cell, read_parameters
from camhelpers.cam import models

CELL = """
from typing import Literal

profile: Literal["quick", "full"] = "quick"  # help How much to compute
alpha: float = 0.7  # help [0..1] Share of Grad-CAM
n: int = 5  # help [1..1000] How many
layer: str | None = None  # help Which layer
layers: list[str] = ["layer3", "layer4"]  # help Which layers
sizes: list[int] = [
    7,
    14,
]  # help [1..99] Which sizes
opacity: float | Literal["heat"] = "heat"  # help [0..1] How strong
fast: bool = True
rate: float = 1.0
margin: float = 0.01  # help (0..1] Equivalent within
alphas: list[float] = [0.0, 0.7]  # help [0..1] Shares
seed: int = 0  # help [0..] Breaks ties
limit: float | None = None  # help (0..] (None is none)
baselines: list[Literal["mean", "blur"]] = ["mean"]  # help What replaces a pixel
model: str = "scenes"  # help {model} Which network
stage: str | None = None  # help {layer} Which layer of it
methods: list[str] = ["gradcam"]  # help {method} Which methods
family: list[str] = ["hybrid:gradcam"]  # help {method:method} Comparisons
"""
OFFERED = parse_cell(CELL)


def test_declarations_are_read():
    assert {p.name: (p.default, p.allowed, p.help) for p in OFFERED.values()} == {
        "profile": ("quick", "one of ['quick', 'full']", "How much to compute"),
        "alpha": (0.7, "float [0..1]", "Share of Grad-CAM"),
        "n": (5, "int [1..1000]", "How many"),
        "layer": (None, "str | None", "Which layer"),
        "layers": (["layer3", "layer4"], "list[str]", "Which layers"),
        "sizes": ([7, 14], "list[int] [1..99]", "Which sizes"),
        "opacity": ("heat", "float | one of ['heat'] [0..1]", "How strong"),
        "fast": (True, "bool", ""),
        "rate": (1.0, "float", ""),
        "margin": (0.01, "float (0..1]", "Equivalent within"),
        "alphas": ([0.0, 0.7], "list[float] [0..1]", "Shares"),
        "seed": (0, "int [0..]", "Breaks ties"),
        "limit": (None, "float | None (0..]", "(None is none)"),
        "baselines": (["mean"], "list[one of ['mean', 'blur']]", "What replaces a pixel"),
        "model": ("scenes", "str: a model", "Which network"),
        "stage": (None, "str | None: a layer of the model", "Which layer of it"),
        "methods": (["gradcam"], "list[str]: a method", "Which methods"),
        "family": (["hybrid:gradcam"], "list[str]: two methods, as in hybrid@0.3:gradcam", "Comparisons"),
    }


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("profile", "full", "full"), ("alpha", "0.25", 0.25), ("alpha", 1, 1.0), ("alpha", "0", 0.0), ("n", "7", 7),
        ("layer", "none", None), ("layer", None, None), ("layer", "layer3", "layer3"),
        ("opacity", "0.4", 0.4), ("opacity", "heat", "heat"),
        ("layers", "layer2, layer3", ["layer2", "layer3"]),
        ("layers", ["layer1"], ["layer1"]), ("sizes", "1,2", [1, 2]), ("fast", "no", False), ("fast", True, True),
        ("margin", "1", 1.0), ("alphas", "0,0.5,1", [0.0, 0.5, 1.0]), ("seed", "0", 0), ("limit", "none", None),
        ("limit", "9e9", 9e9), ("baselines", "blur,mean", ["blur", "mean"]), ("stage", "layer3.conv1", "layer3.conv1"),
    ],
)  # fmt: skip
def test_values_become_the_declared_type(name, given, value):
    parsed = OFFERED[name].parse(given)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "given"),
    [("profile", "medium"), ("alpha", "much"), ("alpha", "1.5"), ("alpha", "-0.1"), ("alpha", "nan"), ("n", "2.5"),
     ("n", "0"), ("sizes", "1,two"), ("sizes", "1,100"), ("fast", "perhaps"), ("rate", "inf"), ("margin", "0"),
     ("margin", "1.1"), ("alphas", "0,2"), ("alphas", "nan"), ("seed", "-1"), ("limit", "0"), ("limit", "inf"),
     ("baselines", "mean,grey"), ("layers", ""), ("methods", " ")],
)  # fmt: skip
def test_a_wrong_value_is_told_what_is_allowed(name, given):
    with pytest.raises(ValueError, match=rf"^Parameter {name!r} takes {re.escape(OFFERED[name].allowed)}; got '.*'\.$"):
        OFFERED[name].parse(given)


def test_a_value_goes_to_the_notebooks_that_take_it_and_the_others_are_named(capsys):
    both = {Path("02_a"): OFFERED, Path("03_b"): parse_cell("alpha: float = 0.5\nbeta: int = 1")}
    assert list(check(both, {"beta": "4"}).values()) == [{}, {"beta": 4}]
    assert capsys.readouterr().err == "02_a runs without beta\n"


FED = """model: str = "{}"  # help {{model}} Which network
architecture: str = ""
card: str = ""
layers: list[str] = []  # help {{layer}} Which layers
"""


def test_a_network_of_ones_own_is_built_fed_and_kept_from_chapters_of_volumes(tmp_path, capsys):
    torch.save({"state_dict": models._named("timm/test_resnet", 3).state_dict()}, tmp_path / "net.ckpt")
    chapters = {Path(name): parse_cell(FED.format(model)) for name, model in (("02_a", "scenes"), ("06_b", "retina"))}
    given = {"model": str(tmp_path / "net.ckpt"), "architecture": "timm/test_resnet", "layers": "layer2"}
    stated, given = {**given, "card": "size=64", "layers": ["layer2"]}, {**given, "size": "64"}
    with pytest.raises(ValueError, match=r"^Parameter 'model' does not suit; the selected notebooks take"):
        check({Path("06_b"): chapters[Path("06_b")]}, given)
    with pytest.raises(ValueError, match=r"size\.0 is '0': Input should be greater than 0"):
        check(chapters, given | {"size": "0"})
    chapters[Path("06_b")].pop("architecture")
    assert list(check(chapters, given).values()) == [stated, {}]
    assert capsys.readouterr().err.endswith("06_b runs without model, architecture, layers, card\n")


@pytest.mark.parametrize(
    "given",
    [{"stage": "layer3.conv1"}, {"stage": "none", "model": "hans"}, {"methods": "gradcam++,smoothgrad"},
     {"family": "hybrid@0.3:gradcam,layercam:hybrid@.7"}],
)  # fmt: skip
def test_what_is_named_is_looked_up(given):
    assert check({Path("02"): OFFERED}, given)[Path("02")].keys() == given.keys()


def test_a_cell_that_cannot_be_read_is_told_and_none_is_no_error(tmp_path, write_notebook):
    with pytest.raises(ValueError, match=r"01_a\.ipynb: malformed"):
        read_parameters(write_notebook(tmp_path / "01_a.ipynb", ("n: int = 2 * m", "parameters")))
    assert read_parameters(write_notebook(tmp_path / "03_c.ipynb", "x = 1")) == {}
