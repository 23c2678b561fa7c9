"""Turns scores into the rows of a report's tables.

A row is a dict of JSON values. Rates in a row are exact fractions of 1; Markdown shows them in
percent. The rows contain the papers' results beside these (`published.py`).
"""

import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64

from fsvfm_jax.report import published
from fsvfm_jax.report.bootstrap import bootstrap_interval
from fsvfm_jax.report.metrics import (
    VideoScores,
    auc,
    average_precision,
    balanced_accuracy,
    equal_error_rate,
    error_rates,
    grid_threshold,
    tpr_at_fpr,
    video_means,
)
from fsvfm_jax.report.scores import Scores

# How a checkpoint was chosen; "given" means that the user names the checkpoint.
Selection = Literal["validation", "last", "test-oracle", "given"]
Row = dict[str, Any]

BOOTSTRAP_SEED = 0

logger = logging.getLogger(__name__)

DETECTION_CAPTION = """\
In percent; fake is the positive class; brackets contain the 95 % interval over videos (bootstrap).
A video's score is the mean of its frames' scores; AP, EER and balanced accuracy (threshold 0.5) are
computed over frames. The papers report the video AUC (for DiFF, where a video is one image, the
frame AUC): "published" and "difference" (ours minus theirs) refer to that column. "expected" is the
size of the set in the papers; in CDFv2 they count only Celeb-real as real, not YouTube-real."""

SPOOF_CAPTION = """\
In percent, per video (mean of its frames); live is the positive class; brackets contain the 95 %
interval over videos (bootstrap) at a fixed threshold. The text after @ is the source of the
threshold: other videos (validation), none (0.5), or the tested videos themselves (test).
The papers report "HTER = ACER @test" in the row "test-oracle", which picks both the checkpoint and
the threshold on the test set: "published" and "difference" (ours minus theirs) refer to that
column. In other rows they compare different kinds of checkpoints: the papers' average of 4.81 (FSFM
ViT-B) is 10.99 with the last checkpoint of the same runs. APCER is over all kinds of attack
together. "expected" is the number of videos that the papers test."""


def detection_row(
    scores: Scores,
    *,
    selection: Selection,
    step: int | None,
    seed: int | None,
    model: str | None = None,
    alone: bool = True,
) -> Row:
    """Returns one set's row of the table that DETECTION_CAPTION describes.

    Args:
        scores: Scores of the set.
        selection: How the checkpoint was chosen.
        step: Step of the checkpoint, if known.
        seed: Seed of the training, if known.
        model: The papers' model to compare with, such as "FS-VFM ViT-L".
        alone: Whether a set without both classes is an error. In a report of several sets it is
            not, so that the other sets are not lost: its row then contains a note instead of
            metrics.

    Raises:
        DataError: The metrics cannot be computed (see `metrics.roc`).
    """
    row = _about(scores, selection=selection, step=step, seed=seed, alone=alone)
    if "note" in row:
        return row
    frames = (scores.p_fake, scores.fake, scores.videos)
    names, means, fake = video_means(*frames)
    for key, of_each in (("frame_auc", frames), ("video_auc", (means, fake, names))):
        row[key] = auc(*of_each[:2])
        row[f"{key}_interval"] = list(bootstrap_interval(auc, *of_each, seed=BOOTSTRAP_SEED))
    row["average_precision"] = average_precision(scores.p_fake, scores.fake)
    row["equal_error_rate"] = equal_error_rate(scores.p_fake, scores.fake)
    row["balanced_accuracy"] = balanced_accuracy(scores.p_fake, scores.fake)
    return row | _comparison(published.find(model, scores.dataset, "video_auc"), row)


def spoof_row(
    scores: Scores,
    *,
    thresholds: Mapping[str, float | int],
    selection: Selection,
    step: int | None,
    seed: int | None,
    model: str | None = None,
    alone: bool = True,
) -> Row:
    """Returns one set's row of the table that SPOOF_CAPTION describes.

    The part of a key after @ names the threshold.

    Args:
        scores: Scores of the set.
        thresholds: Thresholds on the probability of live by their source, such as {"validation":
            video_threshold(scores of other videos)}. "0.5" and "test" are added.
        selection: As in `detection_row`.
        step: As in `detection_row`.
        seed: As in `detection_row`.
        model: As in `detection_row`.
        alone: As in `detection_row`.

    Raises:
        DataError: As `detection_row`.
    """
    row = _about(scores, selection=selection, step=step, seed=seed, alone=alone)
    if "note" in row:
        return row
    names, means, live = _live_videos(scores)

    def interval(metric: Callable[..., float]) -> list[float]:
        return list(bootstrap_interval(metric, means, live, names, seed=BOOTSTRAP_SEED))

    row["auc"] = auc(means, live)
    row["auc_interval"] = interval(auc)
    row["tpr_at_fpr_1"] = tpr_at_fpr(means, live, 0.01)
    own = grid_threshold(means, live).threshold
    for source, threshold in {**thresholds, "0.5": 0.5, "test": own}.items():
        rates = error_rates(means, live, threshold)
        row |= {
            f"threshold@{source}": float(threshold),
            f"hter@{source}": rates.hter,
            f"hter_interval@{source}": interval(partial(_hter, threshold=threshold)),
            f"apcer@{source}": rates.far,
            f"bpcer@{source}": rates.frr,
            f"acer@{source}": rates.hter,
        }
    return row | _comparison(published.find(model, scores.dataset, "hter@test"), row)


