"""Tests intervals of metrics by drawing whole videos."""

import numpy as np
import pytest
from scored_sets import sane

from fsvfm_jax.report.bootstrap import bootstrap_interval
from fsvfm_jax.report.metrics import auc


def test_an_interval_holds_the_value_and_hangs_on_the_seed_alone() -> None:
    scores, positive = sane()
    videos = np.arange(len(scores))
    interval = bootstrap_interval(auc, scores, positive, videos, seed=7)
    assert interval.low < auc(scores, positive) < interval.high
    assert bootstrap_interval(auc, scores, positive, videos, seed=7) == interval
    back = scores[::-1], positive[::-1], videos[::-1]
    assert bootstrap_interval(auc, *back, seed=7) == interval
    assert bootstrap_interval(auc, scores, positive, videos, seed=8) != interval


def test_an_interval_is_as_wide_as_the_binomial_says() -> None:
    def accuracy(scores: np.ndarray, positive: np.ndarray) -> float:
        return float(((scores >= 0.5) == positive).mean())

    scores, positive = sane(1000)
    share = accuracy(scores, positive)
    for level, deviations in ((0.95, 1.96), (0.6, 0.8416)):
        low, high = bootstrap_interval(
            accuracy, scores, positive, np.arange(1000), seed=0, draws=2000, level=level
        )
        expected = 2 * deviations * np.sqrt(share * (1 - share) / 1000)
        assert high - low == pytest.approx(expected, rel=0.12)


def test_videos_are_drawn_whole_and_as_many_as_there_are() -> None:
    videos = np.array([3, 1, 1, 2, 2, 2, 0, 3, 3, 3])
    positive, frames = np.isin(videos, (1, 3)), np.arange(10.0)
    seen = []

    def look(scores: np.ndarray, labels: np.ndarray) -> float:
        assert (labels == positive[scores.astype(int)]).all()
        times = np.bincount(scores.astype(int), minlength=10)
        of_videos = [set(times[videos == video].tolist()) for video in range(4)]
        assert all(len(counts) == 1 for counts in of_videos)
        seen.append([min(counts) for counts in of_videos])
        return 0.0

    bootstrap_interval(look, frames, positive, videos, seed=0, draws=2000)
    assert {sum(times) for times in seen} == {4}
    np.testing.assert_allclose(np.mean(seen, axis=0), 1, atol=0.08)  # equal weights


def test_a_draw_without_one_of_the_classes_is_drawn_again() -> None:
    """Uses a single positive video, which is missing in a third of all draws."""
    scores, positive = np.arange(12) / 12, np.arange(12) >= 11
    low, high = bootstrap_interval(auc, scores, positive, np.arange(12), seed=0, draws=300)
    assert low == high == 1.0


def test_copies_of_frames_make_nothing_surer() -> None:
    scores, positive = sane(120)
    videos = np.arange(120)
    single = bootstrap_interval(auc, scores, positive, videos, seed=3)
    copies = [np.repeat(x, 16) for x in (scores, positive, videos)]
    by_video = bootstrap_interval(auc, *copies, seed=3)
    np.testing.assert_allclose(by_video, single, rtol=1e-12)
    by_frame = bootstrap_interval(auc, *copies[:2], np.arange(120 * 16), seed=3, draws=300)
    assert by_video.high - by_video.low > 3 * (by_frame.high - by_frame.low)  # 4 in the long run
