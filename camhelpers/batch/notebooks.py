"""Headless reruns: notebooks executed with papermill, each in a process of its own, and what came of it."""

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ..files import ROOT, atomic, sha256, versions, write_text
from . import pages
from .parameters import check, read_parameters

NOTEBOOKS = ROOT / "notebooks"
WORKER = Path(__file__).with_name("worker.py")
START_TIMEOUT = 120  # a kernel that imports nothing yet; generous, since several may start at once


def find_notebooks(names: Iterable[str] = ("all",), folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks called `03`, `03_layercam` or `all`, in the order of their numbers."""
    there = sorted(Path(folder).glob("[0-9]*.ipynb"))
    names = list(names) or ["all"]
    chosen = set()
    for name in names:
        stem = Path(name).stem
        matching = [path for path in there if name == "all" or stem in (path.stem, path.stem.split("_")[0])]
        if not matching:
            known = ", ".join(path.stem for path in there) or f"none at all in {folder}"
            raise ValueError(f"No notebook {name!r}; there are {known}.")
        chosen.update(matching)
    return sorted(chosen)


def run(
    names: Iterable[str] = ("all",),
    parameters: dict[str, Any] | None = None,
    *,
    profile: str | None = None,
    jobs: int = 1,
    force: bool = False,
    out: str | Path = "results",
    timeout: float = 3600,
    notebooks: Path = NOTEBOOKS,
) -> dict[str, dict[str, Any]]:
    """Execute notebooks into `out/notebooks`, skip what is done, and return one record per notebook.

    Everything is checked before anything runs. A relative `out` counts from the project's folder. A failed notebook
    does not stop the others; its record says in which cell it failed and why.
    """
    if jobs < 1 or timeout <= 0:
        raise ValueError("The number of jobs and the time limit must be positive.")
    given = dict(parameters or {})
    if "out" in given:
        raise ValueError("The output folder is not set with a parameter; use --out.")
    paths = find_notebooks(names, notebooks)
    offered = {path.stem: read_parameters(path) for path in paths}
    values = check(offered, given)
    base = (ROOT / out).resolve()
    for stem, takes in offered.items():
        if profile is not None and "profile" in takes:
            values[stem]["profile"] = takes["profile"].parse(profile)
        if "out" in takes:
            values[stem]["out"] = base.relative_to(ROOT).as_posix() if base.is_relative_to(ROOT) else str(base)

    (base / "notebooks").mkdir(parents=True, exist_ok=True)
    register = Register(base / "run.json", [path.stem for path in find_notebooks(folder=notebooks)])
    sources = _sources_hash()
    todo = []
    results: dict[str, dict[str, Any]] = {}
    for path in paths:
        every = {name: p.default for name, p in offered[path.stem].items()} | values[path.stem]
        print_of = fingerprint(path, every, sources)
        if not force and register.done(path.stem, print_of):
            results[path.stem] = register.records[path.stem] | {"status": "skipped"}
        else:
            changed = {k: v for k, v in every.items() if v != offered[path.stem][k].default}
            todo.append((path, changed, {"parameters": every, "fingerprint": print_of}))

    board = Board()
    for stem in results:
        board.say(f"{stem}: already done")
    crew = Crew(base / "notebooks", timeout, jobs, board)
    pool = ThreadPoolExecutor(jobs)
    try:
        waiting = {pool.submit(crew.execute, path, changed): (path, about) for path, changed, about in todo}
        for future in as_completed(waiting):
            path, about = waiting[future]
            results[path.stem] = about | future.result() | {"date": _now(), "versions": versions()}
            register.add(path.stem, results[path.stem])
    finally:
        crew.stop()
        pool.shutdown(wait=True, cancel_futures=True)
        board.close()
        pages.write_index(base, register.records)
    return {path.stem: results[path.stem] for path in paths}


class Register:
    """`run.json`: what was done, with which sources and parameters; written anew after every notebook."""

    def __init__(self, path: Path, stems: list[str]):
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
            before = json.loads(path.read_text(encoding="utf-8"))["notebooks"]
            self.records = {stem: before[stem] for stem in stems if stem in before}  # others were renamed or removed

    def done(self, stem: str, print_of: str) -> bool:
        """Whether this very run succeeded before and its outputs are still there."""
        record = self.records.get(stem, {})
        outputs = [self.path.parent / "notebooks" / f"{stem}{suffix}" for suffix in (".ipynb", ".html")]
        same = record.get("status") == "ok" and record.get("fingerprint") == print_of
        return same and all(path.exists() for path in outputs)

    def add(self, stem: str, record: dict[str, Any]) -> None:
        """Note what came of a notebook."""
        self.records = dict(sorted((self.records | {stem: record}).items()))
        write_text(self.path, json.dumps({"notebooks": self.records}, indent=2) + "\n")


class Crew:
    """Executes notebooks, possibly several at a time, and can be told to stop."""

    def __init__(self, folder: Path, timeout: float, jobs: int, board: "Board"):
        self.folder, self.timeout, self.jobs, self.board = folder, timeout, jobs, board
        self.running: set[subprocess.Popen] = set()
        self.stopped = False

    def execute(self, path: Path, parameters: dict[str, Any]) -> dict[str, Any]:
        """Execute one notebook, and again if its kernel did not start; put notebook and page in place."""
        begin = time.monotonic()
        self.board.start(path.stem)
        with tempfile.TemporaryDirectory(prefix="cam-") as folder:
            executed = Path(folder, path.name)
            log = self.folder / f"{path.stem}.log"
            outcome = self._attempt(path, parameters, executed, log)
            if outcome.pop("retry", False):
                self.board.say(f"{path.stem}: the kernel did not start; trying once more")
                outcome = self._attempt(path, parameters, executed, log)
            outcome.pop("retry", None)
            outcome["seconds"] = round(time.monotonic() - begin, 1)
            if not self.stopped:
                outcome["output"] = self._deliver(path, executed, outcome["status"])
        if log.stat().st_size == 0:
            log.unlink()
        self.board.finish(path.stem, outcome)
        return outcome

    def _attempt(self, path: Path, parameters: dict[str, Any], executed: Path, log: Path) -> dict[str, Any]:
        job = {
            "source": str(path.resolve()),
            "target": str(executed),
            "parameters": parameters,
            "cwd": str(path.parent.resolve()),
            "folder": str(executed.parent),
            "start_timeout": START_TIMEOUT,
        }
        cell, error, late = 0, None, threading.Event()
        with open(log, "wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop the workers
                text=True,
            )
            self.running.add(process)
            clock = threading.Timer(self.timeout, lambda: (late.set(), kill_tree(process)))
            clock.start()
            try:
                if self.stopped:
                    kill_tree(process)
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(job))
                    process.stdin.close()
                for line in process.stdout:
                    event = json.loads(line)
                    error = event.get("error", error)
                    cell = event.get("cell", cell)
                    self.board.step(path.stem, cell, event.get("of"))
                code = process.wait()
            finally:
                clock.cancel()
                kill_tree(process)
                self.running.discard(process)
        if code == 0:
            return {"status": "ok", "error": None}
        if late.is_set():
            message = f"stopped after the limit of {self.timeout:g} seconds"
            return {"status": "timeout", "error": {"cell": cell, "message": message}}
        if error is None:
            why = f"the kernel died (see {log.name})" if cell else f"the kernel did not start (see {log.name})"
            error = {"cell": cell, "message": why}
        if self.stopped:
            return {"status": "stopped", "error": None}
        return {"status": "failed", "error": error, "retry": cell == 0}

    def _environment(self) -> dict[str, str]:
        """The kernel imports the package that runs it, and parallel kernels share the cores among them."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.jobs))} if self.jobs > 1 else {}
        return share | os.environ | {"PYTHONPATH": path}

    def _deliver(self, path: Path, executed: Path, status: str) -> str | None:
        """Put the executed notebook and its page in place; a failed one stands beside the last good one."""
        if not executed.exists():
            return None
        name = path.stem if status == "ok" else f"{path.stem}.failed"
        page = pages.notebook_page(executed, path.parent)
        with atomic(self.folder / f"{name}.ipynb") as temporary:
            shutil.copyfile(executed, temporary)
        write_text(self.folder / f"{name}.html", page)
        if status == "ok":
            for suffix in (".ipynb", ".html"):
                (self.folder / f"{path.stem}.failed{suffix}").unlink(missing_ok=True)
        return f"notebooks/{name}.ipynb"

    def stop(self) -> None:
        """Kill what is running; finished notebooks stay as they are."""
        self.stopped = True
        for process in list(self.running):
            kill_tree(process)


class Board:
    """Progress: one bar for each running notebook on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.bars: dict[str, Any] = {}
        self.lock = threading.Lock()
        self.terminal = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Print a line without breaking the bars."""
        from tqdm import tqdm

        with self.lock:
            tqdm.write(text, file=sys.stderr)

    def start(self, stem: str) -> None:
        """A notebook begins."""
        if not self.terminal:
            return self.say(f"{stem}: started")
        from tqdm import tqdm

        with self.lock:
            self.bars[stem] = tqdm(desc=stem, unit="cell", leave=False, file=sys.stderr)

    def step(self, stem: str, cell: int, total: int | None) -> None:
        """A notebook has come to a cell."""
        bar = self.bars.get(stem)
        if bar is not None and total:
            bar.total, bar.n = total, max(cell - 1, 0)
            bar.refresh()

    def finish(self, stem: str, outcome: dict[str, Any]) -> None:
        """A notebook ends."""
        if stem in self.bars:
            self.bars.pop(stem).close()
        self.say(f"{stem}: {outcome['status']} after {outcome['seconds']:.1f} s")

    def close(self) -> None:
        """Remove what bars are left."""
        for bar in self.bars.values():
            bar.close()


def kill_tree(process: subprocess.Popen) -> None:
    """Kill a process and all that it started; a Jupyter kernel has a process group of its own."""
    import psutil

    if process.poll() is not None:  # its number may be another's by now
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        for victim in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()


def fingerprint(notebook: Path, parameters: dict[str, Any], sources: str) -> str:
    """A hash of everything a run depends on; a notebook's outputs are not among it."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags")] for cell in cells]
    data = {name: _listing(value) for name, value in parameters.items() if name != "out"}
    text = json.dumps([code, parameters, data, sources, versions()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _listing(value: Any) -> list:
    """Name, size and time of the files that a parameter points to, so that new pictures mean a new run."""
    path = ROOT / value if isinstance(value, str) and value else None
    if path is None or not path.exists():
        return []
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def _sources_hash() -> str:
    """One hash over the package and the shipped weights."""
    files = [*(ROOT / "camhelpers").rglob("*.py"), *(ROOT / "data" / "models").glob("*")]
    text = "\n".join(f"{path.relative_to(ROOT).as_posix()} {sha256(path)}" for path in sorted(files) if path.is_file())
    return hashlib.sha256(text.encode()).hexdigest()


def table(results: dict[str, dict[str, Any]], out: str | Path = "results") -> str:
    """The closing table, with the reason of each failure below it."""
    rows = [("notebook", "status", "seconds", "output")]
    base = (ROOT / out).resolve()
    shown = base.relative_to(ROOT).as_posix() if base.is_relative_to(ROOT) else str(base)
    reasons = []
    for stem, record in results.items():
        output = f"{shown}/{record['output']}" if record.get("output") else "-"
        rows.append((stem, record["status"], f"{record['seconds']:.1f}", output))
        if record.get("error"):
            reasons.append(f"{stem}: cell {record['error']['cell']}: {record['error']['message']}")
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip()
        for a, b, c, d in [*rows[:1], tuple("-" * w for w in widths), *rows[1:]]
    ]
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
