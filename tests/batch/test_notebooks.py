import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import nbformat
import psutil
import pytest

from camhelpers.batch import notebooks as suite

PARAMETERS = (
    'from typing import Literal\n\nprofile: Literal["quick", "full"] = "quick"  # help How much\n'
    'alpha: float = 0.7  # help [0..1] Share\nout: str = "results"  # help Where',
    "parameters",
)


def command(tmp_path, *arguments, **options):
    places = ["--folder", str(tmp_path / "nb"), "--out", str(tmp_path / "out")]
    call = [sys.executable, "-m", "camhelpers", "run", *arguments, *places]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(call, text=True, cwd=suite.ROOT, **pipes | options)


def records(tmp_path):
    return json.loads((tmp_path / "out/run.json").read_text())["notebooks"]


def printed(tmp_path, name):
    cell = nbformat.read(tmp_path / "out/notebooks" / name, as_version=4).cells[-1]
    return "".join(output.get("text", "") for output in cell.outputs).splitlines()


def gone(pid: int) -> bool:
    for _ in range(300):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_failures_do_not_stop_the_others_and_parameters_arrive(tmp_path, write_notebook, monkeypatch):
    # Somebody's registered "python3" that points to another interpreter must not be taken.
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    show = "import sys, os, json, ipykernel, camhelpers.files as f\nprint(profile, alpha, out, os.getcwd(), sep='|')\n"
    show += "print(sys.executable, json.loads(ipykernel.get_connection_info())['transport'], f.ROOT)"
    careful = "import sys; print('careful', file=sys.stderr)"
    write_notebook(tmp_path / "nb/01_bad.ipynb", "# Bad", PARAMETERS, careful, "1 / 0")
    write_notebook(tmp_path / "nb/02_good.ipynb", "# Good", PARAMETERS, show)
    write_notebook(tmp_path / "nb/03_dead.ipynb", "import os", "os._exit(3)")
    process = command(tmp_path, "-j", "2", "-p", "alpha=0.25", "--profile", "full")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in err, err

    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["notebook", "status", "seconds", "output"]
    assert [row[:2] for row in rows[1:4]] == [["01_bad", "failed"], ["02_good", "ok"], ["03_dead", "failed"]]
    assert rows[2][3] == str(tmp_path / "out/notebooks/02_good.ipynb")
    assert "01_bad: cell 4: ZeroDivisionError: division by zero" in out
    assert "02_good: 3 of 3 cells" in err

    transport = "ipc" if sys.platform == "linux" else "tcp"
    values = f"full|0.25|{tmp_path / 'out'}|{tmp_path / 'nb'}"
    assert printed(tmp_path, "02_good.ipynb") == [values, f"{sys.executable} {transport} {suite.ROOT}"]
    record = records(tmp_path)["02_good"]
    assert record["parameters"] == {"profile": "full", "alpha": 0.25, "out": str(tmp_path / "out")}
    assert record["output"] == "notebooks/02_good.ipynb" and record["error"] is None and record["seconds"] > 0
    assert {"date", "fingerprint", "versions"} <= set(record)
    zero = {"cell": 4, "message": "ZeroDivisionError: division by zero", "source": "1 / 0"}
    assert records(tmp_path)["01_bad"]["error"] == zero
    dead = {"cell": 2, "message": "the kernel died (see 03_dead.log)"}
    assert records(tmp_path)["03_dead"]["error"] == dead

    made = {path.name for path in (tmp_path / "out/notebooks").iterdir()}
    failed = {f"{stem}.{kind}" for stem in ("01_bad", "03_dead") for kind in ("failed.ipynb", "failed.html", "log")}
    assert made == {"02_good.ipynb", "02_good.html"} | failed
    assert "careful" in (tmp_path / "out/notebooks/01_bad.log").read_text()
    index = (tmp_path / "out/index.html").read_text()
    assert 'href="notebooks/02_good.html"' in index and "division by zero" in index

    write_notebook(tmp_path / "nb/01_bad.ipynb", "# Good now")  # what failed runs again, what succeeded does not
    results = suite.run(["01", "02"], {"alpha": 0.25}, profile="full", notebooks=tmp_path / "nb", out=tmp_path / "out")
    assert [record["status"] for record in results.values()] == ["ok", "skipped"]
    assert not list((tmp_path / "out/notebooks").glob("01_bad.[fl]*"))


