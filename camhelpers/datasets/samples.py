"""Pictures and volumes to show and to measure on: listed first, read when their turn comes."""

import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np

from ..files import ROOT, sha256
from ..io.images import list_images, read_image
from ..io.volumes import Found, Volume, find_volumes, read_volume
from . import hard, photographs, retinas, scenes
from .photographs import PHOTOGRAPHS
from .sets import seeds

Read = tuple[np.ndarray | Volume, np.ndarray | None]
# Sets of drawn pictures: how one is drawn and named from its seed, and the room that knows the splits and classes.
DRAWN: dict[str, tuple[Callable[[int], scenes.Scene], Callable[[int], str], ModuleType]] = {
    "scenes": (scenes.draw, "scene {}".format, scenes), "placed": (photographs.draw, "placed {}".format, photographs),
    "hard": (hard.draw, lambda seed: f"hard {seed} {hard.kind(seed)}", scenes),
}  # fmt: skip
SETS = (*(f"{name}:" for name in DRAWN), "retinas:")  # what a source that is no path begins with


@dataclass(frozen=True)
class Sample:
    """One picture or volume with its class and mask, where they are known.

    `read()` returns the pixels `(H, W, 3)` in 0..1, or the `Volume`, and the mask or None; `pixels` and `mask` keep it.
    """

    name: str
    read: Callable[[], Read]
    label: str | None = None
    masked: bool = False
    key: str = ""  # changes whenever the picture or its mask does; empty where only reading can tell

    @cached_property
    def _held(self) -> Read:
        return self.read()

    @property
    def pixels(self) -> np.ndarray | Volume:
        """The picture or the volume."""
        return self._held[0]

    @property
    def mask(self) -> np.ndarray | None:
        """Where the object is, or None where that is not known."""
        return self._held[1]


def pictures(source: str | Path = "gallery", n: int = 20) -> list[Sample]:
    """Up to `n` pictures to look at, read at once, from anything `samples` takes, or from `"wikimedia:dogs,cats"`.

    What cannot be read is left out with a warning. Names have no ending, unless two files would share one.

    >>> [p.name for p in pictures("gallery", 2)]
    ['01 cat', '02 dog']
    """
    if str(source).startswith("wikimedia:"):
        from ..io.wikimedia import fetch_wikimedia

        folder, wanted = ROOT / "data/wikimedia", str(source).removeprefix("wikimedia:").split(",")
        entries = fetch_wikimedia([category.strip() for category in wanted], n, folder)
        found = [Sample(Path(e["file"]).name, partial(_picture, folder / e["file"]), e["category"]) for e in entries]
    else:
        found = samples(source, n)
    short = [" ".join(PurePosixPath(s.name).with_suffix("").parts) for s in found]
    times, shown, failed = Counter(short), [], []
    for sample, name in zip(found, short, strict=True):
        one = replace(sample, name=name if times[name] == 1 else sample.name.replace("/", " "))
        try:
            one.pixels  # noqa: B018, read and kept
            shown.append(one)
        except (OSError, ValueError) as error:
            failed.append(f"{sample.name} ({error})")
    if not shown:
        raise ValueError(f"None of the {len(found)} pictures could be read: {failed[0]}")
    if failed:
        warnings.warn(f"{len(failed)} of {len(found)} pictures left out: {'; '.join(failed)}", stacklevel=2)
    return shown


def samples(source: str | Path, n: int | None = None, masks: str | Path | None = None) -> list[Sample]:
    """List up to `n` pictures of `"gallery"`, `"scenes:test:60"` or a folder, whose sub-folders are the classes.

    `"hard:test:60"` are scenes on which the shipped model errs, each named after what makes it hard; `"photographs"`
    come with scikit-image, and `"placed:test:60"` are cut-outs of them at known places, for ImageNet. A relative folder
    counts from the project's root; classes take turns. `masks` is a folder with a PNG of the same relative path and
    stem for each picture (not zero is inside), by default `masks` among the pictures. Nothing is read yet, so that one
    damaged picture is an error of that picture alone.
    """
    if n is not None and n < 1:
        raise ValueError(f"n is {n}; ask for at least one picture.")
    if source == "gallery":
        return [replace(s, name=f"{i:02d} {s.label}") for i, s in enumerate(samples(f"scenes:test:{n or 20}"), 1)]
    if source == "photographs":
        found = {f"{k} ({p.author}, {p.licence})": (photographs.path(k), p.label) for k, p in PHOTOGRAPHS.items()}
        return [Sample(name, partial(_picture, p), label, key=sha256(p)) for name, (p, label) in [*found.items()][:n]]
    kind, colon, _ = str(source).partition(":")
    if colon and kind in DRAWN:
        draw, title, room = DRAWN[kind]
        drawn = [(title(seed), seed, label) for seed, label in _drawn(str(source), room)[:n]]
        return [Sample(name, partial(_scene, draw, seed), label, True, name) for name, seed, label in drawn]
    folder, where = ROOT / source, ROOT / (masks or f"{source}/masks")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(source)!r}; give a folder, 'gallery' or 'scenes:test:60'.")
    found = []
    for label, path in _in_turns(folder)[:n]:
        name = path.relative_to(folder)
        mask = (where / name).with_suffix(".png")
        key = "".join(map(sha256, [path, mask] if mask.is_file() else [path]))
        found.append(Sample(name.as_posix(), partial(_picture, path, mask), label, mask.is_file(), key))
    if masks is not None and not any(sample.masked for sample in found):
        raise ValueError(f"{str(masks)!r} holds no mask for any picture; give a folder of PNG files.")
    return found


