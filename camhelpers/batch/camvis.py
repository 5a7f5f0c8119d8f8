"""Volumes explained into folders that imaging tools open: the CAMVis layout, its metadata, and going on after a stop.

    CAMVis/session_<id>/summary.csv
    CAMVis/session_<id>/heatmaps/<split>/class_<name>/<sample>/<sample>_<method>_heatmap.tiff     (and .nii.gz)
                                                               <sample>_<method>_overlay.tiff, <sample>_<method>_raw.npy
                                                               <sample>_metadata.json
    CAMVis/session_<id>/visualizations/<split>/<sample>_combined.png, <sample>_full_volume_overlay.tiff

The metadata comes last: where it is, everything it lists is there too. Classes share the folder of visualizations; a
sample whose pictures would bear the names of another's has them in `class_<name>/<sample>/` there.
"""

import csv
import errno
import glob
import hashlib
import importlib.metadata
import io
import json
import re
import shutil
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from .. import render
from ..cam import methods as cams
from ..cam.explain import Explanation, explain, resolve_target, upsample
from ..cam.gradients import PERCENTILE, SAMPLES, SPREAD
from ..cam.models import Card, layer_name, model_hash
from ..evaluate import localisation as anatomy
from ..files import atomic, results_dir, sha256, versions, write_text
from ..io import export as stacks
from ..io.volumes import Found, Volume, find_volumes, read_volume, safe_name

