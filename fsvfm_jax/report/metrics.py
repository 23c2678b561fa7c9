"""How well scores tell two classes apart: areas, error rates, and how sure they are (NumPy).

Every rate is a fraction of 1 and every metric one of the whole set: never average one over batches.
The positive class is fake in deepfake detection and live in anti-spoofing, and has the high scores.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from fsvfm_jax.errors import DataError

Values = Float64[np.ndarray, " N"]
# Of any length for the type checker: a length that does not fit is told in a sentence.
Labels = Bool[np.ndarray, " _"]
Names = Shaped[np.ndarray, " _"]

# Thresholds of the anti-spoofing protocols; the last rejects everything.
GRID = np.append(np.arange(10_001) / 10_000, 1.1)


class Roc(NamedTuple):
    """The points of a ROC curve, from (0, 0) to (1, 1), one for every distinct score.

    Attributes:
        fpr: Share of the negatives with a score of at least the threshold, ascending.
        tpr: Share of the positives, likewise.
        thresholds: Descending; infinite at (0, 0).
    """

    fpr: Float64[np.ndarray, " P"]
    tpr: Float64[np.ndarray, " P"]
    thresholds: Float64[np.ndarray, " P"]


class VideoScores(NamedTuple):
    """One score and one label per video, in the order of their names."""

    videos: Shaped[np.ndarray, " V"]
    scores: Float64[np.ndarray, " V"]
    positive: Bool[np.ndarray, " V"]


class GridThreshold(NamedTuple):
    """The threshold of the grid where FAR and FRR are nearest, and their mean there."""

    threshold: float
    eer: float


class ErrorRates(NamedTuple):
    """Errors of anti-spoofing at one threshold.

    Attributes:
        far: Share of attacks accepted as live: APCER, over all kinds of attack together.
        frr: Share of live faces rejected: BPCER.
        hter: The mean of the two: ACER.
    """

    far: float
    frr: float
    hter: float


class Interval(NamedTuple):
    """Bounds of a confidence interval."""

    low: float
    high: float


def roc(scores: Values, positive: Labels) -> Roc:
    """The ROC curve; equal scores are one point, and no point is left out.

    Args:
        scores: Higher is more positive.
        positive: True for the positive class.

    Raises:
        DataError: Lengths that differ, no scores, a score that is not finite, or a missing class;
            so do all metrics below.
    """
    false, true, thresholds = _counts(scores, positive)
    return Roc(false / false[-1], true / true[-1], thresholds)


def auc(scores: Values, positive: Labels) -> float:
    """Area under the ROC curve: how often a positive is above a negative, a tie being half."""
    false, true, _ = _counts(scores, positive)
    # Twice the area in whole numbers, so that the order of the samples changes nothing.
    twice = np.diff(false) @ (true[1:] + true[:-1])
    return float(twice / (2 * false[-1] * true[-1]))


def average_precision(scores: Values, positive: Labels) -> float:
    """Precision at every distinct score, weighted by the recall gained there (no interpolation)."""
    false, true, _ = _counts(scores, positive)
    return float(np.diff(true) @ (true[1:] / (false + true)[1:]) / true[-1])


def equal_error_rate(scores: Values, positive: Labels) -> float:
    """Where fpr = 1 - tpr on the ROC curve, with straight lines between its points."""
    fpr, tpr, _ = roc(scores, positive)
    return float(np.interp(0.0, fpr + tpr - 1.0, fpr))


def balanced_accuracy(scores: Values, positive: Labels, *, threshold: float | int = 0.5) -> float:
    """Mean of the two classes' accuracies."""
    return 1.0 - error_rates(scores, positive, threshold).hter


def grid_threshold(scores: Values, live: Labels) -> GridThreshold:
    """The last threshold of least |FRR - FAR| among 0, 0.0001 ... 1, and 1.1.

    The protocols' EER: not interpolated, and so not what `equal_error_rate` gives.
    """
    far, frr = _false_shares(scores, live, GRID)
    # In floating point, as the protocols compute it: it may part what would tie in fractions.
    distances = np.abs(frr - far)
    best = np.flatnonzero(distances == distances.min())[-1]
    return GridThreshold(float(GRID[best]), float((far[best] + frr[best]) / 2))


def error_rates(scores: Values, live: Labels, threshold: float | int) -> ErrorRates:
    """FAR, FRR and HTER, taking for live what has at least the threshold."""
    (far,), (frr,) = _false_shares(scores, live, np.array([threshold], np.float64))
    return ErrorRates(float(far), float(frr), float((far + frr) / 2))


def tpr_at_fpr(scores: Values, live: Labels, fpr: float | int = 0.01) -> float:
    """True positive rate at the last point of the ROC curve within `fpr`, not interpolated."""
    curve = roc(scores, live)
    return float(curve.tpr[curve.fpr <= fpr][-1])


