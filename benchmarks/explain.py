"""What an explanation costs beside its peers, as a multiple of one inference forward: `python -m benchmarks.explain`.

ResNet-50 with random weights (seed 0: what is timed does not depend on their values), pictures of 224x224, batch 1 and
8, layers `layer4[-1]` and `layer2[-1]`, the predicted class. Every round times every contestant once, in an order that
turns, so that a busy moment hits all alike; a ratio is the median over rounds of a time over the same round's forward.
Ours and pytorch-grad-cam return maps at the picture's size as numpy arrays; the others are given less to do, never
more. Memory is the growth of the peak resident size in a fresh process that has loaded the network and its input.
"""

import argparse
import csv
import ctypes
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import camhelpers as ch
from camhelpers import render
from camhelpers.cam import methods
from camhelpers.cam.models import import_torchvision
from camhelpers.files import ROOT, atomic, results_dir

LAYERS = ("layer4", "layer2")  # the last block of each
BATCHES = (1, 8)
FOUR = ("gradcam", "gradcam++", "layercam", "hybrid")
ALPHA = 0.7


def network() -> nn.Module:
    torch.manual_seed(0)
    return import_torchvision().models.resnet50(weights=None).eval()


def pictures(batch: int) -> Tensor:
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))


# contestants: (network, its layer, the layer's name, input) -> maps ------------------------------------------------


def forward(net: nn.Module, layer: nn.Module, name: str, x: Tensor) -> Any:
    with torch.inference_mode():
        return net(x)


def ours_four(net: nn.Module, layer: nn.Module, name: str, x: Tensor) -> Any:
    ex = ch.explain(net, x, layers=name)
    return [ex.heatmap(method, alpha=ALPHA) for method in FOUR]


def ours_gradcam(net: nn.Module, layer: nn.Module, name: str, x: Tensor) -> Any:
    return ch.explain(net, x, layers=name).heatmap("gradcam")


def pgc_four(net: nn.Module, layer: nn.Module, name: str, x: Tensor) -> Any:
    from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM

    maps = []
    for method in (GradCAM, GradCAMPlusPlus, LayerCAM):
        with method(model=net, target_layers=[layer]) as cam:
            maps.append(cam(input_tensor=x, targets=None))
    return [*maps, maps[0] ** ALPHA * maps[2] ** (1 - ALPHA)]


def pgc_gradcam(net: nn.Module, layer: nn.Module, name: str, x: Tensor) -> Any:
    from pytorch_grad_cam import GradCAM

    with GradCAM(model=net, target_layers=[layer]) as cam:
        return cam(input_tensor=x, targets=None)


def torchcam_gradcam(net: nn.Module, layer: nn.Module, name: str, x: Tensor) -> Any:
    from torchcam.methods import GradCAM

    with GradCAM(net, target_layer=name) as extractor:
        out = net(x)
        return extractor(out.argmax(1).tolist(), out)


def captum_gradcam(net: nn.Module, layer: nn.Module, name: str, x: Tensor) -> Any:
    from captum.attr import LayerAttribution, LayerGradCam

    with torch.no_grad():
        target = net(x).argmax(1)  # its API wants the class beforehand
    heat = LayerGradCam(net, layer).attribute(x, target=target, relu_attributions=True)
    return LayerAttribution.interpolate(heat, x.shape[2:], interpolate_mode="bilinear")


def recipe_gradcam(net: nn.Module, layer: nn.Module, name: str, x: Tensor) -> Any:
    """The guide's recipe: a forward hook, a full backward hook, and an ordinary backward pass."""
    kept: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda module, args, out: kept.update(A=out)),
        layer.register_full_backward_hook(lambda module, inwards, outwards: kept.update(G=outwards[0])),
    ]
    out = net(x)
    net.zero_grad()
    out.gather(1, out.argmax(1, keepdim=True)).sum().backward()
    for hook in hooks:
        hook.remove()
    weights = kept["G"].mean((2, 3), keepdim=True)
    heat = F.relu((weights * kept["A"].detach()).sum(1, keepdim=True))
    heat = F.interpolate(heat, x.shape[2:], mode="bilinear", align_corners=False)
    return (heat / heat.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)).numpy()


CONTESTANTS: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "forward": ("", "one inference forward", forward),
    "ours_four": ("four methods", "camhelpers", ours_four),
    "pgc_four": ("four methods", "pytorch-grad-cam", pgc_four),
    "ours": ("one Grad-CAM", "camhelpers", ours_gradcam),
    "torchcam": ("one Grad-CAM", "torch-cam", torchcam_gradcam),
    "captum": ("one Grad-CAM", "captum", captum_gradcam),
    "pgc": ("one Grad-CAM", "pytorch-grad-cam", pgc_gradcam),
    "recipe": ("one Grad-CAM", "backward-hook recipe", recipe_gradcam),
}
TOGGLES = {
    "alpha": ("on a held explanation", "camhelpers: alpha moved"),
    "method": ("on a held explanation", "camhelpers: method changed"),
}
LABELS = {**{key: value[:2] for key, value in CONTESTANTS.items()}, **TOGGLES}


