"""Where things live, how a file comes to be (whole or not at all), and what a result was made with."""

import hashlib
import importlib.metadata
import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The project's folder, which holds `data/`, `notebooks/` and `results/`."""


def results_dir(*parts: str, out: str | Path = "results") -> Path:
    """The folder `out/parts...`, made if missing; a relative `out` counts from the project's root.

    >>> results_dir("gradcam_examples").relative_to(ROOT).as_posix()
    'results/gradcam_examples'
    """
    base = (ROOT / out).resolve()
    folder = base.joinpath(*parts).resolve()
    if not folder.is_relative_to(base):
        raise ValueError(
            f"{'/'.join(parts)!r} leaves the output folder; use a plain name without '..' or a leading '/'."
        )
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


def natural(path: Path) -> list[tuple[int, str]]:
    """A sort key in which digits count as numbers; the second half keeps any two names comparable."""
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def versions() -> dict[str, str]:
    """What results depend on beside our own code: Python and the packages that compute and draw."""
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numpy", "opencv-python", "matplotlib"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
