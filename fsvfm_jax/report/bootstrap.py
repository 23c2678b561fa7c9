"""Confidence intervals of metrics by the bootstrap over videos, with NumPy only."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
from jaxtyping import Bool, Float64, Int64

from fsvfm_jax.report.metrics import Interval, Labels, Names, Values, by_video, check_classes

DRAWS = 1000
Metric = Callable[[Values, Labels], float]


def bootstrap_interval(
    metric: Metric,
    scores: Values,
    positive: Labels,
    videos: Names,
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Interval:
    """Returns the percentile interval of a metric, from drawing whole videos with replacement.

    Args:
        metric: As in `bootstrap_values`.
        scores: As in `bootstrap_values`.
        positive: As in `bootstrap_values`.
        videos: As in `bootstrap_values`.
        seed: As in `bootstrap_values`.
        draws: As in `bootstrap_values`.
        level: Share of the draws within the interval.

    Raises:
        DataError: As `bootstrap_values`.
    """
    values = bootstrap_values(metric, scores, positive, videos, seed=seed, draws=draws)
    return percentile_interval(values, level=level)


def percentile_interval(
    values: Float64[np.ndarray, " D"], *, level: float | int = 0.95
) -> Interval:
    """Returns the interval that contains the middle share `level` of the values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def bootstrap_values(
    metric: Metric,
    scores: Values,
    positive: Labels,
    videos: Names,
    *,
    seed: int,
    draws: int = DRAWS,
) -> Float64[np.ndarray, " D"]:
    """Returns a metric of each of many draws of whole videos, with replacement.

    Frames of one video are alike, so drawing frames would give too narrow intervals. For a metric
    of videos pass the result of `video_means`. The draws depend only on the seed and on the labels
    of the videos in the order of their names: two detectors of the same videos have the same draws.

    Args:
        metric: A metric of scores and labels, such as `auc`.
        scores: Scores of frames, or of videos.
        positive: Label of each score.
        videos: Name of the video of each score.
        seed: Seed of the draws. The values do not depend on the order of the frames.
        draws: Number of draws. A draw with one class only is repeated.

    Raises:
        DataError: As `video_means`, and if a class is missing.
    """
    check_classes(scores, positive, videos)
    _, index, labels = by_video(positive, videos)
    # Repeating sorted scores gives sorted draws, and metrics sort a sorted draw fast.
    order = np.argsort(scores, kind="stable")
    scores, positive, index = scores[order], positive[order], index[order]
    values = []
    for times in islice(_video_draws(labels, seed), draws):
        repeats = times[index]
        values.append(metric(np.repeat(scores, repeats), np.repeat(positive, repeats)))
    return np.array(values, np.float64)


def _video_draws(positive: Bool[np.ndarray, " V"], seed: int) -> Iterator[Int64[np.ndarray, " V"]]:
    """Yields without end how often each video is drawn; every draw contains both classes."""
    rng, count = np.random.default_rng(seed), len(positive)
    while True:
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        if 0 < times[positive].sum() < count:
            yield times
