"""What the tests of sessions share: small volumes, and a look into the folders that were written."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from camhelpers.batch.camvis import explain_volumes
from camhelpers.cam.models import load_model

SHAPE = (10, 12, 14)
CLASSES = ("normal", "drusen", "fluid")


def small(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE, np.float32)


def favouring(net, label):
    """The network with another head, which finds one class everywhere."""
    other = load_model(type(net)(3, 1, (8, 8, 12, 16), 3, (2, 1, 2, 2, 1)).eval(), classes=CLASSES, size=(16, 32, 32))
    with torch.no_grad():
        other.fc.bias[CLASSES.index(label)] = 50.0
    return other


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file())


def whole(folder: Path) -> list[dict]:
    """Every metadata file of a session, after a look into each file that it lists."""
    found = []
    for path in sorted(folder.glob("heatmaps/**/*_metadata.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for name, about in record["files"].items():
            data = (folder / name).read_bytes()
            assert len(data) == about["bytes"] and hashlib.sha256(data).hexdigest() == about["sha256"]
        found.append(record)
    return found


def layout(split: str, label: str, sample: str, methods: list[str], look: str = "") -> list[str]:
    kinds = ("heat.tiff", "heatmap.nii.gz", "heatmap.tiff", "overlay.tiff", "raw.npy")
    heat, look = f"heatmaps/{split}/class_{label}/{sample}/{sample}", f"visualizations/{split}/{look}{sample}"
    named = [f"{heat}_{method}_{kind}" for method in methods for kind in kinds]
    further = [f"{look}_{method}_combined.png" for method in methods[1:]]
    return [*named, f"{heat}_metadata.json", f"{look}_combined.png", *further, f"{look}_full_volume_overlay.tiff"]


def expected(split: str, methods: list[str]) -> list[str]:
    """The files of a session of the tree."""
    pairs = (("drusen", "eye 2"), ("drusen", "eye 10"), ("fluid", "eye 7"))
    return sorted(["summary.csv", *(name for pair in pairs for name in layout(split, *pair, methods))])


def statuses(session) -> list[str]:
    return [outcome.status for outcome in session.outcomes]


def one(*given, **options) -> dict:
    """The metadata of a single volume."""
    (outcome,) = explain_volumes(*given, **options).outcomes
    assert outcome.status == "made", outcome.problem
    return outcome.record


def summary(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "summary.csv").read_text(encoding="utf-8").splitlines()))
