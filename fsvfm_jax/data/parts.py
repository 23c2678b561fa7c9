"""Several sequences read as one, such as the shards of a set or the sets of a run."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Parts:
    """What is in the first part, then what is in the next, ...

    Attributes:
        sizes: Of each part.
    """

    def __init__(self, sizes: Sequence[int]):
        self.sizes = list(sizes)
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Which part, and where in it; raises IndexError beyond the last."""
        index = range(len(self))[index]
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - int(self._ends[number]) + self.sizes[number]

    def read(
        self, indices: Sequence[int], read: Callable[[int, Sequence[int]], Sequence[T]]
    ) -> list[T]:
        """Returns what is at these indices, in their order.

        Args:
            indices: Any, in any order.
            read: Called once for each part that is needed, with its number and where in it.
        """
        asked: dict[int, list[tuple[int, int]]] = {}
        for row, index in enumerate(indices):
            number, within = self.locate(index)
            asked.setdefault(number, []).append((within, row))
        found: dict[int, T] = {}
        for number, wanted in asked.items():
            places, rows = zip(*wanted, strict=True)
            found |= zip(rows, read(number, places), strict=True)
        return [found[row] for row in range(len(indices))]
