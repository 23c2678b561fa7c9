"""The mean of a metric over seeds of training and over sets, with an interval for both."""

import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

from fsvfm_jax.report.bootstrap import DRAWS, bootstrap_values, percentile_interval
from fsvfm_jax.report.metrics import NORMAL_QUANTILE, Interval, VideoScores, auc


class Resampled(NamedTuple):
    """A metric of one network on one set.

    Attributes:
        value: The metric on the whole set.
        draws: The metric on draws of the set's videos. Two networks have the same draws of a set.
    """

    value: float
    draws: Float64[np.ndarray, " draws"]


def resampled_auc(videos: VideoScores, *, of: str) -> Resampled:
    """Returns the AUC of a network's scores of videos.

    Args:
        videos: The videos of one set, of both classes.
        of: Name of the set, the seed of the draws: the draws of different sets are independent.
    """
    columns = (videos.scores, videos.positive, videos.videos)
    draws = bootstrap_values(auc, *columns, seed=_seed(of))
    return Resampled(auc(videos.scores, videos.positive), draws)


def resampled_mean(values: Float64[np.ndarray, " N"], *, of: str) -> Resampled:
    """Returns the mean of independent values, one for each face or video.

    Args:
        values: The values, at least one.
        of: As for `resampled_auc`.
    """
    chosen = np.random.default_rng(_seed(of)).integers(len(values), size=(DRAWS, len(values)))
    return Resampled(float(values.mean()), values[chosen].mean(axis=1))


def _seed(name: str) -> int:
    return zlib.crc32(name.encode())


def difference(one: Resampled, other: Resampled) -> Resampled:
    """Returns one network's metric minus another's, on the same draws of the same set."""
    return Resampled(one.value - other.value, one.draws - other.draws)


def over_seeds_and_sets(
    table: Sequence[Sequence[Resampled]], *, low: float = 0.0
) -> tuple[dict[str, Any], Interval]:
    """Returns the mean over seeds and sets, and its 95 % interval.

    With one seed the interval is that of the draws: it contains only the uncertainty of the videos.
    With several seeds it adds the variance of the draws and that of the mean over the seeds, the
    latter with the quantile of Student's t distribution. The interval is bounded by `low` and 1.
    Sets count as independent.

    Args:
        table: The metric by seed and by set. The sets are the same for all seeds.
        low: The smallest value that the metric can have; -1 for a difference.

    Returns:
        The fields `mean`, `sd` (over the seeds' means over the sets, n - 1; None for one seed) and
        `n`, the number of seeds; and the interval.
    """
    values = np.array([[one.value for one in row] for row in table]).mean(axis=1)
    # The videos of a set are drawn once for all seeds.
    draws = np.mean([[one.draws for one in row] for row in table], axis=(0, 1))
    seeds, mean = len(values), float(values.mean())
    if seeds == 1:
        return {"mean": mean, "sd": None, "n": 1}, percentile_interval(draws)
    sd = float(values.std(ddof=1))
    of_videos = NORMAL_QUANTILE * float(draws.std())
    of_seeds = float(stdtrit(seeds - 1, 0.975)) * sd / math.sqrt(seeds)
    half = math.hypot(of_videos, of_seeds)
    interval = Interval(max(low, mean - half), min(1.0, mean + half))
    return {"mean": mean, "sd": sd, "n": seeds}, interval
