"""Sessions of volumes: names, and going on after a stop."""

import subprocess
import sys
from dataclasses import replace

import numpy as np

from camhelpers.batch.camvis import Settings, explain_volumes
from camhelpers.datasets.samples import Sample
from camhelpers.files import ROOT
from camhelpers.io.volumes import read_volume
from tests.batch.sessions import SHAPE, expected, favouring, files, layout, one, small, statuses, summary, whole


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
    assert len(files(folder)) == 3 * 8 + 1 and len(whole(folder)) == 3  # nothing of the other method
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


def test_a_second_process_waits_and_says_for_whom(tmp_path, net, quick, capsys):
    held = "import sys, time; from pathlib import Path; from camhelpers.batch.camvis import _alone\n"
    held += "with _alone(Path(sys.argv[1])): print('held', flush=True); time.sleep(4)"
    folder = tmp_path / "CAMVis/session_s"
    folder.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", held, folder], stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout.readline() == "held\n"
        assert statuses(explain_volumes(net, small(), ["gradcam"], tmp_path, session="s")) == ["made"]
        assert other.wait(20) == 0
    assert f"Waiting: session_s is being written by process {other.pid} on " in capsys.readouterr().err


def test_what_cannot_be_read_inside_a_tree_has_failed_by_name(tmp_path, net, quick, tree):
    for name in ("drusen/eye.e2e", "fluid/eye.dcm", "fluid/notes.txt"):
        (tree / name).write_bytes(bytes(2000))
    found = explain_volumes(net, tree, ["gradcam"], tmp_path / "out")
    assert sorted(o.name for o in found.outcomes if o.status == "failed") == ["eye", "eye"]
    problems = [row["problem"].split("/")[-1] for row in summary(found.folder) if row["status"] == "failed"]
    assert [problem.partition("; use .npy, ")[0] for problem in sorted(problems)] == [
        "eye.dcm is no volume that can be read", "eye.e2e is no volume that can be read",
    ]  # fmt: skip
