"""Pictures to show and to measure on, listed first and read later: drawn scenes, or a folder of your own with masks."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np

from ..files import ROOT, sha256
from ..io.images import list_images, read_image
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
        from ..io.wikimedia import fetch_wikimedia

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


Mask = tuple[str, Callable[[], np.ndarray]]
"""What changes when a mask does, and how to read it."""


@dataclass(frozen=True)
class Sample:
    """A picture that is read when it is needed; `key` changes whenever the picture or its mask does."""

    name: str
    key: str
    masked: bool
    load: Callable[[], Picture]


def samples(source: str | Path, n: int | None = None, masks: str | Path | None = None) -> list[Sample]:
    """List up to `n` samples of `"scenes:test:60"` or of a folder, whose sub-folders are the classes.

    A relative folder counts from the project's root; classes take turns. `masks` is a folder with a PNG of the same
    relative path and stem for each picture (not zero is inside), or a COCO file; unless given, the folder `masks`
    among the pictures. Nothing is read yet, so that one damaged picture is an error of that picture alone.

    >>> samples("scenes:test:60")[0].load().mask.shape
    (224, 224)
    """
    if n is not None and n < 1:
        raise ValueError(f"n is {n}; ask for at least one picture.")
    if str(source).startswith("scenes:"):
        if masks is not None:
            raise ValueError("The scenes have masks of their own; leave masks out.")
        return _scenes(str(source))[:n]
    folder = ROOT / source
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(source)!r}; give a folder of pictures, or scenes:test:60.")
    files = in_turns(folder)
    bare = Counter(path.name for _, path in files)
    files = files[:n]
    where = folder / "masks" if masks is None else ROOT / masks
    if masks is not None and not where.exists():
        raise FileNotFoundError(f"There is nothing at {str(masks)!r}; masks are a folder of PNG files or a COCO file.")
    find = _coco(where, bare) if where.is_file() else _beside(where)
    found = [_file(path, folder, label, find(path.relative_to(folder), label)) for label, path in files]
    if masks is not None and not any(sample.masked for sample in found):
        first = files[0][1].relative_to(folder)
        raise ValueError(f"{str(masks)!r} holds no mask for any picture; for {first} it should hold one of that name.")
    return found


def sample(picture: Picture) -> Sample:
    """A picture that is in memory already."""
    digest = hashlib.sha256(np.ascontiguousarray(picture.pixels))
    if picture.mask is not None:
        digest.update(np.ascontiguousarray(picture.mask))
    return Sample(picture.name, digest.hexdigest(), picture.mask is not None, lambda: _fitting(picture))


def _scenes(source: str) -> list[Sample]:
    _, _, wanted = source.partition(":")
    split, _, count = wanted.partition(":")
    if split not in scenes.SPLITS or not count.isdecimal() or not 1 <= int(count) <= scenes.SPLIT_SIZE:
        raise ValueError(
            f"There are no scenes {source!r}; write scenes:SPLIT:COUNT with a split of {', '.join(scenes.SPLITS)}."
        )

    def load(seed: int) -> Picture:
        scene = scenes.draw(seed)
        return Picture(f"scene {seed}", scene.picture, scene.name, scene.mask)

    first = scenes.SPLITS[split]
    seeds = range(first, first + int(count))
    return [Sample(f"scene {seed}", f"scene {seed}", True, lambda seed=seed: load(seed)) for seed in seeds]


def _file(path: Path, folder: Path, label: str | None, mask: Mask | None) -> Sample:
    name = path.relative_to(folder).as_posix()
    key, read = mask or ("", None)

    def load() -> Picture:
        return _fitting(Picture(name, read_image(path), label, read and read()))

    return Sample(name, sha256(path) + key, read is not None, load)


def _fitting(picture: Picture) -> Picture:
    if picture.mask is not None and picture.mask.shape != picture.pixels.shape[:2]:
        (high, wide), (height, width) = picture.mask.shape, picture.pixels.shape[:2]
        raise ValueError(
            f"The mask of {picture.name} is {wide} x {high} pixels and the picture {width} x {height}; make them alike."
        )
    return picture


# Masks ----------------------------------------------------------------------------------------------------------------


def _beside(folder: Path) -> Callable[[PurePath, str | None], Mask | None]:
    def find(name: PurePath, label: str | None) -> Mask | None:
        path = folder / name.with_suffix(".png")
        return (sha256(path), lambda: read_image(path).any(-1)) if path.is_file() else None

    return find


def _coco(path: Path, bare: Mapping[str, int]) -> Callable[[PurePath, str | None], Mask | None]:
    """Masks from a COCO file: all objects of the picture's class, where it names one of the categories, else all.

    The folders in its names may be others than ours; then the bare name counts, where `bare` says that it is the only
    one among our pictures, and it is the only one in the file.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        images, objects = held["images"], held["annotations"]
        categories = {c["id"]: c["name"] for c in held.get("categories", [])}
        by_name = {image["file_name"]: image for image in images}
        stems = Counter(PurePosixPath(name).name for name in by_name)
        by_name |= {PurePosixPath(k).name: v for k, v in by_name.items() if stems[PurePosixPath(k).name] == 1}
        by_image: dict[Any, list[dict]] = {}
        for thing in objects:
            by_image.setdefault(thing["image_id"], []).append(thing)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path.name} is no COCO file with 'images' and 'annotations'.") from None

    def find(name: PurePath, label: str | None) -> Mask | None:
        image = by_name.get(name.as_posix()) or (by_name.get(name.name) if bare[name.name] == 1 else None)
        things = by_image.get(image["id"], []) if image else []
        if label in categories.values():
            things = [thing for thing in things if categories.get(thing.get("category_id")) == label]
        if not things:
            return None
        key = hashlib.sha256(json.dumps([image, things], sort_keys=True).encode()).hexdigest()
        return key, lambda: _painted(path.name, image, things)

    return find


def _painted(file: str, image: dict[str, Any], things: list[dict[str, Any]]) -> np.ndarray:
    """The union of COCO's polygons and run lengths as one mask."""
    import cv2

    try:
        height, width = image["height"], image["width"]
        segmentations = [thing["segmentation"] for thing in things]
    except KeyError as error:
        raise ValueError(f"{file} has no {error} for {image['file_name']}, so it has no mask.") from None
    mask = np.zeros((height, width), np.uint8)
    for shape in segmentations:
        if isinstance(shape, dict):
            runs = _runs(shape["counts"]) if isinstance(shape["counts"], str) else shape["counts"]
            if sum(runs) != height * width:
                raise ValueError(
                    f"The run lengths of {image['file_name']} cover {sum(runs)} pixels, not {height * width}."
                )
            mask |= np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(width, height).T  # by columns
        else:  # painted four times as large, since OpenCV paints the pixels on the edge as well
            large = np.zeros((4 * height, 4 * width), np.uint8)
            cv2.fillPoly(large, [np.rint(np.reshape(p, (-1, 2)) * 4 - 0.5).astype(np.int32) for p in shape], 1)
            mask |= cv2.resize(large * 255, (width, height), interpolation=cv2.INTER_AREA) // 128
    return mask > 0


def _runs(text: str) -> list[int]:
    """COCO's compressed run lengths: five bits a letter; from the fourth on relative to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
