"""Progress of long work: a bar on a terminal, elsewhere a plain line now and then."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
EVERY = 10.0  # seconds between two plain lines, so that the log of a long run stays short


class Progress(AbstractContextManager):
    """Counts steps towards a total, visibly."""

    def __init__(self, total: int, what: str, unit: str = "step", show: bool = True):
        self.total, self.what, self.unit, self.done = total, what, unit, 0
        self._bar = tqdm(total=total, desc=what, unit=unit, disable=not (show and sys.stderr.isatty()))
        self._lines = show and self._bar.disable
        self._start = self._told = perf_counter()

    def step(self, n: int = 1, note: str = "") -> None:
        """Count `n` further steps; `note` says what is being worked on."""
        self.done += n
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(n)
        now = perf_counter()
        if self._lines and (self.done >= self.total or now - self._told >= EVERY):
            self._told, tail = now, f" ({note})" if note else ""
            line = f"{self.what}: {self.done} of {self.total} {self.unit}s, {now - self._start:.0f} s{tail}"
            print(line, file=sys.stderr, flush=True)

    def __exit__(self, *error: Any) -> None:
        self._bar.close()


def track(items: Sequence[T], what: str, unit: str = "step", show: bool = True) -> Iterator[T]:
    """Hand out the items of a loop and count them."""
    with Progress(len(items), what, unit, show) as counter:
        for item in items:
            yield item
            counter.step()
