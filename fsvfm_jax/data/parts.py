"""Several sequences read as one, such as the shards of a set or the sets of a run."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Parts:
    """The elements of the first part, followed by those of the second, and so on.

    Attributes:
        sizes: Number of elements of each part.
    """

    def __init__(self, sizes: Sequence[int]):
        self.sizes = list(sizes)
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Returns the number of the part that contains an index, and the place within that part.

        Raises:
            IndexError: The index is beyond the last element.
        """
        index = range(len(self))[index]
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - int(self._ends[number]) + self.sizes[number]

    def read(
        self, indices: Sequence[int], read: Callable[[int, Sequence[int]], Sequence[T]]
    ) -> list[T]:
        """Returns the elements at these indices, in the order of the indices.

        Args:
            indices: Indices in any order.
            read: Returns the elements of one part, given its number and places in it. It is called
                once for each part that is needed.
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
