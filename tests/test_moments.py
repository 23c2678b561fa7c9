"""Tests that sums over pixels, and the statistics from them, are exact."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fsvfm_jax.data.moments import pool_stats, power_sums, stats_of_sums

SIDES = st.integers(1, 12)
IMAGES = npst.arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(3)))
SETS = npst.arrays(np.uint8, st.tuples(st.integers(2, 6), SIDES, SIDES, st.just(3)))


def stats(images: np.ndarray) -> tuple:
    """Returns the statistics of all pixels of some images."""
    return stats_of_sums(sum(map(power_sums, images)).tolist())


@given(IMAGES)
def test_power_sums_are_those_of_whole_numbers(image: np.ndarray) -> None:
    pixels = image.reshape(-1, 3).astype(object)
    expected = [(pixels**power).sum(axis=0).tolist() for power in (0, 1, 2)]
    assert power_sums(image).tolist() == expected


def test_a_large_white_image_does_not_overflow() -> None:
    sums = power_sums(np.full((300, 300, 3), 255, np.uint8))
    assert sums[2].tolist() == [300 * 300 * 255 * 255] * 3


@given(SETS)
def test_statistics_are_those_of_all_pixels(images: np.ndarray) -> None:
    pixels = images.reshape(-1, 3) / 255
    mean, std = stats(images)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12, atol=0)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-12, atol=1e-14)


def test_any_number_of_pixels_is_summed_exactly() -> None:
    """Makes half of 2 * 10^18 pixels darker by one, a difference that float64 cannot represent."""
    half = 10**18
    sums = [[2 * half] * 3, [half * (254 + 255)] * 3, [half * (254**2 + 255**2)] * 3]
    mean, std = stats_of_sums(sums)
    np.testing.assert_allclose(mean, 254.5 / 255, rtol=1e-15)
    np.testing.assert_allclose(std, 0.5 / 255, rtol=1e-15)


@given(SETS, st.data())
def test_the_parts_pooled_are_the_whole(images: np.ndarray, data: st.DataObject) -> None:
    cuts = data.draw(st.sets(st.integers(1, len(images) - 1)))
    parts = np.split(images, sorted(cuts))
    pooled = pool_stats([stats(part) for part in parts], [len(part) for part in parts])
    np.testing.assert_allclose(pooled, stats(images), rtol=1e-12, atol=1e-14)