def video_threshold(scores: Scores) -> float:
    """Returns the protocols' threshold on the probability of live, chosen on these videos."""
    _, means, live = _live_videos(scores)
    return grid_threshold(means, live).threshold


def oracle_error(scores: Scores, *, spoof: bool) -> float:
    """Returns the error that "test-oracle" minimises.

    The error is the HTER at the set's own threshold if `spoof` is set, otherwise 1 - video AUC.
    Without both classes it is 1, so that no checkpoint is better than another.
    """
    if int(scores.fake.sum()) in (0, len(scores.fake)):
        return 1.0
    if spoof:
        _, means, live = _live_videos(scores)
        return _hter(means, live, threshold=grid_threshold(means, live).threshold)
    _, means, fake = video_means(scores.p_fake, scores.fake, scores.videos)
    return 1 - auc(means, fake)


def mean_rows(rows: Iterable[Row], *, model: str | None = None) -> list[Row]:
    """Returns the mean of each metric over the sets, as one row per method, selection and seed.

    It is the mean of the sets' metrics, never a metric of the sets together. A metric that one of
    the sets lacks has no mean. A set without both classes is left out and not counted.

    Args:
        rows: Rows of `detection_row` or `spoof_row`.
        model: As in `detection_row`. If the papers have no average over exactly these sets, the row
            contains the mean of the papers' results for the sets, if they have one for each.
    """
    measured = [row for row in rows if "note" not in row]
    means = []
    for group in _grouped(measured, "method", "selection", "seed"):
        row = {"dataset": f"mean of {len(group)} sets"}
        shared = ("method", "selection", "step", "seed", "mode", "trainable", "paper")
        row |= _shared(group, shared)
        keys = _rates(group)
        row |= {key: float(np.mean([each[key] for each in group])) for key in keys}
        average = published.find_average(model, (each["dataset"] for each in group))
        means.append(row | _comparison(average, row))
    return means


def of_single_sets(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows of single sets, without means over sets."""
    return [row for row in rows if "images" in row]


def over_seeds(rows_by_training: Mapping[Any, Sequence[Row]]) -> list[Row]:
    """Returns a row per method, set and selection, with metrics as {"mean", "sd", "n"} over seeds.

    sd is the sample standard deviation (n - 1), or None for a single seed.
    """
    rows = [row for of_training in rows_by_training.values() for row in of_training]
    combined = []
    for group in _grouped(rows, "method", "dataset", "selection"):
        row = _shared(group, [key for key in group[0] if key != "seed" and "_interval" not in key])
        for key in _rates(group):
            if key == "published":
                continue
            values = [each[key] for each in group]
            sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
            row[key] = {"mean": float(np.mean(values)), "sd": sd, "n": len(values)}
        combined.append(row)
    return combined


def _about(
    scores: Scores, *, selection: Selection, step: int | None, seed: int | None, alone: bool
) -> Row:
    """Returns the fields of a row before the metrics, with a note if there can be no metrics."""
    expected = published.expected(scores.dataset)
    row = {
        "dataset": scores.dataset,
        "selection": selection,
        "step": step,
        "seed": seed,
        "images": len(scores.files),
        "images_expected": expected.images,
        "videos": len(np.unique(scores.videos)),
        "videos_expected": expected.videos,
        "skipped": scores.skipped,
    }
    fake = int(scores.fake.sum())
    if not alone and fake in (0, len(scores.fake)):
        found = ("only fake" if fake else "only real") if len(scores.fake) else "no images"
        row["note"] = f"n/a ({found})"
        logger.warning("no metrics of %s, %d images: %s", scores.dataset, len(scores.fake), found)
    return row


def _hter(
    scores: Float64[np.ndarray, " N"], live: Bool[np.ndarray, " N"], *, threshold: float
) -> float:
    return error_rates(scores, live, threshold).hter


def _live_videos(scores: Scores) -> VideoScores:
    return video_means(1 - scores.p_fake, ~scores.fake, scores.videos)


def _comparison(paper: published.Published | None, row: Row) -> Row:
    """Returns the papers' result and the difference to it, or {} if either value is missing."""
    if paper is None or paper.metric not in row:
        return {}
    theirs = paper.percent / 100
    return {
        "published": theirs,
        "difference": row[paper.metric] - theirs,
        "paper": paper.source,
    }


def _grouped(rows: Iterable[Row], *keys: str) -> Iterable[list[Row]]:
    """Returns groups of rows with equal values of these keys, ordered by their first rows."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return groups.values()


def _rates(rows: Sequence[Row]) -> list[str]:
    """Returns the keys that can be averaged: floats in all of the rows (counts are integers)."""
    return [key for key in rows[0] if all(isinstance(row.get(key), float) for row in rows)]


def _shared(rows: Sequence[Row], keys: Container[str]) -> Row:
    """Returns the items that are the same in all rows."""
    items = rows[0].items()
    return {k: v for k, v in items if k in keys and all(row.get(k) == v for row in rows)}
