"""Headless reruns: notebooks executed with papermill, each in a process of its own, and what came of it."""

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

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

    Everything is checked before anything runs. A relative `out` counts from the project's folder. A failed notebook
    does not stop the others; its record says in which cell it failed and why.
    """
    if jobs < 1 or timeout <= 0:
        raise ValueError("The number of jobs and the time limit must be positive.")
    given = dict(parameters or {}) | ({} if profile is None else {"profile": profile})
    if "out" in given:
        raise ValueError("The output folder is not set with a parameter; use --out.")
    paths = find_notebooks(names, notebooks)
    offered = {path: read_parameters(path) for path in paths}
    chosen = check(offered, given)
    base = (ROOT / out).resolve()
    folder, register = base / "notebooks", base / "run.json"
    folder.mkdir(parents=True, exist_ok=True)
    before = json.loads(register.read_text(encoding="utf-8"))["notebooks"] if register.exists() else {}
    stems = [path.stem for path in find_notebooks(folder=notebooks)]  # others were renamed or removed
    records = {stem: before[stem] for stem in stems if stem in before}
    code = [*(ROOT / "camhelpers").rglob("*.py"), *(ROOT / "data" / "models").glob("*.*")]
    package = fingerprint({path.relative_to(ROOT).as_posix(): path for path in code}, versions())
    todo, about, results = [], {}, {}
    for path in paths:
        defaults = {name: parameter.default for name, parameter in offered[path].items()}
        every = defaults | chosen[path]
        if "out" in defaults:
            every["out"] = base.relative_to(ROOT).as_posix() if base.is_relative_to(ROOT) else str(base)
        about[path] = {"parameters": every, "fingerprint": fingerprint(package, dependencies(path, every))}
        last = records.get(path.stem, {})
        same = last.get("status") == "ok" and last["fingerprint"] == about[path]["fingerprint"]
        if same and not force and all((folder / f"{path.stem}.{kind}").exists() for kind in ("ipynb", "html")):
            print(f"{path.stem}: already done", file=sys.stderr)
            results[path.stem] = last | {"status": "skipped"}
        else:
            todo.append((path, {name: value for name, value in every.items() if value != defaults[name]}))
    try:
        with closing(Runner(folder, timeout, jobs).execute(todo)) as finished:
            for path, outcome in finished:
                date = datetime.now(UTC).isoformat(timespec="seconds")
                results[path.stem] = about[path] | outcome | {"date": date, "versions": versions()}
                records = dict(sorted((records | {path.stem: results[path.stem]}).items()))
                write_text(register, json.dumps({"notebooks": records}, indent=2) + "\n")
    finally:
        write_overview(base, records)
    return {path.stem: results[path.stem] for path in paths}


class Runner:
    """Executes notebooks into `folder`; what a failed one left goes to `*.failed.*` beside the last good one."""

    def __init__(self, folder: Path, timeout: float, jobs: int = 1):
        self.folder, self.timeout, self.jobs = folder, timeout, jobs
        self.running: set[multiprocessing.process.BaseProcess] = set()
        self.stopped = False

    def execute(self, todo: Iterable[tuple[Path, dict[str, Any]]]) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield each notebook with what came of it, as soon as it ends; closing the iterator kills what is running."""
        pool = ThreadPoolExecutor(self.jobs)
        try:
            paths = {pool.submit(self._one, path, parameters): path for path, parameters in todo}
            for future in as_completed(paths):
                yield paths[future], future.result()
        finally:
            self.stopped = True
            for process in list(self.running):
                kill_tree(process)
            pool.shutdown(cancel_futures=True)

    def _one(self, path: Path, parameters: dict[str, Any]) -> dict[str, Any]:
        """Execute a notebook, once more if its kernel did not start, and put notebook, page and log in place."""
        begin = time.monotonic()
        for attempt in (1, 2):
            with tempfile.TemporaryDirectory(prefix="cam-", ignore_cleanup_errors=True) as place:
                status, error = self._attempt(path, parameters, Path(place))
                if attempt == 1 and status == "failed" and not error["cell"]:
                    continue
                output = None if self.stopped else self._deliver(path, Path(place), status)
                seconds = round(time.monotonic() - begin, 1)
                return {"status": status, "error": error, "seconds": seconds, "output": output}

    def _attempt(self, path: Path, parameters: dict[str, Any], place: Path) -> tuple[str, dict[str, Any] | None]:
        cell, cells = 0, len(json.loads(path.read_text(encoding="utf-8"))["cells"])
        (place / "log").touch()  # there even if the child is stopped before it begins
        pipe, theirs = PROCESSES.Pipe(duplex=False)
        threads = (os.cpu_count() or 1) // self.jobs
        child = PROCESSES.Process(target=_child, args=(theirs, path.resolve(), parameters, place, threads), daemon=True)
        child.start()
        theirs.close()
        self.running.add(child)
        end = time.monotonic() + self.timeout
        try:
            with Progress(cells, path.stem, "cell") as counter:
                while not self.stopped and pipe.poll(max(0, end - time.monotonic())):
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
        finally:
            kill_tree(child)
            self.running.discard(child)

    def _deliver(self, path: Path, place: Path, status: str) -> str | None:
        if status == "ok":
            for leftover in ("failed.ipynb", "failed.html", "log"):
                (self.folder / f"{path.stem}.{leftover}").unlink(missing_ok=True)
        else:
            shutil.copyfile(place / "log", self.folder / f"{path.stem}.log")
        if not (place / path.name).exists():
            return None
        name = path.stem if status == "ok" else f"{path.stem}.failed"
        write_text(self.folder / f"{name}.html", notebook_page(place / path.name, path.parent))
        with atomic(self.folder / f"{name}.ipynb") as temporary:
            shutil.copyfile(place / path.name, temporary)
        return f"notebooks/{name}.ipynb"


def _child(pipe: Connection, source: Path, parameters: dict[str, Any], place: Path, threads: int) -> None:
    """In a process of its own: execute `source` into `place`; send each cell's number as it begins, then the status."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the runner alone, which then stops its children
    with open(place / "log", "wb") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    # The kernel imports the package that runs it, and parallel kernels share the cores among them.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))
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


def _kernel_class(place: Path) -> type:
    """A kernel manager that runs this very interpreter and talks through sockets in `place` where it can."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class Kernel(AsyncKernelManager):
        def __init__(self, **kwargs: Any) -> None:
            # Without kernel folders, a "python3" registered for another interpreter cannot take the place of this one.
            super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **kwargs)
            # Kernels that start together race for TCP ports. A socket's path may have about 100 characters.
            if sys.platform == "linux" and len(str(place)) < 80:
                self.transport, self.ip = "ipc", str(place / "kernel")

    return Kernel


def kill_tree(process: multiprocessing.process.BaseProcess) -> None:
    """Kill a process and all that it started; a Jupyter kernel has a process group of its own."""
    with suppress(psutil.NoSuchProcess):  # until it is joined below, its number cannot be another's
        for victim in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
    process.join()


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
