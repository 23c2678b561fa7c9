"""Exact sums over pixels, and the mean and standard deviation they give. Workers import it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

MIN_STD = 1e-4  # far below what 256 levels can show; in float32 much less divides like 0


class Stats(NamedTuple):
    """Mean and standard deviation of red, green and blue, for pixels in 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def power_sums(image: UInt8[np.ndarray, "H W 3"]) -> Int64[np.ndarray, "3 3"]:
    """Returns, for the powers 0, 1 and 2 (rows), the sum of every channel's values to it."""
    pixels = image.reshape(-1, 3)
    squares = np.square(pixels, dtype=np.uint16)
    sums = [np.full(3, len(pixels)), *(x.sum(axis=0, dtype=np.int64) for x in (pixels, squares))]
    return np.stack(sums)


def stats_of_sums(sums: Sequence[Sequence[int]]) -> Stats:
    """Returns what the pixels with these power sums have; whole numbers of Python, without limit.

    The standard deviation is that of the population.
    """
    mean, std = [], []
    for count, total, squares in zip(*sums, strict=True):
        mean.append(total / count / 255)
        std.append(math.sqrt(count * squares - total * total) / count / 255)
    return Stats(tuple(mean), tuple(std))


def pool_stats(stats: Sequence[Stats], counts: Sequence[int]) -> Stats:
    """Returns the statistics of all together, of sets with so many faces of one size each."""
    weights = np.asarray(counts, np.float64) / sum(counts)
    means, stds = (np.array([getattr(x, name) for x in stats]) for name in ("mean", "std"))
    mean = weights @ means
    std = np.sqrt(weights @ (stds**2 + (means - mean) ** 2))
    return Stats(tuple(mean.tolist()), tuple(std.tolist()))
