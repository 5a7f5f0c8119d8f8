"""Volumes explained into folders that imaging tools open: the CAMVis layout, its metadata, and going on after a stop.

    CAMVis/session_<id>/summary.csv
    CAMVis/session_<id>/heatmaps/<split>/class_<name>/<sample>/<sample>_<method>_heatmap.tiff     (and .nii.gz)
                                                               <sample>_<method>_heat.tiff      (grey, to be measured)
                                                               <sample>_<method>_overlay.tiff, <sample>_<method>_raw.npy
                                                               <sample>_metadata.json
    CAMVis/session_<id>/visualizations/<split>/<sample>_combined.png, <sample>_full_volume_overlay.tiff

A sample is made in a temporary folder; its visualizations are put in place first and its folder of heatmaps last, in
one step: where the metadata is, everything that it lists is there. Of samples whose name is in two classes, the
visualizations are in `class_<name>/` below the split.
"""

import glob
import json
import os
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from pydantic import Field
from torch import nn
from tyro.conf import arg

from .. import render
from ..cam import methods as cams
from ..cam.capture import resolve_target
from ..cam.cards import Card
from ..cam.explain import Explanation, explain
from ..cam.geometry import Place
from ..cam.gradients import PERCENTILE, SAMPLES, SPREAD
from ..cam.layers import layer_name
from ..cam.models import model_hash
from ..checks import checked
from ..datasets.samples import Sample, volume_samples
from ..evaluate import localisation
from ..files import atomic, fingerprint, results_dir, sha256, versions, write_text
from ..io import export
from ..io.volumes import Volume, safe_name
from ..progress import Progress
from ..show import planes

METHODS = ("gradcam", "gradcam++", "layercam", "hybrid", "smoothgrad", "vargrad")
FORMAT = "camhelpers volume 5"  # written into every metadata file, and to change with its fields
RULE = "gradients clipped at a percentile on the model's grid; resized to the volume; divided by the maximum there"
SUMMARY = ("split", "class", "sample", "prediction", "probability", "status", "files", "bytes", "seconds", "folder",
           "problem")  # fmt: skip
READING = ("spacing", "window", "series", "orientation", "gap_tolerance", "allow_incomplete")
Percent = Annotated[float, Field(gt=0, le=100)]
Fraction, Length = Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(gt=0, allow_inf_nan=False)]


@checked
class Settings:
    """How volumes are read, explained and painted; the same settings, weights and volumes give the same files."""

    methods: Annotated[tuple[str, ...], Field(min_length=1)] = METHODS  # the methods to compare, by name
    alpha: Fraction = 0.7  # share of Grad-CAM in the hybrid: 0 is LayerCAM, 1 is Grad-CAM
    layer: str | None = None  # the layer of the maps; the last one unless given
    target: int | str | None = None  # the class to explain, by number or name; the predicted one unless given
    samples: Annotated[int, Field(ge=2)] = SAMPLES  # noisy copies for SmoothGrad and VarGrad
    spread: Annotated[float, Field(gt=0, le=10)] = SPREAD  # standard deviation of their noise, as a share of the range
    percentile: Percent = PERCENTILE  # where the heat of SmoothGrad and VarGrad is cut off; 100 cuts nothing
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # seed of the noise and of the random control
    size: Annotated[Literal["model", "native"], arg(name="at")] = "model"  # the card's size, or the volume's own
    place: Place = "grid"  # where a layer's cells are drawn: equal parts, by strides and paddings, or as measured
    opacity: Fraction = 0.4  # how strongly the heat covers the volume
    cmap: str = "jet"  # the colour map of the heat
    spacing: tuple[Length, Length, Length] | None = None  # voxel size (z, y, x) in mm, where the file does not state it
    window: tuple[float, float] | None = None  # the values (low, high) that are shown black and white
    series: int | str | None = None  # which DICOM series, by UID or by number from 1, or all
    gap_tolerance: Length | None = None  # by how many mm gaps between DICOM slices may differ; 1 % of them unless given
    allow_incomplete: bool = False  # take a DICOM series of which something is missing; the metadata says what
    orientation: Literal["LPS", "RAS", "stored"] | None = None  # how a NIfTI is turned; as the card says unless given

    def __post_init__(self) -> None:
        for name in self.methods:
            cams.method(name)
        if self.window and not self.window[0] < self.window[1]:
            raise ValueError(f"The window is {self.window!r}; use two numbers, (low, high) with low below high")
        render.table(self.cmap)

    def resolved(self, model: nn.Module) -> "Settings":
        """The same settings with the layer's full name, the class's number and the card's orientation."""
        card = getattr(model, "card", None)
        if not isinstance(card, Card) or len(card.size) != 3:
            raise ValueError("Volumes need a network whose card says that it takes three axes, such as 'retina'.")
        target = resolve_target(self.target, card.classes)
        if isinstance(target, int) and card.classes and not 0 <= target < len(card.classes):
            raise ValueError(f"The model has no class {target}; its classes are 0 to {len(card.classes) - 1}.")
        turned = self.orientation or card.orientation
        return replace(self, layer=layer_name(model, self.layer), target=target, orientation=turned)


