"""Volumes into session folders: what is written, what the metadata says, and going on after a stop."""

import csv
import errno
import hashlib
import json
import os
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
from camhelpers.batch.camvis import Settings, explain_volumes
from camhelpers.cam.geometry import upsample
from camhelpers.cam.models import load_model, save_model
from camhelpers.datasets import retinas
from camhelpers.datasets.samples import Sample
from camhelpers.files import ROOT
from camhelpers.io.volumes import read_volume

SHAPE = (10, 12, 14)
CLASSES = ("normal", "drusen", "fluid")


def small(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE, np.float32)


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


def favouring(net, label):
    """The network with another head, which finds one class everywhere."""
    other = load_model(type(net)(3, 1, (8, 8, 12, 16), 3, (2, 1, 2, 2, 1)).eval(), classes=CLASSES, size=(16, 32, 32))
    with torch.no_grad():
        other.fc.bias[CLASSES.index(label)] = 50.0
    return other


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


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
    kinds = ("heatmap.nii.gz", "heatmap.tiff", "overlay.tiff", "raw.npy")
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


# The command ----------------------------------------------------------------------------------------------------------


def test_a_tree_with_a_damaged_volume_through_the_command(tmp_path, tree, checkpoint, capsys):
    (tree / "fluid/eye 1.npy").write_bytes((tree / "fluid/eye 7.npy").read_bytes()[:-100])
    methods = ["gradcam++", "vargrad"]
    arguments = ["--model", checkpoint, "--volume", tree, "--out", tmp_path / "out", "--methods", *methods]
    arguments = ["volume", *map(str, arguments), "--samples", "3", "--session", "first", "--split", "test"]
    assert cli.main(arguments) == 1
    said, session = capsys.readouterr(), tmp_path / "out/CAMVis/session_first"
    assert "eye 2: " in said.out and "3 made, 0 kept, 1 failed" in said.out and str(session) in said.out
    assert "eye 1 failed: " in said.err and "8 of 8 maps" in said.err
    assert files(session) == expected("test", methods) and len(whole(session)) == 3
    rows = {row["sample"]: row for row in summary(session)}
    assert {row["status"] for name, row in rows.items() if name != "eye 1"} == {"complete"} and len(rows) == 4
    assert (rows["eye 1"]["status"], rows["eye 1"]["class"]) == ("failed", "fluid") and rows["eye 1"]["problem"]
    sizes = [about["bytes"] for record in whole(session) for about in record["files"].values()]
    assert sum(int(row["bytes"] or 0) for row in rows.values()) == sum(sizes) and rows["eye 2"]["files"] == "11"

    np.save(tree / "fluid/eye 1.npy", small(3))  # mended
    assert cli.main([*arguments, "--resume"]) == 0
    assert "1 made, 3 kept, 0 failed" in capsys.readouterr().out
    assert {row["status"] for row in summary(session)} == {"complete"} and len(whole(session)) == 4


REFUSED = [
    ({"methods": ["gradcan"]}, "There is no method 'gradcan'; choose one of gradcam,"), ({"methods": []}, "methods is"),
    ({"alpha": 1.1}, "alpha is 1.1"), ({"samples": 1}, "samples is 1"), ({"spread": 0}, "spread is 0"),
    ({"percentile": 101}, "percentile is 101"), ({"opacity": -1}, "opacity is -1"), ({"seed": -1}, "seed is -1"),
    ({"size": "huge"}, "size is 'huge'"), ({"cmap": "rainbow"}, "There is no colour map 'rainbow'"),
    ({"layer": "layer9"}, "The model has no layer 'layer9'"), ({"spacing": (1, 1, 0)}, "spacing.2 is 0"),
    ({"target": "glaucoma"}, "The model has no class 'glaucoma'; it knows normal, drusen, fluid."),
    ({"target": 3}, "The model has no class 3; its classes are 0 to 2."),
    ({"window": (2, 1)}, "The window is (2.0, 1.0); use two numbers, (low, high) with low below high."),
    ({"session": "../x"}, "The name '../x' "), ({"split": "a/b"}, "The name 'a/b' "),
    ({"source": "nowhere"}, "nowhere does not exist"), ({"source": "retinas:test:0"}, "0 from 0 on are not among them"),
    ({"source": Sample("../../evil", lambda: None)}, "The name '../../evil' "),
    ({"source": [np.zeros(SHAPE), np.ones(SHAPE)]}, "Two volumes are called 'volume'; rename one"),
    ({"model": torch.nn.Conv3d(1, 1, 1)}, "Volumes need a network whose card says that it takes three axes"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "says"), REFUSED, ids=[str(given)[:40] for given, _ in REFUSED])
