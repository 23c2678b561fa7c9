"""Compares two detectors on the same videos: differences of metrics, and which is right where."""

from collections import Counter
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from fsvfm_jax.errors import DataError, quoted
from fsvfm_jax.report.bootstrap import DRAWS, Metric, bootstrap_values, percentile_interval
from fsvfm_jax.report.metrics import (
    auc,
    average_precision,
    equal_error_rate,
    equal_error_threshold,
    video_means,
)
from fsvfm_jax.report.rows import BOOTSTRAP_SEED, Row
from fsvfm_jax.report.scores import Scores


class Measure(NamedTuple):
    """A metric that two detectors are compared by.

    Attributes:
        name: Its name in tables.
        metric: The metric.
        of_videos: Whether it is computed over the means of videos, or else over frames.
        is_error: Whether a lower value is better.
    """

    name: str
    metric: Metric
    of_videos: bool
    is_error: bool


# With fewer videos of a class the interval is not reliable.
MIN_VIDEOS = 20
# The metrics of a table of detection, computed as in it.
MEASURES = (
    Measure("video AUC", auc, True, False),
    Measure("frame AUC", auc, False, False),
    Measure("AP", average_precision, False, False),
    Measure("EER", equal_error_rate, False, True),
)


class Pair(NamedTuple):
    """The scores of two detectors for the same faces.

    Attributes:
        names: Names of the detectors.
        first: Scores of one detector.
        second: Scores of the other one.
    """

    names: tuple[str, str]
    first: Scores
    second: Scores


class Verdicts(NamedTuple):
    """The decisions of two detectors on videos, sorted by the videos' names.

    Attributes:
        videos: Names of the videos.
        fake: Whether each video is fake.
        scores: Mean p_fake of each video, by each detector.
        thresholds: The threshold of each detector; a score of at least this is taken for fake.
        right: Whether each detector is right.
    """

    videos: Shaped[np.ndarray, " V"]
    fake: Bool[np.ndarray, " V"]
    scores: tuple[Float64[np.ndarray, " V"], Float64[np.ndarray, " V"]]
    thresholds: tuple[float, float]
    right: tuple[Bool[np.ndarray, " V"], Bool[np.ndarray, " V"]]

    def disagree(self) -> Bool[np.ndarray, " V"]:
        """Returns whether the detectors decide differently, so that one of them is right."""
        return self.right[0] != self.right[1]


def check_same(pair: Pair) -> None:
    """Checks that both detectors have scores of the same faces, with the same labels and videos.

    A face is identified by its video and the name of its file, because the set may be in another
    folder for each detector.

    Raises:
        DataError: A video has another label, or a face is only in one of them.
    """
    names, dataset = pair.names, pair.first.dataset
    labels = [dict(zip(one.videos.tolist(), one.fake.tolist(), strict=True)) for one in pair[1:]]
    common = labels[0].keys() & labels[1].keys()
    if unlike := sorted(video for video in common if labels[0][video] != labels[1][video]):
        raise DataError(
            f"{dataset}: {len(unlike):,} of {len(common):,} common videos have another label in"
            f" {names[0]} than in {names[1]}: {quoted(unlike[:1])}; compare reports of one set"
        )
    faces = [_faces(one) for one in pair[1:]]
    only = [faces[0] - faces[1], faces[1] - faces[0]]
    if not any(only):
        return
    differences = [
        f"{one.total():,} of {of_all.total():,} faces only in {name}"
        + (f", such as {quoted(['/'.join(min(one))])}" if one else "")
        for name, one, of_all in zip(names, only, faces, strict=True)
    ]
    raise DataError(
        f"{dataset} has {' and '.join(differences)}: score the same faces with both detectors"
    )


