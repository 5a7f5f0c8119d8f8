import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from camhelpers.batch import notebooks as suite

PARAMETERS = (
    'from typing import Literal\n\nprofile: Literal["quick", "full"] = "quick"  # help How much\n'
    'alpha: float = 0.7  # help [0..1] Share\nout: str = "results"  # help Where',
    "parameters",
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """suite.run on the notebooks in tmp_path/nb, with results in tmp_path/out; the package's sources count as fixed."""
    monkeypatch.setattr(suite, "_sources_hash", lambda: "sources")

    def run(names=(), parameters=None, **options):
        return suite.run(names, parameters, notebooks=tmp_path / "nb", out=tmp_path / "out", **options)

    return run


def command(tmp_path, *arguments, **options):
    places = ["--folder", str(tmp_path / "nb"), "--out", str(tmp_path / "out")]
    call = [sys.executable, "-m", "camhelpers", "run", *arguments, *places]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=suite.ROOT, **options)


def gone(pid: int) -> bool:
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("names", "given", "options", "says"),
    [
        ((), {"alhpa": "1"}, {}, "Unknown parameter 'alhpa'; the selected notebooks take alpha, n, out, profile."),
        (("01",), {"n": "1"}, {}, "Unknown parameter 'n'"),
        ((), {"alpha": "1.5"}, {}, "takes float from 0 to 1; got '1.5'"),
        ((), {"n": "many"}, {}, "takes int; got 'many'"),
        ((), {}, {"profile": "medium"}, "takes one of quick, full; got 'medium'"),
        ((), {"out": "elsewhere"}, {}, "use --out"),
        (("07",), {}, {}, "No notebook '07'; there are 01_a, 02_b."),
        ((), {}, {"jobs": 0}, "must be positive"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(run, tmp_path, write_notebook, names, given, options, says):
    write_notebook(tmp_path / "nb/01_a.ipynb", PARAMETERS)
    write_notebook(tmp_path / "nb/02_b.ipynb", ("n: int = 3  # help A number", "parameters"))
    with pytest.raises(ValueError, match=says):
        run(names, given, **options)
    assert not (tmp_path / "out").exists()


def test_parameters_reach_the_notebook(run, tmp_path, write_notebook):
    write_notebook(tmp_path / "nb/01_a.ipynb", PARAMETERS, "print(profile, alpha, out)\nimport os; print(os.getcwd())")
    assert run(parameters={"alpha": "0.25"}, profile="full")["01_a"]["status"] == "ok"
    text = nbformat.read(tmp_path / "out/notebooks/01_a.ipynb", as_version=4).cells[-1].outputs[0].text
    assert text.splitlines() == [f"full 0.25 {tmp_path / 'out'}", str(tmp_path / "nb")]
    record = json.loads((tmp_path / "out/run.json").read_text())["notebooks"]["01_a"]
    assert record["parameters"] == {"profile": "full", "alpha": 0.25, "out": str(tmp_path / "out")}
    assert record["seconds"] > 0 and record["output"] == "notebooks/01_a.ipynb" and record["error"] is None
    assert {"date", "fingerprint", "versions"} <= set(record)


@pytest.mark.slow
def test_what_is_done_is_skipped_until_something_changes(run, tmp_path, write_notebook, monkeypatch):
    path = write_notebook(tmp_path / "nb/01_a.ipynb", PARAMETERS, "1 + 1")

    def status(**options):
        return run(**options)["01_a"]["status"]

    assert status() == "ok"
    assert status() == "skipped"
    assert status(parameters={"alpha": 0.1}) == "ok"
    monkeypatch.setattr(suite, "_sources_hash", lambda: "other sources")
    assert status(parameters={"alpha": 0.1}) == "ok"
    assert status(parameters={"alpha": 0.1}) == "skipped"
    assert status(parameters={"alpha": 0.1}, force=True) == "ok"
    (tmp_path / "out/notebooks/01_a.html").unlink()
    assert status(parameters={"alpha": 0.1}) == "ok"
    write_notebook(path, PARAMETERS, "1 + 2")
    assert status(parameters={"alpha": 0.1}) == "ok"


def test_the_fingerprint_sees_sources_weights_and_data_but_not_outputs(tmp_path, write_notebook, monkeypatch):
    path = write_notebook(tmp_path / "01_a.ipynb", "x = 1")
    before = suite.fingerprint(path, {}, "")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].execution_count = 7
    nbformat.write(notebook, path)
    assert suite.fingerprint(path, {}, "") == before

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    before = suite.fingerprint(path, {"folder": str(pictures)}, "")
    (pictures / "new.png").write_bytes(b"...")
    assert suite.fingerprint(path, {"folder": str(pictures)}, "") != before

    monkeypatch.setattr(suite, "ROOT", tmp_path)
    hashes = set()
    for name in ("camhelpers/a.py", "camhelpers/datasets/b.py", "data/models/c.safetensors"):
        hashes.add(suite._sources_hash())
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert len(hashes | {suite._sources_hash()}) == 4


def test_a_failure_does_not_stop_the_others(tmp_path, write_notebook):
    write_notebook(
        tmp_path / "nb/01_bad.ipynb", "# Bad", PARAMETERS, "import sys; print('careful', file=sys.stderr)", "1 / 0"
    )
    write_notebook(tmp_path / "nb/02_good.ipynb", "# Good", "# No parameters", "print(6 * 7)")
    process = command(tmp_path, "-j", "2", "-p", "alpha=0.5")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["notebook", "status", "seconds", "output"]
    assert rows[2][:2] == ["01_bad", "failed"] and rows[3][:2] == ["02_good", "ok"]
    assert "01_bad: cell 4: ZeroDivisionError: division by zero" in out
    assert "01_bad: started" in err and "02_good: ok after" in err

    made = {path.name for path in (tmp_path / "out/notebooks").iterdir()}
    assert made == {"01_bad.failed.ipynb", "01_bad.failed.html", "01_bad.log", "02_good.ipynb", "02_good.html"}
    assert "careful" in (tmp_path / "out/notebooks/01_bad.log").read_text()
    records = json.loads((tmp_path / "out/run.json").read_text())["notebooks"]
    assert records["01_bad"]["error"] == {
        "cell": 4,
        "message": "ZeroDivisionError: division by zero",
        "source": "1 / 0",
    }
    index = (tmp_path / "out/index.html").read_text()
    assert 'href="notebooks/02_good.html"' in index and "division by zero" in index


@pytest.mark.slow
def test_the_time_limit_kills_the_kernel_and_its_children(run, tmp_path, write_notebook):
    code = "import os, subprocess, pathlib\nchild = subprocess.Popen(['sleep', '300'])\n"
    code += f"pathlib.Path({str(tmp_path / 'pids')!r}).write_text(f'{{os.getpid()}} {{child.pid}}')\nchild.wait()"
    write_notebook(tmp_path / "nb/01_slow.ipynb", "# Slow", code)
    record = run(timeout=6)["01_slow"]
    assert record["status"] == "timeout"
    assert record["error"] == {"cell": 2, "message": "stopped after the limit of 6 seconds"}
    assert record["seconds"] < 20
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_a_kernel_that_dies_is_reported(run, tmp_path, write_notebook):
    write_notebook(tmp_path / "nb/01_dead.ipynb", "import os", "os._exit(3)")
    record = run()["01_dead"]
    assert record["status"] == "failed"
    assert record["error"] == {"cell": 2, "message": "the kernel died (see 01_dead.log)"}


@pytest.mark.parametrize(("failures", "status"), [(1, "ok"), (2, "failed")])
def test_a_kernel_that_does_not_start_is_tried_once_more(run, tmp_path, write_notebook, monkeypatch, failures, status):
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import pathlib, runpy, sys\n"
        f"tries = pathlib.Path({str(tmp_path / 'tries')!r})\n"
        "count = len(tries.read_text()) if tries.exists() else 0\n"
        "tries.write_text('x' * (count + 1))\n"
        f"if count < {failures}: sys.exit('no kernel')\n"
        f"runpy.run_path({str(suite.WORKER)!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(suite, "WORKER", worker)
    write_notebook(tmp_path / "nb/01_a.ipynb", "1 + 1")
    record = run()["01_a"]
    assert record["status"] == status
    assert (tmp_path / "tries").read_text() == "xx"
    if status == "failed":
        assert record["error"]["message"] == "the kernel did not start (see 01_a.log)"


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_leaves_no_halves(tmp_path, write_notebook):
    write_notebook(tmp_path / "nb/01_quick.ipynb", "1 + 1")
    code = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); "
    write_notebook(tmp_path / "nb/02_slow.ipynb", code + "time.sleep(300)")
    process = command(tmp_path, start_new_session=True)
    for _ in range(600):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
    assert gone(int((tmp_path / "pid").read_text()))
    assert {path.name for path in (tmp_path / "out/notebooks").iterdir()} == {"01_quick.ipynb", "01_quick.html"}
    assert list(json.loads((tmp_path / "out/run.json").read_text())["notebooks"]) == ["01_quick"]
    assert (tmp_path / "out/index.html").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_a_bar_by_cells(tmp_path, write_notebook):
    import pty
    import termios

    write_notebook(tmp_path / "nb/01_a.ipynb", "1 + 1", "2 + 2", "3 + 3")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    call = [sys.executable, "-m", "camhelpers", "run", "--folder", tmp_path / "nb", "--out", tmp_path / "out"]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=theirs, cwd=suite.ROOT)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait() == 0
    assert re.search(r"01_a: +67%.* 2/3 ", shown.decode()) and "started" not in shown.decode()


