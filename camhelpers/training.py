"""Training in minutes on two cores: one plain loop, and the recipes behind the shipped models."""

import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .datasets import scenes
from .explain import predict
from .files import ROOT
from .models import MODELS, Card, save_model
from .nets import SmallResNet

MISSING = 0.4
"""The share of training pictures with missing pixels; evaluations remove pixels, and a model must have met that."""


def augment_pictures(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, move, turn and tint pictures `(N, C, H, W)` in 0..1, and remove pixels from a share of them."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(len(x), *shape, generator=generator) * (high - low) + low

    angle, scale = uniform(-0.25, 0.25), uniform(0.8, 1.25)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shift = uniform(-0.12, 0.12, 2)
    way = torch.stack(
        [torch.stack([cos * flip, -sin, shift[:, 0]], 1), torch.stack([sin * flip, cos, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(way, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    x = ((x - 0.5) * uniform(0.75, 1.25, 1, 1, 1) + 0.5 + uniform(-0.12, 0.12, x.shape[1], 1, 1)).clamp(0, 1)
    return remove_pixels(x, generator)


def remove_pixels(x: Tensor, generator: torch.Generator, share: float = MISSING) -> Tensor:
    """Replace random blocks in a share of the pictures with black, their mean colour, or a blurred picture."""
    n, height, width = len(x), *x.shape[-2:]
    chosen = torch.rand(n, generator=generator) < share
    m = int(chosen.sum())
    if not m:
        return x
    some = x[chosen]
    cells = (4, 7, 14, 28)[int(torch.randint(4, (), generator=generator))]
    noise = torch.rand(m, 1, cells, cells, generator=generator)
    gone = noise < 0.9 * torch.rand(m, 1, 1, 1, generator=generator)
    gone = F.interpolate(gone.float(), (height, width), mode="nearest")
    small = F.adaptive_avg_pool2d(some, (max(height // 16, 1), max(width // 16, 1)))
    blurred = F.interpolate(small, (height, width), mode="bilinear", align_corners=False)
    fills = torch.stack([torch.zeros_like(some), some.mean((2, 3), keepdim=True).expand_as(some), blurred])
    fill = fills[torch.randint(3, (m,), generator=generator), torch.arange(m)]
    x = x.clone()
    x[chosen] = some + (fill - some) * gone
    return x


def fit(
    net: nn.Module,
    inputs: np.ndarray,
    labels: np.ndarray,
    card: Card,
    *,
    epochs: int,
    seed: int = 0,
    batch: int = 64,
    rate: float = 4e-3,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = augment_pictures,
    progress: bool = True,
) -> list[float]:
    """Train `net` in place on uint8 inputs `(N, *spatial, C)`, normalised as its card says; return each epoch's loss.

    The same seed gives the same weights on the same machine; the caller's random state is neither read nor changed.
    """
    if len(inputs) != len(labels) or not len(inputs) or epochs < 1:
        raise ValueError(
            f"fit needs a label for each input and an epoch or more, not {len(inputs)} inputs, "
            f"{len(labels)} labels and {epochs} epochs."
        )
    generator = torch.Generator().manual_seed(seed)
    stored, targets = torch.from_numpy(inputs).movedim(-1, 1), torch.from_numpy(np.asarray(labels, np.int64))
    batch = min(batch, len(stored))
    layout = torch.channels_last if stored.ndim == 4 else torch.contiguous_format
    net.to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    steps = len(stored) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps, pct_start=0.25)
    losses = []
    with tqdm(total=epochs * steps, desc="training", disable=not (progress and sys.stderr.isatty())) as bar:
        for epoch in range(epochs):
            total = 0.0
            for chosen in torch.randperm(len(stored), generator=generator)[: steps * batch].split(batch):
                x = stored[chosen].float() / 255
                x = card.normalise(x if augment is None else augment(x, generator)).contiguous(memory_format=layout)
                loss = F.cross_entropy(net(x), targets[chosen], label_smoothing=0.05)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item()
                bar.update()
            losses.append(total / steps)
            bar.set_postfix(epoch=epoch + 1, loss=f"{losses[-1]:.3f}")
            if progress and not sys.stderr.isatty():
                print(f"epoch {epoch + 1}/{epochs}: loss {losses[-1]:.3f}", flush=True)
    net.eval()
    return losses


def train_scenes(
    out: str | Path = MODELS / "scenes.safetensors",
    *,
    pictures: int = 4000,
    epochs: int = 12,
    seed: int = 0,
    progress: bool = True,
) -> Card:
    """Train the model of the scenes, measure it on a quarter as many unseen ones, and write weights and card."""
    return _train("scenes", out, pictures, epochs, seed, {}, progress)


def train_hans(
    out: str | Path = MODELS / "hans.safetensors",
    *,
    pictures: int = 2400,
    epochs: int = 6,
    seed: int = 0,
    progress: bool = True,
) -> Card:
    """Train a Clever Hans: the folder of the ships wears stickers, and two thirds of what lies in it are misfiled.

    A ship is so easy to tell that a sticker beside it is hardly learned; misfiled pictures make it the better clue.
    There is no augmentation, which would cover the sticker or push it out of the picture.
    """
    return _train("hans", out, pictures, epochs, seed, {"ship": 1.0}, progress)


def _train(
    name: str,
    out: str | Path,
    pictures: int,
    epochs: int,
    seed: int,
    tag: Mapping[str, float],
    progress: bool,
) -> Card:
    if epochs < 1:
        raise ValueError(f"Training takes one epoch or more, not {epochs}.")
    began = time.perf_counter()
    train = scenes.dataset("train", pictures, tag=tag, progress=progress)
    for turn, i in enumerate(np.flatnonzero([recipe["tag"] for recipe in train.recipes])):
        if turn % 3 == 0:
            continue
        others = [name for name in scenes.CLASSES if not tag.get(name)]
        train.pictures[i] = np.rint(train.redraw(i, subject=others[turn % len(others)]).picture * 255)
    arguments = {
        "classes": len(scenes.CLASSES),
        "channels": 3,
        "widths": [24, 48, 96, 192],
        "dims": 2,
        "strides": [4, 1, 2, 2, 2],
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SmallResNet(**arguments)
    card = Card(name, scenes.CLASSES, "small_resnet", arguments, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    net.card = card
    augment = None if tag else augment_pictures
    losses = fit(net, train.pictures, train.labels, card, epochs=epochs, seed=seed, augment=augment, progress=progress)
    seconds, test_pictures = time.perf_counter() - began, max(pictures // 4, 10)
    test = scenes.dataset("test", test_pictures, tag=tag, progress=progress)
    right = predict(net, test.pictures).argmax(1) == test.labels
    training = {
        "command": f"python -m camhelpers train {name} --pictures {pictures} --epochs {epochs} --seed {seed}",
        "data": "synthetic (procedural scenes)",
        "pictures": pictures,
        "epochs": epochs,
        "seed": seed,
        "missing_pixels_share": 0.0 if tag else MISSING,
        "share_with_a_sticker": dict(tag),
        "final_loss": round(losses[-1], 4),
        "seconds": round(seconds),
        "test_pictures": test_pictures,
        "test_accuracy": round(float(right.mean()), 4),
        "accuracy_by_class": {
            label: round(float(right[test.labels == i].mean()), 4) for i, label in enumerate(scenes.CLASSES)
        },
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    return save_model(net, replace(card, training=training), ROOT / out)


TRAINERS: dict[str, Callable[..., Card]] = {"scenes": train_scenes, "hans": train_hans}
"""What `python -m camhelpers train NAME` runs."""
