"""Exact sums over pixels, and the statistics computed from them.

Data workers import this module.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

# Far below any deviation that 256 levels can show. Dividing by a much smaller one in float32 is
# like dividing by 0.
MIN_STD = 1e-4


class Stats(NamedTuple):
    """Mean and standard deviation of red, green and blue, for pixels in 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def power_sums(image: UInt8[np.ndarray, "H W 3"]) -> Int64[np.ndarray, "3 3"]:
    """Returns for the powers 0, 1 and 2 (rows) the sums of every channel's values to that power."""
    pixels = image.reshape(-1, 3)
    squares = np.square(pixels, dtype=np.uint16)
    sums = [np.full(3, len(pixels)), *(x.sum(axis=0, dtype=np.int64) for x in (pixels, squares))]
    return np.stack(sums)


def stats_of_sums(sums: Sequence[Sequence[int]]) -> Stats:
    """Returns mean and population standard deviation of the pixels with these power sums.

    Args:
        sums: Sums for the powers 0, 1 and 2 (rows) of the three channels. Python's integers do not
            overflow.

    Raises:
        ArithmeticError: No pixels have these sums (no pixel at all).
        ValueError: No pixels have these sums (a negative variance).
    """
    mean, std = [], []
    for count, total, squares in zip(*sums, strict=True):
        mean.append(total / count / 255)
        std.append(math.sqrt(count * squares - total * total) / count / 255)
    return Stats(tuple(mean), tuple(std))


def pool_stats(stats: Sequence[Stats], counts: Sequence[int]) -> Stats:
    """Returns the statistics of several sets together, whose faces all have the same size.

    Args:
        stats: Statistics of each set.
        counts: Number of faces of each set.
    """
    weights = np.asarray(counts, np.float64) / sum(counts)
    means, stds = (np.array([getattr(x, name) for x in stats]) for name in ("mean", "std"))
    mean = weights @ means
    std = np.sqrt(weights @ (stds**2 + (means - mean) ** 2))
    return Stats(tuple(mean.tolist()), tuple(std.tolist()))
