"""From scores to tables that a person reads.

A row is a dict of JSON values. Rates in it are fractions of 1, in full; Markdown has them in
percent. What the papers report stands beside (`published.py`).
"""

import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64

from fsvfm_jax.report import published
from fsvfm_jax.report.metrics import (
    VideoScores,
    auc,
    average_precision,
    balanced_accuracy,
    bootstrap_interval,
    equal_error_rate,
    error_rates,
    grid_threshold,
    tpr_at_fpr,
    video_means,
)
from fsvfm_jax.report.scores import Scores

# How a checkpoint was chosen; "given" is one that the user names.
Selection = Literal["validation", "last", "test-oracle", "given"]
Row = dict[str, Any]

BOOTSTRAP_SEED = 0

logger = logging.getLogger(__name__)

DETECTION_CAPTION = """\
In percent, fake being the positive class; in brackets the 95 % interval over videos (bootstrap). A
video's score is the mean of its frames' scores; AP, EER and balanced accuracy (threshold 0.5) are
of frames. The papers report the video AUC (of DiFF, where a video is one image, the frame AUC):
"published" and "difference" (ours less theirs) are of that column. "expected" is what the papers
have of a set; of CDFv2 they count only Celeb-real as real, not YouTube-real."""

SPOOF_CAPTION = """\
In percent, per video (mean of its frames), live being the positive class; in brackets the 95 %
interval over videos (bootstrap), the threshold being kept. After @ stands where the
threshold comes from: other videos (validation), none (0.5), or the very videos tested on (test).
The papers report "HTER = ACER @test" in the row "test-oracle", which picks both the checkpoint and
the threshold on the test set: "published" and "difference" (ours less theirs) are of that column,
and in other rows compare unlike checkpoints: the papers' 4.81 on average (FSFM ViT-B) is 10.99 with
the last checkpoint of the same runs. APCER is over all kinds of attack together. "expected" is what
the papers test on."""


def detection_row(
    scores: Scores,
    *,
    selection: Selection,
    step: int | None,
    seed: int | None,
    model: str | None = None,
    alone: bool = True,
) -> Row:
    """Returns what DETECTION_CAPTION describes, of one set.

    Args:
        scores: Of the set.
        selection: How the checkpoint was chosen.
        step: Of the checkpoint, if known.
        seed: Of its training, if known.
        model: Such as "FS-VFM ViT-L": what of the papers to compare with.
        alone: Whether a set without both classes is an error. Beside other sets, which are not to
            be lost, it has a row that says so.

    Raises:
        DataError: What the metrics refuse.
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
    """Returns what SPOOF_CAPTION describes, of one set; its keys after @ name the threshold.

    Args:
        scores: Of the set.
        thresholds: On the probability of live, by where they come from, such as
            {"validation": video_threshold(of other videos)}; "0.5" and "test" are added.
        selection: This and the others as in `detection_row`.
        step: See there.
        seed: See there.
        model: See there.
        alone: See there.

    Raises:
        DataError: What the metrics refuse.
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
    """Returns what "test-oracle" minimises: HTER at the set's own threshold, or 1 - video AUC.

    Without both classes it is 1: no checkpoint is better than another.
    """
    if int(scores.fake.sum()) in (0, len(scores.fake)):
        return 1.0
    if spoof:
        _, means, live = _live_videos(scores)
        return _hter(means, live, threshold=grid_threshold(means, live).threshold)
    _, means, fake = video_means(scores.p_fake, scores.fake, scores.videos)
    return 1 - auc(means, fake)


def mean_rows(rows: Iterable[Row], *, model: str | None = None) -> list[Row]:
    """Returns the mean of each metric over the sets: a row per selection and seed.

    It is a mean of the sets' own metrics, never a metric of the sets together. A metric that one of
    the sets lacks has no mean; a set without both classes is left out, and not counted.

    Args:
        rows: Of `detection_row` or `spoof_row`.
        model: As in `detection_row`. Where the papers have no average over just these sets, it is
            the mean of what they have of each that stands beside ours, if they have all.
    """
    measured = [row for row in rows if "note" not in row]
    means = []
    for group in _grouped(measured, "selection", "seed"):
        row = {"dataset": f"mean of {len(group)} sets"}
        row |= _shared(group, ("selection", "step", "seed", "paper"))
        keys = _rates(group)
        row |= {key: float(np.mean([each[key] for each in group])) for key in keys}
        average = published.find_average(model, (each["dataset"] for each in group))
        means.append(row | _comparison(average, row))
    return means


def of_single_sets(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows that are no means over sets."""
    return [row for row in rows if "images" in row]


def over_seeds(rows_by_seed: Mapping[int | None, Sequence[Row]]) -> list[Row]:
    """Returns a row per set and selection, each metric as {"mean", "sd", "n"} over the seeds.

    sd is the standard deviation of a sample (n - 1), None of a single seed.
    """
    rows = [row for of_seed in rows_by_seed.values() for row in of_seed]
    combined = []
    for group in _grouped(rows, "dataset", "selection"):
        row = _shared(group, group[0].keys() - {"seed"})
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
    """What a row says before the metrics, with a note if there can be none."""
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
    """What a paper reports beside what the row has; nothing without one of them."""
    if paper is None or paper.metric not in row:
        return {}
    theirs = paper.percent / 100
    return {
        "published": theirs,
        "difference": row[paper.metric] - theirs,
        "paper": paper.source,
    }


def _grouped(rows: Iterable[Row], *keys: str) -> Iterable[list[Row]]:
    """Rows that agree in these keys, together; in order of their first ones."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return groups.values()


def _rates(rows: Sequence[Row]) -> list[str]:
    """The keys of what can be averaged: floats in all of the rows (counts are whole numbers)."""
    return [key for key in rows[0] if all(isinstance(row.get(key), float) for row in rows)]


def _shared(rows: Sequence[Row], keys: Container[str]) -> Row:
    """What all rows say alike."""
    items = rows[0].items()
    return {k: v for k, v in items if k in keys and all(row.get(k) == v for row in rows)}