def test_bad_input_is_one_sentence_before_anything_is_written(tmp_path, net, given, says):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        explain_volumes(**{"model": net, "source": small(), "out": tmp_path / "out", **given})
    assert says in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(tmp_path, net, monkeypatch):
    def refuse(*given, **options):  # root may write anywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(camvis, "atomic", refuse)
    with pytest.raises(OSError, match=r"Cannot write into .*Permission denied; name another folder"):
        explain_volumes(net, small(), ["gradcam"], tmp_path / "out")


# One volume -----------------------------------------------------------------------------------------------------------


def test_files_hold_what_the_explanation_says(tmp_path, net):
    np.save(tmp_path / "eye.npy", small(5))
    record = one(net, tmp_path / "eye.npy", ["hybrid", "smoothgrad"], tmp_path, samples=3, alpha=0.4, seed=7)
    session = next((tmp_path / "CAMVis").iterdir())
    volume, ex = read_volume(tmp_path / "eye.npy"), explain(net, small(5))
    assert [record] == whole(session)
    assert files(session) == sorted(["summary.csv", *layout("val", ex.label, "eye", ["hybrid", "smoothgrad"])])
    assert record["prediction"] == record["class"] == record["explained"] == ex.label
    assert (record["sample"], record["split"]) == ("eye", "val")
    assert record["probability"] == pytest.approx(ex.confidence)
    assert record["probabilities"] == pytest.approx(dict(zip(CLASSES, ex.probabilities.tolist(), strict=True)))
    assert record["shape"] == list(SHAPE) and record["model"]["input"] == [16, 32, 32]
    assert record["model"]["name"] == "tiny" and record["seconds"] > 0
    assert {"camhelpers", "torch", "tifffile", "nibabel"} < record["versions"].keys()
    assert record["settings"]["alpha"] == 0.4 and record["settings"]["layer"] == "layer4"
    stem = session / f"heatmaps/val/class_{ex.label}/eye/eye"
    for method, options in (("hybrid", {"alpha": 0.4}), ("smoothgrad", {"samples": 3, "seed": 7})):
        heat = ex.heatmap(method, **options)
        assert (tifffile.imread(f"{stem}_{method}_heatmap.tiff") == render.colour(heat)).all()
        mixed = render.overlay(np.repeat(volume.data[..., None], 3, axis=-1), heat)
        assert (tifffile.imread(f"{stem}_{method}_overlay.tiff") == mixed).all()
        assert (sitk.GetArrayFromImage(sitk.ReadImage(f"{stem}_{method}_heatmap.nii.gz")) == heat).all()
        raw, about = ex.heatmap(method, **options, size="native", normalize=False), record["methods"][method]
        assert (np.load(f"{stem}_{method}_raw.npy") == raw).all()
        assert about["blank"] is False and about["where"]["hottest_slice_from_1"] == heat.sum((1, 2)).argmax() + 1
    look = session / "visualizations/val"
    assert (look / "eye_full_volume_overlay.tiff").read_bytes() == Path(f"{stem}_hybrid_overlay.tiff").read_bytes()
    for path in look.glob("*.png"):
        assert np.ptp(np.asarray(Image.open(path).convert("L"))) > 200


@pytest.mark.parametrize("size", ["model", "native"])
def test_the_metadata_says_what_a_map_was_divided_by(tmp_path, net, quick, size):
    mask = small(1) > 0.5
    sample = Sample("eye", lambda: (read_volume(small(5), spacing=(1, 1, 1)), mask))
    record = one(net, sample, ["gradcam", "vargrad"], tmp_path, samples=3, percentile=90, size=size)
    ex = explain(net, small(5), size=size)
    for method, options in (("gradcam", {}), ("vargrad", {"samples": 3, "percentile": 90})):
        rule, heat = record["methods"][method]["normalisation"], ex.heatmap(method, **options)
        raw = np.load(next(tmp_path.rglob(f"*_{method}_raw.npy")))
        resized = upsample(torch.from_numpy(np.minimum(raw, rule.get("clipped_at", np.inf)))[None].float(), SHAPE)[0]
        error = {"rtol": 1e-5, "atol": 1e-6 * rule["divided_by"]}
        np.testing.assert_allclose(heat * rule["divided_by"], resized.numpy(), **error)
        unclipped = ex.heatmap(method, **{**options, "percentile": 100})  # scores of a lesion are of all of the heat
        expected = camvis.localisation.lesion_scores(unclipped, mask, (1, 1, 1))
        assert record["methods"][method]["lesion"] == pytest.approx(expected, abs=1e-6)
    assert rule["clipped_at"] == pytest.approx(np.percentile(raw, 90))


