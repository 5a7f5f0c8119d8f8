"""Where things live, how a file comes to be (whole or not at all), and what a result was made with."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

VERSION = "0.1.0"  # also where it runs from a checkout that was never installed
ROOT = Path(__file__).resolve().parents[1]  # the project's folder, which holds `data/`, `notebooks/` and `results/`


def results_dir(*parts: str, out: str | Path = "results") -> Path:
    """The folder `out/parts...`, made if missing; a relative `out` counts from the project's root."""
    base = (ROOT / out).resolve()
    folder = base.joinpath(*parts).resolve()
    if not folder.is_relative_to(base):
        raise ValueError(f"{'/'.join(parts)!r} leaves the output folder; use plain names.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its suffix; put it in place only if the block succeeds.

    A reader therefore never sees half a file, and an interrupted run leaves nothing under the final name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    temporary.touch(exist_ok=False)  # with the umask's permissions; mkstemp's would hide results from a colleague
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def sha256(path: str | Path) -> str:
    """The checksum of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(*things: Any) -> str:
    """64 hexadecimal digits that change with anything that a result depends on; a `Path` counts by its file's content.

    >>> fingerprint({"alpha": 0.7}, np.zeros(2))[:8] == fingerprint({"alpha": 0.7}, np.zeros(2, np.float32))[:8]
    False
    """

    def plain(thing: Any) -> Any:
        if isinstance(thing, np.ndarray):
            digest = hashlib.sha256(np.ascontiguousarray(thing)).hexdigest()
            return ["array", str(thing.dtype), list(thing.shape), digest]
        if isinstance(thing, np.generic):
            return thing.item()
        if isinstance(thing, Path):
            return ["file", sha256(thing)]
        if dataclasses.is_dataclass(thing):
            return dataclasses.asdict(thing)
        raise TypeError(f"A {type(thing).__name__} has no fingerprint.")

    return hashlib.sha256(json.dumps(things, sort_keys=True, default=plain).encode()).hexdigest()


def natural(path: Path) -> list[tuple[int, str]]:
    """A sort key in which digits count as numbers; the second half keeps any two names comparable."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", path.name.lower())]


def versions(*more: str) -> dict[str, str]:
    """What results depend on: Python, this package, and the packages that compute and draw, with `more` of them."""
    found = {"python": platform.python_version(), "camhelpers": VERSION}
    for name in ("torch", "torchvision", "numpy", "opencv-python", "matplotlib", *more):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
