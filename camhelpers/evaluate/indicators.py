"""Indicators of attention over time, each beside what it must be held against, and the assessment that they add up to.

Attention is a heatmap `(T, H, W)` at the layer's own resolution in time: interpolated frames resemble their neighbours
whatever the network looked at. All axes of a clip's masks and frames are averaged down to that grid.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .statistics import interval

REGIONS = ("myocardium", "ventricle", "sector", "outside")
Rows = Sequence[Mapping[str, float]]


def averaged(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Frames or masks `(T, H, W)` on a coarser grid; a mask becomes the share of each cell that it covers."""
    x = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return F.adaptive_avg_pool3d(x[None], tuple(shape))[0].numpy()


def coverage(heat: np.ndarray, share: float = 0.8) -> float:
    """The smallest fraction of all cells that holds this share of the attention; uniform attention gives the share.

    >>> round(coverage(np.ones((2, 10, 10))), 2)
    0.8
    """
    falling = np.sort(heat, axis=None)[::-1].cumsum()
    return float((np.searchsorted(falling, share * falling[-1] * (1 - 1e-9)) + 1) / heat.size)


def concentration(heat: np.ndarray) -> float:
    """The Gini coefficient of the cells: 0 for uniform attention, almost 1 where a single cell has it all."""
    rising, n = np.sort(heat, axis=None), heat.size
    return float(2 * (np.arange(1, n + 1) * rising).sum() / (n * rising.sum()) - (n + 1) / n)


def path(heat: np.ndarray) -> np.ndarray:
    """The centre of attention of each frame, `(T, 2)`: how far down and to the right, in fractions of the sides."""
    total = heat.sum((1, 2)).clip(1e-12)
    down, right = ((np.arange(n) + 0.5) / n for n in heat.shape[1:])
    return np.stack([(heat.sum(2) * down).sum(1) / total, (heat.sum(1) * right).sum(1) / total], 1)


def jitter(heat: np.ndarray) -> float:
    """How far the centre of attention moves from one frame to the next on average, in fractions of the sides."""
    return float(np.linalg.norm(np.diff(path(heat), axis=0), axis=1).mean())


def consistency(heat: np.ndarray, frames: np.ndarray) -> dict[str, float]:
    """The mean correlation of neighbouring frames of the attention, beside its baselines.

    `shuffled` is that of the same frames in random order, exactly: the mean over all pairs. `random` is that of cells
    that are shuffled within each frame, which is 0 but for chance. `input` is that of the clip's own frames.
    """
    table, own = _correlations(heat), _correlations(averaged(frames, heat.shape))
    n, mixed = len(heat), np.random.default_rng(0).permuted(heat.reshape(len(heat), -1), axis=1)
    return {
        "neighbours": float(np.diag(table, 1).mean()), "shuffled": float((table.sum() - n) / (n * (n - 1))),
        "random": float(np.diag(_correlations(mixed), 1).mean()), "input": float(np.diag(own, 1).mean()),
    }  # fmt: skip


