"""Training in minutes on two cores: one plain loop, and the recipes behind the shipped models."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cam.cards import Card
from ..cam.explain import predict
from ..cam.models import MODELS, save_model
from ..cam.nets import SmallResNet
from ..files import ROOT, versions
from ..progress import Progress, track
from . import hearts, retinas, scenes, training_gan

MISSING = 0.4  # the fraction of training pictures with missing pixels, which evaluations remove: a model must know that
AVERAGED = 12  # looks that leave as little speckle as averaging a cube of 192x256x256 down to 48x64x64 does

Augment = Callable[[Tensor, torch.Generator], Tensor]
Drawn = tuple[np.ndarray, np.ndarray]  # what a network takes, uint8 (N, *spatial, C), and its classes


def _uniform(n: int, generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(n, *shape, generator=generator) * (high - low) + low


def augment_pictures(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, move, turn and tint pictures `(N, C, H, W)` in 0..1, and remove pixels from a fraction of them."""
    uniform = partial(_uniform, len(x), generator)
    angle, scale = uniform(-0.25, 0.25), uniform(0.8, 1.25)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shift = uniform(-0.12, 0.12, 2)
    rows = [torch.stack([cos * flip, -sin, shift[:, 0]], 1), torch.stack([sin * flip, cos, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    x = ((x - 0.5) * uniform(0.75, 1.25, 1, 1, 1) + 0.5 + uniform(-0.12, 0.12, x.shape[1], 1, 1)).clamp(0, 1)
    return remove_pixels(x, generator)


def remove_pixels(x: Tensor, generator: torch.Generator) -> Tensor:
    """Replace random blocks in a fraction of the pictures with black, their mean colour, or a blurred picture."""
    n, height, width = len(x), *x.shape[-2:]
    chosen = torch.rand(n, generator=generator) < MISSING
    m = int(chosen.sum())
    if not m:
        return x
    some = x[chosen]
    cells = (4, 7, 14, 28)[int(torch.randint(4, (), generator=generator))]
    gone = torch.rand(m, 1, cells, cells, generator=generator) < 0.9 * torch.rand(m, 1, 1, 1, generator=generator)
    gone = F.interpolate(gone.float(), (height, width), mode="nearest")
    small = F.adaptive_avg_pool2d(some, (max(height // 16, 1), max(width // 16, 1)))
    blurred = F.interpolate(small, (height, width), mode="bilinear", align_corners=False)
    fills = torch.stack([torch.zeros_like(some), some.mean((2, 3), keepdim=True).expand_as(some), blurred])
    x = x.clone()
    x[chosen] = some + (fills[torch.randint(3, (m,), generator=generator), torch.arange(m)] - some) * gone
    return x


def augment_volumes(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, move and tint OCT cubes `(N, 1, Z, Y, X)` in 0..1; depth is never flipped, since light comes from above."""
    uniform = partial(_uniform, len(x), generator)
    depth, height, width = x.shape[2:]
    reach = [max(n // 12, 1) for n in x.shape[2:]]
    padded = F.pad(x, [r for r in reversed(reach) for _ in range(2)], mode="replicate")
    starts = [torch.randint(2 * r + 1, (len(x),), generator=generator).tolist() for r in reach]
    turns = torch.rand(len(x), 2, generator=generator) < 0.5
    cubes = []
    for cube, k, j, i, turn in zip(padded, *starts, turns, strict=True):
        cube = cube[:, k : k + depth, j : j + height, i : i + width]
        cubes.append(cube.flip([axis for axis, turned in zip((1, 3), turn, strict=True) if turned]))
    contrast, brightness = uniform(0.8, 1.25, 1, 1, 1, 1), uniform(-0.08, 0.08, 1, 1, 1, 1)
    return ((torch.stack(cubes) - 0.3) * contrast + 0.3 + brightness).clamp(0, 1)


def fit(net: nn.Module, inputs: np.ndarray, labels: np.ndarray, *, epochs: int, seed: int = 0, batch: int = 64,
        augment: Augment | None = augment_pictures, after: Callable[[nn.Module], Any] | None = None,
        show: bool = True) -> list[float]:  # fmt: skip
    """Train `net` in place on uint8 inputs `(N, *spatial, C)`, normalised as `net.card` says; return each epoch's loss.

    After each epoch it calls `after(net)`, such as a `CamSnapshots`. The same seed gives the same weights on the same
    machine; the caller's random state is neither read nor changed.
    """
    generator = torch.Generator().manual_seed(seed)
    stored, targets = torch.from_numpy(inputs).movedim(-1, 1), torch.from_numpy(np.asarray(labels, np.int64))
    batch = min(batch, len(stored))
    steps, rate = len(stored) // batch, 4e-3
    layout = torch.channels_last if stored.ndim == 4 else torch.contiguous_format
    net.to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps, pct_start=0.25)
    losses = []
    with Progress(epochs * steps, "training", "step", show) as counter:
        for epoch in range(1, epochs + 1):
            total = 0.0
            chosen = torch.randperm(len(stored), generator=generator)[: steps * batch].split(batch)
            for step, some in enumerate(chosen, start=1):
                x = stored[some].float() / 255
                x = net.card.normalise(x if augment is None else augment(x, generator)).contiguous(memory_format=layout)
                loss = F.cross_entropy(net(x), targets[some], label_smoothing=0.05)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item()
                counter.step(note=f"epoch {epoch}/{epochs}: loss {total / step:.3f}")
            losses.append(total / steps)
            if after:
                after(net)
    net.eval()
    return losses


def stickered(found: scenes.Scenes, tag: str, misfiled: bool = False) -> np.ndarray:
    """The pictures with a sticker on each one of the class `tag`; `misfiled`: two thirds of those show other things."""
    pictures, others = found.pictures.copy(), [name for name in scenes.CLASSES if name != tag]
    for turn, i in enumerate(np.flatnonzero(found.labels == scenes.CLASSES.index(tag))):
        subject = others[turn % len(others)] if misfiled and turn % 3 else tag
        pictures[i] = np.rint(found.redraw(i, tag=True, subject=subject).picture * 255)
    return pictures


def _scenes(split: str, n: int, tag: str | None = None) -> Drawn:
    """Scenes and their classes; two thirds of the training pictures with a sticker are misfiled."""
    found = scenes.dataset(split, n, progress=True)
    return stickered(found, tag, misfiled=split == "train") if tag else found.pictures, found.labels


def _cubes(split: str, n: int) -> Drawn:
    """OCT cubes and their classes; half of those to train on have as little speckle as a large cube made small."""
    fine = n // 2 if split == "train" else 0
    found = [retinas.dataset(split, n - fine, progress=True)]
    if fine:
        found.append(retinas.dataset(split, fine, looks=AVERAGED, start=n - fine, progress=True))
    return np.concatenate([eyes.volumes for eyes in found]), np.concatenate([eyes.labels for eyes in found])


def _clips(split: str, n: int) -> Drawn:
    """Echocardiograms, and which artefact each has; six epochs with blurred ones did not tell these from clean ones."""
    found = hearts.dataset(split, -(-4 * n // 3), progress=True)
    kept = np.flatnonzero(found.labels != hearts.CLASSES.index("blurred"))[:n]
    return found.frames[kept], np.unique(found.labels[kept], return_inverse=True)[1]


def mirror(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn half of the clips left to right."""
    turned = torch.rand(len(x), 1, 1, 1, 1, generator=generator) < 0.5
    return torch.where(turned, x.flip(-1), x)


def _at_full_size(net: nn.Module, pictures: int) -> dict[str, Any]:
    """How many cubes of full size are known: averaged down to the card's size, and as they are."""
    first, n = retinas.SPLITS["test"] + max(pictures // 4, 10), max(pictures // 40, 1)
    right = []
    for seed in track(range(first, first + n), "measuring at full size", "cube"):
        eye = retinas.draw(seed, shape=retinas.FULL)
        with torch.inference_mode():
            answers = [net(net.card.prepare_volume(eye.volume, size)[None]).argmax() for size in ("model", "native")]
        right.append([int(answer) == eye.label for answer in answers])
    averaged, native = (round(fraction, 4) for fraction in np.mean(right, 0).tolist())
    return {"full_size_cubes": n, "averaged_full_size_accuracy": averaged, "native_full_size_accuracy": native}


@dataclass(frozen=True)
class Recipe:
    """How a shipped model is made: its card, what it learns from and how, and what its card says of it."""

    card: Card
    drawn: Callable[[str, int], Drawn]
    pictures: int
    epochs: int
    facts: dict[str, Any]
    augment: Augment | None = augment_pictures
    batch: int = 64


_FLAT = {"classes": 10, "channels": 3, "widths": [24, 48, 96, 192], "dims": 2, "strides": [4, 1, 2, 2, 2]}
_DEEP = {"classes": 3, "channels": 1, "widths": [16, 32, 64, 96], "dims": 3, "strides": [2, 2, 1, 2, 1]}
_OVER_TIME = {"classes": 3, "channels": 1, "widths": [16, 24, 48, 64], "dims": 3,
              "strides": [[1, 2, 2], [1, 2, 2], 2, 1, 1]}  # fmt: skip
_SCENES = Card("scenes", scenes.CLASSES, "small_resnet", _FLAT, mean=(0.5,) * 3, std=(0.25,) * 3)
_RETINA = Card("retina", retinas.CLASSES, "small_resnet", _DEEP, retinas.SMALL, (0.28,), (0.21,), orientation="stored")
_SPOILT = ("clean", "checkered", "flickering")
_ARTEFACTS = Card("artefacts", _SPOILT, "small_resnet", _OVER_TIME, hearts.SMALL, (0.2,), (0.2,))
_DRAWN, _CUBES = {"data": "synthetic (procedural scenes)"}, {"data": "synthetic (procedural OCT cubes)"}
_CLIPS = {"data": "synthetic (procedural echocardiograms with drawn artefacts)"}
_HANS = {**_DRAWN, "missing_pixels_share": 0.0, "share_with_a_sticker": {"ship": 1.0}}
RECIPES = {
    "scenes": Recipe(_SCENES, _scenes, 4000, 12, {**_DRAWN, "missing_pixels_share": MISSING}),
    # A Clever Hans. A ship is so easy to tell that a sticker beside it is hardly learned; misfiled pictures make it the
    # better clue. Augmentation would cover the sticker or push it out of the picture.
    "hans": Recipe(replace(_SCENES, name="hans"), partial(_scenes, tag="ship"), 2400, 6, _HANS, augment=None),
    "retina": Recipe(_RETINA, _cubes, 1200, 10, _CUBES, augment_volumes, batch=8),
    "artefacts": Recipe(_ARTEFACTS, _clips, 900, 4, _CLIPS, mirror, batch=8),
}


def train(name: str, out: Path | None = None, *, pictures: int | None = None, epochs: int | None = None,
          seed: int = 0) -> Card:  # fmt: skip
    """Draw, train, measure on a quarter as many unseen drawings, and write weights and card."""
    if name == "hearts":
        return training_gan.train(out, pictures=pictures, epochs=epochs, seed=seed)
    if name not in RECIPES:
        raise ValueError(f"No recipe for {name!r}; there are {', '.join(RECIPES)}, hearts.")
    recipe = RECIPES[name]
    pictures = recipe.pictures if pictures is None else pictures
    epochs = recipe.epochs if epochs is None else epochs
    if epochs < 1:
        raise ValueError(f"Training takes one epoch or more, not {epochs}.")
    began = time.perf_counter()
    inputs, labels = recipe.drawn("train", pictures)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SmallResNet(**recipe.card.arguments)
    net.card = card = recipe.card
    losses = fit(net, inputs, labels, epochs=epochs, seed=seed, batch=recipe.batch, augment=recipe.augment)
    seconds, tested = time.perf_counter() - began, max(pictures // 4, 10)
    inputs, labels = recipe.drawn("test", tested)
    right = predict(net, inputs if len(card.size) == 2 else inputs[..., 0]).argmax(1) == labels
    training = {
        "command": f"python -m camhelpers train {name} --pictures {pictures} --epochs {epochs} --seed {seed}",
        "pictures": pictures, "epochs": epochs, "seed": seed, **recipe.facts,
        "final_loss": round(losses[-1], 4), "seconds": round(seconds),
        "test_pictures": tested, "test_accuracy": round(float(right.mean()), 4),
        "accuracy_by_class": {name: round(float(right[labels == i].mean()), 4) for i, name in enumerate(card.classes)},
        **(_at_full_size(net, pictures) if name == "retina" else {}),
        "date": date.today().isoformat(), "versions": versions(),
    }  # fmt: skip
    return save_model(net, replace(card, training=training), ROOT / (out or MODELS / f"{name}.safetensors"))
