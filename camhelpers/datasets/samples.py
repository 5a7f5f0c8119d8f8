"""Pictures and volumes to show and to measure on: listed first, read when their turn comes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np

from ..files import ROOT, fingerprint, sha256
from ..io.images import list_images, read_image
from ..io.volumes import Found, Volume, find_volumes, read_volume
from . import retinas, scenes

ReadMask = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Sample:
    """One picture or volume with its class and mask, where they are known.

    `read()` returns the pixels `(H, W, 3)` in 0..1, or the `Volume`, and the mask or None; a damaged file is one clear
    sentence. `pixels` and `mask` read once and keep it; whoever goes through many samples calls `read()` instead.

    >>> Sample("grey", lambda: (np.full((4, 4, 3), 0.5), None)).pixels.shape
    (4, 4, 3)
    """

    name: str
    read: Callable[[], tuple[np.ndarray | Volume, np.ndarray | None]]
    label: str | None = None
    masked: bool = False
    key: str = ""
    """Changes whenever the picture or its mask does; empty where only reading can tell."""

    @cached_property
    def _held(self) -> tuple[np.ndarray | Volume, np.ndarray | None]:
        return self.read()

    @property
    def pixels(self) -> np.ndarray | Volume:
        """The picture `(H, W, 3)` in 0..1, or the volume."""
        return self._held[0]

    @property
    def mask(self) -> np.ndarray | None:
        """Where the object is, or None where that is not known."""
        return self._held[1]


# Pictures -------------------------------------------------------------------------------------------------------------


def pictures(source: str | Path = "gallery", n: int = 20) -> list[Sample]:
    """Up to `n` pictures to look at, from anything that `samples` takes, or from `"wikimedia:dogs,cats"`.

    >>> [p.name for p in pictures("gallery", 2)]
    ['01 cat', '02 dog']
    """
    if str(source).startswith("wikimedia:"):
        from ..io.wikimedia import fetch_wikimedia

        folder, wanted = ROOT / "data" / "wikimedia", str(source).removeprefix("wikimedia:").split(",")
        found = fetch_wikimedia([category.strip() for category in wanted], n, folder)
        files = [(folder / e["file"], e["category"]) for e in found]
        return [Sample(path.stem, partial(_picture, path), label) for path, label in files]
    return [replace(s, name=" ".join(PurePosixPath(s.name).with_suffix("").parts)) for s in samples(source, n)]


def samples(source: str | Path, n: int | None = None, masks: str | Path | None = None) -> list[Sample]:
    """List up to `n` pictures of `"gallery"`, `"scenes:test:60"` or a folder, whose sub-folders are the classes.

    A relative folder counts from the project's root; classes take turns. `masks` is a folder with a PNG of the same
    relative path and stem for each picture (not zero is inside), or a COCO file; unless given, the folder `masks`
    among the pictures. Nothing is read yet, so that one damaged picture is an error of that picture alone.

    >>> samples("scenes:test:60")[0].mask.shape
    (224, 224)
    """
    if n is not None and n < 1:
        raise ValueError(f"n is {n}; ask for at least one picture.")
    if source == "gallery":
        return [replace(s, name=f"{i:02d} {s.label}") for i, s in enumerate(samples(f"scenes:test:{n or 20}"), 1)]
    if str(source).startswith("scenes:"):
        seeds = _seeds(str(source), scenes.SPLITS, scenes.SPLIT_SIZE)[:n]
        kinds = [scenes.CLASSES[seed % len(scenes.CLASSES)] for seed in seeds]
        named = zip([f"scene {seed}" for seed in seeds], seeds, kinds, strict=True)
        return [Sample(name, partial(_scene, seed), kind, True, name) for name, seed, kind in named]
    folder, where = ROOT / source, ROOT / (masks or f"{source}/masks")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(source)!r}; give 'gallery', scenes:test:60, a folder of pictures, "
            "or, for pictures(), wikimedia:dogs,cats."
        )
    if masks is not None and not where.exists():
        raise FileNotFoundError(f"There is nothing at {str(masks)!r}; masks are a folder of PNG files or a COCO file.")
    files = _in_turns(folder)
    find = _coco(where, [path.name for _, path in files]) if where.is_file() else partial(_png, where)
    found = []
    for label, path in files[:n]:
        key, mask = find(path.relative_to(folder), label)
        name, key = path.relative_to(folder).as_posix(), sha256(path) + key
        found.append(Sample(name, partial(_picture, path, mask), label, mask is not None, key))
    if masks is not None and not any(sample.masked for sample in found):
        raise ValueError(f"{str(masks)!r} holds no mask for any picture, not even for {found[0].name}.")
    return found


def _seeds(source: str, splits: Mapping[str, int], size: int) -> range:
    """The seeds that `"scenes:test:60"` or `"retinas:test:3"` stands for."""
    kind, split, count = (*source.split(":", 2), "")[:3]
    if split not in splits or not count.isdecimal() or not 1 <= int(count) <= size:
        known = ", ".join(splits)
        raise ValueError(f"There are no {kind} {source!r}; write {kind}:SPLIT:COUNT with a split of {known}.")
    return range(splits[split], splits[split] + int(count))


def _scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    scene = scenes.draw(seed)
    return scene.picture, scene.mask


def _in_turns(folder: Path) -> list[tuple[str | None, Path]]:
    """The pictures of a folder with their classes, its sub-folders: one of each class before the second of any."""
    classes = sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith(".") and d.name != "masks")
    if not classes:
        return [(None, path) for path in list_images(folder)]
    numbered = [(i, d.name, path) for d in classes for i, path in enumerate(list_images(d))]
    return [(label, path) for _, label, path in sorted(numbered, key=lambda one: one[0])]


def _picture(path: Path, mask: ReadMask | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    pixels, inside = read_image(path), None if mask is None else mask()
    if inside is not None and inside.shape != pixels.shape[:2]:
        (high, wide), (height, width) = inside.shape, pixels.shape[:2]
        raise ValueError(f"The mask of {path.name} is {wide} x {high} pixels and the picture {width} x {height}.")
    return pixels, inside


# Masks: what changes when a mask does, and how to read it -------------------------------------------------------------


def _png(folder: Path, name: PurePath, label: str | None) -> tuple[str, ReadMask | None]:
    path = folder / name.with_suffix(".png")
    return (sha256(path), lambda: read_image(path).any(-1)) if path.is_file() else ("", None)


def _coco(path: Path, names: Sequence[str]) -> Callable[[PurePath, str | None], tuple[str, ReadMask | None]]:
    """Masks from a COCO file: all objects of the picture's class, where it names one of the categories, else all.

    The folders in its names may be others than ours; then the bare name counts, where it is the only one on both sides.
    """
    from pycocotools.coco import COCO

    try:
        with redirect_stdout(None):
            coco = COCO(path)
        images = {image["file_name"]: image for image in coco.imgs.values()}
    except (ValueError, KeyError, TypeError, AssertionError):
        raise ValueError(f"{path.name} is no COCO file with 'images' and 'annotations'.") from None
    ours, theirs = Counter(names), Counter(PurePosixPath(name).name for name in images)
    bare = {PurePosixPath(name).name: image for name, image in images.items()}
    bare = {name: image for name, image in bare.items() if ours[name] == theirs[name] == 1}

    def union(image: dict, things: list[dict]) -> np.ndarray:
        try:
            for shape in (thing["segmentation"] for thing in things):
                if isinstance(shape, dict) and isinstance(shape["counts"], list):
                    # of wrong run lengths pycocotools makes a mask from memory that is not its own
                    assert sum(shape["counts"]) == image["height"] * image["width"], "run lengths of another size"
            return np.any([coco.annToMask(thing) for thing in things], axis=0)
        except Exception as error:  # pycocotools raises bare Exceptions too
            raise ValueError(f"{path.name} has no sound mask for {image['file_name']} ({error!r}).") from None

    def find(name: PurePath, label: str | None) -> tuple[str, ReadMask | None]:
        image = images.get(name.as_posix()) or bare.get(name.name)
        things = coco.imgToAnns[image["id"]] if image else []
        if label in (category["name"] for category in coco.cats.values()):
            things = [thing for thing in things if coco.cats[thing["category_id"]]["name"] == label]
        return (fingerprint(image, things), partial(union, image, things)) if things else ("", None)

    return find


# Volumes --------------------------------------------------------------------------------------------------------------


def volume_samples(source: Any, **reading: Any) -> list[Sample]:
    """List the volumes of a file, an array, a `Volume`, a folder, a tree of class folders, `"retinas:test:3"`, a list.

    `retinas:SPLIT:COUNT` draws eyes of the procedural set, `retinas:SPLIT:COUNT:full` at 192x256x256. `reading`:
    `spacing`, `window`, `series` and `orientation`, as `read_volume` takes them. Files are not read yet, so that a
    damaged one is an error of that one alone.

    >>> [sample.name for sample in volume_samples("retinas:test:2")]
    ['normal_180000', 'drusen_180001']
    """
    if isinstance(source, Sample):
        return [source]
    if isinstance(source, list):
        return [one for each in source for one in volume_samples(each, **reading)]
    if isinstance(source, str) and source.startswith("retinas:"):
        shape = retinas.FULL if source.endswith(":full") else retinas.SMALL
        seeds = _seeds(source.removesuffix(":full"), retinas.SPLITS, retinas.SPLIT_SIZE)
        kinds = [retinas.CLASSES[seed % len(retinas.CLASSES)] for seed in seeds]
        return [
            Sample(f"{kind}_{seed:06d}", partial(_eye, seed, shape, reading), kind, True, f"retina {seed} {shape}")
            for seed, kind in zip(seeds, kinds, strict=True)
        ]
    if isinstance(source, (Volume, np.ndarray)):
        volume = read_volume(source, **reading)
        return [Sample(volume.name, lambda: (volume, None))]
    found = [source] if isinstance(source, Found) else find_volumes(source)
    return [Sample(f.name, partial(_scan, f, reading), f.label) for f in found]


def _scan(found: Found, reading: dict[str, Any]) -> tuple[Volume, None]:
    return replace(read_volume(found.path, **reading), name=found.name), None


def _eye(seed: int, shape: tuple[int, ...], reading: dict[str, Any]) -> tuple[Volume, np.ndarray]:
    eye = retinas.draw(seed, shape=shape)
    volume = read_volume(eye.volume, **{**reading, "spacing": reading.get("spacing") or eye.spacing})
    return replace(volume, name=eye.name, source={**volume.source, "recipe": eye.recipe}), eye.mask