def test_millimetres_are_given_where_the_source_knows_them(tmp_path, net, quick):
    for spacing, unit in (None, "pixel"), ((0.5, 0.2, 0.3), "mm"):
        volume = read_volume(small(), spacing=spacing)
        record = one(net, Sample("eye", lambda v=volume: (v, small(1) > 0.5), "fluid"), ["gradcam"], tmp_path / unit)
        about = record["methods"]["gradcam"]
        lengths = [v for part in ("where", "lesion") for k, v in about[part].items() if k.endswith(("_mm", "game"))]
        assert record["class"] == "fluid" and len(lengths) == 5
        assert {value is None for value in (*lengths, record["spacing_mm"])} == {unit == "pixel"}
        for path in (tmp_path / unit).rglob("*.tiff"):
            with tifffile.TiffFile(path) as file:
                assert file.imagej_metadata["unit"] == unit
        (path,) = (tmp_path / unit).rglob("*.nii.gz")
        assert nibabel.load(path).header.get_xyzt_units()[0] == ("unknown" if unit == "pixel" else "mm")


def test_another_class_layer_and_the_volumes_own_grid(tmp_path, net, quick):
    predicted = explain(net, small()).label
    other = next(name for name in CLASSES if name != predicted)
    options = {"target": other, "size": "native", "layer": "layer2"}
    record = one(net, small(), ["layercam"], tmp_path, split="x", **options)
    assert record["explained"] == other and record["split"] == "x" and record["model"]["input"] == list(SHAPE)
    ex = explain(net, small(), layers="layer2", size="native")
    raw = ex.heatmap("layercam", target=other, size="native", normalize=False)
    assert (np.load(next(tmp_path.rglob("*_raw.npy"))) == raw).all()


def test_a_blank_map_is_written_and_said(tmp_path, net):
    numb = favouring(net, "fluid")
    torch.nn.init.zeros_(numb.fc.weight)
    record = one(numb, small(), ["gradcam"], tmp_path)
    assert record["methods"]["gradcam"]["blank"] is True
    assert record["methods"]["gradcam"]["where"]["hottest_slice_from_1"] is None  # JSON knows no NaN
    assert (tifffile.imread(next(tmp_path.rglob("*_heatmap.tiff"))) == render.table()[0]).all()


def test_a_failure_in_the_middle_leaves_no_files_and_the_model_as_it_was(tmp_path, net, tree, quick, monkeypatch):
    write, calls, before = tifffile.TiffWriter.write, [], {k: v.clone() for k, v in net.state_dict().items()}

    def full(self, *arguments, **options):
        write(self, *arguments, **options)
        calls.append(self)
        if len(calls) == 6:  # the second volume's second heatmap, after all of its bytes
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    net.train()
    for expected in (["made", "failed", "made"], ["kept", "made", "kept"]):
        options = {"session": "s", "resume": True, "samples": 2}
        found = explain_volumes(net, tree, ["hybrid", "vargrad"], tmp_path / "out", **options)
        problem = "No space left on device" if "failed" in expected else ""
        assert statuses(found) == expected and found.outcomes[1].problem == problem
        assert len([name for name in files(found.folder) if "eye 10" in name]) == 12 * (not problem)
        assert len(whole(found.folder)) == 3 - expected.count("failed")
    assert all(m.training for m in net.modules()) and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())
    assert all((value == before[name]).all() for name, value in net.eval().state_dict().items())