# measuring -----------------------------------------------------------------------------------------------------------


def timed(function: Callable[[], Any]) -> float:
    start = perf_counter()
    function()
    return perf_counter() - start


def rounds(net: nn.Module, stage: str, batch: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each contestant, one for each round."""
    layer, x = net.get_submodule(stage)[-1], pictures(batch)
    name = ch.layer_name(net, layer)
    held = ch.explain(net, x, layers=name)
    held.heatmap()
    calls = {key: partial(f, net, layer, name, x) for key, (_, _, f) in CONTESTANTS.items()}
    seconds: dict[str, list[float]] = {key: [] for key in LABELS}
    for i in tqdm(range(-1, repeats), desc=f"{stage}[-1], batch {batch}", disable=None):
        order = list(calls)
        for key in order[i % len(order) :] + order[: i % len(order)]:
            duration = timed(calls[key])
            net.zero_grad(set_to_none=True)  # two of the peers fill it
            if i >= 0:  # the first round is for warming up
                seconds[key].append(duration)
        if i >= 0:
            seconds["alpha"].append(timed(partial(held.heatmap, "hybrid", alpha=(i % 11) / 10)))
            seconds["method"].append(timed(partial(held.heatmap, FOUR[i % 3])))
    return seconds


def resident(field: str) -> float:
    """VmRSS, or VmHWM (the peak), of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def grown(key: str, cases: list[tuple[str, int]]) -> list[float]:
    """MB by which one call raises the peak, for each layer and batch; only a fresh process can tell."""
    call, net = CONTESTANTS[key][2], network()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)  # what one case freed must not help the next
    tiny = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    call(tiny, tiny[1], "1", torch.rand(1, 3, 32, 32))  # imports and thread pools are not what is asked for
    found = []
    for stage, batch in cases:
        layer, x = net.get_submodule(stage)[-1], pictures(batch)
        trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = resident("VmRSS")
        call(net, layer, ch.layer_name(net, layer), x)
        found.append(resident("VmHWM") - before)
        net.zero_grad(set_to_none=True)
    return found