METHODS = ("gradcam", "gradcam++", "layercam", "hybrid", "smoothgrad", "vargrad")
OUT = "results/volumes"
Owner = tuple[str | None, str]
"""A sample, by its class's folder, where that is known, and its name."""
FORMAT = "camhelpers volume 2"
"""Written into every metadata file, and to change with its fields."""
SUMMARY = (
    "split", "class", "sample", "prediction", "probability", "status", "files", "bytes", "seconds", "folder", "problem",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How volumes are read, explained and painted; the same settings, weights and volumes give the same files."""

    methods: tuple[str, ...] = METHODS
    alpha: float = 0.7
    layer: str | None = None
    target: int | str | None = None
    samples: int = SAMPLES
    spread: float = SPREAD
    percentile: float = PERCENTILE
    seed: int = 0
    size: Literal["model", "native"] = "model"
    opacity: float = 0.4
    cmap: str = "jet"
    spacing: tuple[float, float, float] | None = None
    window: tuple[float, float] | None = None
    series: str | int | None = None
    orientation: str | None = None

    def checked(self, model: nn.Module) -> "Settings":
        """The same settings with the layer's full name and the class's number, or one sentence about what is wrong."""
        card = getattr(model, "card", None)
        if not isinstance(card, Card) or len(card.size) != 3:
            what = f"{card.name!r} takes inputs of {len(card.size)} axes" if card else "it has no card that says so"
            raise ValueError(f"Volumes need a network of three axes, such as 'retina'; {what}.")
        if not self.methods or isinstance(self.methods, str):
            raise ValueError(f"methods is {self.methods!r}; list at least one, for instance ['gradcam'].")
        if repeated := [name for name, n in Counter(self.methods).items() if n > 1]:
            raise ValueError(f"The method {repeated[0]!r} is listed twice; once is enough.")
        for name in self.methods:
            if name not in cams.METHODS:
                known = ", ".join(cams.METHODS)
                raise ValueError(f"There is no method {name!r}; choose from {known}.")
        for name, good, right in (
            ("alpha", 0 <= self.alpha <= 1, "it lies between 0 (LayerCAM) and 1 (Grad-CAM)"),
            ("samples", self.samples >= 2, "at least 2 noisy copies are needed"),
            ("spread", 0 < self.spread <= 10, "it is a share of the value range, above 0"),
            ("percentile", 0 < self.percentile <= 100, "it lies above 0 and is at most 100"),
            ("opacity", 0 <= self.opacity <= 1, "it lies between 0 (the volume alone) and 1 (the heat alone)"),
            ("seed", 0 <= self.seed < 2**63, "it is a number from 0 up"),
            (
                "size",
                self.size in ("model", "native"),
                "it is 'model' (the card's) or 'native' (the volume's own grid)",
            ),
        ):
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)}; {right}.")
        render.table(self.cmap)
        turned = {"orientation": self.orientation or card.orientation}
        read_volume(np.zeros((2, 2, 2), np.uint8), spacing=self.spacing, window=self.window, **turned)
        target = resolve_target(self.target, card.classes)
        if isinstance(target, int) and card.classes and not 0 <= target < len(card.classes):
            raise ValueError(f"The model has no class {target}; its classes are 0 to {len(card.classes) - 1}.")
        return replace(
            self, layer=layer_name(model, self.layer), target=target, orientation=self.orientation or card.orientation
        )

    def session(self, weights: str) -> str:
        """A name that changes when a setting or a weight does, and with nothing else."""
        return hashlib.sha256(json.dumps([weights, asdict(self)]).encode()).hexdigest()[:10]


class Sample(NamedTuple):
    """A volume that is read when its turn comes, with its class and the mask of what is to be found, where known."""

    name: str
    label: str | None
    load: Callable[[], tuple[Volume, np.ndarray | None]]


class Outcome(NamedTuple):
    """What became of a sample: made, kept from an earlier run, or failed, and why."""

    name: str
    status: Literal["made", "kept", "failed"]
    record: dict[str, Any]
    problem: str = ""


class Session(NamedTuple):
    """A session's folder, what this run did there, and why its `summary.csv` is not up to date, should it not be."""

    folder: Path
    outcomes: list[Outcome]
    problem: str = ""


# Running --------------------------------------------------------------------------------------------------------------


def explain_volume(
    model: nn.Module, source: Any, methods: Sequence[str] = METHODS, out: str | Path = OUT, **options: Any
) -> dict[str, Any]:
    """Explain one volume into files and return its metadata; the options are those of `explain_volumes`."""
    outcomes = explain_volumes(model, source, methods, out, **options).outcomes
    if len(outcomes) != 1:
        raise ValueError(f"{source} holds {len(outcomes)} volumes; explain_volumes() returns what became of each.")
    if outcomes[0].status == "failed":
        raise ValueError(f"{outcomes[0].name}: {outcomes[0].problem}")
    return outcomes[0].record


def explain_volumes(
    model: nn.Module,
    source: Any,
    methods: Sequence[str] = METHODS,
    out: str | Path = OUT,
    *,
    split: str = "val",
    session: str | None = None,
    resume: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Session:
    """Explain volumes into `out/CAMVis`, each with every method; one that fails is reported, and the rest is done.

    `source`: whatever `samples` takes. `settings`: the fields of `Settings`. `session` is a name of your own; unless
    given, it follows from weights and settings, so that the same call comes to the same folder. With `resume`, volumes
    are skipped whose results are whole and were made from the same data with the same settings; without it, a sample's
    earlier results in the session are replaced.
    """
    chosen = Settings(tuple(methods) if not isinstance(methods, str) else methods, **settings).checked(model)
    found = samples(source, **{name: getattr(chosen, name) for name in ("spacing", "window", "series", "orientation")})
    some = [_plain(one) for one in found]
    split, weights = safe_name(split), model_hash(model)
    session = chosen.session(weights) if session is None else safe_name(session)
    _check_names(some)
    folder = _writable(out, f"session_{session}")
    run = _Run(model, weights, chosen, folder, split, _owners(folder, split, some))

    outcomes, start = [], perf_counter()
    with tqdm(total=len(some) * len(chosen.methods), unit="map", disable=None if progress else True) as bar:
        for done, sample in enumerate(some, 1):
            bar.set_description(sample.name)
            before = bar.n
            try:
                outcomes.append(run.one(sample, resume, bar.update))
            except Exception as error:  # whatever a volume or a disk fails on must not cost the other volumes
                outcomes.append(Outcome(sample.name, "failed", {}, _sentence(error)))
            bar.update(len(chosen.methods) - (bar.n - before))
            if progress and not sys.stderr.isatty():
                seconds = perf_counter() - start
                print(f"{done} of {len(some)} volumes, {seconds:.0f} s", file=sys.stderr, flush=True)
    try:
        _summarise(folder, split, some, outcomes)
    except OSError as error:  # what was made is there all the same, and is to be told
        return Session(folder, outcomes, f"summary.csv is not up to date. {_sentence(error)}")
    return Session(folder, outcomes)


def samples(source: Any, **reading: Any) -> list[Sample]:
    """List the volumes of a file, an array, a `Volume`, a folder, a tree of class folders, `"retinas:test:3"`, a list.

    `retinas:SPLIT:COUNT` draws eyes of the procedural set, `retinas:SPLIT:COUNT:full` at 192x256x256. `reading`:
    `spacing`, `window`, `series` and `orientation`, as `read_volume` takes them. Files are not read yet, so that a
    damaged one is an error of that one alone.

    >>> [sample.name for sample in samples("retinas:test:2")]
    ['normal_180000', 'drusen_180001']
    """
    if isinstance(source, Sample):
        return [source]
    if isinstance(source, list):
        return [one for each in source for one in samples(each, **reading)]
    if isinstance(source, str) and source.startswith("retinas:"):
        return _retinas(source, reading)
    if isinstance(source, (Volume, np.ndarray)):
        volume = read_volume(source, **reading)
        return [Sample(volume.name, None, lambda: (volume, None))]
    found = [source] if isinstance(source, Found) else find_volumes(source)
    return [Sample(f.name, f.label, partial(_read, f.path, f.name, reading)) for f in found]


def _read(path: Path, name: str, reading: dict[str, Any]) -> tuple[Volume, None]:
    return replace(read_volume(path, **reading), name=name), None


def _retinas(source: str, reading: dict[str, Any]) -> list[Sample]:
    from ..datasets import retinas

    given = re.fullmatch(r"retinas:(\w+):(\d+)(:full)?", source)
    if not given or given[1] not in retinas.SPLITS or not 1 <= int(given[2]) <= retinas.SPLIT_SIZE:
        raise ValueError(
            f"There are no retinas {source!r}; write retinas:SPLIT:COUNT with a split of {', '.join(retinas.SPLITS)}, "
            "and :full behind it for 192x256x256 voxels."
        )
    shape, first, kinds = retinas.FULL if given[3] else retinas.SMALL, retinas.SPLITS[given[1]], retinas.CLASSES

    def load(seed: int) -> tuple[Volume, np.ndarray]:
        eye = retinas.draw(seed, shape=shape)
        volume = read_volume(eye.volume, **{**reading, "spacing": reading.get("spacing") or eye.spacing})
        return replace(volume, name=eye.name, source={**volume.source, "recipe": eye.recipe}), eye.mask

    named = (
        (f"{kinds[s % len(kinds)]}_{s:06d}", kinds[s % len(kinds)], s) for s in range(first, first + int(given[2]))
    )
    return [Sample(name, kind, partial(load, seed)) for name, kind, seed in named]


def _plain(sample: Sample) -> Sample:
    """The sample under names that files can bear; one that has no such name fails, as others do, in its turn."""
    label = None if sample.label is None else _class_folder(sample.label)
    try:
        return sample._replace(name=safe_name(sample.name), label=label)
    except (ValueError, TypeError) as error:
        return Sample(str(sample.name), label, partial(_refuse, error))


def _refuse(error: Exception) -> NoReturn:
    raise error


def _check_names(some: Sequence[Sample]) -> None:
    """Refuse two volumes that would come to one folder: of one name in one class, or before their class is known."""
    labels: dict[str, list[str | None]] = {}
    for one in some:
        labels.setdefault(one.name.lower(), []).append(one.label)
    for name, own in labels.items():
        if len(own) > 1 and (None in own or len(set(own)) < len(own)):
            raise ValueError(f"Two volumes are called {name!r}; rename one, or put them into folders of two classes.")


def _writable(out: str | Path, session: str) -> Path:
    """The session's folder, after a proof that files can be made there."""
    try:
        folder = results_dir("CAMVis", session, out=out)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise OSError(f"Cannot write into {str(out)!r}: {error.strerror}; name another folder with out.") from None


def _owners(folder: Path, split: str, some: Sequence[Sample]) -> dict[str, set[Owner]]:
    """Which samples, of this run and of earlier ones, may have pictures of a name; their classes share one folder."""
    known = [(None if s.label is None else f"class_{s.label}", s.name) for s in some]
    known += [(path.parent.name, path.name) for path in (folder / "heatmaps" / split).glob("class_*/*")]
    owners: dict[str, set[Owner]] = {}
    for owner in known:
        for picture in _pictures(owner[1]):
            owners.setdefault(picture.lower(), set()).add(owner)  # on some disks A is a
    return owners


def _pictures(sample: str, methods: Sequence[str] = tuple(cams.METHODS)) -> list[str]:
    further = [f"{sample}_{method}_combined.png" for method in methods]
    return [f"{sample}_combined.png", *further, f"{sample}_full_volume_overlay.tiff"]


# One sample -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """What all samples of a run share."""

    model: nn.Module
    weights: str
    settings: Settings
    folder: Path
    split: str
    owners: dict[str, set[Owner]]

    def one(self, sample: Sample, resume: bool, tick: Callable[[], Any]) -> Outcome:
        """Make or keep everything of one sample, whose names are plain already."""
        volume, mask = sample.load()
        data, earlier = _digest(volume, mask), self._earlier(sample)
        if resume:
            for record in earlier.values():
                if record and self._whole(record, volume, data):
                    return Outcome(sample.name, "kept", record)
        others = [r for r in earlier.values() if r and r["source"].get("sha256") != volume.source.get("sha256")]
        told = "in place of the results of another file of this name" if others else ""
        return Outcome(sample.name, "made", self._make(sample, volume, mask, data, earlier, tick), told)

    def _earlier(self, sample: Sample) -> dict[Path, dict[str, Any]]:
        """The sample's folders of earlier runs, each with its metadata, which is empty where one was not finished.

        The class of a sample without one is known only once it was predicted.
        """
        label = "class_*" if sample.label is None else glob.escape(f"class_{sample.label}")
        found = (self.folder / "heatmaps" / self.split).glob(f"{label}/{glob.escape(sample.name)}")
        return {path: _read_record(path / f"{sample.name}_metadata.json") or {} for path in sorted(found)}

    def _whole(self, record: dict[str, Any], volume: Volume, data: str) -> bool:
        same = (
            record["settings"] == json.loads(json.dumps(asdict(self.settings)))
            and record["model"].get("hash") == self.weights
            and record["source"].get("sha256") == volume.source.get("sha256")
            and record["data_sha256"] == data
        )
        files = {self.folder / path: about["bytes"] for path, about in record["files"].items()}
        return same and all(path.is_file() and path.stat().st_size == size for path, size in files.items())

    def _make(
        self,
        sample: Sample,
        volume: Volume,
        mask: np.ndarray | None,
        data: str,
        earlier: dict[Path, dict[str, Any]],
        tick: Callable[[], Any],
    ) -> dict[str, Any]:
        start, s, name = perf_counter(), self.settings, sample.name
        _room_for(volume, s.methods, self.folder)
        ex = explain(self.model, volume, layers=s.layer, target=s.target, size=s.size)
        passed = perf_counter() - start
        label = _class_folder(ex.label) if sample.label is None else sample.label
        heatmaps, pictures = (self.folder / kind / self.split for kind in ("heatmaps", "visualizations"))
        own = heatmaps / f"class_{label}" / name
        # A sample without a class may have been predicted another one before; one that came with its class stays.
        guessed = [
            path for path, held in earlier.items() if sample.label is None and held.get("class_from") != "source"
        ]
        replaced = {own: earlier.get(own, {})} | {path: earlier[path] for path in guessed}
        mine = {(None, name), *((path.parent.name, name) for path in replaced)}
        taken = {picture for picture in _pictures(name) if self.owners.get(picture.lower(), set()) - mine}
        self._clear(name, replaced, taken)
        if taken.intersection(_pictures(name, s.methods[1:])):
            pictures = pictures / f"class_{label}" / name
        about, files = {}, []
        for method in s.methods:
            about[method], made = self._draw(method, ex, mask, own / f"{name}_{method}", pictures / name)
            files += made
            tick()
        record = {
            "format": FORMAT,
            "sample": name,
            "class": label,
            "class_from": "prediction" if sample.label is None else "source",
            "split": self.split,
            "prediction": ex.label,
            "probability": float(ex.confidence),
            "probabilities": dict(zip(ex.classes, ex.probabilities.tolist(), strict=True)),
            "explained": _explained(ex),
            "model": {"name": ex.card.name, "hash": self.weights},
            "run": {"size": s.size, "shape": list(ex.inputs.shape[2:]), "seconds": round(passed, 3)},
            "methods": about,
            "shape": list(volume.data.shape),
            "axes": "ZYX",
            "spacing_mm": _spacing(volume) and list(volume.spacing),
            "affine": volume.affine,
            "window": list(volume.window),
            "source": volume.source,
            "data_sha256": data,
            "tiff": "ImageJ" if stacks.imagej_opens(volume.data.shape) else "BigTIFF, which ImageJ 1 cannot open",
            "settings": asdict(s),
            "versions": _versions(),
            "seconds": round(perf_counter() - start, 3),
            "files": {
                path.relative_to(self.folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
                for path in files
            },
        }
        text = json.dumps(record, indent=1, ensure_ascii=False, default=lambda held: held.tolist()) + "\n"
        write_text(own / f"{name}_metadata.json", text)
        return json.loads(text)

    def _draw(
        self, method: str, ex: Explanation, mask: np.ndarray | None, stem: Path, picture: Path
    ) -> tuple[dict[str, Any], list[Path]]:
        """Write the files of one method, whose names begin with `stem` and `picture`; return what to say of them."""
        s, volume, start = self.settings, ex.volume, perf_counter()
        raw = ex.heatmap(method, **self._options(method), size="native", normalize=False)
        heat, rule = _normalised(raw, volume.data.shape, s.percentile if cams.METHODS[method].forwards else None)
        about = self._about(method, raw, rule, perf_counter() - start) | {"attention": _attention(heat, volume)}
        if mask is not None and mask.any():
            whole = _normalised(raw, volume.data.shape)[0] if cams.METHODS[method].forwards else heat
            about["lesion"] = _lesion(whole, mask, volume)  # clipped heat has no one maximum
        says = f"{picture.name}: {ex.label} {ex.confidence:.0%} · {cams.title(method)}".replace("%", " %")
        says += f" of {_explained(ex)}" if _explained(ex) != ex.label else ""
        says += " (blank)" if about["blank"] else ""
        first = method == s.methods[0]
        names = [f"{stem}_{kind}" for kind in ("heatmap.tiff", "overlay.tiff", "heatmap.nii.gz", "raw.npy")]
        names.append(f"{picture}_combined.png" if first else f"{picture}_{method}_combined.png")
        names += [f"{picture}_full_volume_overlay.tiff"] if first else []
        painted, mixed, scalar, own, preview, *copy = files = [Path(name) for name in names]
        size = {"shape": heat.shape, "spacing": _spacing(volume), "description": says}
        stacks.write_stack(painted, stacks.heat_pages(heat, s.cmap), **size)
        stacks.write_stack(mixed, stacks.overlay_pages(volume.data, heat, s.opacity, s.cmap), **size)
        stacks.write_nifti(scalar, heat, volume)
        _write_array(own, raw)
        look = {"cmap": s.cmap, "opacity": s.opacity, "label": _bar(method, s)}
        stacks.save_preview(stacks.preview(volume, heat, mask=mask, title=says, **look), preview)
        for path in copy:
            with atomic(path) as temporary:
                shutil.copyfile(mixed, temporary)
        return about, files

    def _options(self, method: str) -> dict[str, Any]:
        s = self.settings
        if cams.METHODS[method].forwards:
            return {"samples": s.samples, "spread": s.spread, "seed": s.seed, "percentile": s.percentile}
        return {"alpha": s.alpha, "seed": s.seed}

    def _about(self, method: str, raw: np.ndarray, rule: dict[str, Any], seconds: float) -> dict[str, Any]:
        """A method's parameters and what its map was divided by."""
        s = self.settings
        if cams.METHODS[method].forwards:
            parameters = {"samples": s.samples, "spread": s.spread, "seed": s.seed}
        else:
            parameters = {"layer": s.layer, **({"alpha": s.alpha} if method == "hybrid" else {})}
        return {
            "name": cams.title(method),
            "parameters": parameters,
            "normalisation": rule,
            "blank": bool(raw.max() <= 0),
            "raw": {"shape": list(raw.shape), "minimum": float(raw.min()), "maximum": float(raw.max())},
            "seconds": round(seconds, 3),
        }

    def _clear(self, name: str, folders: dict[Path, dict[str, Any]], taken: set[str]) -> None:
        """Take away what earlier runs made of a sample, listed or not, except what bears the name of another's."""
        for folder in folders:  # the sign of completion first
            (folder / f"{name}_metadata.json").unlink(missing_ok=True)
        shared = self.folder / "visualizations" / self.split
        for path in (shared / picture for picture in _pictures(name) if picture not in taken):
            _sweep(path)
            path.unlink(missing_ok=True)
        for folder, record in folders.items():
            look = shared / folder.parent.name / name
            for path in (path for own in (folder, look) if own.is_dir() for path in own.iterdir()):
                if path.name.startswith((f"{name}_", f".{name}_")) and not path.is_dir():
                    path.unlink()
            for path in ((self.folder / listed).resolve() for listed in record.get("files", ())):
                if path.is_relative_to(self.folder):  # a metadata file may come from elsewhere
                    path.unlink(missing_ok=True)
            for empty in (folder, folder.parent, look, look.parent):
                with suppress(OSError):  # most are not
                    empty.rmdir()


def _normalised(
    raw: np.ndarray, shape: tuple[int, ...], percentile: float | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """A raw map in 0..1 on the volume's grid, as `Explanation.heatmap` makes it, and what it was divided by.

    A method's own map is cut off at a percentile before it is resized, and divided by its maximum after that.
    """
    rule: dict[str, Any] = {"rule": "resized to the volume, then divided by the maximum there"}
    top = None
    if percentile is not None:
        top = np.float32(np.percentile(raw, percentile))
        top = top if top > 0 else raw.max()
        says = "clipped at a percentile on the model's grid, resized to the volume, then divided by the maximum there"
        rule = {"rule": says, "percentile": percentile, "clipped_at": float(top), "clipped_on": "model grid"}
    heat = upsample(torch.from_numpy(np.clip(raw, 0, top))[None], shape)[0].numpy()
    divisor = float(heat.max())
    if divisor > 0:
        heat /= divisor
    return heat, {**rule, "divided_by": divisor}


def _spacing(volume: Volume) -> tuple[float, float, float] | None:
    """The spacing where the source states one; a volume without one has 1 mm only to be drawn with."""
    return volume.spacing if volume.source.get("spacing_known") else None


def _attention(heat: np.ndarray, volume: Volume) -> dict[str, float | None]:
    found = anatomy.attention(heat, volume.spacing)
    hottest = found.pop("hottest_slice") + 1  # as the previews and ImageJ count
    return {"hottest_slice_from_1": None if np.isnan(hottest) else int(hottest), **_numbers(found, volume)}


def _lesion(heat: np.ndarray, mask: np.ndarray, volume: Volume) -> dict[str, float | None]:
    found = _numbers(anatomy.lesion(heat, mask, volume.spacing), volume)
    return found if _spacing(volume) else {**found, "pointing_game": None}  # its tolerance is in millimetres


def _numbers(found: dict[str, float], volume: Volume) -> dict[str, float | None]:
    """Numbers for JSON, which has no NaN; millimetres only where the source says what one is."""
    known = {name: value for name, value in found.items() if _spacing(volume) or not name.endswith("_mm")}
    return dict.fromkeys(found) | {name: round(value, 6) for name, value in known.items() if not np.isnan(value)}


def _digest(volume: Volume, mask: np.ndarray | None) -> str:
    """A checksum of all that results depend on: values, shape, spacing, place in space, and the mask."""
    affine = None if volume.affine is None else np.asarray(volume.affine, float).tolist()
    sizes = [float(size) for size in volume.spacing]
    about = [volume.data.shape, sizes, bool(_spacing(volume)), affine, mask is not None]
    found = hashlib.sha256(json.dumps(about).encode())
    for array in (volume.data,) if mask is None else (volume.data, mask):
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()


def _read_record(path: Path) -> dict[str, Any] | None:
    """A metadata file, or None where it is none of ours."""
    with suppress(ValueError, OSError, RecursionError):
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.get("format") == FORMAT and _is_record(record):
            return record
    return None


def _is_record(record: dict[str, Any]) -> bool:
    """Whether the fields that are read again are of their kinds; the file may have been edited."""
    kinds = {
        str: ("split", "class", "class_from", "sample", "prediction", "data_sha256"),
        int | float: ("probability", "seconds"),
        dict: ("settings", "model", "source", "files"),
    }
    right = all(isinstance(record.get(name), kind) for kind, names in kinds.items() for name in names)
    return right and all(isinstance(f, dict) and isinstance(f.get("bytes"), int) for f in record["files"].values())


def _class_folder(label: str) -> str:
    """A class's name as part of a folder's: a card may hold any text, so what `safe_name` refuses becomes `_`."""
    refused = ("Cc", "Cf", "Cs", "Zl", "Zp")
    letters = unicodedata.normalize("NFC", label).replace("..", "_")
    plain = "".join("_" if c in '/\\:*?"<>|' or unicodedata.category(c) in refused else c for c in letters)
    cut = plain.strip().encode()[:100].decode(errors="ignore")  # bytes; safe_name allows a few more
    return safe_name(re.sub(r"[\s.]+$", "", cut) or "_")


def _explained(ex: Explanation) -> str:
    return ex.classes[int(ex.target[0])]


def _bar(method: str, s: Settings) -> str:
    if cams.METHODS[method].forwards:
        return f"heat (share of percentile {s.percentile:g})"
    return "heat (share of the maximum)"


def _write_array(path: Path, array: np.ndarray) -> None:
    held = io.BytesIO()  # numpy writes to files in a way that does not say why it failed
    np.save(held, array)
    with atomic(path) as temporary:
        temporary.write_bytes(held.getbuffer())


def _sweep(path: Path) -> None:
    """Remove what a process that was killed left of this file under a temporary name."""
    pattern = f".{glob.escape(path.stem)}-????????{glob.escape(path.suffix)}"
    for left in path.parent.glob(pattern) if path.parent.is_dir() else ():
        left.unlink(missing_ok=True)


def _room_for(volume: Volume, methods: Sequence[str], folder: Path) -> None:
    """Refuse to begin what the disk cannot hold."""
    free, needed = shutil.disk_usage(folder).free, needs(volume, methods)
    if free < needed:
        raise OSError(
            f"The results need up to {needed / 1e9:.2g} GB, and {free / 1e9:.2g} GB are free; "
            "free some space or name another folder."
        )


def needs(volume: Volume, methods: Sequence[str]) -> int:
    """The bytes that a volume's results take at most; measured: 5 for a voxel of a CAM, 14 for one of a gradient."""
    voxel = 4 + sum(16 if cams.METHODS[method].forwards else 9 for method in methods)
    return volume.data.size * voxel + 2**20 * len(methods)


def _versions() -> dict[str, str]:
    packages = ("camhelpers", "tifffile", "imagecodecs", "nibabel")
    return versions() | {name: importlib.metadata.version(name) for name in packages}


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        reason = f"{error.strerror}{f' ({Path(error.filename).name})' if error.filename else ''}"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return f"Writing stopped: {reason}; no broken file was left behind." if full else reason
    return " ".join(str(error).split()) or type(error).__name__


# The session ----------------------------------------------------------------------------------------------------------


def _summarise(folder: Path, split: str, some: Sequence[Sample], outcomes: Sequence[Outcome]) -> None:
    """One row for each sample of the session, of this run and of earlier ones: what came of it last."""
    path = folder / "summary.csv"
    failed, before = _failures(path)
    done = {(split, sample.label or "", sample.name): outcome for sample, outcome in zip(some, outcomes, strict=True)}
    failed = {key: row for key, row in failed.items() if key not in done}
    for key, outcome in done.items():
        if outcome.status == "failed":
            failed[key] = {"status": "failed", "problem": outcome.problem}
    rows = {}
    for metadata in sorted(folder.glob("heatmaps/*/class_*/*/*_metadata.json")):
        if r := _read_record(metadata):
            key = (r["split"], r["class"] if r["class_from"] == "source" else "", r["sample"])
            if key not in done and metadata.stat().st_mtime_ns > before:  # of a run that came to no summary
                failed.pop(key, None)
            row = {key: r[key] for key in ("class", "prediction", "probability", "seconds")}
            size = sum(about["bytes"] for about in r["files"].values())
            where = metadata.parent.relative_to(folder).as_posix()
            rows[key] = {**row, "status": "complete", "files": len(r["files"]), "bytes": size, "folder": where}
    held = io.StringIO()
    table = csv.DictWriter(held, SUMMARY, lineterminator="\n")
    table.writeheader()
    for key, row in (rows | failed).items():
        table.writerow({**dict(zip(("split", "class", "sample"), key, strict=True)), **row})
    _sweep(path)
    write_text(path, held.getvalue())


def _failures(path: Path) -> tuple[dict[tuple[str, str, str], dict[str, Any]], int]:
    """The failed samples of an earlier summary, and when it was written (in nanoseconds)."""
    found = {}
    with suppress(OSError, ValueError, csv.Error):
        before = path.stat().st_mtime_ns
        for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
            if row.get("status") == "failed":
                key = tuple(row.get(name) or "" for name in ("split", "class", "sample"))
                found[key] = {"status": "failed", "problem": row.get("problem") or ""}
        return found, before
    return {}, 0
