import csv
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from PIL import Image, ImageSequence

from camhelpers import cli, explain, render
from camhelpers.batch import camvis
from camhelpers.batch.camvis import Sample, Settings, explain_volume, explain_volumes
from camhelpers.cam.explain import upsample
from camhelpers.cam.models import Card, load_model, save_model
from camhelpers.cam.nets import SmallResNet
from camhelpers.datasets import retinas
from camhelpers.files import ROOT, write_text
from camhelpers.io import export as stacks
from camhelpers.io.volumes import read_volume, safe_name

SHAPE = (10, 12, 14)
CLASSES = ("normal", "drusen", "fluid")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    arguments = {"classes": 3, "channels": 1, "dims": 3, "widths": [4, 4, 8, 8], "strides": [1, 2, 2, 1, 1]}
    net = SmallResNet(**arguments)
    with torch.no_grad():
        net.fc.weight.mul_(20)  # an untrained net hardly tells volumes apart
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(net, Card("tiny", CLASSES, "small_resnet", arguments, (8, 16, 16), (0.5,), (0.3,)), path)
    return path


@pytest.fixture(scope="module")
def net(checkpoint):
    return load_model(checkpoint)


def fresh(classes=CLASSES):
    """Another network, untrained and in no file."""
    net = SmallResNet(len(classes), 1, (4, 4, 8, 8), 3, (1, 2, 2, 1, 1)).eval()
    return load_model(net, classes=classes, size=(8, 16, 16), mean=[0.5], std=[1])


@pytest.fixture
def quick(monkeypatch):
    """Leave the drawing of previews out, where files are only counted."""
    monkeypatch.setattr(stacks, "save_preview", lambda figure, path: write_text(path, "a preview"))
    monkeypatch.setattr(stacks, "preview", lambda *given, **options: None)


def cube(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE, np.float32)


