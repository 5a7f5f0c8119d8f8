"""Pictures and volumes to show and to measure on: listed first, read when their turn comes."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path, PurePath, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np

from ..files import ROOT, fingerprint, sha256
from ..io.images import list_images, read_image
from ..io.volumes import Found, Volume, find_volumes, read_volume
from . import hard, photographs, retinas, scenes
from .photographs import PHOTOGRAPHS

Read = tuple[np.ndarray | Volume, np.ndarray | None]
ReadMask = Callable[[], np.ndarray]
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
    """Up to `n` pictures to look at, from anything that `samples` takes, or from `"wikimedia:dogs,cats"`.

    >>> [p.name for p in pictures("gallery", 2)]
    ['01 cat', '02 dog']
    """
    if str(source).startswith("wikimedia:"):
        from ..io.wikimedia import fetch_wikimedia

        folder, wanted = ROOT / "data/wikimedia", str(source).removeprefix("wikimedia:").split(",")
        found = fetch_wikimedia([category.strip() for category in wanted], n, folder)
        return [Sample(Path(e["file"]).stem, partial(_picture, folder / e["file"]), e["category"]) for e in found]
    return [replace(s, name=" ".join(PurePosixPath(s.name).with_suffix("").parts)) for s in samples(source, n)]


def samples(source: str | Path, n: int | None = None, masks: str | Path | None = None) -> list[Sample]:
    """List up to `n` pictures of `"gallery"`, `"scenes:test:60"` or a folder, whose sub-folders are the classes.

    `"hard:test:60"` are scenes on which the shipped model errs, each named after what makes it hard; `"photographs"`
    come with scikit-image, and `"placed:test:60"` are cut-outs of them at known places, for ImageNet. A relative folder
    counts from the project's root; classes take turns. `masks` is a folder with a PNG of the same relative path and
    stem for each picture (not zero is inside), or a COCO file; by default `masks` among the pictures. Nothing is read
    yet, so that one damaged picture is an error of that picture alone.
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
        drawn = [(title(seed), seed, label) for seed, label in _seeds(str(source), room)[:n]]
        return [Sample(name, partial(_scene, draw, seed), label, True, name) for name, seed, label in drawn]
    folder, where = ROOT / source, ROOT / (masks or f"{source}/masks")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(source)!r}; give a folder, 'gallery' or 'scenes:test:60'.")
    files, found = _in_turns(folder), []
    find = _coco(where, [path.name for _, path in files]) if where.is_file() else partial(_png, where)
    for label, path in files[:n]:
        name = path.relative_to(folder)
        key, mask = find(name, label)
        found += [Sample(name.as_posix(), partial(_picture, path, mask), label, mask is not None, sha256(path) + key)]
    if masks is not None and not any(sample.masked for sample in found):
        raise ValueError(f"{str(masks)!r} holds no mask for any picture; give a folder of PNG files or a COCO file.")
    return found


def _seeds(source: str, room: ModuleType) -> list[tuple[int, str]]:
    """The seeds that `"scenes:test:60"` or `"retinas:test:3"` stands for, with their classes."""
    kind, split, count = (*source.split(":", 2), "")[:3]
    if split not in room.SPLITS or not count.isdecimal() or not 1 <= int(count) <= room.SPLIT_SIZE:
        drawn, known = room.__name__.rpartition(".")[2], ", ".join(room.SPLITS)
        how = f"write {kind}:SPLIT:COUNT with a count of 1 or more and a split of {known}"
        raise ValueError(f"There are no {drawn} {source!r}; {how}.")
    first = room.SPLITS[split]
    return [(seed, room.CLASSES[seed % len(room.CLASSES)]) for seed in range(first, first + int(count))]


def _scene(draw: Callable[[int], scenes.Scene], seed: int) -> tuple[np.ndarray, np.ndarray]:
    scene = draw(seed)
    return scene.picture, scene.mask


def _in_turns(folder: Path) -> list[tuple[str | None, Path]]:
    """The pictures of a folder and their classes: one of each class before the second of any."""
    classes = sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith(".") and d.name != "masks")
    if not classes:
        return [(None, path) for path in list_images(folder)]
    turns = zip_longest(*([(d.name, path) for path in list_images(d)] for d in classes))
    return [one for turn in turns for one in turn if one]


def _picture(path: Path, mask: ReadMask | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    pixels, inside = read_image(path), None if mask is None else mask()
    if inside is not None and inside.shape != pixels.shape[:2]:
        (high, wide), (height, width) = inside.shape, pixels.shape[:2]
        raise ValueError(f"The mask of {path.name} is {wide} x {high} pixels and the picture {width} x {height}.")
    return pixels, inside


def _png(folder: Path, name: PurePath, label: str | None) -> tuple[str, ReadMask | None]:
    """What changes when the mask of a picture does, and how to read it."""
    path = folder / name.with_suffix(".png")
    return (sha256(path), lambda: read_image(path).any(-1)) if path.is_file() else ("", None)


def _coco(path: Path, names: Sequence[str]) -> Callable[[PurePath, str | None], tuple[str, ReadMask | None]]:
    """The same from a COCO file; its names are relative paths, or bare where no two pictures share one."""
    from pycocotools.coco import COCO

    try:
        with redirect_stdout(None):
            coco = COCO(path)
        images = {image["file_name"]: image for image in coco.imgs.values()}
    except (ValueError, KeyError, TypeError, AssertionError):
        raise ValueError(f"{path.name} is no COCO file with 'images' and 'annotations'.") from None
    times, classes = Counter(names), {category["name"] for category in coco.cats.values()}

    def union(image: dict, things: list[dict]) -> np.ndarray:
        try:
            for counts in (thing["segmentation"]["counts"] for thing in things if "counts" in thing["segmentation"]):
                if isinstance(counts, list) and sum(counts) != image["height"] * image["width"]:
                    raise ValueError("run lengths of another size")  # pycocotools would read beyond its memory
            return np.any([coco.annToMask(thing) for thing in things], axis=0)
        except Exception as error:  # pycocotools raises bare Exceptions too
            raise ValueError(f"{path.name} has no sound mask for {image['file_name']} ({error!r}).") from None

    def find(name: PurePath, label: str | None) -> tuple[str, ReadMask | None]:
        image = images.get(name.as_posix()) or (images.get(name.name) if times[name.name] == 1 else None)
        things = coco.imgToAnns[image["id"]] if image else []
        if label in classes:
            things = [thing for thing in things if coco.cats[thing["category_id"]]["name"] == label]
        return (fingerprint(image, things), partial(union, image, things)) if things else ("", None)

    return find


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
                for seed, kind in _seeds(source.removesuffix(":full"), retinas)]  # fmt: skip
    if isinstance(source, (Volume, np.ndarray)):
        volume = read_volume(source, **reading)
        return [Sample(volume.name, lambda: (volume, None))]
    return [Sample(found.name, partial(_scan, found, reading), found.label) for found in find_volumes(source)]


def _scan(found: Found, reading: dict[str, Any]) -> tuple[Volume, None]:
    return replace(read_volume(found.path, **reading), name=found.name), None


def _eye(seed: int, shape: tuple[int, ...], reading: dict[str, Any]) -> tuple[Volume, np.ndarray]:
    eye = retinas.draw(seed, shape=shape)
    volume = read_volume(eye.volume, **{**reading, "spacing": reading.get("spacing") or eye.spacing})
    return replace(volume, name=eye.name, source={**volume.source, "recipe": eye.recipe}), eye.mask
