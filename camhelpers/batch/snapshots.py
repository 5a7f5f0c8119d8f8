"""A training watched: the same pictures explained after each epoch, as files and as one growing strip."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from .. import render
from ..cam.capture import Target
from ..cam.explain import explain
from ..files import results_dir
from ..io.images import save_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CamSnapshots:
    """Call it with the model after each epoch of any training loop; the training goes on as if it had not been called.

    It explains the same `pictures` each time, in evaluation mode, and writes `epoch_<n>_<sample>.png` for each into
    `folder`, and `strip.png` with the first `rows` of them and at most `columns` of the epochs so far. `heats` and
    `answers` keep what each epoch gave. `pictures` are what `explain` takes: pictures, where the model has a card, or a
    tensor `(N, C, H, W)` that is ready. `target` is the predicted class unless given; with the true classes the
    question stays the same. `masks` are outlined in white. `options` are those of `Explanation.heatmap`.

    >>> from camhelpers.cam.nets import SmallResNet
    >>> snapshots = CamSnapshots(torch.rand(2, 3, 64, 64), "results/snapshots", layer="layer3", target=[0, 1])
    >>> snapshots(SmallResNet(classes=2)).shape
    (2, 64, 64)
    """

    def __init__(
        self, pictures: Any, folder: str | Path, *, masks: Sequence[np.ndarray] = (), target: Target = None,
        method: str = "gradcam", layer: str | nn.Module | None = None, rows: int = 4, columns: int = 8,
        opacity: render.Opacity = 0.4, cmap: str = "jet", **options: Any,
    ):  # fmt: skip
        if len(masks) not in (0, len(pictures)):
            raise ValueError(f"There are {len(masks)} masks for {len(pictures)} pictures; give one for each, or none.")
        self.pictures, self.masks, self.target, self.method, self.layer = pictures, masks, target, method, layer
        self.folder, self.rows, self.columns, self.options = results_dir(out=folder), rows, columns, options
        self.look = {"opacity": opacity, "cmap": cmap}
        self.heats: list[np.ndarray] = []
        self.answers: list[list[str]] = []

    def __call__(self, model: nn.Module) -> np.ndarray:
        """Explain the pictures as the model is now; return the heat `(N, H, W)` in 0..1."""
        import matplotlib.pyplot as plt

        with torch.random.fork_rng(range(torch.cuda.device_count())):  # a model may draw numbers even in evaluation
            ex = explain(model, self.pictures, layers=self.layer, target=self.target)
            heat = ex.heatmap(self.method, **self.options)
        self._seen = ex.picture
        self.heats.append(heat)
        self.answers.append([ex.title(i) for i in range(len(heat))])
        for i in range(len(heat)):
            save_image(self.folder / f"epoch_{len(self.heats)}_{i}.png", self._drawn(-1, i))
        with plt.rc_context(render.STYLE):
            figure = self.strip()
            render.save(figure, self.folder / "strip.png")
        plt.close(figure)
        return heat

    def strip(self, message: str = "", samples: Sequence[int] | None = None) -> "Figure":
        """A row for each of the samples, a column for each epoch; the titles say what the model answers there."""
        rows, last = range(len(self.heats[0]))[: self.rows] if samples is None else samples, len(self.heats) - 1
        epochs = np.unique(np.linspace(0, last, min(last + 1, self.columns)).round().astype(int))
        titles = [f"epoch {e + 1}: {self.answers[e][i]}".removesuffix(": ") for i in rows for e in epochs]
        drawn = [self._drawn(e, i) for i in rows for e in epochs]
        return render.grid(drawn, titles, message, columns=len(epochs), cell=1.9, cmap=self.look["cmap"])

    def scores(self, score: Callable[[np.ndarray, np.ndarray], float], masks: Sequence[np.ndarray] = ()):
        """A score of heat and mask, such as `relevance_mass`: a row for each picture, a column for each epoch."""
        masks = masks if len(masks) else self.masks
        found = {n: [score(h, m) for h, m in zip(heat, masks, strict=True)] for n, heat in enumerate(self.heats, 1)}
        return pd.DataFrame(found)

    def _drawn(self, epoch: int, i: int) -> np.ndarray:
        drawn = render.overlay(self._seen[i], self.heats[epoch][i], **self.look)
        return render.outline(drawn, self.masks[i], width=1) if len(self.masks) else drawn
