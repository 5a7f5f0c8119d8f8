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

    `shapes` are those of the pictures or volumes, which heat is brought back to: one, or where they differ one for
    each. `pictures` are `(H, W, 3)` in 0..1; `views` the boxes (top, left, height, width) of them that the model saw.
    """

    tensor: Tensor
    shapes: list[tuple[int, ...]]
    single: bool = False
    pictures: Sequence[np.ndarray] | None = None
    views: list[tuple[int, int, int, int]] | None = None
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
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    if isinstance(inputs, Tensor):
        pictures = _as_pictures(inputs, getattr(model, "card", None))
        return Inputs(inputs.to(like.device), [tuple(inputs.shape[2:])], pictures=pictures)
    card = card_of(model)
    single = not isinstance(inputs, (list, tuple))
    if isinstance(inputs, np.ndarray):  # an array (Z, Y, X, 3) is one volume in colour
        single = inputs.ndim < 4 or (len(card.size) == 3 and inputs.ndim == 4 and inputs.shape[-1] == 3)
    given = [inputs] if single else inputs
    make = _from_volumes if len(card.size) == 3 else _from_pictures
    return make(given, card, single, like, size)


def _from_pictures(given: Sequence[Any], card: Card, single: bool, like: Tensor, size: str) -> Inputs:
    pictures = [read_image(source) for source in given]
    x = torch.stack([card.prepare(picture) for picture in pictures]).to(like)
    shapes = [picture.shape[:2] for picture in pictures]
    if len(set(shapes)) == 1:
        pictures, shapes = np.stack(pictures), shapes[:1]
    return Inputs(x, shapes, single, pictures, [card.view(*shape) for shape in shapes])


def _from_volumes(given: Sequence[Any], card: Card, single: bool, like: Tensor, size: str) -> Inputs:
    volumes = [read_volume(source, orientation=card.orientation) for source in given]
    shapes = [volume.data.shape for volume in volumes]
    shapes = shapes[:1] if len(set(shapes)) == 1 else shapes
    x = torch.stack([card.prepare_volume(volume.data, size) for volume in volumes]).to(like)
    return Inputs(x, shapes, single, volumes=volumes)


def _as_pictures(x: Tensor, card: Card | None) -> np.ndarray | None:
    """A ready tensor as pictures: by the card's statistics, else stretched to 0..1 for each sample."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        return None
    x = x.detach().float().cpu()
    low = x.amin((1, 2, 3), keepdim=True)
    known = card and len(card.mean) == x.shape[1]
    shown = card.display(x) if known else (x - low) / (x - low).amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return shown.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
