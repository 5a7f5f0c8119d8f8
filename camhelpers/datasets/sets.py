"""What drawn datasets share: random streams, splits of seeds, and sets that keep how each drawing is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


def stream(seed: int, number: int) -> np.random.Generator:
    """One random stream of a seed; a drawing takes one for each thing, so that what is left out changes no other."""
    return np.random.default_rng((seed, number))


def seeds(splits: Mapping[str, int], size: int, split: str, n: int, start: int = 0) -> range:
    """The seeds of the `n` drawings of a split from number `start` on."""
    if split not in splits:
        raise ValueError(f"There is no split {split!r}; choose from {', '.join(splits)}, as in test:60.")
    if n < 1 or start < 0 or start + n > size:
        raise ValueError(f"A split holds drawings 0 to {size - 1}; {n} from {start} on are not among them (test:60).")
    return range(splits[split] + start, splits[split] + start + n)


@dataclass(frozen=True, eq=False)
class Drawings:
    """Many drawings, kept small: their classes and masks, and the arguments of `draw` that make `set[i]` again."""

    draw: Callable[..., Any]
    recipes: list[dict[str, Any]]
    labels: np.ndarray
    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.recipes)

    def __getitem__(self, i: int) -> Any:
        return self.draw(**self.recipes[i])

    def redraw(self, i: int, **changes: Any) -> Any:
        """The drawing at `i` with other arguments for `draw`."""
        return self.draw(**{**self.recipes[i], **changes})