def _drawn(source: str, room: ModuleType) -> list[tuple[int, str]]:
    """The seeds that `"scenes:test:60"` or `"retinas:test:3"` stands for, with their classes."""
    _, split, count = (*source.split(":", 2), "", "")[:3]
    chosen = seeds(room.SPLITS, room.SPLIT_SIZE, split, int(count) if count.isdecimal() else 0)
    return [(seed, room.CLASSES[seed % len(room.CLASSES)]) for seed in chosen]


def _scene(draw: Callable[[int], scenes.Scene], seed: int) -> tuple[np.ndarray, np.ndarray]:
    scene = draw(seed)
    return scene.picture, scene.mask


def _in_turns(folder: Path) -> list[tuple[str | None, Path]]:
    """The pictures of a folder and of its sub-folders, their classes: one of each before the second of any."""
    classes = sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith(".") and d.name != "masks")
    groups = []
    for label, inside in [(None, folder), *((d.name, d) for d in classes)]:
        with suppress(FileNotFoundError):
            groups.append([(label, path) for path in list_images(inside)])
    return [one for turn in zip_longest(*groups) for one in turn if one] or [(None, p) for p in list_images(folder)]


def _picture(path: Path, mask: Path | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    pixels, inside = read_image(path), read_image(mask).any(-1) if mask and mask.is_file() else None
    if inside is not None and inside.shape != pixels.shape[:2]:
        (high, wide), (height, width) = inside.shape, pixels.shape[:2]
        raise ValueError(f"The mask of {path.name} is {wide} x {high} pixels and the picture {width} x {height}.")
    return pixels, inside


def volume_samples(source: Any, **reading: Any) -> list[Sample]:
    """List the volumes of a file, an array, a `Volume`, a folder, a tree of class folders, `"retinas:test:3"`, a list.

    `retinas:SPLIT:COUNT:full` draws eyes at 192x256x256. `reading` goes to `read_volume`, when the file's turn comes.

    >>> [sample.name for sample in volume_samples("retinas:test:2")]
    ['normal_180000', 'drusen_180001']
    """
    if isinstance(source, Sample):
        return [source]
    if isinstance(source, list):
        return [one for each in source for one in volume_samples(each, **reading)]
    if isinstance(source, str) and source.startswith("retinas:"):
        shape = retinas.FULL if source.endswith(":full") else retinas.SMALL
        return [Sample(f"{kind}_{seed:06d}", partial(_eye, seed, shape, reading), kind, True, f"retina {seed} {shape}")
                for seed, kind in _drawn(source.removesuffix(":full"), retinas)]  # fmt: skip
    if isinstance(source, (Volume, np.ndarray)):
        volume = read_volume(source, **reading)
        return [Sample(volume.name, lambda: (volume, None))]
    every = find_volumes(source, reading.get("series"))
    return [Sample(found.name, partial(_scan, found, reading), found.label) for found in every]


def _scan(found: Found, reading: dict[str, Any]) -> tuple[Volume, None]:
    chosen = {"series": found.series} if found.series else {}
    return replace(read_volume(found.path, **reading | chosen), name=found.name), None


def _eye(seed: int, shape: tuple[int, ...], reading: dict[str, Any]) -> tuple[Volume, np.ndarray]:
    eye = retinas.draw(seed, shape=shape)
    volume = read_volume(eye.volume, **{**reading, "spacing": reading.get("spacing") or eye.spacing})
    return replace(volume, name=eye.name, source={**volume.source, "recipe": eye.recipe}), eye.mask
