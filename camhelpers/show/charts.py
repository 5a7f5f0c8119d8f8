"""Charts of an evaluation: which scores are evidence for which methods, and by how much methods differ."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..evaluate.gate import EVIDENCE, WHERE
from ..evaluate.statistics import LOWER_IS_BETTER, interval
from ..evaluate.verdicts import standing, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"pass": "#B9DDF1", "no oracle": "#B9DDF1", "undecided": "#EEEEEE", "fail": "#F6C19A"}
LABELS = {"pass": "passes the gate", "no oracle": "passes, without masks",
          "undecided": "undecided: these pictures cannot tell", "fail": "fails"}  # fmt: skip


def arrowed(metric: str) -> str:
    """A metric in words, with an arrow to where better lies.

    >>> arrowed("deletion")
    'Deletion ↓'
    """
    return f"{words(metric)} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def score_name(row: pd.Series, also: Sequence[str] = ("baseline",)) -> str:
    """A score in words, with what it was measured with.

    >>> score_name(pd.Series({"metric": "deletion", "baseline": "mean", "layer": "layer4"}))
    'Deletion ↓, mean'
    """
    return ", ".join([arrowed(row["metric"]), *(row[name] for name in also if row[name] != "none")])


def gate_chart(judged: pd.DataFrame, title: str = "", also: Sequence[str] = ("baseline",)) -> "Figure":
    """The gate as a table: a line for each score, a column for each method.

    A cell holds the method's mean, and below it how far it stands from the rival whose check came out worst.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    scores, methods = judged.drop_duplicates(WHERE), list(judged["method"].unique())
    figure, axis = plt.subplots(figsize=(2.6 + 2.3 * len(methods), 1.1 + 0.52 * len(scores)))
    lines = {tuple(row[WHERE]): i for i, (_, row) in enumerate(scores.iterrows())}
    for _, row in judged.iterrows():
        x, y = methods.index(row["method"]), lines[tuple(row[WHERE])]
        axis.add_patch(plt.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=COLOURS[row["gate"]], linewidth=0))
        axis.text(x, y - 0.16, f"{row['mean']:.3f}", ha="center", va="center", fontsize=11)
        axis.text(x, y + 0.22, standing(row, interval=False), ha="center", va="center", fontsize=8.5, color="#444444")
    axis.set(xlim=(-0.5, len(methods) - 0.5), ylim=(len(scores) - 0.5, -0.5))
    axis.set_xticks(range(len(methods)), [words(name) for name in methods])
    axis.set_yticks(range(len(scores)), [score_name(row, also) for _, row in scores.iterrows()])
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    found = [Patch(color=COLOURS[name], label=text) for name, text in LABELS.items() if name in set(judged["gate"])]
    figure.legend(handles=found, loc="outside lower center", ncols=3, fontsize=10)
    figure.suptitle(title, fontsize=13)
    return figure


def forests(
    rows: pd.DataFrame, colours: Mapping[str, str], title: str = "", *, xlabel: str, margin: float = 0.0
) -> "Figure":
    """Differences with their intervals: a panel for each `panel`, a line for each `label`, a colour for each `way`.

    Pale where `gate`, if there is one, does not pass; a grey band shows the margin.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    panels, labels = list(rows["panel"].unique()), list(rows["label"].unique())
    tall = 1.7 + 0.36 * len(labels) * max(1, len(colours) / 2)
    figure, axes = plt.subplots(1, len(panels), figsize=(10.5, tall), sharey=True, squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for number, (way, tone) in enumerate(colours.items(), start=1):
            some = rows[(rows["panel"] == panel) & (rows["way"] == way)]
            y = np.array([labels.index(label) + number / (len(colours) + 1) - 0.5 for label in some["label"]])
            sound = some["gate"].isin(EVIDENCE) if "gate" in some else some["difference"].notna()
            for held, shade in ((sound, 1.0), (~sound, 0.3)):
                if held.any():
                    axis.hlines(y[held], some["low"][held], some["high"][held], color=tone, alpha=shade, linewidth=2)
                    axis.plot(some["difference"][held], y[held], "o", color=tone, alpha=shade, markersize=5)
        if margin:
            axis.axvspan(-margin, margin, color="0.93", zorder=0)
        axis.axvline(0, color="0.4", linewidth=0.8)
        axis.set(title=panel, xlabel=xlabel, ylim=(len(labels) - 0.5, -0.5))
        axis.locator_params(axis="x", nbins=5 if len(panels) < 4 else 3)
    axes[0, 0].set_yticks(range(len(labels)), labels)
    named = {way: Line2D([], [], color=tone, marker="o", markersize=5) for way, tone in colours.items()}
    if margin:
        named[f"within the margin of {margin:g}"] = Patch(color="0.93")
    if "gate" in rows and not rows["gate"].isin(EVIDENCE).all():
        named["pale: no evidence"] = Patch(alpha=0)
    figure.legend(named.values(), named, loc="outside lower center", ncols=3, fontsize=11)
    figure.suptitle(title, fontsize=13)
    return figure


def line_chart(tables: Mapping[str, pd.DataFrame], colours: Sequence[str], title: str = "", *, xlabel: str = "",
               ylabel: str = "", ticks: Sequence[str] = ()) -> "Figure":  # fmt: skip
    """A line of means with its band of 95 % for each table: a row for each picture, a column for each place on x."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8.5, 3.4))
    for (label, table), colour in zip(tables.items(), colours, strict=True):
        found = table.to_numpy(float)[table.notna().to_numpy()]
        hits = set(found) == {0.0, 1.0}  # Wilson's interval is for hits and misses, not for shares that are all 0 or 1
        bounds = np.transpose([interval(table[x].dropna(), share=hits)[:2] for x in table])
        low, high = bounds.clip(0, 1) if ((found >= 0) & (found <= 1)).all() else bounds
        axis.plot(table.columns, table.mean(), "o-", color=colour, label=label)
        axis.fill_between(table.columns, low, high, color=colour, alpha=0.15, linewidth=0)
    if ticks:
        axis.set_xticks(table.columns, ticks)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_title(title, loc="left")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=11)
    return figure
