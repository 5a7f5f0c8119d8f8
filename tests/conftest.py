"""What several tests share."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from camhelpers.cam.models import Card
from camhelpers.cam.nets import SmallResNet
from camhelpers.files import ROOT


@pytest.fixture(scope="session")
def tiny_net():
    """Build a small seeded network with a card: of pictures 64x64, or with `dims=3` of grey volumes 16x32x32."""

    def build(dims: int = 2, classes: tuple[str, ...] = ("cat", "dog", "fish"), **card) -> SmallResNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = SmallResNet(len(classes), {2: 3, 3: 1}[dims], (8, 8, 12, 16), dims, (2, 1, 2, 2, 1)).eval()
        known = {2: {"size": (64, 64), "mean": (0.5,) * 3, "std": (0.25,) * 3}, 3: {"size": (16, 32, 32)}}[dims]
        net.card = Card("tiny", classes, **{**known, **card})
        return net

    return build


@pytest.fixture
def write_notebook():
    """Write a small notebook: a cell is code, or Markdown if it begins with `#`; `(source, tag, ...)` carries tags."""

    def write(path: Path, *cells: str | tuple[str, ...]) -> Path:
        notebook = nbformat.v4.new_notebook(
            metadata={
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                "language_info": {"name": "python"},
            }
        )
        for number, cell in enumerate(cells):
            source, *tags = (cell,) if isinstance(cell, str) else cell
            new = nbformat.v4.new_markdown_cell if source.startswith("#") else nbformat.v4.new_code_cell
            notebook.cells.append(new(source, id=f"cell-{number}", metadata={"tags": tags} if tags else {}))
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return write


@pytest.fixture
def nbval():
    """Run nbval with our plugin over a notebook in a process of its own, and return what it printed."""

    def run(path: Path) -> str:
        plugins = ["-p", "tests.nbval_tolerance", "-p", "no:cacheprovider"]
        options = ["--nbval", "--nbval-current-env", "-v", "--rootdir", str(path.parent)]
        call = [sys.executable, "-m", "pytest", *plugins, *options, str(path)]
        return subprocess.run(call, capture_output=True, text=True, cwd=ROOT, timeout=100).stdout

    return run
