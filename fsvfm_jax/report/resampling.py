"""The mean of a metric over seeds of training and over sets, with an interval for both."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from fsvfm_jax.report.bootstrap import DRAWS, bootstrap_values, percentile_interval
from fsvfm_jax.report.metrics import Interval, VideoScores, auc


class Resampled(NamedTuple):
    """A metric of one network on one set.

    Attributes:
        value: The metric on the whole set.
        draws: The metric on draws of the set's videos. Two networks have the same draws of a set.
    """

    value: float
    draws: Float64[np.ndarray, " draws"]


def resampled_auc(videos: VideoScores) -> Resampled:
    """Returns the AUC of a network's scores of videos.

    Args:
        videos: The videos of one set, of both classes.
    """
    columns = (videos.scores, videos.positive, videos.videos)
    draws = bootstrap_values(auc, *columns, seed=0)
    return Resampled(auc(videos.scores, videos.positive), draws)


def resampled_mean(values: Float64[np.ndarray, " N"]) -> Resampled:
    """Returns the mean of independent values, one for each face or video.

    Args:
        values: The values, at least one.
    """
    chosen = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    return Resampled(float(values.mean()), values[chosen].mean(axis=1))


def over_seeds_and_sets(
    table: Sequence[Sequence[Resampled]],
) -> tuple[dict[str, Any], Interval]:
    """Returns the mean over seeds and sets, and its 95 % interval.

    Each draw of the interval draws seeds with replacement, and the videos of every set once for all
    seeds. With one seed the interval contains only the uncertainty of the videos.

    Args:
        table: The metric by seed and by set. The sets are the same for all seeds.

    Returns:
        The fields `mean`, `sd` (over the seeds' means over the sets, n - 1; None for one seed) and
        `n`, the number of seeds; and the interval.
    """
    values = np.array([[one.value for one in row] for row in table]).mean(axis=1)
    draws = np.array([np.mean([one.draws for one in row], axis=0) for row in table])
    seeds, count = draws.shape
    chosen = np.random.default_rng(0).integers(seeds, size=(seeds, count))
    interval = percentile_interval(np.take_along_axis(draws, chosen, axis=0).mean(axis=0))
    sd = float(values.std(ddof=1)) if seeds > 1 else None
    mean = {"mean": float(values.mean()), "sd": sd, "n": seeds}
    return mean, interval