def difference_rows(pair: Pair) -> list[Row]:
    """Returns a row for each of MEASURES with both values and their difference.

    Args:
        pair: Scores of the same faces, with both classes.
    """
    rows = []
    fewest = min(np.unique(pair.first.videos[pair.first.fake == one]).size for one in (0, 1))
    for measure in MEASURES:
        columns = [_columns(one, of_videos=measure.of_videos) for one in pair[1:]]
        values = [measure.metric(*each[:2]) for each in columns]
        draws = [bootstrap_values(measure.metric, *each, seed=BOOTSTRAP_SEED) for each in columns]
        difference = draws[1] - draws[0]
        interval = percentile_interval(difference)
        rows.append(
            {
                "dataset": pair.first.dataset,
                "measure": measure.name,
                **{f"value@{name}": x for name, x in zip(pair.names, values, strict=True)},
                "difference": values[1] - values[0],
                "difference_interval": list(interval),
                "p_value": p_value(difference),
                "note": _reading(interval, pair.names, fewest, is_error=measure.is_error),
            }
        )
    return rows


def p_value(differences: Float64[np.ndarray, " D"]) -> float:
    """Returns twice the share of the draws on the rarer side of zero; zeros are on both sides.

    One is added to both counts, so that it is never 0.
    """
    low, high = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (min(low, high) + 1) / (len(differences) + 1))


def verdicts(pair: Pair) -> Verdicts:
    """Returns the decisions of both detectors, each at its own threshold of equal errors."""
    first, second = (video_means(one.p_fake, one.fake, one.videos) for one in pair[1:])
    fake = first.positive
    thresholds = tuple(equal_error_threshold(one.scores, fake) for one in (first, second))
    right = tuple(
        (one.scores >= threshold) == fake
        for one, threshold in zip((first, second), thresholds, strict=True)
    )
    return Verdicts(first.videos, fake, (first.scores, second.scores), thresholds, right)


def verdict_row(pair: Pair, found: Verdicts) -> Row:
    """Returns a row with the thresholds and the number of videos on which detectors disagree."""
    alone = (found.right[0] & ~found.right[1], found.right[1] & ~found.right[0])
    names = pair.names
    return {
        "dataset": pair.first.dataset,
        "videos": len(found.videos),
        **{f"threshold@{name}": x for name, x in zip(names, found.thresholds, strict=True)},
        "both_right": int((found.right[0] & found.right[1]).sum()),
        **{f"only_right@{name}": int(x.sum()) for name, x in zip(names, alone, strict=True)},
        "both_wrong": int((~found.right[0] & ~found.right[1]).sum()),
        "disagree": int(found.disagree().sum()),
    }


def _faces(scores: Scores) -> Counter[tuple[str, str]]:
    """Returns the number of faces by their video and the name of their file."""
    files = (file.rsplit("/", 1)[-1] for file in scores.files.tolist())
    return Counter(zip(scores.videos.tolist(), files, strict=True))


def _columns(scores: Scores, *, of_videos: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns scores, labels and videos, of frames or of videos."""
    if not of_videos:
        return scores.p_fake, scores.fake, scores.videos
    videos, means, fake = video_means(scores.p_fake, scores.fake, scores.videos)
    return means, fake, videos


def _reading(
    interval: tuple[float, float], names: tuple[str, str], fewest: int, *, is_error: bool
) -> str:
    """Returns what the interval of a difference means, with `fewest` videos of a class."""
    low, high = interval
    if fewest < MIN_VIDEOS:
        return f"not decided: fewer than {MIN_VIDEOS} videos of a class"
    if low <= 0 <= high:
        return "not decided: the interval contains 0"
    return f"{names[(low > 0) != is_error]} is better"


CAPTION = f"""\
In percent. "difference" is {{second}} minus {{first}}; brackets contain its 95 % interval from
{DRAWS:,} draws of videos with replacement, which are the same draws for both detectors. p is the
share of the draws on the rarer side of 0, doubled: the smaller it is, the less the choice of the
videos explains the difference. It is not corrected for the number of sets and metrics, and says
nothing about other seeds of a training. Metrics are those of an evaluation: AP and EER over frames,
a lower EER is better."""
VERDICT_CAPTION = """\
A video's score is the mean of its frames' scores. Each detector decides at its own threshold: the
one where its errors on real and fake videos of this set are nearest to each other (EER). It is
chosen with the labels of the set, so that the scales of the scores do not matter. The detectors
disagree on a video if only one of them is right."""
