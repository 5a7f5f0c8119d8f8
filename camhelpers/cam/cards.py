"""The card of a model: what one must know to feed it and to read its answer."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, FiniteFloat, PositiveInt
from torch import Tensor

from ..checks import checked

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as Pillow and OpenCV turn colour into grey


def _listed(value: Any) -> list[str]:
    """One number, a list, or text such as "0.5, 0.5, 0.5", which a command line or a notebook's parameter holds."""
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
    return [str(part).strip() for part in parts]


Listed = BeforeValidator(_listed)


@checked
class Card:
    """Name, classes, architecture, input size and statistics of a model, and how it was trained.

    >>> card = Card("mine", classes=2, size="32", fit="crop")
    >>> card.classes, card.size
    (('class 0', 'class 1'), (32, 32))
    """

    name: str
    classes: Annotated[tuple[str, ...], Listed] = ()
    architecture: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    size: Annotated[tuple[PositiveInt, ...], Listed] = (224, 224)
    mean: Annotated[tuple[FiniteFloat, ...], Listed] = IMAGENET_MEAN
    std: Annotated[tuple[FiniteFloat, ...], Listed] = IMAGENET_STD
    fit: Literal["squash", "crop"] = "squash"
    resize: PositiveInt | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    orientation: Literal["LPS", "RAS", "stored"] = "LPS"
    """How a model of volumes wants a NIfTI turned: the directions of x, y and z, or as it is stored."""
    training: dict[str, Any] = Field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        if len(self.size) == 1:  # of both sides
            object.__setattr__(self, "size", self.size * 2)
        if len(self.classes) == 1 and self.classes[0].isdecimal():  # how many there are
            object.__setattr__(self, "classes", tuple(f"class {i}" for i in range(int(self.classes[0]))))
        for name, colours, grey in (("mean", IMAGENET_MEAN, (0.0,)), ("std", IMAGENET_STD, (1.0,))):
            if len(self.size) == 3 and getattr(self, name) == colours:  # a grey volume stays in 0..1 unless stated
                object.__setattr__(self, name, grey)
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must have one positive number for each channel")

    def prepare(self, picture: np.ndarray) -> Tensor:
        """Turn a picture `(H, W, 3)` in 0..1 into what the model takes, `(C, *size)`."""
        if len(self.size) != 2:
            raise ValueError(f"{self.name!r} takes inputs with {len(self.size)} axes, not pictures; pass a tensor.")
        x = torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32)).permute(2, 0, 1)[None]
        if len(self.mean) == 1:
            x = (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        height, width = x.shape[2:]
        before = self._before_crop(height, width) if self.fit == "crop" else self.size
        if (height, width) != before:
            x = F.interpolate(x, before, mode=self.interpolation, align_corners=False, antialias=True).clamp(0, 1)
        top, left = (round((b - s) / 2) for b, s in zip(before, self.size, strict=True))
        return self.normalise(x[:, :, top : top + self.size[0], left : left + self.size[1]])[0]

    def prepare_volume(self, volume: np.ndarray, size: Literal["model", "native"] = "model") -> Tensor:
        """Turn a volume `(Z, Y, X)` in 0..1 into what the model takes, `(1, *size)`; "native" leaves its size alone.

        An axis that shrinks is averaged, so that nothing is skipped; one that grows is interpolated.
        """
        if len(self.size) != 3 or len(self.mean) != 1:
            raise ValueError(f"{self.name!r} takes no grey volumes, whose card has three numbers in size, one in mean.")
        x = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
        if size == "model" and tuple(x.shape[2:]) != self.size:
            x = F.adaptive_avg_pool3d(x, [min(n, s) for n, s in zip(x.shape[2:], self.size, strict=True)])
            x = F.interpolate(x, self.size, mode="trilinear", align_corners=False)
        return self.normalise(x)[0]

    def view(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The box (top, left, height, width) of a picture of that size that the model sees."""
        if self.fit == "squash":
            return 0, 0, height, width
        axes = zip((height, width), self._before_crop(height, width), self.size, strict=True)
        (top, h), (left, w) = ((round(round((b - s) / 2) * n / b), max(1, round(s * n / b))) for n, b, s in axes)
        return top, left, h, w

    def _before_crop(self, height: int, width: int) -> tuple[int, int]:
        """The size before the centre crop: the shorter side becomes `resize`, as torchvision does it."""
        side, short = max(self.resize or 0, *self.size), min(height, width)
        return int(side * height / short), int(side * width / short)

    def normalise(self, x: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation of each channel of `(N, C, *spatial)`."""
        mean, std = self._statistics(x)
        return (x - mean) / std

    def display(self, x: Tensor) -> Tensor:
        """Undo `normalise`, clipped to 0..1."""
        mean, std = self._statistics(x)
        return (x * std + mean).clamp(0, 1)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x.new_tensor(self.mean).view(shape), x.new_tensor(self.std).view(shape)


def fields(text: str) -> dict[str, Any]:
    """The fields of a card that a text states, or a card's JSON file.

    >>> fields("size=32; mean=0.5,0.5,0.5")
    {'size': '32', 'mean': '0.5,0.5,0.5'}
    """
    if text.endswith(".json"):
        return json.loads(Path(text).read_text(encoding="utf-8"))
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise ValueError(f"The card {text!r} cannot be read; write 'classes=10; size=32; fit=crop', or name its file.")
    return {name.strip(): value.strip() for name, _, value in pairs}