def test_what_is_done_is_skipped_until_something_changes(tmp_path, write_notebook, monkeypatch):
    def execute(runner, todo):
        for path, _ in todo:
            for kind in ("ipynb", "html"):
                (runner.folder / f"{path.stem}.{kind}").write_bytes(path.read_bytes())
            yield path, {"status": "ok", "error": None, "seconds": 1.0, "output": None}

    monkeypatch.setattr(suite.Runner, "execute", execute)
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    cell = "data: str = 'pictures'\nn: int = 1\nout: str = 'results'", "parameters"
    path = write_notebook(tmp_path / "nb/01_a.ipynb", cell, "1 + 1")
    (tmp_path / "pictures").mkdir()

    def status(**options):
        return suite.run(notebooks=tmp_path / "nb", **{"out": tmp_path / "out"} | options)["01_a"]["status"]

    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text('{"notebooks": {"01_gone": {"status": "ok"}}}')
    assert status() == "ok" and status() == "skipped" and list(records(tmp_path)) == ["01_a"]
    assert status(force=True) == "ok"
    assert status(parameters={"n": 2}) == "ok" and status() == "ok" and status() == "skipped"
    for name in ("camhelpers/a.py", "camhelpers/datasets/b.py", "data/models/c.safetensors", "pictures/new.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
        assert status() == "ok" and status() == "skipped", name
    (tmp_path / "out/new.png").write_text("x")  # what a notebook writes changes nothing, nor does the folder's name
    (tmp_path / "out").rename(tmp_path / "moved")
    assert status(out="moved") == "skipped"
    (tmp_path / "moved").rename(tmp_path / "out")
    (tmp_path / "out/notebooks/01_a.html").unlink()
    assert status() == "ok"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].execution_count = 7
    nbformat.write(notebook, path)
    assert status() == "skipped"
    notebook.cells[1].source = "1 + 2"
    nbformat.write(notebook, path)
    assert status() == "ok"


@pytest.mark.slow
def test_the_time_limit_kills_the_kernel_and_its_children(tmp_path, write_notebook, monkeypatch):
    pids, waits = tmp_path / "pids", tmp_path / "waits"
    code = "import os, subprocess, pathlib\nchild = subprocess.Popen(['sleep', '300'])\n"
    code += f"pathlib.Path({str(pids)!r}).write_text(f'{{os.getpid()}} {{child.pid}}')"
    touch = f"pathlib.Path({str(waits)!r}).touch()"  # in a cell of its own: the next one's start shows it to the runner
    write_notebook(tmp_path / "nb/01_slow.ipynb", "# Slow", code, touch, "child.wait()")
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 600 * waits.exists())  # however slow the machine is
    monkeypatch.setattr(suite, "time", clock)
    record = suite.run(timeout=600, notebooks=tmp_path / "nb", out=tmp_path / "out")["01_slow"]
    assert record["status"] == "timeout" and record["seconds"] < 900
    assert record["error"] == {"cell": 4, "message": "stopped after the limit of 600 seconds"}
    assert all(gone(int(pid)) for pid in pids.read_text().split())


@pytest.mark.slow
@pytest.mark.parametrize(("failures", "status"), [(1, "ok"), (2, "failed")])
def test_a_kernel_that_does_not_start_is_tried_once_more(tmp_path, write_notebook, monkeypatch, failures, status):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, sys\n"
        f"tries = pathlib.Path({str(tmp_path / 'tries')!r})\n"
        "if 'ipykernel_launcher' in sys.orig_argv:\n"
        "    tries.write_text((tries.read_text() if tries.exists() else '') + 'x')\n"
        f"    if len(tries.read_text()) <= {failures}: os._exit(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    write_notebook(tmp_path / "nb/01_a.ipynb", "1 + 1")
    record = suite.run(notebooks=tmp_path / "nb", out=tmp_path / "out")["01_a"]
    assert record["status"] == status and (tmp_path / "tries").read_text() == "xx"
    if status == "failed":
        assert record["error"] == {"cell": 0, "message": "the kernel did not start (see 01_a.log)"}


ORPHAN = """import os, pathlib, subprocess, time
call = ["sh", "-c", "sleep 300 >&- & echo $!"]  # what a cell starts in a session of its own, and then leaves alone
orphan = subprocess.Popen(call, start_new_session=True, stdout=subprocess.PIPE, text=True).communicate()[0].strip()
pathlib.Path({folder!r}, "part").write_text(f"{{orphan}} {{os.getpid()}} {{os.getppid()}}")
pathlib.Path({folder!r}, "part").rename(pathlib.Path({folder!r}, str(os.getpid())))
"""


