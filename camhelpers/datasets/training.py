"""Training in minutes on two cores: one plain loop, and the recipes behind the shipped models."""

import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..cam.explain import predict
from ..cam.models import MODELS, Card, save_model
from ..cam.nets import SmallResNet
from ..files import ROOT
from . import retinas, scenes

MISSING = 0.4
"""The share of training pictures with missing pixels; evaluations remove pixels, and a model must have met that."""
AVERAGED = 12
"""Looks that leave as little speckle as averaging a cube of 192x256x256 down to 48x64x64 does."""


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


def augment_volumes(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, move and tint OCT cubes `(N, 1, Z, Y, X)` in 0..1; depth is never flipped, since light comes from above."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(len(x), 1, 1, 1, 1, generator=generator) * (high - low) + low

    depth, height, width = x.shape[2:]
    reach = [max(n // 12, 1) for n in x.shape[2:]]
    padded = F.pad(x, [r for r in reversed(reach) for _ in range(2)], mode="replicate")
    starts = [torch.randint(2 * r + 1, (len(x),), generator=generator).tolist() for r in reach]
    turns = torch.rand(len(x), 2, generator=generator) < 0.5
    cubes = []
    for cube, k, j, i, turn in zip(padded, *starts, turns, strict=True):
        cube = cube[:, k : k + depth, j : j + height, i : i + width]
        cubes.append(cube.flip([axis for axis, turned in zip((1, 3), turn, strict=True) if turned]))
    return ((torch.stack(cubes) - 0.3) * uniform(0.8, 1.25) + 0.3 + uniform(-0.08, 0.08)).clamp(0, 1)


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
    training = {
        **_command(name, pictures, epochs, seed),
        "data": "synthetic (procedural scenes)",
        "missing_pixels_share": 0.0 if tag else MISSING,
        "share_with_a_sticker": dict(tag),
        "final_loss": round(losses[-1], 4),
        "seconds": round(seconds),
        **_measured(predict(net, test.pictures).argmax(1), test.labels, scenes.CLASSES),
        **_today(),
    }
    return save_model(net, replace(card, training=training), ROOT / out)


def train_retina(
    out: str | Path = MODELS / "retina.safetensors",
    *,
    pictures: int = 1200,
    epochs: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> Card:
    """Train the model of the OCT cubes, measure it on unseen eyes, small and at full size, and write it.

    Half of the cubes have as little speckle as a large cube that was made small by averaging.
    """
    if pictures < 2 or epochs < 1:
        raise ValueError(f"Training takes two cubes and one epoch or more, not {pictures} and {epochs}.")
    began = time.perf_counter()
    rough = retinas.dataset("train", pictures - pictures // 2, progress=progress)
    fine = retinas.dataset("train", pictures // 2, looks=AVERAGED, start=len(rough), progress=progress)
    arguments = {
        "classes": len(retinas.CLASSES),
        "channels": 1,
        "widths": [16, 32, 64, 96],
        "dims": 3,
        "strides": [2, 2, 1, 2, 1],  # maps of 12x16x16 twice and of 6x8x8 twice
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SmallResNet(**arguments)
    size = retinas.SMALL
    statistics = {"mean": (0.28,), "std": (0.21,), "orientation": "stored"}
    card = Card("retina", retinas.CLASSES, "small_resnet", arguments, size=size, **statistics)
    volumes, labels = np.concatenate([rough.volumes, fine.volumes]), np.concatenate([rough.labels, fine.labels])
    options = {"batch": 8, "augment": augment_volumes, "progress": progress}
    losses = fit(net, volumes, labels, card, epochs=epochs, seed=seed, **options)
    training = {
        **_command("retina", pictures, epochs, seed),
        "data": "synthetic (procedural OCT cubes)",
        "final_loss": round(losses[-1], 4),
        "seconds": round(time.perf_counter() - began),
        **_measured_retinas(net, card, max(pictures // 4, 10), max(pictures // 40, 1), progress),
        **_today(),
    }
    return save_model(net, replace(card, training=training), ROOT / out)


def _measured_retinas(net: nn.Module, card: Card, n: int, full: int, progress: bool) -> dict[str, Any]:
    """How many of `n` small cubes are known, and of some full ones: averaged to the card's size, and as they are."""

    def answer(cube: np.ndarray) -> int:
        with torch.inference_mode():
            return int(net(card.normalise(torch.from_numpy(cube)[None, None])).argmax())

    test = retinas.dataset("test", n, progress=progress)
    answers = np.array([answer(cube[..., 0] / np.float32(255)) for cube in test.volumes])
    averaged, native = [], []
    first = retinas.SPLITS["test"] + n
    for seed in tqdm(range(first, first + full), desc="measuring at full size", disable=None if progress else True):
        eye = retinas.draw(seed, shape=retinas.FULL)
        small = F.adaptive_avg_pool3d(torch.from_numpy(eye.volume)[None], card.size)[0].numpy()
        averaged.append(answer(small) == eye.label)
        native.append(answer(eye.volume) == eye.label)
    return {
        **_measured(answers, test.labels, retinas.CLASSES),
        "full_size_cubes": full,
        "averaged_full_size_accuracy": round(float(np.mean(averaged)), 4),
        "native_full_size_accuracy": round(float(np.mean(native)), 4),
    }


def _command(name: str, pictures: int, epochs: int, seed: int) -> dict[str, Any]:
    command = f"python -m camhelpers train {name} --pictures {pictures} --epochs {epochs} --seed {seed}"
    return {"command": command, "pictures": pictures, "epochs": epochs, "seed": seed}


def _measured(answers: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    right = answers == labels
    return {
        "test_pictures": len(labels),
        "test_accuracy": round(float(right.mean()), 4),
        "accuracy_by_class": {name: round(float(right[labels == i].mean()), 4) for i, name in enumerate(classes)},
    }


def _today() -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {"date": date.today().isoformat(), "versions": versions}


TRAINERS: dict[str, Callable[..., Card]] = {"scenes": train_scenes, "hans": train_hans, "retina": train_retina}
"""What `python -m camhelpers train NAME` runs."""
