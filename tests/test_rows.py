"""Tests the rows of a report: metrics beside the papers' results, and means over sets and seeds."""

import json
import logging
import statistics

import numpy as np
import pytest
from scored_sets import BY_HAND, scored

from fsvfm_jax.errors import DataError
from fsvfm_jax.report.rows import (
    DETECTION_CAPTION,
    SPOOF_CAPTION,
    detection_row,
    mean_rows,
    over_seeds,
    spoof_row,
    video_threshold,
)

pytestmark = pytest.mark.usefixtures("few_draws")

CHOSEN = {"selection": "validation", "step": 100, "seed": 0}
ONLY_REAL = {"r0": (0.1, 0.2), "r1": (0.3,)}


def detected(name, videos=BY_HAND, **changes):
    return detection_row(scored(name, videos), **CHOSEN | changes)


def spoofed(name, videos=BY_HAND, **changes):
    thresholds = {"validation": 0.75}
    return spoof_row(scored(name, videos), **CHOSEN | {"thresholds": thresholds} | changes)


def test_a_detection_row_by_hand():
    row = detection_row(scored("mine", BY_HAND, skipped=3), **CHOSEN)
    known = {"dataset": "mine", "images": 10, "videos": 5, "skipped": 3, **CHOSEN}
    assert row.items() >= known.items()
    assert row["images_expected"] is None and row["videos_expected"] is None
    assert row["frame_auc"] == pytest.approx(19 / 24)
    assert row["video_auc"] == pytest.approx(5 / 6)
    assert row["balanced_accuracy"] == 0.75
    for key in ("frame_auc", "video_auc"):
        low, high = row[f"{key}_interval"]
        assert 0 <= low < row[key] < high <= 1
    assert not {"published", "difference", "note"} & set(row)


def test_what_was_published_stands_beside_ours():
    row = detected("Celeb-DF-v2", model="FS-VFM ViT-L")
    assert row["published"] == 0.9517 and row["paper"] == "FS-VFM"
    assert row["difference"] == pytest.approx(5 / 6 - 0.9517)
    assert row["images_expected"] == 14_268
    assert detected("DFDC")["videos_expected"] == 5_000
    assert "published" not in detected("Celeb-DF-v2", model="FS-VFM ViT-S")
    assert "published" not in detected("Celeb-DF-v2")


def test_a_spoof_row_by_hand():
    # Scores of live: f0 .3, f1 .5, f2 .8, r0 .7, r1 .9.
    row = spoofed("MSU", model="FSFM ViT-B")
    assert row["auc"] == pytest.approx(5 / 6) and row["tpr_at_fpr_1"] == 0.5
    rates = {"validation": (1 / 3, 1 / 2), "0.5": (2 / 3, 0), "test": (1 / 3, 1 / 2)}
    for source, (apcer, bpcer) in rates.items():
        assert row[f"apcer@{source}"] == pytest.approx(apcer)
        assert row[f"bpcer@{source}"] == pytest.approx(bpcer)
        assert row[f"hter@{source}"] == row[f"acer@{source}"] == pytest.approx((apcer + bpcer) / 2)
    assert row["threshold@validation"] == 0.75 and row["threshold@0.5"] == 0.5
    assert row["threshold@test"] == video_threshold(scored("MSU", BY_HAND)) == 0.8
    assert row["published"] == pytest.approx(0.0378)
    assert row["difference"] == pytest.approx(5 / 12 - 0.0378)
    assert row["videos_expected"] == 260


def test_the_captions_say_what_the_papers_report():
    assert "The papers report the video AUC" in DETECTION_CAPTION
    assert 'The papers report "HTER = ACER @test" in the row "test-oracle"' in SPOOF_CAPTION


def test_of_two_checkpoints_on_one_set_the_published_value_is_that_of_the_set():
    rows = [spoofed("oulu", selection=x, model="FSFM ViT-B") for x in ("last", "test-oracle")]
    assert [row["selection"] for row in rows] == ["last", "test-oracle"]
    assert rows[0]["published"] == rows[1]["published"] == pytest.approx(0.0768)


@pytest.mark.parametrize("of_one", [detected, spoofed])
def test_one_class_alone_is_refused(of_one):
    with pytest.raises(DataError, match="both classes"):
        of_one("mine", ONLY_REAL)


@pytest.mark.parametrize("of_one", [detected, spoofed])
@pytest.mark.parametrize(
    ("videos", "found"),
    [(ONLY_REAL, "only real"), ({"f0": (0.5,)}, "only fake"), ({}, "no images")],
)
def test_one_class_beside_other_sets_has_a_row_that_says_so(of_one, videos, found, caplog):
    with caplog.at_level(logging.WARNING):
        row = of_one("mine", videos, alone=False, model="FSFM ViT-B")
    images = sum(map(len, videos.values()))
    assert row["note"] == f"n/a ({found})"
    assert row["images"] == images and row["videos"] == len(videos)
    assert "auc" not in row and "frame_auc" not in row
    assert caplog.messages == [f"no metrics of mine, {images} images: {found}"]


def test_a_set_with_both_classes_does_not_care_whether_it_is_alone():
    assert detected("mine", alone=False) == detected("mine", alone=True)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="not finite"):
        detected("mine", BY_HAND | {"f3": (np.nan,)}, alone=False)


