"""What several tests share."""

import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from camhelpers.cam.cards import Card
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


@pytest.fixture(scope="session")
def cube():
    """Build a small seeded volume `(Z, Y, X)` of float32 in 0..1: a bright ball in grain, off every middle."""

    def build(seed: int = 0, shape: tuple[int, int, int] = (16, 32, 32)) -> np.ndarray:
        grain = np.random.default_rng(seed).random(shape)
        z, y, x = (np.linspace(-1, 1, n) for n in shape)
        away = (z[:, None, None] + 0.3) ** 2 + (y[:, None] - 0.2) ** 2 + (x - 0.4) ** 2
        return (0.3 * grain + 0.7 * np.exp(-8 * away)).astype(np.float32)

    return build


@pytest.fixture(scope="session")
def write_series():
    """Write the slices of a volume of integers as a DICOM series; `fields` are set last, and a field of None is empty.

    The names of the files say nothing about their order, and the instance numbers count down, as on some scanners.
    """
    from pydicom import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def write(folder: Path, values, way=(1, 0, 0, 0, 1, 0), gap=2.5, places=None, uid=None, **fields) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        normal, uid = np.cross(way[:3], way[3:]), uid or generate_uid()
        places = [index * gap for index in range(len(values))] if places is None else places
        names = np.random.default_rng(0).permutation(1000)
        for index, (page, place) in enumerate(zip(values, places, strict=True)):
            data, bits = Dataset(), page.dtype.itemsize * 8
            data.file_meta = FileMetaDataset()
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
            data.SeriesInstanceUID, data.StudyInstanceUID, data.InstanceNumber = uid, uid, len(values) - index
            data.Modality, data.PatientName, data.PatientID = "CT", "Nobody^Anyhow", "patient 7"
            data.ImageOrientationPatient, data.PixelSpacing = list(way), [0.8, 0.5]
            data.ImagePositionPatient = (np.array([-10.0, 20, 30]) + place * normal).tolist()
            data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
            data.Rows, data.Columns = page.shape[-2:]
            data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
            data.PixelRepresentation, data.PixelData = int(page.dtype.kind == "i"), page.tobytes()
            for name, value in fields.items():
                setattr(data, name, value)
            data.save_as(folder / f"IM{names[index]:03d}_{data.SOPInstanceUID[-6:]}.dcm", enforce_file_format=True)
        return folder

    return write


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
