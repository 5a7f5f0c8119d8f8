"""What a user hands in, prepared for the model: pictures, volumes, or a tensor that is ready."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..io.images import read_image
from ..io.volumes import Volume, read_volume
from .cards import Card


@dataclass(frozen=True, eq=False)
class Inputs:
    """The tensor `(N, C, *spatial)` for the model, and what it was made from.

    `shape` is that of the pictures or volumes, which heat is brought back to; `pictures` are `(N, H, W, 3)` in 0..1;
    `view` is the box (top, left, height, width) of them that the model saw, None for all.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    single: bool = False
    pictures: np.ndarray | None = None
    view: tuple[int, int, int, int] | None = None
    volumes: list[Volume] = field(default_factory=list)


def card_of(model: nn.Module) -> Card:
    """The model's card, which says how to prepare what is not a tensor."""
    card = getattr(model, "card", None)
    if card is None:
        how = "pass a ready tensor (N, C, H, W), or give it one: load_model(model, classes=[...], size=..., mean=...)"
        raise TypeError(f"The model has no card that says how to prepare a picture; {how}.")
    return card


def prepare(model: nn.Module, inputs: Any, size: Literal["model", "native"] = "model") -> Inputs:
    """Prepare one picture or volume, a list of them, or a tensor `(N, C, *spatial)`, which is taken as ready."""
    if size not in ("model", "native"):
        raise ValueError(f"size is {size!r}; it is 'model' (that of the model's card) or 'native' (the volume's own).")
    device = next((p.device for p in model.parameters() if p.is_floating_point()), torch.device("cpu"))
    if isinstance(inputs, Tensor):
        pictures = _as_pictures(inputs, getattr(model, "card", None))
        return Inputs(inputs.to(device), tuple(inputs.shape[2:]), pictures=pictures)
    card = card_of(model)
    single = not isinstance(inputs, (list, tuple))
    if isinstance(inputs, np.ndarray):  # an array (Z, Y, X, 3) is one volume in colour
        single = inputs.ndim < 4 or (len(card.size) == 3 and inputs.ndim == 4 and inputs.shape[-1] == 3)
    given = [inputs] if single else inputs
    if len(given) == 0:
        raise ValueError("There is no picture or volume to explain; give at least one.")
    make = _from_volumes if len(card.size) == 3 else _from_pictures
    return make(given, card, single, device, size)


def _from_pictures(given: Sequence[Any], card: Card, single: bool, device: torch.device, size: str) -> Inputs:
    pictures = [read_image(source) for source in given]
    x = torch.stack([card.prepare(picture) for picture in pictures])
    if len({picture.shape for picture in pictures}) > 1:  # mixed sizes: shown as the model saw them
        return Inputs(x.to(device), tuple(x.shape[2:]), single, _as_pictures(x, card))
    shape = pictures[0].shape[:2]
    return Inputs(x.to(device), shape, single, np.stack(pictures), card.view(*shape))


def _from_volumes(given: Sequence[Any], card: Card, single: bool, device: torch.device, size: str) -> Inputs:
    volumes = [read_volume(source, orientation=card.orientation) for source in given]
    shapes = {volume.data.shape for volume in volumes}
    if size == "native" and len(shapes) > 1:
        raise ValueError("The volumes differ in size; explain them one by one, or at the model's size.")
    x = torch.stack([card.prepare_volume(volume.data, size) for volume in volumes])
    return Inputs(x.to(device), shapes.pop() if len(shapes) == 1 else tuple(x.shape[2:]), single, volumes=volumes)


def _as_pictures(x: Tensor, card: Card | None) -> np.ndarray | None:
    """A ready tensor as pictures: by the card's statistics, else stretched to 0..1 for each sample."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        return None
    x = x.detach().float().cpu()
    if card and len(card.mean) == x.shape[1]:
        shown = card.display(x)
    else:
        low, high = x.flatten(1).amin(1).view(-1, 1, 1, 1), x.flatten(1).amax(1).view(-1, 1, 1, 1)
        shown = (x - low) / (high - low).clamp_min(1e-12)
    return shown.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
