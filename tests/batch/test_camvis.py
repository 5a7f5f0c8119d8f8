"""Volumes into session folders: what is written, and what the metadata says."""

import errno
import os
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
from camhelpers.batch.camvis import explain_volumes
from camhelpers.cam.geometry import upsample
from camhelpers.datasets import retinas
from camhelpers.datasets.samples import Sample
from camhelpers.io.volumes import read_volume
from tests.batch.sessions import (
    CLASSES,
    SHAPE,
    expected,
    favouring,
    files,
    layout,
    one,
    small,
    statuses,
    summary,
    whole,
)


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
    assert sum(int(row["bytes"] or 0) for row in rows.values()) == sum(sizes) and rows["eye 2"]["files"] == "13"

    np.save(tree / "fluid/eye 1.npy", small(3))  # mended
    assert cli.main([*arguments, "--resume"]) == 0
    assert "1 made, 3 kept, 0 failed" in capsys.readouterr().out
    assert {row["status"] for row in summary(session)} == {"complete"} and len(whole(session)) == 4


def test_an_output_that_cannot_be_written(tmp_path, net, monkeypatch):
    def refuse(*given, **options):  # root may write anywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(camvis, "atomic", refuse)
    with pytest.raises(OSError, match=r"Cannot write into .*Permission denied; name another folder"):
        explain_volumes(net, small(), ["gradcam"], tmp_path / "out")


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
        if len(calls) == 10:  # the second volume's second heatmap, after all of its bytes
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    net.train()
    for became in (["made", "failed", "made"], ["kept", "made", "kept"]):
        options = {"session": "s", "resume": True, "samples": 2}
        found = explain_volumes(net, tree, ["hybrid", "vargrad"], tmp_path / "out", **options)
        problem = "No space left on device" if "failed" in became else ""
        assert statuses(found) == became and found.outcomes[1].problem == problem
        assert len([name for name in files(found.folder) if "eye 10" in name]) == 14 * (not problem)
        assert len(whole(found.folder)) == 3 - became.count("failed")
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
