"""Where the cells of a map lie on the input: every resize of heat goes through here."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(heat: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps `(N, *spatial)` linearly along every axis, as OpenCV's `resize` does (`align_corners=False`)."""
    if tuple(heat.shape[1:]) == tuple(size):
        return heat
    if len(size) < 3:
        mode = "bilinear" if len(size) == 2 else "linear"
        return F.interpolate(heat[:, None], tuple(size), mode=mode, align_corners=False)[:, 0]
    z, y, x = (_weights(before, after).to(heat) for before, after in zip(heat.shape[1:], size, strict=True))
    slices = (y @ (heat @ x.T)).flatten(2)  # one axis after another: much faster than trilinear interpolation
    out = heat.new_empty(0)
    if heat.device.type == "cpu":  # NumPy asks for large pages of memory, and fresh small ones take half of the time
        out = torch.from_numpy(np.empty((len(heat), size[0], slices.shape[2]), heat[:0].numpy().dtype))
    return torch.matmul(z, slices, out=out).unflatten(2, size[1:])


@lru_cache(maxsize=32)
def _weights(before: int, after: int) -> Tensor:
    """The weights `(after, before)` of linear interpolation between cell centres, held at the ends."""
    return F.interpolate(torch.eye(before)[None], after, mode="linear", align_corners=False)[0].T.contiguous()
