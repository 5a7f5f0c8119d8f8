"""The pictures that a notebook shows: the procedural gallery, a folder of your own, or Wikimedia categories."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import ROOT
from ..images import list_images, read_image
from . import scenes


@dataclass(frozen=True)
class Picture:
    """A picture `(H, W, 3)` in 0..1 with a name, its class where that is known, and its mask where there is one."""

    name: str
    pixels: np.ndarray
    label: str | None = None
    mask: np.ndarray | None = None


def pictures(source: str = "gallery", n: int = 20) -> list[Picture]:
    """Up to `n` pictures from `"gallery"`, from a folder (its sub-folders are the classes), or `"wikimedia:dogs,cats"`.

    A relative folder counts from the project's root. Classes take turns, so that few pictures still show all of them;
    a sub-folder `masks` is none, see `samples`.

    >>> pictures("gallery", 2)[0].pixels.shape
    (224, 224, 3)
    """
    if n < 1:
        raise ValueError(f"n is {n}; ask for at least one picture.")
    if source == "gallery":
        shown = scenes.gallery(n)
        return [Picture(f"{i + 1:02d} {s.name}", s.picture, s.name, s.mask) for i, s in enumerate(shown)]
    if source.startswith("wikimedia:"):
        from ..wikimedia import fetch_wikimedia

        folder = ROOT / "data" / "wikimedia"
        wanted = [c.strip() for c in source.removeprefix("wikimedia:").split(",")]
        found = fetch_wikimedia(wanted, n, folder)
        return [Picture(Path(e["file"]).stem, read_image(folder / e["file"]), e["category"]) for e in found]
    folder = ROOT / source
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {source!r}; give 'gallery', a folder, or 'wikimedia:dogs,cats'.")
    return [
        Picture(f"{label} {path.stem}" if label else path.stem, read_image(path), label)
        for label, path in in_turns(folder)[:n]
    ]


def in_turns(folder: Path) -> list[tuple[str | None, Path]]:
    """The pictures of a folder with their classes, its sub-folders: one of each class before the second of any."""
    classes = sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith(".") and d.name != "masks")
    if not classes:
        return [(None, path) for path in list_images(folder)]
    queues = [(d.name, list_images(d)) for d in classes]
    longest = max(len(paths) for _, paths in queues)
    return [(label, paths[i]) for i in range(longest) for label, paths in queues if i < len(paths)]
