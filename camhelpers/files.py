"""Where things live, and how a file comes to be: whole or not at all."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would hide results from a colleague
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
