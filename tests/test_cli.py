import subprocess
import sys

import pytest

from camhelpers import cli
from camhelpers.datasets import training
from camhelpers.files import ROOT
from camhelpers.io import wikimedia


def command(*arguments):
    call = [sys.executable, "-m", "camhelpers", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, cwd=ROOT, timeout=100)


@pytest.fixture
def folder(tmp_path, write_notebook):
    write_notebook(
        tmp_path / "nb/01_a.ipynb",
        ("from typing import Literal\n\nsize: Literal['small', 'big'] = 'small'  # help How big", "parameters"),
    )
    write_notebook(tmp_path / "nb/02_b.ipynb", ("n: int = 3  # help [1..9] A number", "parameters"))
    return tmp_path / "nb"


def test_help_lists_the_commands():
    result = command("--help")
    assert result.returncode == 0
    names = ("run", "parameters", "golden", "evaluate", "volume", "train", "fetch")
    assert all(name in result.stdout for name in names)


def test_parameters_are_listed(folder, capsys):
    assert cli.main(["parameters", "--folder", str(folder)]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["01_a"],
        ["size", "small", "one of small, big  How big"],
        ["02_b"],
        ["n", "3", "int from 1 to 9  A number"],
    ]
    assert cli.main(["parameters", "02", "--folder", str(folder)]) == 0
    assert "01_a" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "09"], "camhelpers run: No notebook '09'; there are 01_a, 02_b."),
        (["run", "-p", "size"], "camhelpers run: A parameter is given as name=value; got 'size'."),
        (["run", "-p", "size=huge"], "camhelpers run: Parameter 'size' takes one of small, big; got 'huge'."),
        (["run", "-p", "hue=1"], "camhelpers run: Unknown parameter 'hue'; the selected notebooks take n, size."),
        (["run", "-j", "0"], "camhelpers run: The number of jobs and the time limit must be positive."),
        (["golden", "09"], "camhelpers golden: No notebook '09'; there are 01_a, 02_b."),
    ],
)
def test_bad_input_is_one_sentence(folder, capsys, arguments, says):
    assert cli.main([*arguments, "--folder", str(folder)]) == 2
    assert capsys.readouterr().err == says + "\n"


def test_bad_input_at_the_shell(folder):
    result = command("run", "-p", "n=ten", "--folder", folder)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == "camhelpers run: Parameter 'n' takes int from 1 to 9; got 'ten'.\n"


def test_train_and_fetch_pass_on_what_was_given(monkeypatch, capsys):
    calls = []
    monkeypatch.setitem(training.TRAINERS, "scenes", lambda **given: calls.append(given))
    monkeypatch.setattr(wikimedia, "fetch_wikimedia", lambda *given: calls.append(given))
    assert cli.main(["train", "scenes", "--epochs", "2"]) == 0
    assert cli.main(["fetch", "Cats", "Dogs", "-n", "3", "--out", "here"]) == 0
    assert calls[0] == {"epochs": 2}
    assert calls[1][:2] == (["Cats", "Dogs"], 3) and calls[1][2] == ROOT / "here"
    assert cli.main(["train", "unknown"]) == 2
    assert "No recipe for 'unknown'; there are scenes" in capsys.readouterr().err
