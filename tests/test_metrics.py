"""Tests metrics against the reference's, and against plain implementations."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from itertools import pairwise

import golden_files
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsvfm_jax.errors import DataError
from fsvfm_jax.report.bootstrap import bootstrap_interval
from fsvfm_jax.report.metrics import (
    auc,
    average_precision,
    balanced_accuracy,
    equal_error_rate,
    error_rates,
    grid_threshold,
    rate_interval,
    roc,
    tpr_at_fpr,
    video_means,
)

NEED_BOTH = [
    auc,
    average_precision,
    balanced_accuracy,
    equal_error_rate,
    grid_threshold,
    roc,
    tpr_at_fpr,
    lambda scores, live: error_rates(scores, live, 0.5),
    lambda scores, live: bootstrap_interval(auc, scores, live, np.arange(len(live)), seed=0),
]
ALL = [
    *NEED_BOTH,
    lambda scores, positive: video_means(scores, positive, np.arange(len(positive))),
]

# Half of them are tied or on the grid of thresholds, and some are not between 0 and 1.
SCORE = st.one_of(
    st.integers(0, 4).map(lambda k: k / 4),
    st.integers(0, 10_000).map(lambda k: k / 10_000),
    st.floats(0, 1),
    st.floats(-1e300, 1e300),
)


@st.composite
def samples(draw: st.DrawFn, score: st.SearchStrategy[float] = SCORE) -> tuple:
    """Returns scores and labels of both classes, in any order."""
    classes = [draw(st.lists(score, min_size=1, max_size=12)) for _ in range(2)]
    negative, positive = map(len, classes)
    order = draw(st.permutations(range(negative + positive)))
    return np.concatenate(classes)[order], np.repeat([False, True], [negative, positive])[order]


def golden() -> dict[str, np.ndarray]:
    return golden_files.load("metrics")


# Numbers of the reference


def test_numbers_of_frames_are_the_references() -> None:
    stored = golden()
    scores, fake = stored["scores"], stored["labels"] == 1
    ours = [auc(scores, fake) * 100, equal_error_rate(scores, fake)]
    ours += [balanced_accuracy(scores, fake) * 100]
    names = ("frame_auc", "frame_eer", "frame_balanced_acc")
    np.testing.assert_allclose(ours, [stored[x] for x in names], rtol=0, atol=1e-9)


def test_numbers_of_videos_are_the_references() -> None:
    stored = golden()
    videos, scores, fake = video_means(stored["scores"], stored["labels"] == 1, stored["videos"])
    assert videos.tolist() == sorted(set(stored["videos"]))
    ours = [auc(scores, fake) * 100, equal_error_rate(scores, fake)]
    ours += [balanced_accuracy(scores, fake) * 100]
    names = ("video_auc", "video_eer", "video_balanced_acc")
    np.testing.assert_allclose(ours, [stored[x] for x in names], rtol=0, atol=1e-9)


def test_numbers_of_anti_spoofing_are_the_references() -> None:
    stored = golden()
    scores, live = stored["fas_scores_live"], stored["fas_labels_live"] == 1
    threshold, eer = grid_threshold(scores, live)
    hter = error_rates(scores, live, threshold).hter
    ours = [threshold, eer, hter, tpr_at_fpr(scores, live)]
    names = ("fas_threshold", "fas_eer", "fas_hter", "fas_tpr_at_fpr1")
    np.testing.assert_allclose(ours, [stored[x] for x in names], rtol=0, atol=1e-9)


# Plain implementations


@given(samples())
def test_auc_is_the_share_of_pairs_in_order_and_half_of_the_tied(sample: tuple) -> None:
    scores, positive = sample
    pairs = [(p > n) + (p == n) / 2 for p in scores[positive] for n in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(np.mean(pairs), abs=1e-12)


@given(samples())
def test_the_roc_counts_at_every_distinct_score(sample: tuple) -> None:
    scores, positive = sample
    thresholds = [np.inf, *sorted(set(scores.tolist()), reverse=True)]
    curve = roc(scores, positive)
    assert curve.thresholds.tolist() == thresholds
    assert curve.tpr.tolist() == [(scores[positive] >= t).mean() for t in thresholds]
    assert curve.fpr.tolist() == [(scores[~positive] >= t).mean() for t in thresholds]


@given(samples())
def test_average_precision_is_precision_over_steps_of_recall(sample: tuple) -> None:
    scores, positive = sample
    expected = recall = 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        above = scores >= threshold
        before, recall = recall, positive[above].sum() / positive.sum()
        expected += (recall - before) * positive[above].mean()
    assert average_precision(scores, positive) == pytest.approx(expected, abs=1e-12)


@given(samples())
def test_the_equal_error_rate_is_where_the_roc_meets_the_diagonal(sample: tuple) -> None:
    """Finds the crossing by halving the line that crosses the diagonal."""
    scores, positive = sample
    eer = equal_error_rate(scores, positive)
    curve = roc(scores, positive)
    for (x0, y0), (x1, y1) in pairwise(zip(curve.fpr, curve.tpr, strict=True)):
        if x0 + y0 <= 1 <= x1 + y1:
            low, high = 0.0, 1.0
            for _ in range(60):
                middle = (low + high) / 2
                over = x0 + middle * (x1 - x0) + y0 + middle * (y1 - y0) >= 1
                low, high = (low, middle) if over else (middle, high)
            assert eer == pytest.approx(x0 + high * (x1 - x0), abs=1e-9)
            return
    pytest.fail("the curve does not cross the diagonal")


@given(samples(), st.one_of(SCORE, st.sampled_from([0, 1])))
def test_error_rates_are_shares_of_each_class(sample: tuple, threshold: float) -> None:
    scores, live = sample
    far, frr, hter = error_rates(scores, live, threshold)
    assert far == np.mean([score >= threshold for score in scores[~live]])
    assert frr == np.mean([score < threshold for score in scores[live]])
    assert hter == (far + frr) / 2
    balanced = balanced_accuracy(scores, live, threshold=threshold)
    assert balanced == pytest.approx((1 - far + 1 - frr) / 2, abs=1e-15)


@settings(max_examples=60)
@given(samples())
def test_the_threshold_is_the_last_best_of_a_loop_over_the_grid(sample: tuple) -> None:
    scores, live = sample
    attacks, faces = scores[~live].tolist(), scores[live].tolist()
    least = np.inf
    for threshold in [*(i / 10000 for i in range(10001)), 1.1]:
        far = sum(score >= threshold for score in attacks) / len(attacks)
        frr = sum(score < threshold for score in faces) / len(faces)
        if abs(frr - far) <= least:
            least, expected = abs(frr - far), (threshold, (far + frr) / 2)
    assert grid_threshold(scores, live) == expected


@given(samples(), st.sampled_from([0.0, 0.01, 0.25, 0.5, 1.0]))
def test_tpr_at_fpr_is_the_best_threshold_within_it(sample: tuple, fpr: float) -> None:
    scores, live = sample
    rates = [0.0]
    for threshold in scores:
        if (scores[~live] >= threshold).mean() <= fpr:
            rates.append((scores[live] >= threshold).mean())
    assert tpr_at_fpr(scores, live, fpr) == max(rates)


def test_a_hundredth_of_the_attacks_is_within_one_percent() -> None:
    scores = np.append(np.arange(300) / 300, [0.9899, 0.9901, 0.98])
    live = np.arange(303) >= 300
    assert tpr_at_fpr(scores, live) == pytest.approx(2 / 3)  # of three attacks, not of four


# Changes without an effect, and changes that reverse the result


@given(samples(st.integers(-50, 50).map(float)), st.randoms(use_true_random=False))
def test_what_keeps_the_order_of_scores_keeps_the_areas(sample: tuple, random: object) -> None:
    scores, positive = sample
    shuffled = np.array(random.sample(range(len(scores)), len(scores)))
    for metric in (auc, average_precision, equal_error_rate, tpr_at_fpr):
        value = metric(scores, positive)
        assert metric(scores[shuffled], positive[shuffled]) == value
        assert metric(np.exp(scores), positive) == metric(scores**3, positive) == value


@given(samples())
def test_the_scores_turned_round_have_the_rest_of_the_area(sample: tuple) -> None:
    scores, positive = sample
    assert auc(-scores, positive) == pytest.approx(1 - auc(scores, positive), abs=1e-12)
    assert auc(scores, ~positive) == pytest.approx(1 - auc(scores, positive), abs=1e-12)


def test_equal_scores_everywhere_tell_nothing() -> None:
    scores, positive = np.full(10, 0.3), np.arange(10) < 4
    assert auc(scores, positive) == equal_error_rate(scores, positive) == 0.5
    assert average_precision(scores, positive) == 0.4
    assert tpr_at_fpr(scores, positive) == 0.0
    assert roc(scores, positive).fpr.tolist() == [0.0, 1.0]
    assert grid_threshold(scores, positive) == (1.1, 0.5)  # all rejected: the last of the ties


def test_separate_classes_are_told_without_error() -> None:
    scores, positive = np.array([0.1, 0.2, 0.8, 0.9]), np.arange(4) >= 2
    for metric in (auc, average_precision, balanced_accuracy, tpr_at_fpr):
        assert metric(scores, positive) == 1.0
    assert equal_error_rate(scores, positive) == 0.0
    assert grid_threshold(scores, positive) == (0.8, 0.0)


# Videos


@given(samples(st.floats(0, 1)), st.integers(1, 4))
def test_a_video_has_the_mean_of_its_frames(sample: tuple, count: int) -> None:
    scores, positive = sample
    names = np.array([f"{label}/{i % count}" for i, label in enumerate(positive)])
    videos, means, labels = video_means(scores, positive, names)
    assert videos.tolist() == sorted(set(names.tolist()))
    for video, mean, label in zip(videos, means, labels, strict=True):
        assert mean == pytest.approx(scores[names == video].mean(), abs=1e-15)
        assert positive[names == video].all() == positive[names == video].any() == label


@pytest.mark.parametrize("kind", ["S", "U"])
def test_one_video_is_one_score(kind: str) -> None:
    videos = np.full(3, "real/1").astype(kind)
    pooled = video_means(np.array([0.1, 0.2, 0.6]), np.zeros(3, bool), videos)
    assert pooled.videos.tolist() == videos[:1].tolist()
    assert pooled.positive.tolist() == [False]
    np.testing.assert_allclose(pooled.scores, [0.3], rtol=1e-15)


@pytest.mark.parametrize(
    "pool", [video_means, lambda *columns: bootstrap_interval(auc, *columns, seed=0)]
)
def test_a_video_of_two_labels_is_named(pool: Callable) -> None:
    videos = np.array(["a", "b", "b", "c"])
    with pytest.raises(DataError, match="1 of 3 videos have frames of both classes, such as 'b'"):
        pool(np.full(4, 0.5), np.array([True, False, True, False]), videos)


# Refused values


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(metric: Callable, value: float) -> None:
    scores = np.array([0.1, 0.7, value, 0.3, value])
    with pytest.raises(DataError, match=f"2 of 5 .* position 2, is {value};"):
        metric(scores, np.arange(5) < 2)


@pytest.mark.parametrize("metric", ALL)
def test_no_scores_are_refused(metric: Callable) -> None:
    with pytest.raises(DataError, match="no scores"):
        metric(np.zeros(0), np.zeros(0, bool))


@pytest.mark.parametrize("metric", ALL)
def test_lengths_that_differ_are_refused(metric: Callable) -> None:
    with pytest.raises(DataError, match=r"one length, not 3, 4"):
        metric(np.zeros(3), np.arange(4) < 2)


def test_names_of_videos_that_are_too_few_are_refused() -> None:
    columns = np.zeros(3), np.arange(3) < 2, np.arange(2)
    for pool in (video_means, lambda *x: bootstrap_interval(auc, *x, seed=0)):
        with pytest.raises(DataError, match="one length, not 3, 3, 2"):
            pool(*columns)


@pytest.mark.parametrize("metric", NEED_BOTH)
@pytest.mark.parametrize(("label", "missing"), [(True, "negative"), (False, "positive")])
def test_one_class_alone_is_refused(metric: Callable, label: bool, missing: str) -> None:
    with pytest.raises(DataError, match=f"none of the 6 labels is {missing} .*AUC .* need both"):
        metric(np.arange(6) / 6, np.full(6, label))


def test_one_class_alone_has_means() -> None:
    scores, positive = np.array([0.4, 0.5, 0.9, 0.2]), np.ones(4, bool)
    assert video_means(scores, positive, np.array([0, 0, 1, 1])).positive.all()


def scikit_learn():
    if importlib.util.find_spec("sklearn") is None and "CI" not in os.environ:
        pytest.skip("scikit-learn is not installed")
    return importlib.import_module("sklearn.metrics")


@settings(max_examples=40)
@given(samples(st.one_of(st.integers(0, 4).map(lambda k: k / 4), st.floats(-1e300, 1e300))))
def test_metrics_are_those_of_scikit_learn(pair):
    theirs, (scores, positive) = scikit_learn(), pair
    assert auc(scores, positive) == pytest.approx(theirs.roc_auc_score(positive, scores), abs=1e-9)
    precision = theirs.average_precision_score(positive, scores)
    assert average_precision(scores, positive) == pytest.approx(precision, abs=1e-9)
    accuracy = theirs.balanced_accuracy_score(positive, scores >= 0.5)
    assert balanced_accuracy(scores, positive) == pytest.approx(accuracy, abs=1e-9)
    fpr, tpr, thresholds = theirs.roc_curve(positive, scores, drop_intermediate=False)
    ours = roc(scores, positive)
    np.testing.assert_allclose(ours.fpr, fpr, atol=1e-9)
    np.testing.assert_allclose(ours.tpr, tpr, atol=1e-9)
    np.testing.assert_array_equal(ours.thresholds[1:], thresholds[1:])
    eer = np.interp(0.0, fpr + tpr - 1, fpr)
    assert equal_error_rate(scores, positive) == pytest.approx(eer, abs=1e-9)
    for rate in (0.001, 0.01, 0.05, 0.5):
        assert tpr_at_fpr(scores, positive, rate) == pytest.approx(max(tpr[fpr <= rate]), abs=1e-9)


@pytest.mark.parametrize("total", [1, 10, 1000])
def test_the_interval_of_a_rate_holds_it_and_is_never_a_point(total):
    for count in range(total + 1):
        low, high = rate_interval(count, total)
        assert 0 <= low <= count / total <= high <= 1 and high - low > 1 / (total + 4)


def test_the_interval_of_a_rate_is_wilsons():
    # The example of Newcombe (1998), table I: 81 of 263 and 0 of 20, method 3.
    assert rate_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert rate_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
