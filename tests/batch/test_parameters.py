import pytest

from camhelpers.batch.parameters import check, parse_cell, read_parameters

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
]  # help Which sizes
fast: bool = True
"""


@pytest.fixture
def offered():
    return parse_cell(CELL)


def test_declarations_are_read(offered):
    assert list(offered) == ["profile", "alpha", "n", "layer", "layers", "sizes", "fast"]
    assert offered["profile"].choices == ("quick", "full")
    assert offered["alpha"].help == "Share of Grad-CAM"
    assert (offered["alpha"].low, offered["alpha"].high) == (0, 1)
    assert offered["layer"].optional and offered["layer"].default is None
    assert offered["sizes"].default == [7, 14] and offered["sizes"].help == "Which sizes"
    assert offered["fast"].help == ""


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("profile", "full", "full"),
        ("alpha", "0.25", 0.25),
        ("alpha", 1, 1.0),
        ("n", "7", 7),
        ("layer", "none", None),
        ("layer", None, None),
        ("layer", "layer3", "layer3"),
        ("layers", "layer2, layer3", ["layer2", "layer3"]),
        ("layers", '["a,b"]', ["a,b"]),
        ("layers", ["layer1"], ["layer1"]),
        ("sizes", "1,2", [1, 2]),
        ("fast", "no", False),
        ("fast", True, True),
    ],
)
def test_values_become_the_declared_type(offered, name, text, value):
    parsed = offered[name].parse(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("profile", "medium", "one of quick, full"),
        ("alpha", "much", "float from 0 to 1"),
        ("alpha", "1.5", "float from 0 to 1"),
        ("alpha", "nan", "float from 0 to 1"),
        ("n", "2.5", "int from 1 to 1000"),
        ("n", "0", "int from 1 to 1000"),
        ("sizes", "1,two", "list, each int"),
        ("sizes", "[1,", "list, each int"),
        ("fast", "perhaps", "bool"),
    ],
)
def test_a_wrong_value_is_told_what_is_allowed(offered, name, text, says):
    with pytest.raises(ValueError, match=rf"{name!r} takes {says}; got '.*'\.$") as caught:
        offered[name].parse(text)
    assert str(caught.value).count("\n") == 0


def test_a_value_goes_to_the_notebooks_that_take_it(offered):
    both = {"02": offered, "03": parse_cell("alpha: float = 0.5\nbeta: int = 1")}
    assert check(both, {"beta": "4"}) == {"02": {}, "03": {"beta": 4}}
    with pytest.raises(ValueError, match=r"Unknown parameter 'alhpa'.*alpha, beta, fast"):
        check(both, {"alhpa": "0.5"})


def test_a_cell_without_types_is_refused(tmp_path, write_notebook):
    with pytest.raises(ValueError, match=r"01_a\.ipynb: parameter 'alpha' has no type"):
        read_parameters(write_notebook(tmp_path / "01_a.ipynb", ("alpha = 1", "parameters")))
    with pytest.raises(ValueError, match=r"parameter 'when' is a datetime; use int, float"):
        read_parameters(write_notebook(tmp_path / "02_b.ipynb", ("when: datetime = 1", "parameters")))
    assert read_parameters(write_notebook(tmp_path / "03_c.ipynb", "x = 1")) == {}
