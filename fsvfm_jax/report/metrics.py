"""Metrics of how well scores separate two classes, and their confidence intervals, with NumPy only.

Every rate is a fraction of 1, and every metric belongs to a whole set: never average one over
batches. The positive class has the high scores; it is fake in deepfake detection and live in
anti-spoofing.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from fsvfm_jax.errors import DataError

Values = Float64[np.ndarray, " N"]
# The type checker accepts any length, because `_check` raises an error sentence for a wrong one.
Labels = Bool[np.ndarray, " _"]
Names = Shaped[np.ndarray, " _"]

# The thresholds of the anti-spoofing protocols. The last one rejects every face.
GRID = np.append(np.arange(10_001) / 10_000, 1.1)


NORMAL_QUANTILE = 1.959963984540054  # 97.5 %


class Roc(NamedTuple):
    """The points of a ROC curve, from (0, 0) to (1, 1), one for every distinct score.

    Attributes:
        fpr: Share of the negatives with a score of at least the threshold, ascending.
        tpr: Share of the positives with a score of at least the threshold, ascending.
        thresholds: Thresholds, descending; the one of (0, 0) is infinite.
    """

    fpr: Float64[np.ndarray, " P"]
    tpr: Float64[np.ndarray, " P"]
    thresholds: Float64[np.ndarray, " P"]


class VideoScores(NamedTuple):
    """One score and one label per video, sorted by the videos' names."""

    videos: Shaped[np.ndarray, " V"]
    scores: Float64[np.ndarray, " V"]
    positive: Bool[np.ndarray, " V"]


class GridThreshold(NamedTuple):
    """The threshold of the grid where FAR and FRR are nearest, and the mean of both there."""

    threshold: float
    eer: float


class ErrorRates(NamedTuple):
    """Error rates of anti-spoofing at one threshold.

    Attributes:
        far: Share of the attacks that are accepted as live: APCER, over all kinds of attack
            together.
        frr: Share of the live faces that are rejected: BPCER.
        hter: Mean of both: ACER.
    """

    far: float
    frr: float
    hter: float


class Interval(NamedTuple):
    """Bounds of a confidence interval."""

    low: float
    high: float


def roc(scores: Values, positive: Labels) -> Roc:
    """Returns the ROC curve, with one point for equal scores and without leaving out any point.

    All metrics below take the same arguments and raise the same error.

    Args:
        scores: Scores; higher is more positive.
        positive: True for the positive class.

    Raises:
        DataError: Lengths differ, there are no scores, a score is not finite, or a class is
            missing.
    """
    false, true, thresholds = _counts(scores, positive)
    return Roc(false / false[-1], true / true[-1], thresholds)


def auc(scores: Values, positive: Labels) -> float:
    """Returns the area under the ROC curve.

    The area is the probability that a positive has a higher score than a negative; a tie counts
    half.
    """
    false, true, _ = _counts(scores, positive)
    # Twice the area is an integer, so the result does not depend on the order of the samples.
    twice = np.diff(false) @ (true[1:] + true[:-1])
    return float(twice / (2 * false[-1] * true[-1]))


def average_precision(scores: Values, positive: Labels) -> float:
    """Returns the precision at every distinct score, weighted by the gain of recall there.

    There is no interpolation.
    """
    false, true, _ = _counts(scores, positive)
    return float(np.diff(true) @ (true[1:] / (false + true)[1:]) / true[-1])


def equal_error_rate(scores: Values, positive: Labels) -> float:
    """Returns the rate where fpr = 1 - tpr on the ROC curve, interpolated linearly."""
    fpr, tpr, _ = roc(scores, positive)
    return float(np.interp(0.0, fpr + tpr - 1.0, fpr))


def balanced_accuracy(scores: Values, positive: Labels, *, threshold: float | int = 0.5) -> float:
    """Returns the mean of the two classes' accuracies."""
    return 1.0 - error_rates(scores, positive, threshold).hter


def grid_threshold(scores: Values, live: Labels) -> GridThreshold:
    """Returns the last threshold of least |FRR - FAR| among 0, 0.0001 ... 1, and 1.1.

    This is the EER of the protocols. It is not interpolated, and therefore differs from the result
    of `equal_error_rate`.
    """
    far, frr = _false_shares(scores, live, GRID)
    # The protocols use floating point, in which thresholds may differ that tie as exact fractions.
    distances = np.abs(frr - far)
    best = np.flatnonzero(distances == distances.min())[-1]
    return GridThreshold(float(GRID[best]), float((far[best] + frr[best]) / 2))


def error_rates(scores: Values, live: Labels, threshold: float | int) -> ErrorRates:
    """Returns FAR, FRR and HTER; a score of at least the threshold counts as live."""
    (far,), (frr,) = _false_shares(scores, live, np.array([threshold], np.float64))
    return ErrorRates(float(far), float(frr), float((far + frr) / 2))


def tpr_at_fpr(scores: Values, live: Labels, fpr: float | int = 0.01) -> float:
    """Returns the true positive rate at the last ROC point within `fpr`, not interpolated."""
    curve = roc(scores, live)
    return float(curve.tpr[curve.fpr <= fpr][-1])


def probability(margins: Values) -> Values:
    """Returns probabilities of fake; margins are clipped to +-700, so that exp stays finite."""
    return 1 / (1 + np.exp(-np.clip(margins, -700, 700)))