def video_means(scores: Values, positive: Labels, videos: Names) -> VideoScores:
    """Mean score of every video's frames; one class will do.

    Args:
        scores: Of frames, in any order.
        positive: Of frames.
        videos: The video of each frame.

    Raises:
        DataError: A video with frames of both classes, or what is wrong with the scores.
    """
    _check(scores, positive, videos)
    names, index, labels = _by_video(positive, videos)
    return VideoScores(names, np.bincount(index, scores) / np.bincount(index), labels)


def bootstrap_interval(
    metric: Callable[[Values, Labels], float],
    scores: Values,
    positive: Labels,
    videos: Names,
    *,
    seed: int,
    draws: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a metric, from drawing whole videos with replacement.

    Frames of one video are alike: drawing frames would give intervals that are too narrow. For a
    metric of videos give what `video_means` returns.

    Args:
        metric: Such as `auc`, of scores and positive.
        scores: Of frames, or of videos.
        positive: Of the same.
        videos: The video of each.
        seed: The same one gives the same interval, however the frames are ordered.
        draws: How many times to draw; what holds one class only is drawn again.
        level: Share of the draws within the interval.

    Raises:
        DataError: As `video_means`, and for a missing class.
    """
    _check(scores, positive, videos)
    _check_classes(positive)
    _, index, labels = _by_video(positive, videos)
    # Sorted once: repeated in this order a draw is sorted too, and no metric has to work for it.
    order = np.argsort(scores, kind="stable")
    scores, positive, index = scores[order], positive[order], index[order]
    values = []
    for times in islice(_video_draws(labels, seed), draws):
        repeats = times[index]
        values.append(metric(np.repeat(scores, repeats), np.repeat(positive, repeats)))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _video_draws(positive: Bool[np.ndarray, " V"], seed: int) -> Iterator[Int64[np.ndarray, " V"]]:
    """How often each video is drawn, again and again, both classes being among the drawn."""
    rng, count = np.random.default_rng(seed), len(positive)
    while True:
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        if 0 < times[positive].sum() < count:
            yield times


def _counts(
    scores: Values, positive: Labels
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"], Float64[np.ndarray, " P"]]:
    """False and true positives at every distinct score, descending, after 0 and 0 at infinity."""
    _check(scores, positive)
    _check_classes(positive)
    order = np.argsort(scores, kind="stable")[::-1]  # a stable sort is linear on what is sorted
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    true = np.cumsum(positive[order], dtype=np.int64)[ends]
    false = ends + 1 - true
    return np.append(0, false), np.append(0, true), np.append(np.inf, ranked[ends])


def _false_shares(
    scores: Values, positive: Labels, thresholds: Float64[np.ndarray, " T"]
) -> tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, " T"]]:
    """For each threshold: the share of negatives at or above it, and of positives below it."""
    _check(scores, positive)
    _check_classes(positive)
    above, below = np.sort(scores[~positive]), np.sort(scores[positive])
    accepted = len(above) - np.searchsorted(above, thresholds, side="left")
    return accepted / len(above), np.searchsorted(below, thresholds, side="left") / len(below)


def _by_video(
    positive: Labels, videos: Names
) -> tuple[Shaped[np.ndarray, " V"], Int64[np.ndarray, " _"], Bool[np.ndarray, " V"]]:
    """The videos' names in order, the position of each frame's among them, and their labels."""
    names, index = np.unique(videos, return_inverse=True)
    positives, frames = np.bincount(index, positive), np.bincount(index)
    mixed = names[(positives > 0) & (positives < frames)].tolist()
    if mixed:
        raise DataError(
            f"{len(mixed)} of {len(names)} videos have frames of both classes, such as"
            f" {mixed[0]!r}; give each video one label, or two of the same name different names"
        )
    return names, index, positives > 0


def _check(scores: Values, *columns: Names) -> None:
    """Raises DataError unless there are scores, all of them finite, and as many of the others."""
    lengths = [len(column) for column in (scores, *columns)]
    if len(set(lengths)) > 1:
        raise DataError(
            f"scores, labels and videos must be of one length, not {', '.join(map(str, lengths))};"
            " give one of each per face"
        )
    if not len(scores):
        raise DataError("there are no scores to measure; name a set that holds faces")
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(scores)} scores are not finite, the first, at position"
            f" {wrong[0]}, is {scores[wrong[0]]}; look at that face and at the weights"
        )


def _check_classes(positive: Labels) -> None:
    """Raises DataError where one of the two classes is missing."""
    if positive.all() or not positive.any():
        missing = "negative (real, or an attack)" if positive.all() else "positive (fake, or live)"
        raise DataError(
            f"none of the {len(positive)} labels is {missing}; AUC and error rates need both"
            " classes: add such faces"
        )