def test_a_notebook_that_is_gone_leaves_the_overview(run, tmp_path, write_notebook):
    (tmp_path / "out").mkdir()
    old = {"status": "ok", "seconds": 1.0, "parameters": {}, "error": None, "fingerprint": "", "output": "notebooks/x"}
    (tmp_path / "out/run.json").write_text(json.dumps({"notebooks": {"01_old": old, "02_b": old}}))
    write_notebook(tmp_path / "nb/01_a.ipynb", "1 + 1")
    write_notebook(tmp_path / "nb/02_b.ipynb", "1 + 1")
    assert list(run(["01"])) == ["01_a"]
    assert list(json.loads((tmp_path / "out/run.json").read_text())["notebooks"]) == ["01_a", "02_b"]


def test_the_kernel_is_this_interpreter_on_a_socket_of_its_own(run, tmp_path, write_notebook, monkeypatch):
    # Somebody's registered "python3" that points to another interpreter must not be taken.
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    code = "import sys, json, ipykernel, camhelpers.files as f\nprint(sys.executable)\n"
    code += "print(json.loads(ipykernel.get_connection_info())['transport'])\nprint(f.ROOT)"
    write_notebook(tmp_path / "nb/01_a.ipynb", code)
    assert run()["01_a"]["status"] == "ok"
    text = nbformat.read(tmp_path / "out/notebooks/01_a.ipynb", as_version=4).cells[0].outputs[0].text
    transport = "ipc" if sys.platform == "linux" else "tcp"
    assert text.splitlines() == [sys.executable, transport, str(Path(suite.ROOT))]