def memory(cases: list[tuple[str, int]]) -> dict[tuple[str, str, int], float]:
    """The growth of every contestant, each in a process of its own; nothing where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return {}
    found = {}
    for key in tqdm(CONTESTANTS, desc="memory", disable=None):
        command = [sys.executable, "-m", "benchmarks.explain", "--grown", key, json.dumps(cases)]
        run = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        found |= {(key, *case): peak for case, peak in zip(cases, json.loads(run.stdout), strict=True)}
    return found


def measure(cases: list[tuple[str, int]], repeats: int) -> list[dict[str, Any]]:
    """One row for each contestant, layer and batch size."""
    net, rows = network(), []
    seconds = {case: rounds(net, *case, repeats if case[1] == 1 else max(3, repeats // 3)) for case in cases}
    peak = memory(cases)
    for stage, batch in cases:
        took = seconds[stage, batch]
        for key, (group, label) in LABELS.items():
            ratios = [s / f for s, f in zip(took[key], took["forward"], strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4)
            rows.append(
                {
                    "layer": f"{stage}[-1]",
                    "batch": batch,
                    "key": key,
                    "what": group,
                    "contestant": label,
                    "median_ms": round(1000 * statistics.median(took[key]), 2),
                    "ratio": round(statistics.median(ratios), 3),
                    "ratio_q1": round(low, 3),
                    "ratio_q3": round(high, 3),
                    "peak_mb": round(peak[key, stage, batch], 1) if (key, stage, batch) in peak else "",
                    "rounds": len(ratios),
                }
            )
    return rows


# telling -------------------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        if row["key"] == "forward":
            lines += ["", f"{row['layer']}, batch {row['batch']}, {row['rounds']} rounds"]
            lines.append(f"  {'':<46}{'median ms':>10}{'forwards':>10}{'quartiles':>15}{'peak MB':>9}")
        name = f"{row['what']}: {row['contestant']}" if row["what"] else row["contestant"]
        quartiles = f"{row['ratio_q1']:.2f}-{row['ratio_q3']:.2f}"
        peak = f"{row['peak_mb']:.0f}" if row["peak_mb"] != "" else ""
        lines.append(f"  {name:<46}{row['median_ms']:>10.1f}{row['ratio']:>10.3f}{quartiles:>15}{peak:>9}")
    return "\n".join(lines)


def targets(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each target and case: what was asked, what was measured, whether it holds."""
    lines = []
    for layer, batch in dict.fromkeys((row["layer"], row["batch"]) for row in rows):
        ratio = {row["key"]: row["ratio"] for row in rows if (row["layer"], row["batch"]) == (layer, batch)}
        faster = ratio["pgc_four"] / ratio["ours_four"]
        toggle = max(ratio["alpha"], ratio["method"])
        asked = [("toggle <= 0.05 forward", toggle, toggle <= 0.05)]
        if layer.startswith("layer4"):
            four = ratio["ours_four"]
            asked.insert(0, ("four together <= 1.15 forward at layer4", four, four <= 1.15))
            asked.insert(1, (">= 6x faster than pytorch-grad-cam for the four", faster, faster >= 6))
        for what, value, holds in asked:
            lines.append(f"  {'pass' if holds else 'FAIL'}  {layer}, batch {batch}: {what} ({value:.3f})")
        if not layer.startswith("layer4"):
            lines.append(f"        {layer}, batch {batch}: {faster:.1f}x faster than pytorch-grad-cam for the four")
    return lines


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of cost in forwards; a panel for each layer."""
    from matplotlib import pyplot as plt

    render.use_style()
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    keys = [key for key in LABELS if key != "forward"]
    widest = max(row["ratio"] for row in rows)
    at, y = {}, 0.0
    for i, key in enumerate(keys):
        y += 1.5 if i and LABELS[key][0] != LABELS[keys[i - 1]][0] else 1.0
        at[key] = y
    figure, axes = plt.subplots(1, len(layers), figsize=(2.6 + 5.4 * len(layers), 5.4), sharey=True, squeeze=False)
    thick = 0.8 / len(batches)
    for panel, layer in zip(axes[0], layers, strict=True):
        for row in rows:
            if row["layer"] != layer or row["key"] == "forward":
                continue
            nth = batches.index(row["batch"])
            colour = methods.colour("hybrid") if row["contestant"].startswith("camhelpers") else "#8899AA"
            place = at[row["key"]] + (nth - (len(batches) - 1) / 2) * thick
            panel.barh(place, row["ratio"], thick * 0.9, color=colour, alpha=1 if nth == 0 else 0.6)
            number = f"{row['ratio']:.2f}" if row["ratio"] >= 0.095 else f"{row['ratio']:.3f}"
            note = panel.text(row["ratio"] + 0.012 * widest, place, number, va="center", fontsize=10, color="#333333")
            note.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # over the line at one forward
        panel.axvline(1, color="#333333", linewidth=1.2, linestyle=(0, (4, 3)), zorder=0.5)
        panel.set_xlim(0, widest * 1.15)
        panel.tick_params(axis="y", length=0)
        panel.set_xlabel("cost in inference forwards (dashed: one)")
        panel.set_title(f"explaining {layer}")
    axes[0, 0].set_yticks(list(at.values()), [LABELS[key][1].removeprefix("camhelpers: ") for key in keys])
    axes[0, 0].set_ylim(max(at.values()) + 0.7, 0.1)
    for group in dict.fromkeys(LABELS[key][0] for key in keys):
        top = min(at[key] for key in keys if LABELS[key][0] == group)
        note = axes[0, 0].text(0.12, top - 0.52, group, fontsize=11, style="italic", va="bottom", color="#333333")
        note.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    cost = {(row["layer"], row["batch"], row["key"]): row["ratio"] for row in rows}
    ours, theirs = (cost[layers[0], batches[0], key] for key in ("ours_four", "pgc_four"))
    message = f"Four methods together cost {ours:.2f} inference forwards; with pytorch-grad-cam {theirs:.1f}"
    shades = ", pale: ".join(f"batch {b}" for b in batches)
    render.headline(figure, f"{message} (ResNet-50 at 224 x 224, {shades})")
    render.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explain", description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=21, help="rounds at batch 1; a third of them at batch 8")
    parser.add_argument("--quick", action="store_true", help="layer4, batch 1 and five rounds only")
    parser.add_argument("--grown", nargs=2, help=argparse.SUPPRESS)  # what the memory's processes are asked
    arguments = parser.parse_args()
    if arguments.grown:
        key, cases = arguments.grown
        return print(json.dumps(grown(key, json.loads(cases))))
    if arguments.repeats < 3:
        parser.error("--repeats needs at least 3 rounds for a median.")
    cases = [(LAYERS[0], BATCHES[0])] if arguments.quick else [(stage, n) for stage in LAYERS for n in BATCHES]
    rows = measure(cases, 5 if arguments.quick else arguments.repeats)
    folder = results_dir("bench")
    with atomic(folder / "explain.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, folder / "explain.png")
    print(f"ResNet-50, random weights (seed 0), 224x224, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(table(rows), "", *targets(rows), "", f"Written: {folder / 'explain.csv'} and explain.png", sep="\n")


if __name__ == "__main__":
    main()