@pytest.mark.slow
def test_a_full_cube_through_the_command_is_read_by_others(tmp_path):
    given = ["--volume", "retinas:test:1:full", "--methods", "vargrad", "--samples", "2", "--out", str(tmp_path)]
    assert cli.main(["volume", *given, "--session", "full"]) == 0
    session, eye = tmp_path / "CAMVis/session_full", retinas.draw(180000, shape=(192, 256, 256))
    assert files(session) == sorted(["summary.csv", *layout("val", "normal", "normal_180000", ["vargrad"])])
    assert whole(session)[0]["source"]["recipe"]["seed"] == 180000
    stem = session / "heatmaps/val/class_normal/normal_180000/normal_180000_vargrad"
    image = sitk.ReadImage(f"{stem}_heatmap.nii.gz")
    heat = sitk.GetArrayFromImage(image)
    assert heat.shape == eye.volume.shape and heat.dtype == np.float32 and heat.min() >= 0 and heat.max() == 1
    assert image.GetSpacing() == pytest.approx(eye.spacing[::-1], rel=1e-6)
    read, pages = cv2.imreadmulti(f"{stem}_heatmap.tiff", flags=cv2.IMREAD_COLOR)
    assert read and (np.stack(pages)[..., ::-1] == render.colour(heat)).all()
    with Image.open(f"{stem}_overlay.tiff") as file:
        for page, grey, part in zip(ImageSequence.Iterator(file), eye.volume, heat, strict=True):
            assert (np.asarray(page) == render.overlay(np.repeat(grey[..., None], 3, axis=-1), part)).all()


# Names ----------------------------------------------------------------------------------------------------------------


def test_names_that_other_systems_refuse_are_made_plain(tmp_path, net, tiny_net, quick):
    some = [Sample(name, lambda: (read_volume(small()), None), "x: y") for name in ("a:b", ".hidden", "$_[1]$")]
    for status in ("made", "kept"):
        found = explain_volumes(net, some, ["gradcam"], tmp_path, session="s", resume=True, split="[x]")
        assert statuses(found) == [status] * 3
    assert [record["sample"] for record in whole(found.folder)] == ["$_[1]$", "_.hidden", "a_b"]
    assert [folder.name for folder in (found.folder / "heatmaps/[x]").iterdir()] == ["class_x_ y"]
    named = tiny_net(3, ("normal / well", "drusen / AMD", "fluid / CSC"))
    assert " _ " in one(named, small(), ["gradcam"], tmp_path)["class"]


def test_equal_names_in_two_classes_do_not_meet(tmp_path, net, quick):
    def shown(label, name):
        return Sample(name, lambda: (read_volume(small()), None), label)

    folder = tmp_path / "CAMVis/session_s"
    two, one_class = [("a", "x", "class_x/"), ("a", "y", "class_y/")], [("b", "x", "")]
    for call, there in (
        ([shown("x", "a"), shown("y", "a"), shown("x", "b")], two + one_class),
        ([shown("y", "b")], [*two, *one_class, ("b", "y", "class_y/")]),  # b of another class came in an earlier call
    ):
        explain_volumes(net, call, ["gradcam"], tmp_path, session="s")
        names = [file for name, label, look in there for file in layout("val", label, name, ["gradcam"], look)]
        assert files(folder) == sorted(["summary.csv", *names]) and len(whole(folder)) == len(there)


def test_another_file_of_a_known_name_is_told(tmp_path, net, quick):
    for number, patient in enumerate(("one", "two")):
        (tmp_path / patient).mkdir()
        np.save(tmp_path / patient / "scan.npy", small(number))
    for patient, told in (("one", ""), ("one", ""), ("two", "in place of the results of another file of this name")):
        found = explain_volumes(net, tmp_path / patient / "scan.npy", ["gradcam"], tmp_path / "out", session="s")
        assert found.outcomes[0].problem == told


# Going on -------------------------------------------------------------------------------------------------------------


def test_resuming_redoes_what_is_missing_or_of_other_settings(tmp_path, net, tree, quick):
    def run(model=net, **options):
        given = {"methods": ["gradcam"], "out": tmp_path, "session": "s", "resume": True, **options}
        return statuses(explain_volumes(model, tree, **given))

    folder = tmp_path / "CAMVis/session_s"
    assert run() == ["made"] * 3 and run() == ["kept"] * 3 and run(resume=False) == ["made"] * 3
    (folder / "visualizations/val/eye 2_combined.png").unlink()
    assert run() == ["made", "kept", "kept"]
    path = folder / "heatmaps/val/class_drusen/eye 10/eye 10_gradcam_raw.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert run() == ["kept", "made", "kept"]
    (folder / "heatmaps/val/class_fluid/eye 7/eye 7_metadata.json").write_text("{")
    assert run() == ["kept", "kept", "made"]
    np.save(tree / "fluid/eye 7.npy", small(20))
    assert run() == ["kept", "kept", "made"]
    assert run(methods=["layercam", "gradcam"]) == run(methods=["layercam"]) == ["made"] * 3
    assert len(files(folder)) == 3 * 7 + 1 and len(whole(folder)) == 3  # nothing of the other method
    assert run(favouring(net, "fluid"), methods=["layercam"]) == run(opacity=0.5) == ["made"] * 3