def test_a_mean_over_sets_is_of_their_metrics_not_of_their_scores_together():
    # Each set is perfect alone, but the second set's fakes are below the first set's real faces.
    high = {"f0": (0.9,), "f1": (0.9,), "r0": (0.6,), "r1": (0.6,)}
    low = {"f0": (0.3,), "f1": (0.3,), "r0": (0.1,), "r1": (0.1,)}
    (mean,) = mean_rows([detected("a", high), detected("b", low)])
    assert mean["dataset"] == "mean of 2 sets"
    assert mean["video_auc"] == mean["frame_auc"] == 1.0
    assert mean["balanced_accuracy"] == 0.5
    assert (mean["selection"], mean["step"], mean["seed"]) == ("validation", 100, 0)
    assert "images" not in mean and "video_auc_interval" not in mean


def test_checkpoints_and_seeds_have_means_of_their_own():
    rows = [
        spoofed(name, selection=selection, seed=seed, step=step)
        for selection, step in (("last", 7), ("validation", 5))
        for seed in (0, 1)
        for name in ("msu", "casia")
    ]
    means = mean_rows(rows)
    found = [(row["selection"], row["step"], row["seed"]) for row in means]
    assert found == [("last", 7, 0), ("last", 7, 1), ("validation", 5, 0), ("validation", 5, 1)]
    assert all(row["hter@test"] == pytest.approx(5 / 12) for row in means)


def test_a_mean_over_sets_whose_steps_differ_names_none():
    (mean,) = mean_rows([detected("a", step=1), detected("b", step=2)])
    assert "step" not in mean


def test_a_set_of_one_class_is_not_counted_in_the_mean():
    rows = [detected("a"), detected("b"), detected("c", ONLY_REAL, alone=False)]
    (mean,) = mean_rows(rows)
    assert mean["dataset"] == "mean of 2 sets" and mean["video_auc"] == pytest.approx(5 / 6)
    assert mean_rows(rows[2:]) == []


def test_a_mean_is_compared_with_that_of_the_papers_if_all_are_known():
    names = ("CDFv2", "DFD", "DFDC", "DFDCP")
    rows = [detected(name, model="FS-VFM ViT-L") for name in names]
    (mean,) = mean_rows(rows)
    assert mean["published"] == pytest.approx((0.9517 + 0.9717 + 0.8775 + 0.9335) / 4)
    assert mean["difference"] == pytest.approx(mean["video_auc"] - mean["published"])
    (mean,) = mean_rows([*rows, detected("mine", model="FS-VFM ViT-L")])
    assert "published" not in mean and "difference" not in mean


def test_a_mean_over_the_sets_of_a_published_average_is_compared_with_it():
    model = "FS-VFM ViT-L"
    rows = [detected(name, model=model) for name in ("T2I", "I2I", "FS", "FE")]
    (mean,) = mean_rows(rows, model=model)
    assert mean["published"] == pytest.approx(0.937)
    assert mean["difference"] == pytest.approx(mean["frame_auc"] - 0.937)
    assert mean["paper"] == "FS-VFM, read off a figure"
    (mean,) = mean_rows(rows)
    assert "published" not in mean


def test_over_seeds_each_metric_has_mean_deviation_and_count():
    better = BY_HAND | {"f2": (0.9, 0.9)}
    videos = {0: BY_HAND, 1: better, 2: better}
    by_seed = {
        seed: [detected("DFDC", of_seed, seed=seed, model="FS-VFM ViT-L")]
        for seed, of_seed in videos.items()
    }
    (row,) = over_seeds(by_seed)
    values = [5 / 6, 1.0, 1.0]
    assert row["video_auc"] == {
        "mean": pytest.approx(statistics.mean(values)),
        "sd": pytest.approx(statistics.stdev(values)),
        "n": 3,
    }
    assert row["difference"]["mean"] == pytest.approx(statistics.mean(values) - 0.8775)
    # Columns that are not measurements are unchanged.
    assert row["published"] == 0.8775 and row["images"] == 10 and row["paper"] == "FS-VFM"
    assert "seed" not in row and "video_auc_interval" not in row


def test_a_single_seed_has_no_deviation():
    (row,) = over_seeds({0: [detected("a")]})
    assert row["video_auc"] == {"mean": pytest.approx(5 / 6), "sd": None, "n": 1}


def test_means_over_sets_go_over_seeds_too():
    by_seed = {
        seed: mean_rows([spoofed(name, seed=seed) for name in ("msu", "casia")])
        for seed in range(3)
    }
    (row,) = over_seeds(by_seed)
    assert row["dataset"] == "mean of 2 sets"
    about = {"mean": pytest.approx(5 / 12), "sd": pytest.approx(0), "n": 3}
    assert row["hter@test"] == about


def test_a_set_without_metrics_stays_over_seeds():
    (row,) = over_seeds({s: [detected("a", ONLY_REAL, alone=False, seed=s)] for s in (0, 1)})
    assert row["note"] == "n/a (only real)"


def test_rows_are_json_and_the_same_each_time():
    rows = [detected("CDFv2", model="FSFM ViT-B"), spoofed("MSU")]
    again = [detected("CDFv2", model="FSFM ViT-B"), spoofed("MSU")]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows == again
