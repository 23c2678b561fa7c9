"""Tests means over seeds and sets, and that their intervals contain what varies."""

import zlib

import numpy as np
import pytest

from fsvfm_jax.report.bootstrap import bootstrap_interval
from fsvfm_jax.report.metrics import VideoScores, auc
from fsvfm_jax.report.resampling import (
    Resampled,
    difference,
    over_seeds_and_sets,
    resampled_auc,
    resampled_mean,
)


def videos(count, *, gap, seed):
    rng = np.random.default_rng(seed)
    positive = np.arange(count) % 2 == 1
    scores = rng.normal(size=count) + gap * positive
    return VideoScores(np.array([f"{i:04d}" for i in range(count)]), scores, positive)


def test_one_seed_and_one_set_have_the_bootstrap_interval():
    one = videos(60, gap=1.0, seed=0)
    mean, interval = over_seeds_and_sets([[resampled_auc(one, of="x")]])
    assert mean == {"mean": auc(one.scores, one.positive), "sd": None, "n": 1}
    expected = bootstrap_interval(auc, one.scores, one.positive, one.videos, seed=zlib.crc32(b"x"))
    np.testing.assert_allclose(interval, expected)


def test_the_mean_is_over_sets_and_the_deviation_over_seeds():
    exact = [[Resampled(x, np.full(1000, x)) for x in row] for row in ([0.5, 0.7], [0.58, 0.66])]
    mean, (low, high) = over_seeds_and_sets(exact)
    assert mean == {"mean": pytest.approx(0.61), "sd": pytest.approx(0.02 / 2**0.5), "n": 2}
    # Student's t with one degree of freedom.
    np.testing.assert_allclose(high - low, 2 * 12.7062 * 0.01, rtol=1e-4)


def test_the_interval_covers_the_mean_of_the_seeds_as_often_as_it_says():
    """Seeds are the only thing that varies, and there are three of them."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        values = 0.5 + 0.02 * rng.normal(size=3)
        low, high = over_seeds_and_sets([[Resampled(x, np.full(10, x))] for x in values])[1]
        covered += low <= 0.5 <= high
    assert 930 < covered < 970


def test_an_interval_stays_within_the_metric():
    values = [[Resampled(x, np.full(10, x))] for x in (0.95, 0.99)]
    assert over_seeds_and_sets(values)[1].high == 1.0
    apart = [[difference(values[0][0], values[1][0])], [Resampled(-0.9, np.full(10, -0.9))]]
    assert over_seeds_and_sets(apart, low=-1.0)[1].low == -1.0


def test_what_two_networks_share_does_not_widen_their_difference():
    one = resampled_auc(videos(40, gap=1.0, seed=1), of="x")
    mean, interval = over_seeds_and_sets([[difference(one, one)]] * 3, low=-1.0)
    assert mean["mean"] == 0 and interval == (0, 0)


def test_the_same_videos_are_drawn_for_all_networks():
    one = videos(40, gap=1.0, seed=1)
    other = one._replace(scores=2 * one.scores + 1)
    drawn, again = resampled_auc(one, of="x"), resampled_auc(other, of="x")
    np.testing.assert_array_equal(drawn.draws, again.draws)


def test_the_draws_of_different_sets_are_independent():
    one = videos(200, gap=1.0, seed=1)
    draws = [resampled_auc(one, of=name).draws for name in "ab"]
    assert abs(np.corrcoef(draws)[0, 1]) < 0.15
    values = np.random.default_rng(0).normal(size=200)
    draws = [resampled_mean(values, of=name).draws for name in "ab"]
    assert abs(np.corrcoef(draws)[0, 1]) < 0.15


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error():
    values = np.random.default_rng(2).normal(3.0, 2.0, 400)
    mean, (low, high) = over_seeds_and_sets([[resampled_mean(values, of="x")]])
    assert mean["mean"] == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * 2.0 / 20, rel=0.15)
