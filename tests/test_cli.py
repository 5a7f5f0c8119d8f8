import os
import shutil
import subprocess
import sys

import pytest

from camhelpers import cli
from camhelpers.datasets import training
from camhelpers.evaluate import run as evaluation
from camhelpers.files import ROOT
from camhelpers.io import wikimedia


@pytest.fixture
def folder(tmp_path, write_notebook):
    size = "from typing import Literal\n\nsize: Literal['small', 'big'] = 'small'  # help How big"
    write_notebook(tmp_path / "nb/01_a.ipynb", (size + "\nout: str = 'results'  # help Where", "parameters"))
    write_notebook(tmp_path / "nb/02_b.ipynb", ("n: int = 3  # help [1..9] A number", "parameters"))
    write_notebook(tmp_path / "nb/03_c.ipynb", "# None")
    return tmp_path / "nb"


def test_help_lists_commands_and_options(capsys):
    assert cli.main(["--help"]) == cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name:<12}{function.__doc__.split('.')[0]}" in out for name, function in cli.COMMANDS.items())
    offered = {
        "run": "--model --architecture --classes --size --mean --std --fit"
        " -p -j --parameters --profile --jobs --force --out --timeout --folder (default: 3600) 03",
        "golden": "--timeout --folder",
        "evaluate": "--model --architecture --classes --images -n --masks --methods --alphas --layers --metrics --steps"
        " --baselines --calibration --compare --seed --batch --out gradcam results/evaluation",
        "volume": "--model --architecture --classes --volume --methods --split --session --resume --alpha --layer"
        " --out --series --target --samples --spread --percentile --seed --at --opacity --cmap --spacing"
        " --window --orientation",
        "train": "NAME --pictures --epochs --seed --out",
        "fetch": "CATEGORY -n --out (default: 20)",
    }
    for name, words in offered.items():
        assert cli.main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert not [word for word in words.split() if word not in out], name
        assert "None" not in out and max(map(len, out.splitlines())) <= 120


def test_the_command_starts_without_torch_and_without_being_installed(tmp_path):
    """A copy that pip knows nothing about, whose `import torch` fails."""
    shutil.copytree(ROOT / "camhelpers", tmp_path / "camhelpers", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not needed here')")
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as m\nversion = m.version\n"
        "def hidden(name):\n    if name == 'camhelpers': raise m.PackageNotFoundError(name)\n    return version(name)\n"
        "m.version = hidden\n"
    )
    code = "from camhelpers import cli, files\nprint(files.versions()['camhelpers'], files.VERSION)\n"
    call = [sys.executable, "-c", code + "print(cli.main(['run', '--help']))"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    told = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=environment)
    first, *_, last = told.stdout.splitlines()
    assert len(set(first.split())) == 1 and last == "0", told.stderr


def test_parameters_are_listed(folder, capsys):
    assert cli.main(["parameters", "--folder", str(folder)]) == 0
    first = ["01_a", "  size  small    one of ['small', 'big']  How big", f"  out   results  str{' ' * 22}Where"]
    others = ["02_b", "  n  3  int [1..9]  A number", "03_c"]
    assert capsys.readouterr().out.splitlines() == first + others
    assert cli.main(["parameters", "02", "--folder", str(folder)]) == 0
    assert "01_a" not in capsys.readouterr().out


REFUSED = [
    ("run 09", "No notebook '09'; there are 01_a, 02_b, 03_c."),
    ("run -p size", "A parameter is given as name=value; got 'size'."),
    ("run -p size=huge", "Parameter 'size' takes one of ['small', 'big']; got 'huge'."),
    ("run -p n=5 -p hue=1", "Unknown parameter 'hue'; the selected notebooks take n, out, size."),
    ("run -p size=a=b", "Parameter 'size' takes one of ['small', 'big']; got 'a=b'."),
    ("run 01 -p n=5", "Unknown parameter 'n'; the selected notebooks take out, size."),
    ("run -p out=there", "The output folder is not set with a parameter; use --out."),
    ("run -j 0", "The number of jobs and the time limit must be positive."),
    ("run --timeout 0", "The number of jobs and the time limit must be positive."),
    ("run -j x", "Error parsing -j/--jobs: invalid literal for int() with base 10: 'x'"),
    ("run --colour", "Unrecognized options: --colour"), ("golden 09", "No notebook '09'; there are 01_a, 02_b, 03_c."),
    ("paint", "no such command; there are run, parameters,"), ("train unknown", "No recipe for 'unknown'; there are"),
    ("fetch", "pictures of []"), ("evaluate", "--images"), ("evaluate --images x --alphas 2", "alphas.0 is 2.0"),
    ("evaluate --images scenes:test:2 --methods gradcam --compare gradcam", "first:second; got 'gradcam'"),
    ("volume --volume x --at huge", "'model', 'native'"), ("volume --volume x --spacing 1 2", "--spacing"),
    ("volume --volume x --window 4 -3", "The window is (4.0, -3.0)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "says"), REFUSED, ids=[call for call, _ in REFUSED])
def test_bad_input_is_one_sentence(folder, tmp_path, monkeypatch, capsys, call, says):
    monkeypatch.chdir(tmp_path)
    name, *options = call.split()
    where = ["--folder", str(folder)] if name in ("run", "golden") else []
    assert cli.main([name, *options, *where]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"camhelpers {name}: ") and says in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["nb"]  # nothing was written


@pytest.mark.parametrize("given", ["pictures=nowhere", "volume=nowhere.nii.gz"])
def test_pictures_and_volumes_that_are_not_there_are_refused_before_a_run(tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "-p", given]) == 2 and "there is no 'nowhere" in capsys.readouterr().err


def test_commands_pass_on_what_was_given(monkeypatch):
    calls = []
    monkeypatch.setattr(training, "train", lambda *given, **options: calls.append((given, options)))
    monkeypatch.setattr(wikimedia, "fetch_wikimedia", lambda *given: calls.append(given))
    assert cli.main(["train", "scenes", "--epochs", "2"]) == 0
    assert cli.main(["fetch", "Cats", "Dogs", "-n", "3", "--out", "here"]) == 0
    assert calls == [(("scenes", None), {"pictures": None, "epochs": 2, "seed": 0}),
                     (["Cats", "Dogs"], 3, ROOT / "here")]  # fmt: skip


def test_ctrl_c_is_told_in_one_sentence(monkeypatch, capsys):
    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    assert cli.main(["evaluate", "--images", "scenes:test:2"]) == 130
    assert capsys.readouterr().err == "Interrupted; what was finished is kept.\n"