@pytest.fixture
def tree(tmp_path):
    """Two classes, three volumes."""
    for number, name in enumerate(("drusen/eye 2", "drusen/eye 10", "fluid/eye 7")):
        path = tmp_path / f"tree/{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, cube(number))
    return tmp_path / "tree"


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def whole(folder: Path) -> list[dict]:
    """Every metadata file of a session, after a look into each file that it lists."""
    found = []
    for path in sorted(folder.rglob("*_metadata.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for name, about in record["files"].items():
            data = (folder / name).read_bytes()
            assert len(data) == about["bytes"] and hashlib.sha256(data).hexdigest() == about["sha256"]
        found.append(record)
    return found


def layout(split: str, label: str, sample: str, methods: list[str]) -> list[str]:
    kinds = ("heatmap.nii.gz", "heatmap.tiff", "overlay.tiff", "raw.npy")
    heat = f"heatmaps/{split}/class_{label}/{sample}/{sample}"
    look = f"visualizations/{split}/{sample}"
    named = [f"{heat}_{method}_{kind}" for method in methods for kind in kinds]
    further = [f"{look}_{method}_combined.png" for method in methods[1:]]
    return [*named, f"{heat}_metadata.json", f"{look}_combined.png", *further, f"{look}_full_volume_overlay.tiff"]


def command(*arguments, **options):
    call = [sys.executable, "-m", "camhelpers", "volume", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, cwd=ROOT, timeout=300, **options)


# the command ----------------------------------------------------------------------------------------------------------


def test_a_tree_with_a_damaged_volume(tmp_path, tree, checkpoint, capsys):
    (tree / "fluid/eye 1.npy").write_bytes((tree / "fluid/eye 7.npy").read_bytes()[:-100])
    methods = ["gradcam++", "vargrad"]
    arguments = ["--model", checkpoint, "--volume", tree, "--out", tmp_path / "out", "--methods", *methods]
    arguments += ["--samples", "3", "--session", "first", "--split", "test"]
    result = command(*arguments)
    assert result.returncode == 1, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["eye 2", "eye 10", "eye 7"]
    assert re.fullmatch(r"eye 2: (normal|drusen|fluid) \d+\.\d %, made", lines[0])
    session = tmp_path / "out/CAMVis/session_first"
    assert lines[-2:] == ["3 made, 0 kept, 1 failed", f"Written: {session}"]
    assert "eye 1 failed: " in result.stderr and "4 of 4 volumes" in result.stderr
    expected = ["summary.csv"]
    for label, sample in (("drusen", "eye 2"), ("drusen", "eye 10"), ("fluid", "eye 7")):
        expected += layout("test", label, sample, methods)
    assert files(session) == sorted(expected)
    assert len(whole(session)) == 3
    rows = list(csv.DictReader((session / "summary.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["sample"]: row["status"] for row in rows} == {
        "eye 1": "failed", "eye 2": "complete", "eye 10": "complete", "eye 7": "complete",
    }  # fmt: skip
    assert all(
        row["files"] == "11" and 0 < float(row["probability"]) <= 1 for row in rows if row["status"] == "complete"
    )

    np.save(tree / "fluid/eye 1.npy", cube(3))  # mended
    assert cli.main(["volume", *map(str, arguments), "--resume"]) == 0
    out = capsys.readouterr().out
    assert out.count("kept") == 4 and "1 made, 3 kept, 0 failed" in out
    assert len(whole(session)) == 4


BAD = [
    (["--methods", "gradcan"], "There is no method 'gradcan'; choose from gradcam, gradcam++,"),
    (["--methods", "gradcam", "gradcam"], "The method 'gradcam' is listed twice; once is enough."),
    (["--alpha", "2"], "alpha is 2.0; it lies between 0 (LayerCAM) and 1 (Grad-CAM)."),
    (["--samples", "1"], "samples is 1; at least 2 noisy copies are needed."),
    (["--spread", "0"], "spread is 0.0; it is a share of the value range, above 0."),
    (["--percentile", "101"], "percentile is 101.0; it lies above 0 and is at most 100."),
    (["--opacity", "-1"], "opacity is -1.0;"),
    (["--seed", "-1"], "seed is -1;"),
    (["--size", "huge"], "size is huge; it is 'model' (the card's) or 'native' (the volume's own grid)."),
    (["--cmap", "rainbow"], "There is no colour map 'rainbow';"),
    (["--layer", "layer9"], "The model has no layer 'layer9'; it has stem,"),
    (["--target", "glaucoma"], "The model has no class 'glaucoma'; it knows normal, drusen, fluid."),
    (["--target", "3"], "The model has no class 3; its classes are 0 to 2."),
    (["--spacing", "1", "1", "0"], "The spacing is (1.0, 1.0, 0.0); use three numbers above 0, in mm: (z, y, x)."),
    (["--window", "2", "1"], "The window is (2.0, 1.0); use two numbers, (low, high) with low below high."),
    (["--session", "../x"], "The name '../x' holds a path separator or '..';"),
    (["--split", "a/b"], "The name 'a/b' holds a path separator or '..';"),
    (["--volume", "nowhere"], f"{Path('nowhere').absolute()} does not exist;"),
    (
        ["--volume", "retinas:exam:3"],
        "There are no retinas 'retinas:exam:3'; write retinas:SPLIT:COUNT with a split of",
    ),
    (["--volume", "retinas:test:0"], "There are no retinas 'retinas:test:0';"),
    (["--volume", "retinas:test:3:big"], "There are no retinas 'retinas:test:3:big';"),
    (["--volume", "retinas:test"], "There are no retinas 'retinas:test';"),
    (["--model", "scenes"], "Volumes need a network of three axes, such as 'retina'; 'scenes' takes inputs of 2 axes."),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_options_are_one_sentence_before_anything_is_written(
    tmp_path, tree, checkpoint, capsys, monkeypatch, arguments, says
):
    monkeypatch.chdir(ROOT)
    given = ["volume", "--model", str(checkpoint), "--volume", str(tree), "--out", str(tmp_path / "out"), *arguments]
    assert cli.main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"camhelpers volume: {says}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder(tmp_path, tree, checkpoint, capsys):
    (tmp_path / "out").write_text("a file")
    assert cli.main(["volume", "--model", str(checkpoint), "--volume", str(tree), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert (
        f"Cannot write into '{tmp_path / 'out'}'" in error and "name another folder" in error and error.count("\n") == 1
    )


def test_an_output_that_is_not_writable(tmp_path, tree, net, monkeypatch):
    def refuse(*given, **options):  # root may write anywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(camvis.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match=r"Cannot write into .*Permission denied"):
        explain_volumes(net, tree, ["gradcam"], tmp_path / "out")


def test_a_file_that_is_no_volume(tmp_path, checkpoint, capsys):
    (tmp_path / "notes.txt").write_text("no volume")
    given = ["--model", checkpoint, "--volume", tmp_path / "notes.txt", "--out", tmp_path / "out"]
    assert cli.main(["volume", *map(str, given)]) == 2
    error = capsys.readouterr().err
    assert "notes.txt is no volume that can be read" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_retinas_are_drawn(tmp_path, checkpoint, capsys):
    arguments = ["--volume", "retinas:test:1", "--methods", "gradcam", "--out", str(tmp_path)]
    assert cli.main(["volume", "--model", str(checkpoint), *arguments]) == 0
    assert capsys.readouterr().out.startswith("normal_180000: ")
    (record,) = whole(next((tmp_path / "CAMVis").iterdir()))
    assert record["class"] == "normal" and record["source"]["recipe"]["seed"] == 180000
    assert record["shape"] == [48, 64, 64] and record["spacing_mm"] == pytest.approx([0.125, 2 / 64, 6 / 64])


# one volume -----------------------------------------------------------------------------------------------------------


def test_files_hold_what_the_explanation_says(tmp_path, net):
    np.save(tmp_path / "eye.npy", cube(5))
    record = explain_volume(net, tmp_path / "eye.npy", ["hybrid", "smoothgrad"], tmp_path, samples=3, alpha=0.4, seed=7)
    session = next((tmp_path / "CAMVis").iterdir())
    assert [record] == whole(session)
    volume = read_volume(tmp_path / "eye.npy")
    ex = explain(net, volume)
    assert (record["sample"], record["prediction"], record["class"]) == ("eye", ex.label, ex.label)
    assert record["class_from"] == "prediction" and record["explained"] == ex.label
    assert record["probability"] == pytest.approx(ex.confidence)
    assert record["probabilities"] == pytest.approx(dict(zip(CLASSES, ex.probabilities.tolist(), strict=True)))
    assert record["shape"] == list(SHAPE) and record["run"]["shape"] == [8, 16, 16]
    assert record["model"]["name"] == "tiny" and record["versions"]["torch"] and record["seconds"] > 0
    stem = session / f"heatmaps/val/class_{ex.label}/eye/eye"
    for method, options in (("hybrid", {"alpha": 0.4}), ("smoothgrad", {"samples": 3, "seed": 7})):
        heat = ex.heatmap(method, **options)
        assert (tifffile.imread(f"{stem}_{method}_heatmap.tiff") == render.colour(heat)).all()
        mixed = render.overlay(np.repeat(volume.data[..., None], 3, axis=-1), heat)
        assert (tifffile.imread(f"{stem}_{method}_overlay.tiff") == mixed).all()
        assert (sitk.GetArrayFromImage(sitk.ReadImage(f"{stem}_{method}_heatmap.nii.gz")) == heat).all()
        raw = ex.heatmap(method, **options, size="native", normalize=False)
        assert (np.load(f"{stem}_{method}_raw.npy") == raw).all()
        about = record["methods"][method]
        assert about["raw"]["shape"] == list(raw.shape) and about["raw"]["maximum"] == pytest.approx(float(raw.max()))
        assert about["blank"] is False
    assert record["methods"]["hybrid"]["parameters"] == {"layer": "layer4", "alpha": 0.4}
    assert record["methods"]["smoothgrad"]["parameters"] == {"samples": 3, "spread": 0.15, "seed": 7}
    assert record["methods"]["smoothgrad"]["normalisation"]["percentile"] == 99
    look = session / "visualizations/val"
    assert (look / "eye_full_volume_overlay.tiff").read_bytes() == Path(f"{stem}_hybrid_overlay.tiff").read_bytes()
    for name in ("eye_combined.png", "eye_smoothgrad_combined.png"):
        with Image.open(look / name) as image:
            image.load()


@pytest.mark.parametrize("size", ["model", "native"])
def test_the_metadata_says_what_a_map_was_divided_by(tmp_path, net, quick, size):
    record = explain_volume(net, cube(5), ["gradcam", "vargrad"], tmp_path, samples=3, percentile=90, size=size)
    ex = explain(net, cube(5), size=size)
    for method, options in (("gradcam", {}), ("vargrad", {"samples": 3, "percentile": 90})):
        rule, heat = record["methods"][method]["normalisation"], ex.heatmap(method, **options)
        raw = np.load(next(tmp_path.rglob(f"*_{method}_raw.npy")))
        resized = upsample(torch.from_numpy(np.minimum(raw, rule.get("clipped_at", np.inf)))[None].float(), SHAPE)[0]
        np.testing.assert_allclose(
            heat * rule["divided_by"], resized.numpy(), rtol=1e-5, atol=1e-6 * rule["divided_by"]
        )
        assert ("clipped_at" in rule) == (method == "vargrad")
        if method == "vargrad":
            assert rule["clipped_at"] == pytest.approx(np.percentile(raw, 90)) and rule["clipped_on"] == "model grid"


def test_millimetres_are_given_where_the_source_knows_them(tmp_path, net, quick):
    mask = cube(0) > 0.9

    def lengths(said: dict) -> list:
        values = [said["spacing_mm"]]
        for about in said["methods"].values():
            values += [v for part in ("attention", "lesion") for k, v in about[part].items() if k.endswith("_mm")]
        return values

    for spacing, unit in (None, "pixel"), ((0.5, 0.2, 0.3), "mm"):
        volume = read_volume(cube(0), spacing=spacing)
        record = explain_volume(net, Sample("eye", "fluid", lambda v=volume: (v, mask)), ["gradcam"], tmp_path / unit)
        assert len(lengths(record)) == 5 and all((value is not None) == (unit == "mm") for value in lengths(record))
        assert (record["methods"]["gradcam"]["lesion"]["pointing_game"] is not None) == (unit == "mm")
        for path in (tmp_path / unit).rglob("*.tiff"):
            with tifffile.TiffFile(path) as file:
                assert file.imagej_metadata["unit"] == unit
        (path,) = (tmp_path / unit).rglob("*.nii.gz")
        assert nibabel.load(path).header.get_xyzt_units()[0] == ("unknown" if unit == "pixel" else "mm")


def test_the_hottest_slice_counts_from_1(tmp_path, net, quick):
    record = explain_volume(net, cube(0), ["gradcam"], tmp_path)
    heat = explain(net, cube(0)).heatmap("gradcam")
    found = record["methods"]["gradcam"]["attention"]["hottest_slice_from_1"]
    assert isinstance(found, int) and found == heat.sum((1, 2)).argmax() + 1


def test_the_model_is_left_as_it_was(tmp_path, checkpoint, quick):
    net = load_model(checkpoint).train()
    net.layer1.eval()
    next(net.parameters()).requires_grad_(False)
    for p in net.parameters():
        p.grad = torch.ones_like(p)

    def state():
        modules = [
            (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in net.modules()
        ]
        numbers = [(p.requires_grad, p.grad.tolist(), p._backward_hooks) for p in net.parameters()]
        return modules, numbers, {name: value.tolist() for name, value in net.state_dict().items()}

    before = state()
    np.save(tmp_path / "eye.npy", cube(0))
    bad = [Sample("bad", None, lambda: (replace(read_volume(cube(1)), data=cube(1)[:, :, :0]), None))]
    found = explain_volumes(net, [tmp_path / "eye.npy", *bad], ["hybrid", "vargrad"], tmp_path / "out", samples=2)
    assert statuses(found) == ["made", "failed"] and state() == before


def test_a_failure_within_a_method_leaves_the_model_as_it_was(tmp_path, checkpoint, monkeypatch):
    net, calls = load_model(checkpoint), []

    def stop(module, given):
        calls.append(module)
        if len(calls) == 3:  # among the noisy copies
            raise RuntimeError("Out of memory.")

    handle = net.layer2.register_forward_pre_hook(stop)
    found = explain_volumes(net, cube(0), ["smoothgrad"], tmp_path, samples=4)
    handle.remove()
    assert statuses(found) == ["failed"] and len(calls) == 3 and found.outcomes[0].problem == "Out of memory."
    assert not net.training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())


@pytest.mark.slow
def test_a_full_cube_through_the_command_is_read_by_others(tmp_path):
    methods = list(camvis.METHODS)
    given = ["--volume", "retinas:test:1:full", "--methods", *methods, "--samples", "2", "--split", "test"]
    result = command(*given, "--size", "native", "--out", tmp_path, "--session", "full")
    assert result.returncode == 0, result.stderr
    session, name, shape = tmp_path / "CAMVis/session_full", "normal_180000", (192, 256, 256)
    assert files(session) == sorted(["summary.csv", *layout("test", "normal", name, methods)])
    (record,) = whole(session)
    assert record["shape"] == list(shape) and list(record["methods"]) == methods
    eye = retinas.draw(180000, shape=shape)
    folder, look = session / f"heatmaps/test/class_normal/{name}", session / "visualizations/test"
    for method in methods:
        image = sitk.ReadImage(str(folder / f"{name}_{method}_heatmap.nii.gz"))
        heat = sitk.GetArrayFromImage(image)
        assert heat.shape == shape and heat.dtype == np.float32 and heat.min() >= 0 and heat.max() == 1
        assert image.GetSpacing() == pytest.approx(eye.spacing[::-1], rel=1e-6)
        overlays = [folder / f"{name}_{method}_overlay.tiff"]
        overlays += [look / f"{name}_full_volume_overlay.tiff"] if method == methods[0] else []
        read, pages = cv2.imreadmulti(str(folder / f"{name}_{method}_heatmap.tiff"), flags=cv2.IMREAD_COLOR)
        assert read and len(pages) == 192
        assert all((page[..., ::-1] == render.colour(part)).all() for page, part in zip(pages, heat, strict=True))
        for path in overlays:
            with Image.open(path) as file:
                assert file.n_frames == 192 and file.size == (256, 256)
                for k, page in enumerate(ImageSequence.Iterator(file)):
                    grey = np.repeat(eye.volume[k, ..., None], 3, axis=-1)
                    assert (np.asarray(page) == render.overlay(grey, heat[k])).all()
        raw = np.load(folder / f"{name}_{method}_raw.npy")
        assert list(raw.shape) == record["methods"][method]["raw"]["shape"] and np.isfinite(raw).all()
    for path in look.glob("*.png"):
        with Image.open(path) as image:
            assert np.ptp(np.asarray(image.convert("L"))) > 200 and image.info["dpi"] == pytest.approx(
                (150, 150), abs=1
            )


def test_the_metadata_comes_last(tmp_path, net, quick, monkeypatch):
    order, put = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), put(a, b)))
    explain_volumes(net, cube(0), ["gradcam"], tmp_path)
    assert order[-2:] == ["volume_metadata.json", "summary.csv"] and len(order) == 8


def test_the_same_seed_gives_the_same_bytes(tmp_path, net):
    first, second, other = (
        explain_volume(net, cube(0), ["gradcam", "smoothgrad"], tmp_path / str(i), samples=3, seed=i // 2)
        for i in range(3)
    )
    assert first["files"] == second["files"]
    changed = {name for name in first["files"] if first["files"][name] != other["files"].get(name)}
    assert all("smoothgrad" in name for name in changed) and len(changed) == 5


def test_another_class_and_the_volumes_own_grid(tmp_path, net):
    predicted = explain(net, cube(0)).label
    other = next(name for name in CLASSES if name != predicted)
    record = explain_volume(
        net, cube(0), ["layercam"], tmp_path, target=other, size="native", layer="layer2", split="x"
    )
    assert record["prediction"] != record["explained"] == other and record["split"] == "x"
    assert record["run"] == {"size": "native", "shape": list(SHAPE), "seconds": record["run"]["seconds"]}
    ex = explain(net, cube(0), layers="layer2", size="native")
    raw = next((tmp_path / "CAMVis").rglob("*_raw.npy"))
    assert (np.load(raw) == ex.heatmap("layercam", target=other, size="native", normalize=False)).all()


def test_a_blank_map_is_written_and_said(tmp_path, net):
    numb = fresh()
    torch.nn.init.zeros_(numb.fc.weight)
    record = explain_volume(numb, cube(0), ["gradcam"], tmp_path)
    assert record["methods"]["gradcam"]["blank"] is True
    assert (tifffile.imread(next(tmp_path.rglob("*_heatmap.tiff"))) == render.table()[0]).all()


def test_another_file_of_a_known_name_is_told(tmp_path, net):
    for patient in ("one", "two"):
        (tmp_path / patient).mkdir()
        np.save(tmp_path / patient / "scan.npy", cube(len(patient) + ord(patient[0])))
    options = {"session": "s", "out": tmp_path / "out"}
    found = [explain_volumes(net, tmp_path / p / "scan.npy", ["gradcam"], **options) for p in ("one", "one", "two")]
    assert [outcome.problem for session in found for outcome in session.outcomes] == [
        "", "", "in place of the results of another file of this name",
    ]  # fmt: skip


def test_explaining_one_volume_fails_loudly(tmp_path, net, tree, quick):
    with pytest.raises(ValueError, match=r"eye: .*NaN"):
        np.save(tmp_path / "eye.npy", np.full(SHAPE, np.nan))
        explain_volume(net, tmp_path / "eye.npy", ["gradcam"], tmp_path / "out")
    with pytest.raises(ValueError, match="holds 3 volumes"):
        explain_volume(net, tree, ["gradcam"], tmp_path / "out", session="x")


# names ----------------------------------------------------------------------------------------------------------------


def test_names_never_leave_the_folder(tmp_path, net, quick):
    volume = read_volume(cube(0))
    evil = [Sample(name, None, lambda: (volume, None)) for name in ("../../evil", "a/b", "a\\b", "..", "", "a\0b")]
    found = explain_volumes(net, evil, ["gradcam"], tmp_path / "out", session="s")
    assert [outcome.status for outcome in found.outcomes] == ["failed"] * 6
    assert files(tmp_path) == ["out/CAMVis/session_s/summary.csv"]
    labelled = explain_volumes(
        net, Sample("eye", "../..", lambda: (volume, None)), ["gradcam"], tmp_path / "out", session="s"
    )
    assert labelled.outcomes[0].status == "made"
    assert all(name.startswith("out/CAMVis/session_s/") for name in files(tmp_path))


def test_class_names_of_a_card_may_hold_anything(tmp_path, net):
    odd = fresh(["../a", "b/../c:d"])
    record = explain_volume(odd, cube(0), ["gradcam"], tmp_path)
    assert record["prediction"] in odd.card.classes and "/" not in record["class"] and ".." not in record["class"]
    assert len(whole(next((tmp_path / "CAMVis").iterdir()))) == 1


@pytest.mark.parametrize(
    "label", ["a\u200db", "a\x85b", "ä" * 200, ".", "..", "", " ", "a.", "a . .", "...", "\ud800", "con"]
)
def test_any_text_of_a_card_becomes_a_class_folder(label):
    found = camvis._class_folder(label)
    assert found == safe_name(found) and len(found.encode()) <= 120


def test_a_name_with_dollars(tmp_path, net):
    record = explain_volume(
        net, Sample("cost $_$ 5", None, lambda: (read_volume(cube(0)), None)), ["gradcam"], tmp_path
    )
    assert record["sample"] == "cost $_$ 5"


def test_names_that_become_one_are_refused(tmp_path, net):
    volume = read_volume(cube(0))
    for one, other in (
        (("a:b", "fluid"), ("a?b", "fluid")),
        (("eye", "a:b"), ("eye", "a?b")),
        (("a:b", None), ("A_b", "x")),
    ):
        pair = [Sample(*names, lambda: (volume, None)) for names in (one, other)]
        with pytest.raises(ValueError, match="Two volumes are called"):
            explain_volumes(net, pair, ["gradcam"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_are_made_plain_once(tmp_path, net, quick):
    some = [Sample(name, "x:y", lambda: (read_volume(cube(0)), None)) for name in ("a:b", ".hidden", "../c", "d")]
    options = {"methods": ["gradcam"], "out": tmp_path, "session": "s"}
    found = explain_volumes(net, some, **options)
    assert statuses(found) == ["made", "made", "failed", "made"]
    assert [record["sample"] for record in whole(found.folder)] == ["_.hidden", "a_b", "d"]
    assert not list(found.folder.glob("visualizations/val/class_*"))  # no sample takes itself for another
    assert statuses(explain_volumes(net, some, resume=True, **options)) == ["kept", "kept", "failed", "kept"]
    rows = [(row["class"], row["sample"], row["status"]) for row in summary(found.folder)]
    assert rows == [("x_y", name, "complete") for name in ("_.hidden", "a_b", "d")] + [("x_y", "../c", "failed")]


def test_equal_names_do_not_meet(tmp_path, net, tree, quick):
    np.save(tree / "fluid/eye 2.npy", cube(8))  # as one of drusen is called
    np.save(tree / "fluid/eye 7_layercam.npy", cube(9))  # as a picture of eye 7 begins
    methods = ["gradcam", "layercam"]
    for _ in range(2):  # made anew, nothing is left over
        folder = explain_volumes(net, tree, methods, tmp_path / "out").folder
        listed = [name for record in whole(folder) for name in record["files"]]
        assert len(listed) == 5 * 11 and len(set(listed)) == len(listed)
        assert len(files(folder)) == len(listed) + 5 + 1
    look = folder / "visualizations/val"
    assert (look / "eye 10_combined.png").is_file()
    for label in ("drusen", "fluid"):
        assert (look / f"class_{label}/eye 2/eye 2_combined.png").is_file()
    assert not (look / "eye 2_combined.png").exists()


def test_a_name_that_came_in_an_earlier_run_is_respected(tmp_path, net, tree, quick):
    options = {"methods": ["gradcam"], "out": tmp_path / "out", "session": "s"}
    volume = read_volume(cube(0))
    for label, count in (("fluid", 1), ("drusen", 2), ("fluid", 2)):
        folder = explain_volumes(net, Sample("eye", label, lambda: (volume, None)), **options).folder
        assert len(whole(folder)) == count and len(files(folder)) == count * 7 + 1


def test_two_volumes_of_one_name_in_one_class_are_refused(tmp_path, net):
    with pytest.raises(ValueError, match="Two volumes are called 'volume'; rename one"):
        explain_volumes(net, [cube(0), cube(1)], ["gradcam"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# going on -------------------------------------------------------------------------------------------------------------


def statuses(session) -> list[str]:
    return [outcome.status for outcome in session.outcomes]


def test_resuming_redoes_what_is_missing_changed_or_of_other_settings(tmp_path, net, tree, quick):
    def run(**options):
        return explain_volumes(
            net, tree, **{"methods": ["gradcam"], "out": tmp_path, "session": "s", "resume": True, **options}
        )

    first = run()
    assert statuses(first) == ["made"] * 3 and statuses(run()) == ["kept"] * 3
    assert statuses(run(resume=False)) == ["made"] * 3
    (first.folder / "visualizations/val/eye 2_combined.png").unlink()
    assert statuses(run()) == ["made", "kept", "kept"]
    path = first.folder / "heatmaps/val/class_drusen/eye 10/eye 10_gradcam_raw.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert statuses(run()) == ["kept", "made", "kept"]
    (first.folder / "heatmaps/val/class_fluid/eye 7/eye 7_metadata.json").write_text("{")
    assert statuses(run()) == ["kept", "kept", "made"]
    np.save(tree / "fluid/eye 7.npy", cube(20))
    assert statuses(run()) == ["kept", "kept", "made"]
    assert statuses(run(methods=["layercam"])) == ["made"] * 3
    assert len(files(first.folder)) == 3 * 7 + 1 and len(whole(first.folder)) == 3  # nothing of the earlier method
    found = explain_volumes(fresh(), tree, ["layercam"], tmp_path, session="s", resume=True)
    assert statuses(found) == ["made"] * 3


def test_resuming_sees_that_the_data_differ(tmp_path, net, quick):
    own, mask = read_volume(cube(0)), cube(0) > 0.9
    bare = replace(own, source={}, name="volume")
    reshaped = replace(own, data=np.ascontiguousarray(own.data.reshape(SHAPE[::-1])))
    cases = [own, read_volume(cube(0), window=(0.2, 0.8)), replace(own, data=1 - own.data), reshaped, bare]
    cases += [replace(own, spacing=(2.0, 1.0, 1.0)), read_volume(cube(0), spacing=(1, 1, 1))]
    cases += [replace(own, affine=np.diag([1.0, 2, 3, 1])), (own, mask), (own, np.roll(mask, 1))]
    for case in cases:
        pair = case if isinstance(case, tuple) else (case, None)
        sample = Sample("eye", "fluid", lambda pair=pair: pair)
        for status in ("made", "kept"):
            found = explain_volumes(net, sample, ["gradcam"], tmp_path, session="s", resume=True)
            assert statuses(found) == [status]


@pytest.mark.parametrize(
    "wrong",
    [{"files": []}, {"files": {"a": 1}}, {"files": {"a": {"bytes": "1"}}}, {"settings": None}, {"model": "x"},
     {"source": []}, {"class": 1}, {"probability": "1"}, {"data_sha256": None}, {"split": []}],
)  # fmt: skip
def test_metadata_with_a_wrong_field_is_made_anew(tmp_path, net, quick, wrong):
    options = {"methods": ["gradcam"], "out": tmp_path, "session": "s", "resume": True}
    record = explain_volume(net, cube(0), **options)
    path = next(tmp_path.rglob("*_metadata.json"))
    for text in (json.dumps(record | wrong), json.dumps([record]), "[" * 100_000):
        path.write_text(text)
        found = explain_volumes(net, cube(0), **options)
        assert statuses(found) == ["made"] and len(files(found.folder)) == 8


def test_a_sample_without_a_class_has_one_result(tmp_path, net, quick):
    options = {"methods": ["gradcam", "layercam"], "out": tmp_path, "session": "s"}
    nets = [fresh(), fresh()]
    for own, favourite in zip(nets, (0, 2), strict=True):
        with torch.no_grad():
            own.fc.bias[favourite] = 50.0  # each finds one class everywhere
    known = Sample("volume", "drusen", lambda: (read_volume(cube(0)), None))
    for own, label in zip([*nets, nets[0]], ("normal", "fluid", "normal"), strict=True):
        record = explain_volume(own, cube(0), **options)
        folder = tmp_path / "CAMVis/session_s"
        assert [record] == whole(folder) and record["class"] == label
        assert [path.parent.name for path in folder.glob("heatmaps/val/*/*")] == [f"class_{label}"]
        expected = [*layout("val", label, "volume", options["methods"]), "summary.csv"]
        assert files(folder) == sorted(expected)  # pictures too are where they belong
        assert [row["class"] for row in summary(folder)] == [label]
    explain_volume(nets[0], known, **options)
    explain_volume(nets[1], cube(0), **options)
    assert {row["class"] for row in summary(folder)} == {"drusen", "fluid"}  # one that came with its class stays
    assert len(files(folder)) == 2 * (2 * 4 + 1 + 3) + 1


def test_what_no_metadata_lists_is_removed_too(tmp_path, net, tree, quick):
    np.save(tree / "drusen/eye 2_layercam.npy", cube(9))  # whose picture is called as one of eye 2 would be
    options = {"methods": ["gradcam", "layercam"], "out": tmp_path / "out", "session": "s"}
    folder = explain_volumes(net, tree, **options).folder
    for path in folder.rglob("*_metadata.json"):  # as a kill or a full disk would have it
        path.unlink()
    (folder / "heatmaps/val/class_drusen/eye 10/.eye 10_gradcam_raw-01234567.npy").touch()
    assert statuses(explain_volumes(net, tree, **{**options, "methods": ["gradcam"]})) == ["made"] * 4
    listed = [name for record in whole(folder) for name in record["files"]]
    assert len(listed) == len(set(listed)) == 4 * 6 and len(files(folder)) == len(listed) + 4 + 1


def summary(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "summary.csv").read_text(encoding="utf-8").splitlines()))


def test_the_summary_has_one_row_for_each_sample(tmp_path, net, tree, quick):
    options = {"methods": ["gradcam"], "out": tmp_path / "out", "session": "s", "resume": True}
    path = tree / "fluid/eye 7.npy"
    whole_file = path.read_bytes()
    folder = explain_volumes(net, tree, **options).folder
    path.write_bytes(whole_file[:-50])

    def states():
        rows = summary(folder)
        assert len(rows) == len({row["sample"] for row in rows})
        return {row["sample"]: row["status"] for row in rows}

    explain_volumes(net, tree, **options)
    broken = {"eye 2": "complete", "eye 10": "complete", "eye 7": "failed"}
    assert states() == broken
    explain_volumes(net, cube(0), **options)  # another one: what failed before is still told
    assert states() == broken | {"volume": "complete"}
    assert next(row for row in summary(folder) if row["sample"] == "eye 7")["problem"]
    np.save(tmp_path / "volume.npy", np.full(SHAPE, np.nan))  # the same, without a class
    explain_volumes(net, tmp_path / "volume.npy", **options)
    assert states() == broken | {"volume": "failed"}
    path.write_bytes(whole_file)
    explain_volumes(net, tree, **options)
    assert states() == {**broken, "eye 7": "complete", "volume": "failed"}
    (folder / "summary.csv").write_bytes(b"\xff\x00")  # no summary of ours
    explain_volumes(net, tree, **options)
    assert set(states().values()) == {"complete"}


def test_a_run_without_a_summary_is_told_of_by_the_next(tmp_path, net, tree, quick, monkeypatch):
    options = {"methods": ["gradcam"], "out": tmp_path / "out", "session": "s"}
    path = tree / "fluid/eye 7.npy"
    whole_file = path.read_bytes()
    path.write_bytes(whole_file[:-50])
    folder = explain_volumes(net, tree, **options).folder
    path.write_bytes(whole_file)
    with monkeypatch.context() as patch:
        patch.setattr(camvis, "_summarise", lambda *given: None)  # killed before
        explain_volumes(net, tree, **options)
    explain_volumes(net, cube(0), **options)
    assert {row["status"] for row in summary(folder)} == {"complete"}


def test_a_summary_that_cannot_be_written(tmp_path, checkpoint, tree, quick, monkeypatch, capsys):
    def full(path, text):
        if path.name == "summary.csv":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_text(path, text)

    monkeypatch.setattr(camvis, "write_text", full)
    given = ["--model", checkpoint, "--volume", tree, "--out", tmp_path / "out", "--methods", "gradcam"]
    assert cli.main(["volume", *map(str, given)]) == 1
    said = capsys.readouterr()
    assert "eye 7: " in said.out and "3 made, 0 kept, 0 failed" in said.out and "Written: " in said.out
    assert said.err.splitlines()[-1].startswith("summary.csv is not up to date. Writing stopped: No space left")


def test_the_session_follows_from_weights_and_settings(net):
    some = Settings(("gradcam",)).checked(net)
    assert some.session("a") == Settings(("gradcam",), layer="layer4").checked(net).session("a")
    assert Settings(target="drusen").checked(net) == Settings(target=1).checked(net)
    others = [some.session("b"), replace(some, alpha=0.5).session("a"), replace(some, seed=1).session("a")]
    assert len({some.session("a"), *others}) == 4 and all(re.fullmatch("[0-9a-f]{10}", name) for name in others)


def test_metadata_from_elsewhere_deletes_nothing_outside(tmp_path, net, quick):
    (tmp_path / "precious").write_text("x")
    record = explain_volume(net, cube(0), ["gradcam"], tmp_path / "out", session="s")
    path = next((tmp_path / "out").rglob("*_metadata.json"))
    record["files"] |= {"../../../precious": {"bytes": 1, "sha256": ""}, str(tmp_path / "precious"): {"bytes": 1}}
    path.write_text(json.dumps(record))
    assert (
        explain_volume(net, cube(0), ["gradcam"], tmp_path / "out", session="s")["files"].keys()
        < record["files"].keys()
    )
    assert (tmp_path / "precious").read_text() == "x"


KILLED = """
import contextlib, json, os, random, signal, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
import torch
torch.set_num_threads(1)
import matplotlib.figure, matplotlib.backends.backend_agg, tifffile, nibabel, imagecodecs
from camhelpers.camvis import explain_volumes
from camhelpers.models import load_model

tree, out, checkpoint = sys.argv[1:]
net, methods = load_model(checkpoint), ["gradcam", "layercam"]

def run():
    child = os.fork()
    if child == 0:
        found = explain_volumes(net, tree, methods, out, session="s", resume=True)
        os._exit(any(outcome.status == "failed" for outcome in found.outcomes))
    return child

def done():
    return {str(p): p.stat().st_mtime_ns for p in Path(out).rglob("*_metadata.json")}

def written():
    with contextlib.suppress(FileNotFoundError):
        return {(str(p), p.stat().st_ino) for p in Path(out).rglob("*") if p.is_file()}
    return set()

generator, seen = random.Random(3), []
for _ in range(6):
    before, there, child = done(), written(), run()
    changes = generator.randint(1, 9)
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        new = written() - there
        if len(new) >= changes and any(Path(name).name.startswith(".") for name, _ in new):
            break
        time.sleep(0.001)
    time.sleep(generator.choice([0, 0.01, 0.1]))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert before.items() <= done().items(), "a finished sample was done again"
    seen.append([p.name for p in Path(out).rglob(".*")])
    for path in Path(out).rglob("[!.]*"):  # under its final name a file is whole
        if path.suffix == ".tiff":
            assert tifffile.imread(path).ndim == 4
        elif path.suffix == ".gz":
            nibabel.load(path).get_fdata()
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".json":
            record = json.loads(path.read_text())
            for name, about in record["files"].items():
                assert Path(out, "CAMVis/session_s", name).stat().st_size == about["bytes"]
assert os.waitstatus_to_exitcode(os.waitpid(run(), 0)[1]) == 0
print(json.dumps(seen))
"""


def test_a_run_that_is_killed_leaves_nothing_broken_and_goes_on(tmp_path, tree, checkpoint):
    for path in tree.rglob("*.npy"):  # large enough for writing to take a while
        np.save(path, np.random.default_rng(0).random((40, 100, 100), np.float32))
    call = [sys.executable, "-c", KILLED, *map(str, (tree, tmp_path / "out", checkpoint))]
    result = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert result.returncode == 0, result.stderr
    session = tmp_path / "out/CAMVis/session_s"
    assert any(json.loads(result.stdout))  # of six kills some came in the middle of a file
    expected = ["summary.csv"]
    for label, name in (("drusen", "eye 2"), ("drusen", "eye 10"), ("fluid", "eye 7")):
        expected += layout("val", label, name, ["gradcam", "layercam"])
    assert files(session) == sorted(expected)  # nothing temporary either
    assert len(whole(session)) == 3


# a full disk ----------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up(tmp_path, net, tree, monkeypatch):
    write, calls = tifffile.TiffWriter.write, []

    def full(self, *arguments, **options):
        calls.append(self)
        write(self, *arguments, **options)
        if len(calls) == 4:  # the second volume's overlay, after all of its bytes
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    found = explain_volumes(net, tree, ["gradcam"], tmp_path / "out", session="s")
    assert statuses(found) == ["made", "failed", "made"]
    assert found.outcomes[1].problem == "Writing stopped: No space left on device; no broken file was left behind."
    left = [name for name in files(found.folder) if "eye 10" in name]
    assert left == ["heatmaps/val/class_drusen/eye 10/eye 10_gradcam_heatmap.tiff"]
    assert len(whole(found.folder)) == 2
    monkeypatch.undo()
    assert statuses(explain_volumes(net, tree, ["gradcam"], tmp_path / "out", session="s", resume=True)) == [
        "kept",
        "made",
        "kept",
    ]


def test_files_that_cannot_grow(tmp_path, tree, checkpoint):
    import resource

    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # noqa: E731
    arguments = ["--model", checkpoint, "--volume", tree / "fluid", "--out", tmp_path / "out", "--methods", "gradcam"]
    result = command(*arguments, "--session", "s", preexec_fn=limit)
    assert result.returncode == 1 and "eye 7 failed: Writing stopped: File too large" in result.stderr
    assert "Traceback" not in result.stderr
    session = tmp_path / "out/CAMVis/session_s"
    assert files(session) == ["summary.csv"]


def test_a_disk_that_is_too_small(tmp_path, net, tree, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 10_000))
    found = explain_volumes(net, tree, ["gradcam"], tmp_path, session="s")
    assert statuses(found) == ["failed"] * 3
    assert found.outcomes[0].problem.startswith(
        "The results need up to 0.0011 GB, and 1e-05 GB are free; free some space"
    )
    assert files(found.folder) == ["summary.csv"]


def test_the_room_asked_for_is_enough(tmp_path, net, quick):
    volume = read_volume(np.random.default_rng(0).random((16, 64, 64), np.float32))  # noise is what packs worst
    record = explain_volume(net, volume, camvis.METHODS, tmp_path, samples=2, size="native")
    written = sum(about["bytes"] for about in record["files"].values())
    assert written < camvis.needs(volume, camvis.METHODS) - 6 * 2**20 < 3 * written