def test_resuming_sees_that_the_data_differ(tmp_path, net, quick):
    own, mask = read_volume(small()), small(1) > 0.5
    cases = [own, read_volume(small(), window=(0.2, 0.8)), replace(own, data=own.data.reshape(SHAPE[::-1]))]
    cases += [replace(own, source={}), replace(own, spacing=(2.0, 1.0, 1.0)), read_volume(small(), spacing=(1, 1, 1))]
    cases += [replace(own, affine=np.diag([1.0, 2, 3, 1])), (own, mask), (own, np.roll(mask, 1))]
    for case in cases:
        pair = case if isinstance(case, tuple) else (case, None)
        for status in ("made", "kept"):
            sample = Sample("eye", lambda pair=pair: pair, "fluid")
            assert statuses(explain_volumes(net, sample, ["gradcam"], tmp_path, session="s", resume=True)) == [status]


def test_a_sample_without_a_class_is_where_it_is_predicted(tmp_path, net, quick):
    options = {"methods": ["gradcam"], "out": tmp_path, "session": "s", "resume": True}
    folder, there = tmp_path / "CAMVis/session_s", []
    for label, look in ("normal", ""), ("fluid", "class_fluid/"):  # another network finds another class
        other = favouring(net, label)
        for status in ("made", "kept"):
            assert statuses(explain_volumes(other, small(), **options)) == [status]
        there += layout("val", label, "volume", ["gradcam"], look)
        assert files(folder) == sorted(["summary.csv", *there]) and len(whole(folder)) == len(summary(folder))


def test_the_session_follows_from_weights_and_settings(tmp_path, net, quick):
    assert Settings(target="drusen").resolved(net) == Settings(target=1, layer="layer4").resolved(net)
    assert Settings(window=(0, 1)).window == (0, 1)
    calls = [(net, {}), (net, {"layer": "layer4"}), (net, {"alpha": 0.5}), (favouring(net, "fluid"), {})]
    names = [explain_volumes(n, small(), ["gradcam"], tmp_path, **settings).folder.name for n, settings in calls]
    assert len(set(names)) == 3 and names[0] == names[1]


KILLED = """
import os, signal, sys
import torch
from camhelpers import files
from camhelpers.batch.camvis import explain_volumes
from camhelpers.cam.models import load_model

tree, out, checkpoint, *counts = sys.argv[1:]
torch.set_num_threads(1)
net, put, done = load_model(checkpoint), os.replace, []

def replace(source, target):
    done.append(target)
    if len(done) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    put(source, target)

os.replace = replace
for count in map(int, counts):
    child = os.fork()
    if not child:
        found = explain_volumes(net, tree, ["gradcam", "layercam"], out, session="s", resume=True)
        os._exit(any(outcome.status == "failed" for outcome in found.outcomes))
    _, status = os.waitpid(child, 0)
    whole = {str(path) for path in files.Path(out).glob("CAMVis/session_s/heatmaps/val/*/*")}
    print(os.waitstatus_to_exitcode(status), len(whole))
"""


def test_a_run_that_is_killed_leaves_whole_samples_and_goes_on(tmp_path, tree, checkpoint):
    # killed while drawing, among the visualizations, and before the second folder of heatmaps; then left alone
    call = [sys.executable, "-c", KILLED, *map(str, (tree, tmp_path / "out", checkpoint, 5, 11, 26, 0))]
    run = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert run.stdout.split("\n")[:4] == ["-9 0", "-9 0", "-9 1", "0 3"], run.stderr
    folder = tmp_path / "out/CAMVis/session_s"
    assert files(folder) == expected("val", ["gradcam", "layercam"])  # nothing temporary either
    assert len(whole(folder)) == 3