def started(folder, count=1):
    """The processes of so many notebooks: orphan, kernel, worker."""
    for _ in range(600):
        if len(files := [path for path in folder.iterdir() if path.name.isdecimal()]) == count:
            return [int(pid) for path in files for pid in path.read_text().split()]
        time.sleep(0.1)
    raise AssertionError("the notebooks did not start")


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_and_no_folder(tmp_path, write_notebook):
    folder = write_notebook(tmp_path / "nb/01_a.ipynb", ORPHAN.format(folder=str(tmp_path)), "time.sleep(300)").parent
    place = tmp_path / "tmp"
    place.mkdir()
    options = {"env": os.environ | {"TMPDIR": str(place)}, "stderr": subprocess.DEVNULL}
    call = [sys.executable, "-m", "camhelpers", "golden", "--folder", str(folder)]
    both = command(tmp_path, **options), subprocess.Popen(call, cwd=suite.ROOT, **options)
    pids = started(tmp_path, 2)
    assert len(pids) == 6 and all(map(psutil.pid_exists, pids)) and len(list(place.glob("cam-*"))) == 2
    for process in both:
        process.kill()
        process.communicate()
    assert all(map(gone, pids))
    assert not list(place.iterdir())


@pytest.mark.slow
def test_runs_share_a_folder_and_what_cannot_be_delivered_stops_nothing(tmp_path, write_notebook, capfd):
    wait = f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.05)"
    write_notebook(tmp_path / "nb/01_long.ipynb", ORPHAN.format(folder=str(tmp_path)), wait)
    write_notebook(tmp_path / "nb/02_picture.ipynb", "# A\n\n![a](attachment:gone.png)", "1 + 1")
    write_notebook(tmp_path / "nb/03_blocked.ipynb", "1 + 1")
    (tmp_path / "out/notebooks/03_blocked.html").mkdir(parents=True)
    place = {"notebooks": tmp_path / "nb", "out": tmp_path / "out"}
    found = suite.run(["02", "03"], jobs=2, **place)
    assert {record["status"] for record in found.values()} == {"failed"}
    page = {"cell": 0, "message": "no page can be made of it: missing attachment: gone.png"}
    assert found["02_picture"]["error"] == page
    assert (tmp_path / "out" / found["02_picture"]["output"]).name == "02_picture.failed.ipynb"
    assert found["03_blocked"]["error"]["message"].startswith("IsADirectoryError: ")
    assert "missing attachment: gone.png" in (tmp_path / "out/index.html").read_text()

    first = command(tmp_path, "01")
    orphan, *_ = started(tmp_path)
    capfd.readouterr()
    with ThreadPoolExecutor() as pool:
        second = pool.submit(suite.run, ["01"], **place)
        while not (told := capfd.readouterr().err):
            time.sleep(0.05)
        (tmp_path / "go").touch()
        assert told == f"waits for another run into {tmp_path / 'out'}\n"
        assert "01_long  ok" in first.communicate(timeout=100)[0] and not first.returncode
        assert second.result()["01_long"]["status"] == "skipped"
    assert capfd.readouterr().err == "01_long: already done\n"
    status = {"01_long": "ok", "02_picture": "failed", "03_blocked": "failed"}
    assert {stem: record["status"] for stem, record in records(tmp_path).items()} == status
    assert gone(orphan)


@pytest.mark.slow
def test_a_stop_keeps_what_is_finished_and_leaves_no_halves(tmp_path, write_notebook):
    write_notebook(tmp_path / "nb/01_quick.ipynb", "1 + 1")
    code = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); "
    write_notebook(tmp_path / "nb/02_slow.ipynb", code + "time.sleep(300)")
    process = command(tmp_path, start_new_session=True)
    for _ in range(3000):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # which a scheduler sends; Ctrl-C goes the same way
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130 and "Traceback" not in err
    assert gone(int((tmp_path / "pid").read_text()))
    assert {path.name for path in (tmp_path / "out/notebooks").iterdir()} == {"01_quick.ipynb", "01_quick.html"}
    assert list(records(tmp_path)) == ["01_quick"] and (tmp_path / "out/index.html").exists()