def shares(heat: np.ndarray, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The attention on each region over the region's share of the area: 1 is what blind attention would give."""
    inside = {name: averaged(mask, heat.shape) for name, mask in masks.items()}
    total = max(float(heat.sum()), 1e-12)
    return {name: float((heat * mask).sum() / total / max(mask.mean(), 1e-12)) for name, mask in inside.items()}


def tracking(heat: np.ndarray, wall: np.ndarray) -> dict[str, float]:
    """How the centre of attention follows a moving mask, from -1 to 1, beside the best of wrong timings.

    The correlation is that of both coordinates over time, each less its mean. For `shifted` the mask's path is moved
    around the clip by more than a quarter of it: attention in phase with the wall has more than any of these.
    """
    ours, theirs = (p - p.mean(0) for p in (path(heat), path(averaged(wall, heat.shape))))
    size = max(float(np.linalg.norm(ours) * np.linalg.norm(theirs)), 1e-12)
    found = [float((ours * np.roll(theirs, k, 0)).sum() / size) for k in range(len(heat))]
    return {"in_phase": found[0], "shifted": max(found[len(heat) // 4 + 1 : len(heat) - len(heat) // 4])}


def measure(heat: np.ndarray, frames: np.ndarray, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """All indicators of one clip; `masks` hold at least the `REGIONS`, of which the myocardium is followed."""
    found = {"coverage": coverage(heat), "concentration": concentration(heat), "jitter": jitter(heat)}
    parts = {"consistency": consistency(heat, frames), "share": shares(heat, masks),
             "tracking": tracking(heat, masks["myocardium"])}  # fmt: skip
    return found | {f"{part} {name}": value for part, values in parts.items() for name, value in values.items()}


def _correlations(frames: np.ndarray) -> np.ndarray:
    """The correlation of every frame with every other; 0 where a frame is of one value."""
    x = frames.reshape(len(frames), -1).astype(np.float64)
    x = x - x.mean(1, keepdims=True)
    x /= np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)
    return (x @ x.T).round(9)  # so that two frames that are alike correlate by exactly 1


# What is asked of many clips: an indicator, what it is held against (an indicator or a number), and how it reads where
# it is surely more, and where it is surely less. A plus marks what speaks for a discriminator, a minus what does not.
_QUESTIONS = (
    ("share myocardium", 1.0, "+ looks at the myocardium more than its area explains",
     "- looks at the myocardium less than its area explains"),
    ("share outside", 1.0, "- looks outside the sector, where nothing of the heart is",
     "+ leaves out what is outside the sector"),
    ("tracking in_phase", "tracking shifted", "+ its attention moves in phase with the wall",
     "- its attention does not move in phase with the wall"),
    ("consistency neighbours", "consistency shuffled", "+ its attention changes gradually over time",
     "- its attention jumps from frame to frame"),
    ("consistency neighbours", 0.98, "- its attention hardly changes while the heart beats",
     "+ its attention changes while the heart beats"),
    ("coverage", 0.1, "+ it weighs more than a tenth of the picture", "- it relies on less than a tenth"),
)  # fmt: skip
_ADVICE = {
    "share outside": "Look at the clips' borders and corners: text, logos and codecs differ between sources.",
    "share myocardium": "Compare with a discriminator that is trained on clips without their background.",
    "tracking in_phase": "Shuffle the frames of real clips: a discriminator that does not mind sees no motion.",
    "consistency neighbours": "Explain an earlier layer, whose maps have more frames, before trusting the time axis.",
    "coverage": "Cover the hottest cells and measure again: does the decision rest on them?",
}


def assess(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    """The assessment of a discriminator from the indicators of many clips, as `measure` returns them.

    A difference counts if the 95 % interval of its mean over the clips leaves zero out; otherwise more comparisons are
    needed. Each entry has its words, figure, threshold (or control), interval and number of clips.
    """
    if len(rows) < 2:
        raise ValueError(f"An assessment needs the indicators of 2 clips or more, not {len(rows)}.")
    found: dict[str, list[dict[str, Any]]] = {"positive": [], "concerns": [], "comparisons": [], "recommendations": []}
    for name, control, more, less in _QUESTIONS:
        values = np.array([row[name] for row in rows])
        against = np.array([row[control] for row in rows]) if isinstance(control, str) else np.full(len(rows), control)
        low, high, _ = interval(values - against)
        entry = {
            "indicator": name, "figure": float(values.mean()), "threshold": float(against.mean()), "clips": len(rows),
            "control": control if isinstance(control, str) else "fixed", "low": low, "high": high,
        }  # fmt: skip
        words = more if low > 0 else less if high < 0 else ""
        kind = {"+": "positive", "-": "concerns", "": "comparisons"}[words[:1]]
        found[kind].append({"words": words[2:] or f"{name} cannot be told from its control in these clips", **entry})
        if kind == "concerns":
            found["recommendations"].append({"words": _ADVICE[name], "indicator": name})
    return found


def text(assessment: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """An assessment to read, one line for each entry."""
    lines = []
    for kind, entries in assessment.items():
        lines += [f"{kind}:"] + [f"  - {_line(entry)}" for entry in entries] + ["  - none"] * (not entries)
    return "\n".join(lines)


def _line(entry: Mapping[str, Any]) -> str:
    if "figure" not in entry:
        return entry["words"]
    held = f"{entry['figure']:.2f} against {entry['threshold']:.2f}"
    return f"{entry['words']} ({held}; difference {entry['low']:+.2f} to {entry['high']:+.2f}, {entry['clips']} clips)"