def rate_interval(count: int, total: int) -> Interval:
    """Returns Wilson's 95 % interval of a share of independent samples, such as of real videos.

    Unlike a bootstrap interval it does not shrink to a point where no sample or every sample
    counts: none of 10 gives 0 to 0.28.

    Args:
        count: Number of samples that count.
        total: Number of all samples, at least 1.
    """
    share, z = count / total, NORMAL_QUANTILE
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    low, high = float(middle - half), float(middle + half)
    # Rounding must not leave the share outside, nor the bounds outside of 0 to 1.
    return Interval(max(0.0, min(share, low)), min(1.0, max(share, high)))


def rates_at(
    scores: Values, positive: Labels, threshold: float | int
) -> dict[str, float | Interval]:
    """Returns the rates `tpr` and `fpr` of a threshold, and `tpr_interval` and `fpr_interval`.

    Args:
        scores: Scores of independent samples, such as videos.
        positive: True for the positive class. A class without samples has no rate.
        threshold: A score of at least this counts as positive.
    """
    rates: dict[str, float | Interval] = {}
    for name, of_class in (("tpr", scores[positive]), ("fpr", scores[~positive])):
        if len(of_class):
            count = int((of_class >= threshold).sum())
            rates[name] = count / len(of_class)
            rates[f"{name}_interval"] = rate_interval(count, len(of_class))
    return rates


def video_means(scores: Values, positive: Labels, videos: Names) -> VideoScores:
    """Returns the mean score of every video's frames; all videos may be of one class.

    Args:
        scores: Scores of frames, in any order.
        positive: Label of each frame.
        videos: Name of the video of each frame.

    Raises:
        DataError: A video has frames of both classes, or scores or lengths are wrong (see `roc`).
    """
    _check(scores, positive, videos)
    names, index, labels = by_video(positive, videos)
    return VideoScores(names, np.bincount(index, scores) / np.bincount(index), labels)


def by_video(
    positive: Labels, videos: Names
) -> tuple[Shaped[np.ndarray, " V"], Int64[np.ndarray, " _"], Bool[np.ndarray, " V"]]:
    """Returns the videos' sorted names, the index of each frame's video, and the videos' labels.

    Raises:
        DataError: A video has frames of both classes.
    """
    names, index = np.unique(videos, return_inverse=True)
    positives, frames = np.bincount(index, positive), np.bincount(index)
    mixed = names[(positives > 0) & (positives < frames)].tolist()
    if mixed:
        raise DataError(
            f"{len(mixed)} of {len(names)} videos have frames of both classes, such as"
            f" {mixed[0]!r}; give each video one label, or two of the same name different names"
        )
    return names, index, positives > 0


def equal_error_threshold(scores: Values, positive: Labels) -> float:
    """Returns the threshold where FPR and 1 - TPR are nearest; it lies between two scores."""
    curve = roc(scores, positive)
    # The first point has no threshold, because nothing reaches it.
    place = 1 + int(np.argmin(np.abs(curve.fpr - (1 - curve.tpr))[1:]))
    return threshold_below(curve.thresholds, place)


def threshold_below(thresholds: Float64[np.ndarray, " P"], place: int) -> float:
    """Returns the middle of a threshold and the next lower one, if rounding leaves it above that.

    A score that is computed again may differ in its last digits, and stays on its side.

    Args:
        thresholds: Thresholds of a ROC curve, descending.
        place: Place of the threshold.
    """
    upper = float(thresholds[place])
    if place + 1 == len(thresholds):
        return upper
    lower = float(thresholds[place + 1])
    middle = (upper + lower) / 2
    return middle if middle > lower else upper


def _counts(
    scores: Values, positive: Labels
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"], Float64[np.ndarray, " P"]]:
    """Returns false and true positives at every distinct score, descending, from infinity on."""
    check_classes(scores, positive)
    order = np.argsort(scores, kind="stable")[::-1]  # A stable sort of sorted scores is linear.
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    true = np.cumsum(positive[order], dtype=np.int64)[ends]
    false = ends + 1 - true
    return np.append(0, false), np.append(0, true), np.append(np.inf, ranked[ends])


def _false_shares(
    scores: Values, positive: Labels, thresholds: Float64[np.ndarray, " T"]
) -> tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, " T"]]:
    """Returns for each threshold the share of negatives not below it, and of positives below it."""
    check_classes(scores, positive)
    above, below = np.sort(scores[~positive]), np.sort(scores[positive])
    accepted = len(above) - np.searchsorted(above, thresholds, side="left")
    return accepted / len(above), np.searchsorted(below, thresholds, side="left") / len(below)


def check_classes(scores: Values, positive: Labels, *columns: Names) -> None:
    """Raises the errors of `roc`; further columns must be as long as the scores."""
    _check(scores, positive, *columns)
    if positive.all() or not positive.any():
        missing = "negative (real, or an attack)" if positive.all() else "positive (fake, or live)"
        raise DataError(
            f"none of the {len(positive)} labels is {missing}; AUC and error rates need both"
            " classes: add such faces"
        )


def _check(scores: Values, *columns: Names) -> None:
    """Raises DataError unless there are scores, all are finite, and the columns are as long."""
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
