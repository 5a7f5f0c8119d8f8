"""Which way the planes of a volume lie on the page, and what stands at their edges."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..evaluate import localisation

AXES = tuple(f"{name} {letter}" for name, letter in zip(localisation.AXES, "zyx", strict=True))
SEEN = ((1, 2), (0, 2), (1, 0))  # the axes that run down and across in the planes across z, y and x


class View(NamedTuple):
    """How a plane lies on the page: the axes that run down and across, which of them are turned round, its name.

    And the directions at its left, right, top and bottom, where they are known.
    """

    down: int
    across: int
    turned: tuple[bool, bool] = (False, False)
    name: str = ""
    letters: tuple[str, ...] = ()

    def lay(self, plane: np.ndarray, axis: int) -> np.ndarray:
        """A plane in the order of `SEEN` in that of this view."""
        return plane if (self.down, self.across) == SEEN[axis] else plane.T


def views(orientation: str | None = None, upright: bool = True) -> list[View]:
    """The planes across z, y and x; as radiologists hang them, where x, y, z run to `orientation`, such as "LPS".

    The patient's left is on the right, the front or the head on top. What is not `upright`, such as an OCT, stays as it
    is stored.

    >>> [(view.name, "".join(view.letters)) for view in views("LPS")]
    [('axial', 'RLAP'), ('coronal', 'RLSI'), ('sagittal', 'APSI')]
    """
    opposite, found = dict(zip("LRPASI", "RLAPIS", strict=True)), []
    for axis, (down, across) in enumerate(SEEN):
        if not orientation:
            found.append(View(down, across, name=AXES[axis]))
            continue
        runs, turned, name = orientation[::-1], (False, False), AXES[axis]
        if upright:
            rank = ["LRPASI".index(letter) // 2 for letter in runs]
            down, across = (across, down) if rank[across] > rank[down] else (down, across)
            turned, name = (runs[down] in "AS", runs[across] in "RA"), ("sagittal", "coronal", "axial")[rank[axis]]
        bottom, right = (opposite[runs[a]] if t else runs[a] for a, t in zip((down, across), turned, strict=True))
        found.append(View(down, across, turned, name, (opposite[right], right, opposite[bottom], bottom)))
    return found


def planes_through(volume: np.ndarray, point: Sequence[int], seen: Sequence[View] = ()) -> list[np.ndarray]:
    """The planes through a voxel `(z, y, x)`: across z `(Y, X)`, across y `(Z, X)`, across x `(Y, Z)`, or as `seen`."""
    z, y, x = point
    flat = (volume[z], volume[:, y], volume[:, :, x].T)
    return [view.lay(plane, axis) for axis, (view, plane) in enumerate(zip(seen or views(), flat, strict=True))]