class Outcome(NamedTuple):
    """What became of a sample: made, kept from an earlier run, or failed, and why."""

    name: str
    status: Literal["made", "kept", "failed"]
    record: dict[str, Any]
    problem: str = ""


class Session(NamedTuple):
    """A session's folder and what this run did there."""

    folder: Path
    outcomes: list[Outcome]


def explain_volumes(model: nn.Module, source: Any, methods: Sequence[str] = METHODS,
                    out: str | Path = "results/volumes", *, split: str = "val", session: str | None = None,
                    resume: bool = False, progress: bool = False, **settings: Any) -> Session:  # fmt: skip
    """Explain volumes into `out/CAMVis`, each with every method; one that fails is reported, and the rest is done.

    `source`: whatever `volume_samples` takes. `settings`: the fields of `Settings`. Unless given, `session` follows
    from weights and settings. With `resume`, volumes are skipped whose results are whole and of the same data and
    settings; without it, a sample's earlier results in the session are replaced.
    """
    chosen = Settings(methods=methods, **settings).resolved(model)
    reading = {name: getattr(chosen, name) for name in READING}
    found = volume_samples(source, **reading)
    some = [replace(s, name=safe_name(s.name), label=s.label and safe_name(s.label)) for s in found]
    for (name, _), n in Counter((s.name, s.label) for s in some).items():
        if n > 1:
            raise ValueError(f"Two volumes are called {name!r}; rename one, or put them into folders of two classes.")
    split, weights = safe_name(split), model_hash(model)
    session = fingerprint(weights, chosen)[:10] if session is None else safe_name(session)
    try:
        folder = results_dir("CAMVis", f"session_{session}", out=out)
        _summarise(folder, [])  # also a proof that files can be made there
    except OSError as error:
        raise OSError(f"Cannot write into {str(out)!r}: {error.strerror}; name another folder with out.") from None
    run = _Run(model, weights, chosen, folder, split, Counter(s.name for s in some))

    outcomes, total = [], len(chosen.methods)
    with _alone(folder), Progress(len(some) * total, "explaining", "map", progress) as counter:
        for number, sample in enumerate(some, 1):
            try:
                outcomes.append(run.one(sample, resume, lambda name=sample.name: counter.step(note=name)))
            except Exception as error:  # whatever a volume or a disk fails on must not cost the other volumes
                about = {"split": split, "class": sample.label, "sample": sample.name}
                reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
                outcomes.append(Outcome(sample.name, "failed", about, reason or type(error).__name__))
            if left := number * total - counter.done:
                counter.step(left, sample.name)
        _summarise(folder, outcomes)
    return Session(folder, outcomes)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait, and say for whom, while another process writes the same session."""
    lock, holder = FileLock(folder / ".lock"), folder / ".holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        print(f"Waiting: {folder.name} is being written by {who}.", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        write_text(holder, f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class _Run:
    """What all samples of a run share."""

    model: nn.Module
    weights: str
    settings: Settings
    folder: Path
    split: str
    names: Counter[str]

    def one(self, sample: Sample, resume: bool, tick: Callable[[], None]) -> Outcome:
        """Make everything of one sample in a temporary folder and put it in place, or keep what is there."""
        volume, mask = sample.read()
        data = [volume.data, volume.spacing, volume.affine, volume.window, volume.source, mask]
        mark = fingerprint(FORMAT, self.weights, self.settings, data)
        label = "*" if sample.label is None else glob.escape(sample.label)  # without one, it was predicted
        there = self.folder.glob(f"heatmaps/{glob.escape(self.split)}/class_{label}/{glob.escape(sample.name)}")
        for record in filter(None, map(_record, there)) if resume else ():
            sizes = {self.folder / path: about["bytes"] for path, about in record["files"].items()}
            whole = all(path.exists() and path.stat().st_size == size for path, size in sizes.items())
            if whole and record["fingerprint"] == mark:
                return Outcome(sample.name, "kept", record)
        work = self.folder / f".unfinished-{fingerprint(self.split, sample.label, sample.name)[:16]}"
        try:
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
            record, other = self._make(sample, volume, mask, mark, work, tick)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return Outcome(sample.name, "made", record, "in place of the results of another file of this name" * other)

    def _make(self, sample: Sample, volume: Volume, mask: np.ndarray | None, mark: str, work: Path,
              tick: Callable[[], None]) -> tuple[dict[str, Any], bool]:  # fmt: skip
        """Write a sample into `work` and put it in place; return its metadata, and whether another file's was there."""
        start, s, name = perf_counter(), self.settings, sample.name
        ex = explain(self.model, volume, layers=s.layer, target=s.target, size=s.size)
        label = safe_name(ex.label.replace("/", "_")) if sample.label is None else sample.label
        own, look = Path("heatmaps", self.split, f"class_{label}", name), Path("visualizations", self.split)
        same_name = (self.folder / own).parents[1].glob(f"class_*/{glob.escape(name)}")
        if self.names[name] > 1 or set(same_name) - {self.folder / own}:
            look = look / f"class_{label}"
        for path in (own, look):
            (work / path).mkdir(parents=True)
        about = {}
        for method in s.methods:
            about[method] = self._draw(method, ex, mask, work / own / name, work / look / name)
            tick()
        overlay = work / own / f"{name}_{s.methods[0]}_overlay.tiff"
        shutil.copyfile(overlay, work / look / f"{name}_full_volume_overlay.tiff")
        made = {path: path.relative_to(work).as_posix() for path in sorted(work.rglob("*")) if path.is_file()}
        record = {
            "format": FORMAT, "fingerprint": mark, "sample": name, "split": self.split, "class": label,
            "prediction": ex.label, "probability": float(ex.confidence),
            "probabilities": dict(zip(ex.classes, ex.probabilities.tolist(), strict=True)),
            "explained": ex.label if s.target is None else ex.classes[s.target],
            "model": {"name": ex.card.name, "hash": self.weights, "input": list(ex.inputs.shape[2:])},
            "methods": about, "shape": list(volume.data.shape), "spacing_mm": _spacing(volume),
            "affine": volume.affine, "window": volume.window, "source": volume.source, "settings": asdict(s),
            "nifti_resampled": volume.grid is None and volume.affine is not None and export.leans(volume.affine),
            "versions": versions("tifffile", "imagecodecs", "nibabel"), "seconds": round(perf_counter() - start, 3),
            "files": {final: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path, final in made.items()},
        }  # fmt: skip
        text = json.dumps(record, indent=1, ensure_ascii=False, default=lambda held: held.tolist()) + "\n"
        write_text(work / own / f"{name}_metadata.json", text)
        before = _record(self.folder / own)
        if (self.folder / own).exists():
            os.replace(self.folder / own, work / "earlier")  # from here on, the sample is absent
        for folder in (look, own.parent):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        for method in cams.METHODS:  # of methods that are not among today's
            (self.folder / look / f"{name}_{method}_combined.png").unlink(missing_ok=True)
        for path in (work / look).iterdir():
            os.replace(path, self.folder / look / path.name)
        os.replace(work / own, self.folder / own)  # the metadata comes last, with everything that it lists
        return json.loads(text), before is not None and before["source"].get("sha256") != volume.source.get("sha256")

    def _draw(self, method: str, ex: Explanation, mask: np.ndarray | None, stem: Path, look: Path) -> dict[str, Any]:
        """Write the files of one method, whose names begin with `stem` and `look`; return what the metadata says."""
        s, volume, gradient = self.settings, ex.volume, cams.METHODS[method].forwards > 0
        options = {"alpha": s.alpha, "seed": s.seed, "samples": s.samples, "spread": s.spread, "place": s.place}
        heat, raw, clipped_at, divided_by = ex.heat(method, **options, percentile=s.percentile)
        blank, clipped = bool(raw.max() <= 0), {"clipped_at": float(clipped_at)} if gradient else {}
        where = localisation.heat_summary(heat, volume.spacing)
        where["hottest_slice_from_1"] = where.pop("hottest_slice") + 1  # as the previews and ImageJ count
        rule = {"rule": RULE, **clipped, "divided_by": float(divided_by)}
        about = {"normalisation": rule, "blank": blank, "where": _for_json(where, volume)}
        jumps = np.divide(heat.shape, raw.shape)  # voxels from the centre of a cell to the next
        if s.place != "grid" and not gradient:
            lines = ex.geometry(measure=s.place == "effective").centres(s.place, (), heat.shape)
            jumps = np.array([jump for _, jump in lines])
        sized = {"voxels": jumps.tolist(), "mm": (jumps * volume.spacing).tolist() if _spacing(volume) else None}
        about["cells"] = {"place": "grid" if gradient else s.place, "count": raw.shape, **sized}
        if mask is not None and mask.any():  # against all of the heat: where it is cut off, it has no one maximum
            whole = ex.heat(method, **options, percentile=100).heatmap if gradient else heat
            about["lesion"] = _for_json(localisation.lesion_scores(whole, mask, volume.spacing), volume)
        of = "" if s.target is None else f" of {ex.classes[s.target]}"
        title = f"{stem.name}: {ex.title()} · {cams.title(method)}{of}{' (blank)' if blank else ''}"
        size, mixed = (heat.shape, _spacing(volume)), export.overlay_pages(volume.data, heat, s.opacity, s.cmap)
        export.write_stack(f"{stem}_{method}_heatmap.tiff", export.heat_pages(heat, s.cmap), *size, description=title)
        export.write_stack(f"{stem}_{method}_overlay.tiff", mixed, *size, description=title)
        steps = (render.index(page) for page in heat)
        export.write_stack(f"{stem}_{method}_heat.tiff", steps, *size, description=title, grey=True)
        export.write_nifti(f"{stem}_{method}_heatmap.nii.gz", heat, volume)
        np.save(f"{stem}_{method}_raw.npy", raw)
        share = f"heat (share of {f'percentile {s.percentile:g}' if gradient else 'the maximum'})"
        figure = planes.preview(volume, heat, mask=mask, cmap=s.cmap, opacity="heat", title=title, label=share)
        render.save(figure, f"{look}{'' if method == s.methods[0] else f'_{method}'}_combined.png")
        return about


