"""What explaining a volume costs beside bare passes and the peers: `python -m benchmarks.volumes [--quick]`.

The shipped model of the retinas, run on the volume's own grid of 192x256x256. Every round times every contestant once,
in an order that turns, so that a busy moment hits all alike; a ratio is the median over rounds of ratios within a
round. Peak memory is measured in a process of its own, and the whole command's is that of its process.

A peer's map is correlated with ours of the same kind, on our grid: as it is, and with its axes swapped and turned in
the way that fits best, which tells whether it lies as the volume does. A file is read as viewers read it.
"""

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import nibabel
import numpy as np
import tifffile
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import camhelpers as ch
from camhelpers.cam.geometry import upsample
from camhelpers.datasets import retinas
from camhelpers.files import ROOT, atomic, results_dir
from camhelpers.io import export as stacks
from camhelpers.io.volumes import Volume

from .explain import resident

FOUR = ("gradcam", "gradcam++", "layercam", "hybrid")
SIX = (*FOUR, "smoothgrad", "vargrad")
SEED = retinas.SPLITS["test"] + 2  # an eye that no training saw
SAMPLES = 8  # of the 25 that SmoothGrad takes by default; the one pass without noise weighs three times as much so
OVER_FORWARD, OVER_PASSES, MEMORY_GB, WRITE_S = 1.2, 1.15, 3.0, 2.0  # what is promised

NOTHING = "nothing: it writes no files"
Result = tuple[np.ndarray | None, str]  # a map, and what is on disk


# contestants: (network, prepared volume) -> a map, and what lies on disk ----------------------------------------------


def forward(net: nn.Module, x: Tensor) -> Result:
    with torch.inference_mode():
        net(x)
    return None, ""


def passes(net: nn.Module, x: Tensor) -> Result:
    """Bare forwards with the gradient at the input, parameters frozen."""
    for p in net.parameters():
        p.requires_grad_(False)
    for _ in range(SAMPLES):
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(net(leaf)[0, 0], leaf)
    for p in net.parameters():
        p.requires_grad_(True)
    return None, ""


def ours_four(net: nn.Module, x: Tensor) -> Result:
    ex = ch.explain(net, x)
    maps = [ex.heatmap(method)[0] for method in FOUR]
    return maps[0], ""


def ours_gradcam(net: nn.Module, x: Tensor) -> Result:
    return ch.explain(net, x).heatmap("gradcam")[0], ""


def ours_file(net: nn.Module, x: Tensor) -> Result:
    spacing = tuple(field / n for field, n in zip(retinas.FIELD, x.shape[2:], strict=True))
    volume = Volume(x[0, 0].numpy(), spacing, "cube", (0.0, 1.0), None, None, {"spacing_known": True})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "heat.nii.gz")
        stacks.write_nifti(path, ours_gradcam(net, x)[0], volume)
        return read_back(path)


def monai_gradcam(net: nn.Module, x: Tensor) -> Result:
    from monai.visualize import GradCAM

    return GradCAM(nn_module=net, target_layers="layer4")(x)[0, 0].numpy(), NOTHING


def medcam_gradcam(net: nn.Module, x: Tensor) -> Result:
    from medcam import medcam

    with tempfile.TemporaryDirectory() as folder:
        injected = medcam.inject(net, output_dir=folder, backend="gcam", layer="layer4", save_maps=True)
        with torch.enable_grad():
            injected(x)
        (path,) = Path(folder).rglob("*.nii.gz")
        return read_back(path)


def read_back(path: Path) -> Result:
    """The map of a NIfTI as `(k, j, i)`, which viewers take for slices, rows and columns, and what the file is."""
    image = nibabel.load(path)
    heat = np.asarray(image.dataobj)
    if np.array_equal(image.affine, np.eye(4)):
        place = "identity affine"
    else:
        place = "voxels of " + " x ".join(f"{size:.3g}" for size in image.header.get_zooms())
    unit = image.header.get_xyzt_units()[0]
    about = f"NIfTI, {heat.dtype}, {' x '.join(map(str, heat.shape))} (i, j, k), {place}, unit {unit}"
    return heat.T, about


def ours_noisy(net: nn.Module, x: Tensor) -> Result:
    from camhelpers.cam.gradients import noisy_gradients
    from camhelpers.cam.methods import smoothgrad

    return smoothgrad(noisy_gradients(net, x, [0], samples=SAMPLES))[0].numpy(), ""


def monai_smoothgrad(net: nn.Module, x: Tensor) -> Result:
    from monai.visualize import SmoothGrad

    found = SmoothGrad(net, n_samples=SAMPLES, verbose=False)(x.clone())
    return np.asarray(found.detach())[0, 0], NOTHING


