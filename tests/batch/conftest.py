"""A small network of volumes, and volumes for it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from camhelpers.batch import camvis
from camhelpers.cam.models import save_model
from tests.batch.sessions import CLASSES, small


@pytest.fixture(scope="module")
def net(tiny_net):
    return tiny_net(3, CLASSES)


@pytest.fixture(scope="module")
def checkpoint(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    arguments = {"classes": 3, "channels": 1, "widths": [8, 8, 12, 16], "dims": 3, "strides": [2, 1, 2, 2, 1]}
    save_model(net, replace(net.card, architecture="small_resnet", arguments=arguments), path)
    return path


@pytest.fixture
def quick(monkeypatch):
    """Leave the drawing of previews out, where files are only counted."""
    monkeypatch.setattr(camvis.render, "save", lambda figure, path: Path(path).write_text("a preview"))
    monkeypatch.setattr(camvis.planes, "preview", lambda *given, **options: None)


@pytest.fixture
def tree(tmp_path):
    """Two classes, three volumes."""
    for number, name in enumerate(("drusen/eye 2", "drusen/eye 10", "fluid/eye 7")):
        path = tmp_path / f"tree/{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, small(number))
    return tmp_path / "tree"