def _spacing(volume: Volume) -> tuple[float, float, float] | None:
    """The spacing where the source states one; a volume without one has 1 mm only to be drawn with."""
    return volume.spacing if volume.source.get("spacing_known") else None


def _for_json(found: dict[str, float], volume: Volume) -> dict[str, float | None]:
    """Numbers for JSON, which has no NaN; what is measured in mm, as the pointing game is, only where mm are known."""
    hidden = () if _spacing(volume) else ("_mm", "pointing_game")
    return {k: None if np.isnan(v) or k.endswith(hidden) else round(v, 6) for k, v in found.items()}


def _record(folder: Path) -> dict[str, Any] | None:
    """A sample's metadata, or None where there is none, or one of another format."""
    with suppress(ValueError, OSError):
        record = json.loads((folder / f"{folder.name}_metadata.json").read_text(encoding="utf-8"))
        return record if record.get("format") == FORMAT else None


def _summarise(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """One row for each sample whose metadata is in the session, and for each that failed in this run."""
    rows = {}
    for path in sorted(folder.glob("heatmaps/*/class_*/*")):
        if r := _record(path):
            size, where = sum(f["bytes"] for f in r["files"].values()), path.relative_to(folder).as_posix()
            more = {"status": "complete", "files": len(r["files"]), "bytes": size, "folder": where}
            rows[r["split"], r["class"], r["sample"]] = r | more
    failed = [o for o in outcomes if o.status == "failed"]
    rows |= {tuple(o.record.values()): o.record | {"status": o.status, "problem": o.problem} for o in failed}
    with atomic(folder / "summary.csv") as path:
        pd.DataFrame(rows.values(), columns=SUMMARY, dtype=object).to_csv(path, index=False, lineterminator="\n")