CONTESTANTS: dict[str, tuple[str, str, Callable[[nn.Module, Tensor], Result]]] = {
    "forward": ("", "one inference forward", forward),
    "ours_four": ("four methods", "camhelpers", ours_four),
    "ours": ("one Grad-CAM", "camhelpers", ours_gradcam),
    "monai": ("one Grad-CAM", "MONAI", monai_gradcam),
    "ours_file": ("one Grad-CAM", "camhelpers, with its file", ours_file),
    "medcam": ("one Grad-CAM", "M3d-Cam, with its file", medcam_gradcam),
    "passes": (f"{SAMPLES} samples", "bare forwards and input gradients", passes),
    "ours_noisy": (f"{SAMPLES} samples", "camhelpers: SmoothGrad and VarGrad", ours_noisy),
    "monai_noisy": (f"{SAMPLES} samples", "MONAI: SmoothGrad", monai_smoothgrad),
}
AGAINST = {"ours_noisy": "passes", "monai_noisy": "passes"}
ALIKE = {"ours_file": "ours", "monai": "ours", "medcam": "ours", "monai_noisy": "ours_noisy"}  # whose maps should agree


# measuring ------------------------------------------------------------------------------------------------------------


def case(shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    net = ch.load_model("retina")
    return net, net.card.prepare_volume(retinas.draw(SEED, "fluid", shape).volume, "native")[None]


def peak(key: str, shape: tuple[int, ...]) -> float:
    """MB by which one call raises the peak of this fresh process."""
    net, x = case(shape)
    call = CONTESTANTS[key][2]
    call(net, x[..., :16, :32, :32].contiguous())  # imports and thread pools are not what is asked for
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    call(net, x)
    return resident("VmHWM") - before


def command(folder: Path, shape: tuple[int, ...], samples: int) -> dict[str, Any]:
    """The whole command on a cube in a TIFF, six methods, on its own grid: seconds, peak memory, and its files."""
    eye = retinas.draw(SEED, "fluid", shape)
    source = folder / "cube.tif"
    grey = np.round(eye.volume * 255).astype(np.uint8)
    z, y, x = eye.spacing
    tifffile.imwrite(
        source, grey, imagej=True, resolution=(1 / x, 1 / y), metadata={"axes": "ZYX", "spacing": z, "unit": "mm"}
    )
    start = perf_counter()
    line = [sys.executable, "-m", "camhelpers", "volume", "--model", "retina", "--volume", str(source)]
    line += ["--methods", *SIX, "--size", "native", "--samples", str(samples), "--out", str(folder / "out")]
    run = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(run.pid, 0)
    if status:
        raise RuntimeError(f"The command failed with status {status}.")
    files = [p for p in (folder / "out").rglob("*") if p.is_file()]
    return {
        "seconds": round(perf_counter() - start, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "files": len(files),
        "mb_on_disk": round(sum(p.stat().st_size for p in files) / 2**20),
    }


def writing(folder: Path, volume: np.ndarray, heat: np.ndarray, spacing: tuple[float, ...], rounds: int) -> float:
    """Seconds to colour and write both TIFFs of one method."""
    found = []
    for _ in range(rounds):
        start = perf_counter()
        stacks.write_stack(folder / "heat.tiff", stacks.heat_pages(heat), heat.shape, spacing)
        stacks.write_stack(folder / "overlay.tiff", stacks.overlay_pages(volume, heat), heat.shape, spacing)
        found.append(perf_counter() - start)
    return statistics.median(found)


def agreement(heat: np.ndarray, ours: np.ndarray) -> dict[str, Any]:
    """How a map correlates with ours on our grid: as it is, and with axes swapped and turned so that it fits best.

    The best way is found on a coarse cube, and its correlation taken on ours; one of -1 fits too, with hot and cold
    exchanged.
    """

    def turned(some: np.ndarray, way: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
        return np.flip(some.transpose(way[0]), way[1])

    def correlation(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])

    def coarse(some: np.ndarray) -> np.ndarray:
        return F.adaptive_avg_pool3d(torch.from_numpy(np.array(some, np.float32))[None], 32)[0].numpy()

    def fine(some: np.ndarray) -> np.ndarray:
        return upsample(torch.from_numpy(np.array(some, np.float32))[None], ours.shape)[0].numpy()

    flips = [axes for n in range(4) for axes in itertools.combinations(range(3), n)]
    ways = [(order, axes) for order in itertools.permutations(range(3)) for axes in flips]
    small, peer = coarse(ours), coarse(heat)
    best = max(ways, key=lambda way: abs(correlation(turned(peer, way), small)))  # the first, as it is, wins a draw
    order, axes = best
    named = " ".join(("-" if axis in axes else "") + "zyx"[order[axis]] for axis in range(3))
    fits = correlation(fine(turned(heat, best)), ours)
    match = "as it is" if best == ways[0] else f"with its axes {named}"
    return {
        "correlation": round(correlation(fine(heat), ours), 4),
        "best_correlation": round(fits, 4),
        "best_match": f"{match}, hot and cold exchanged" if fits < 0 else match,
    }


def measure(shape: tuple[int, ...], rounds: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """One row for each contestant, and a Grad-CAM of ours."""
    net, x = case(shape)
    seconds: dict[str, list[float]] = {key: [] for key in CONTESTANTS}
    results: dict[str, Result] = {}
    for i in tqdm(range(-1, rounds), desc="rounds", disable=None):
        order = list(CONTESTANTS)
        for key in order[i % len(order) :] + order[: i % len(order)]:
            start = perf_counter()
            results[key] = CONTESTANTS[key][2](net, x)
            if i >= 0:  # the first round is for warming up
                seconds[key].append(perf_counter() - start)
            net.zero_grad(set_to_none=True)
    rows = []
    for key, (what, contestant, _) in CONTESTANTS.items():
        base = AGAINST.get(key, "forward")
        heat, disk = results[key]
        memory = subprocess.run(
            [sys.executable, "-m", "benchmarks.volumes", "--peak", key, json.dumps(shape)],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        fits = agreement(heat, results[ALIKE[key]][0]) if key in ALIKE else {}
        rows.append(
            {
                "key": key,
                "volume": " x ".join(map(str, shape)),
                "what": what,
                "contestant": contestant,
                "seconds": round(statistics.median(seconds[key]), 3),
                "ratio": round(statistics.median(s / b for s, b in zip(seconds[key], seconds[base], strict=True)), 3),
                "ratio_to": CONTESTANTS[base][1],
                "peak_mb": round(float(memory.stdout.split()[-1])),
                "low": "" if heat is None else f"{heat.min():.3g}",
                "high": "" if heat is None else f"{heat.max():.3g}",
                "shape": "" if heat is None else " x ".join(map(str, heat.shape)),
                **(fits or dict.fromkeys(("correlation", "best_correlation", "best_match"), "")),
                "on_disk": disk,
                "rounds": rounds,
                "threads": torch.get_num_threads(),
            }
        )
    return rows, results["ours"][0]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.volumes", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small volume and two rounds, to see that it runs")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)  # what the memory's processes are asked
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # two of the peers warn in every call
    if arguments.peak:
        return print(peak(arguments.peak[0], tuple(json.loads(arguments.peak[1]))))
    shape, rounds = ((48, 64, 64), 2) if arguments.quick else (retinas.FULL, 5)
    rows, heat = measure(shape, rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        eye = retinas.draw(SEED, "fluid", shape)
        write = writing(folder, eye.volume, heat, eye.spacing, 3)
        whole = command(folder, shape, 3 if arguments.quick else 25)
    size = {"volume": " x ".join(map(str, shape))}
    rows += [
        {"key": "write", **size, "what": "both TIFFs of a method", "contestant": "camhelpers",
         "seconds": round(write, 3)},
        {"key": "command", **size, "what": "the whole command, six methods", "contestant": "camhelpers",
         "seconds": whole["seconds"], "peak_mb": whole["peak_mb"],
         "on_disk": f"{whole['files']} files, {whole['mb_on_disk']} MB"},
    ]  # fmt: skip
    path = results_dir("bench") / f"volumes{'_quick' if arguments.quick else ''}.csv"
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), restval="")
        writer.writeheader()
        writer.writerows(rows)

    print(f"{size['volume']}, the retina model, {torch.get_num_threads()} threads, {rounds} rounds")
    for row in rows:
        ratio = f"{row['ratio']:5.2f} of {row['ratio_to']}" if "ratio" in row else ""
        span = f"{row['low']}..{row['high']}, {row['shape']}" if row.get("high") else ""
        name = f"{row['what']}: {row['contestant']}" if row["what"] else row["contestant"]
        print(f"  {name:52}{row['seconds']:8.2f} s  {row.get('peak_mb', ''):>6} MB  {ratio:46} {span}")
        if row.get("best_match"):
            best = f"best {row['best_match']}: {row['best_correlation']}"
            print(f"{'':54}correlation with ours: {row['correlation']}; {best}")
        if row.get("on_disk"):
            print(f"{'':54}on disk: {row['on_disk']}")
    at = {row["key"]: row for row in rows}
    for what, value, limit in (
        ("four methods, in forwards", at["ours_four"]["ratio"], OVER_FORWARD),
        ("SmoothGrad and VarGrad, in bare passes", at["ours_noisy"]["ratio"], OVER_PASSES),
        ("the whole command's memory in GB", at["command"]["peak_mb"] / 1024, MEMORY_GB),
        ("both TIFFs in seconds", at["write"]["seconds"], WRITE_S),
    ):
        print(f"  {'FAIL' if value > limit else 'pass'}  {what}: {value:.2f} (at most {limit})")
    print(f"Written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
