"""Headless reruns: notebooks executed with papermill, each in a process of its own, and what came of it."""

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from ..files import ROOT, atomic, fingerprint, versions, write_text
from ..progress import Progress
from .pages import notebook_page, write_overview
from .parameters import check, read_parameters

NOTEBOOKS = ROOT / "notebooks"
PROCESSES = multiprocessing.get_context("spawn")  # a forked child would hold locks of threads that it does not have


def find_notebooks(names: Iterable[str] = ("all",), folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks called `03`, `03_layercam` or `all`, in the order of their numbers."""
    there = sorted(Path(folder).glob("[0-9]*.ipynb"))
    chosen = set()
    for name in list(names) or ["all"]:
        matching = [path for path in there if name == "all" or Path(name).stem in (path.stem, path.stem.split("_")[0])]
        if not matching:
            known = ", ".join(path.stem for path in there) or f"none at all in {folder}"
            raise ValueError(f"No notebook {name!r}; there are {known}.")
        chosen.update(matching)
    return sorted(chosen)


def run(names: Iterable[str] = ("all",), parameters: dict[str, Any] | None = None, *, profile: str | None = None,
        jobs: int = 1, force: bool = False, out: str | Path = "results", timeout: float = 3600,
        notebooks: Path = NOTEBOOKS) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Execute notebooks into `out/notebooks`, skip what is done, and return one record per notebook.

    Everything is checked before anything runs. A relative `out` counts from the project's folder; runs that share one
    take turns. A failed notebook does not stop the others; its record says where it failed and why.
    """
    base = (ROOT / out).resolve()
    folder, register = base / "notebooks", base / "run.json"
    runner = Runner(folder, timeout, jobs)
    given = dict(parameters or {}) | ({} if profile is None else {"profile": profile})
    if "out" in given:
        raise ValueError("The output folder is not set with a parameter; use --out.")
    paths = find_notebooks(names, notebooks)
    offered = {path: read_parameters(path) for path in paths}
    chosen = check(offered, given)

    def records(new: dict[str, Any]) -> dict[str, dict[str, Any]]:  # without notebooks that were renamed or removed
        found = (json.loads(register.read_text(encoding="utf-8"))["notebooks"] if register.exists() else {}) | new
        return {path.stem: found[path.stem] for path in find_notebooks(folder=notebooks) if path.stem in found}

    folder.mkdir(parents=True, exist_ok=True)
    code = [*(ROOT / "camhelpers").rglob("*.py"), *(ROOT / "data" / "models").glob("*.*")]
    package = fingerprint({path.relative_to(ROOT).as_posix(): path for path in code}, versions())
    todo, about, results, lock = [], {}, {}, FileLock(base / ".run.lock")
    with suppress(Timeout):
        lock.acquire(blocking=False)
    if not lock.is_locked:
        print(f"waits for another run into {out}", file=sys.stderr)
        lock.acquire()
    try:
        for path in paths:
            defaults = {name: parameter.default for name, parameter in offered[path].items()}
            every = defaults | chosen[path]
            if "out" in defaults:
                every["out"] = base.relative_to(ROOT).as_posix() if base.is_relative_to(ROOT) else str(base)
            about[path] = {"parameters": every, "fingerprint": fingerprint(package, dependencies(path, every))}
            last = records({}).get(path.stem, {})
            same = last.get("status") == "ok" and last["fingerprint"] == about[path]["fingerprint"]
            if same and not force and all((folder / f"{path.stem}.{kind}").exists() for kind in ("ipynb", "html")):
                print(f"{path.stem}: already done", file=sys.stderr)
                results[path.stem] = last | {"status": "skipped"}
            else:
                todo.append((path, {name: value for name, value in every.items() if value != defaults[name]}))
        with closing(runner.execute(todo)) as finished:
            for path, outcome in finished:
                date = datetime.now(UTC).isoformat(timespec="seconds")
                results[path.stem] = done = about[path] | outcome | {"date": date, "versions": versions()}
                write_text(register, json.dumps({"notebooks": records({path.stem: done})}, indent=2) + "\n")
    finally:
        write_overview(base, records({}))
        lock.release()
    return {path.stem: results[path.stem] for path in paths}


class Runner:
    """Executes notebooks into `folder`, by default one that lasts as long as `execute`; failed ones to `*.failed.*`."""

    def __init__(self, folder: Path | None, timeout: float, jobs: int = 1):
        if jobs < 1 or not 0 < timeout < float("inf"):  # nor nan
            raise ValueError("The number of jobs and the time limit must be positive. The limit is a finite number.")
        self.folder, self.timeout, self.jobs, self.stopped = folder, timeout, jobs, False

    def execute(self, todo: Iterable[tuple[Path, dict[str, Any]]]) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield each notebook with what came of it, as soon as it ends; closing the iterator kills what is running."""
        pool = ThreadPoolExecutor(self.jobs)
        with tempfile.TemporaryDirectory(prefix="cam-", ignore_cleanup_errors=True) as root:
            self.root, self.folder = Path(root), self.folder or Path(root)
            try:
                paths = {pool.submit(self._one, path, parameters): path for path, parameters in todo}
                for future in as_completed(paths):
                    yield paths[future], future.result()
            finally:
                self.stopped = True
                pool.shutdown(cancel_futures=True)

    def _one(self, path: Path, parameters: dict[str, Any]) -> dict[str, Any]:
        """Execute a notebook, once more if its kernel did not start, and put notebook, page and log in place."""
        begin, output = time.monotonic(), None
        try:
            status, error, output = self._attempt(path, parameters) or self._attempt(path, parameters, last=True)
        except Exception as why:  # a full disk, for instance: this notebook's failure, which stops no other
            status, error = "failed", {"cell": 0, "message": f"{type(why).__name__}: {why}"}
        return {"status": status, "error": error, "seconds": round(time.monotonic() - begin, 1), "output": output}

    def _attempt(self, path: Path, given: dict[str, Any], last: bool = False) -> tuple[str, Any, Any] | None:
        with tempfile.TemporaryDirectory(dir=self.root, ignore_cleanup_errors=True) as name:
            place, (pipe, end) = Path(name), PROCESSES.Pipe(duplex=False)
            (place / "log").touch()  # there even if the child is stopped before it begins
            child = PROCESSES.Process(target=_child, args=(end, path.resolve(), given, place, self.jobs), daemon=True)
            child.start()
            end.close()
            try:
                status, error = self._follow(path, pipe)
                if status == "timeout":
                    child.kill()  # it may be writing what is going to be delivered
                again = status == "failed" and not error["cell"] and not last
                return None if again else self._deliver(path, place, status, error)
            finally:
                kill_started(child.pid, place)
                child.kill()
                child.join()

    def _follow(self, path: Path, pipe: Connection) -> tuple[str, dict[str, Any] | None]:
        cell, end = 0, time.monotonic() + self.timeout
        cells = len(json.loads(path.read_text(encoding="utf-8"))["cells"])
        try:
            with Progress(cells, path.stem, "cell") as counter:
                while not self.stopped and time.monotonic() < end:
                    if not pipe.poll(0.2):
                        continue
                    heard = pipe.recv()
                    if isinstance(heard, tuple):
                        counter.step(cells - counter.done if heard[0] == "ok" else 0)
                        return heard
                    counter.step(heard - 1 - counter.done)
                    cell = heard
            return "timeout", {"cell": cell, "message": f"stopped after the limit of {self.timeout:g} seconds"}
        except EOFError:
            why = "died" if cell else "did not start"
            return "failed", {"cell": cell, "message": f"the kernel {why} (see {path.stem}.log)"}

    def _deliver(self, path: Path, place: Path, status: str, error: Any) -> tuple[str, Any, Any]:
        made, page = place / path.name, ""
        if made.exists() and not self.stopped:
            try:
                page = notebook_page(made, path.parent)
            except Exception as why:  # nbconvert raises many kinds
                page = f"no page can be made of it: {why}"
                status, error = "failed", error or {"cell": 0, "message": page}
        if status == "ok":
            for leftover in ("failed.ipynb", "failed.html", "log"):
                (self.folder / f"{path.stem}.{leftover}").unlink(missing_ok=True)
        elif not self.stopped:
            shutil.copyfile(place / "log", self.folder / f"{path.stem}.log")
        if not page:
            return status, error, None
        name = path.stem if status == "ok" else f"{path.stem}.failed"
        write_text(self.folder / f"{name}.html", page)
        with atomic(self.folder / f"{name}.ipynb") as temporary:
            shutil.copyfile(made, temporary)
        return status, error, f"notebooks/{name}.ipynb"


def _child(pipe: Connection, source: Path, parameters: dict[str, Any], place: Path, jobs: int) -> None:
    """In a process of its own: execute `source` into `place`; send each cell's number as it begins, then the status."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the runner alone, which then stops its children
    threading.Thread(target=_guard, args=(place,), daemon=True).start()
    with open(place / "log", "wb") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.environ["CAMHELPERS_PLACE"] = str(place)  # by which all that the notebook starts can be found
    # The kernel imports the package that runs it, and code of your own from where the command is called.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH"), os.getcwd()]))
    # Parallel kernels share the cores among them.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    import papermill
    from papermill.exceptions import PapermillExecutionError

    number = 0

    def begin(cell: Any, cell_index: int) -> None:
        nonlocal number  # as the author counts: papermill puts a cell of its own behind the parameters
        number += "injected-parameters" not in cell.metadata.get("tags", [])
        pipe.send(number)

    options = {"cwd": source.parent, "kernel_name": "python3", "kernel_manager_class": _kernel_class(place)}
    # A kernel that imports nothing yet starts at once, but several may start together.
    options |= {"start_timeout": 120, "progress_bar": False, "stderr_file": sys.stderr, "on_cell_start": begin}
    try:
        papermill.execute_notebook(source, place / source.name, parameters, **options)
        pipe.send(("ok", None))
    except PapermillExecutionError as error:
        message = f"{error.ename}: {error.evalue}".strip(": ")
        pipe.send(("failed", {"cell": number, "message": message, "source": error.source}))
    threading.Event().wait()  # on guard until the runner has delivered what was made, and kills this process


def _guard(place: Path) -> None:
    """In place of a killed runner: end what it started, and remove its temporary folder."""
    multiprocessing.parent_process().join()
    kill_started(os.getpid(), place)
    shutil.rmtree(place.parent, ignore_errors=True)
    os._exit(1)


def _kernel_class(place: Path) -> type:
    """A kernel manager that runs this very interpreter and talks through sockets in `place` where it can."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class Kernel(AsyncKernelManager):
        def __init__(self, **kwargs: Any) -> None:
            # Without kernel folders, a "python3" registered for another interpreter cannot take the place of this one.
            super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **kwargs)
            self.connection_file = str(place / "kernel.json")
            # Kernels that start together race for TCP ports. A socket's path may have about 100 characters.
            if sys.platform == "linux" and len(str(place)) < 80:
                self.transport, self.ip = "ipc", str(place / "kernel")

    return Kernel


def kill_started(worker: int, place: Path) -> None:
    """Kill all that a worker started, but not the worker; what has detached itself still names its place."""
    victims = []
    with suppress(psutil.NoSuchProcess):
        victims = psutil.Process(worker).children(recursive=True)
    for _ in range(3):  # what was just starting is seen the next time
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        running = [p for p in psutil.process_iter(["environ"]) if p.pid != worker]
        victims = [p for p in running if (p.info["environ"] or {}).get("CAMHELPERS_PLACE") == str(place)]


def dependencies(notebook: Path, parameters: dict[str, Any]) -> list:
    """What a notebook's results depend on, with the files that a parameter names; its outputs are not among it."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags")] for cell in cells]
    values = {name: value for name, value in parameters.items() if name != "out"}
    named = [ROOT / value for value in values.values() if isinstance(value, str) and value]
    data = [path for place in named for path in [place, *sorted(place.rglob("*"))] if path.is_file()]
    return [code, values, [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in data]]


def table(results: dict[str, dict[str, Any]], out: str | Path = "results") -> str:
    """The closing table, with the reason of each failure below it."""
    wide = max(map(len, results))
    lines = [f"{'notebook':<{wide}}  status   seconds  output"]
    for stem, record in results.items():
        output = Path(out, record["output"]).as_posix() if record["output"] else "-"
        lines.append(f"{stem:<{wide}}  {record['status']:<7}  {record['seconds']:>7.1f}  {output}")
    errors = {stem: record["error"] for stem, record in results.items() if record["error"]}
    return "\n".join(lines + [f"\n{stem}: cell {e['cell']}: {e['message']}" for stem, e in errors.items()])
