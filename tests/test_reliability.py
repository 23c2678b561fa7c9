"""Tests the temperature and the expected calibration error."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsvfm_jax.errors import DataError
from fsvfm_jax.report.metrics import probability
from fsvfm_jax.report.reliability import (
    BINS,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    ScoredFaces,
    calibration_error,
    fit_temperature,
    held_out_probability,
    reliability,
)


def drawn(seed, count=4000, temperature=1.0):
    """Returns margins that are `temperature` times those that agree with the labels."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(0, 2, count)
    return temperature * margins, rng.random(count) < probability(margins)


def cross_entropy(margins, fake, temperature):
    return np.logaddexp(0, np.where(fake, -margins, margins) / temperature).mean()


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0, 10.0])
def test_the_temperature_of_margins_that_were_multiplied_is_found(temperature):
    margins, fake = drawn(0, 40_000, temperature)
    assert fit_temperature(margins, fake) == pytest.approx(temperature, rel=0.05)


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), min_size=2, max_size=30).filter(
        lambda pairs: len({fake for _, fake in pairs}) == 2
    )
)
@settings(max_examples=50)
def test_no_other_temperature_has_a_smaller_cross_entropy(pairs):
    margins, fake = (np.array(column) for column in zip(*pairs, strict=True))
    margins = margins.astype(np.float64)
    found = fit_temperature(margins, fake)
    grid = np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 500)
    values = [cross_entropy(margins, fake, one) for one in grid]
    if found is None:  # The least value is at an end.
        assert min(values[0], values[-1]) <= min(values) + 1e-9
    else:
        assert MIN_TEMPERATURE <= found <= MAX_TEMPERATURE
        assert cross_entropy(margins, fake, found) <= min(values) + 1e-9


def test_margins_without_an_error_or_without_a_meaning_determine_no_temperature():
    fake = np.arange(10) % 2 == 0
    assert fit_temperature(np.where(fake, 2.0, -2.0), fake) is None
    assert fit_temperature(np.where(fake, -2.0, 2.0), fake) is None
    assert fit_temperature(np.zeros(10), fake) is None
    assert fit_temperature(np.where(fake, 1e300, -1e300), fake) is None


def test_one_class_and_margins_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="none of the 3 labels is positive"):
        fit_temperature(np.zeros(3), np.zeros(3, bool))
    with pytest.raises(DataError, match="are not finite"):
        fit_temperature(np.array([0.0, np.nan]), np.array([True, False]))
    with pytest.raises(DataError, match="none of the 3 labels is negative"):
        held_out_probability(ScoredFaces(np.zeros(3), np.ones(3, bool), np.array(list("abc"))))


def test_bins_hold_every_face_once_and_the_ends_belong_to_the_first_and_the_last():
    p_fake = np.array([0.0, 1e-300, 0.5, 1 - 1e-16, 1.0, 1 / 15])
    fake = np.array([False, False, True, True, True, False])
    found = reliability(p_fake, fake)
    assert found.counts.sum() == 6 and len(found.counts) == BINS
    assert found.counts[0] == 2 and found.counts[-1] == 2 and found.counts[1] == 1
    assert found.fake_share[-1] == 1.0 and found.mean_score[7] == 0.5


def test_the_error_is_that_of_a_plain_implementation():
    rng = np.random.default_rng(0)
    p_fake, fake = rng.random(1000), rng.random(1000) < 0.3
    edges = np.linspace(0, 1, BINS + 1)
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (p_fake >= low) & (p_fake < high)
        if inside.any():
            total += inside.sum() * abs(p_fake[inside].mean() - fake[inside].mean())
    assert calibration_error(p_fake, fake) == pytest.approx(total / 1000, abs=1e-12)
    assert calibration_error(fake.astype(np.float64), fake) == 0.0
    assert calibration_error(1 - fake.astype(np.float64), fake) == 1.0


def test_the_temperature_of_one_half_lowers_the_error_of_the_other():
    margins, fake = drawn(1, 4000, temperature=4.0)
    videos = np.array([f"v{i // 4}" for i in range(4000)])
    fake = fake[np.arange(4000) // 4 * 4]  # one label for each video
    after = held_out_probability(ScoredFaces(margins, fake, videos))
    assert calibration_error(after, fake) < calibration_error(probability(margins), fake)
    assert set(np.sign(after - 0.5) * np.sign(margins)) <= {0.0, 1.0}


def test_each_half_has_the_temperature_of_the_other():
    margins, fake = drawn(1, 400)
    videos = np.array([f"v{i:03d}" for i in range(400)])
    second = np.zeros(400, bool)
    for label in (False, True):
        second[np.flatnonzero(fake == label)[1::2]] = True
    margins[second] *= 8  # The halves need temperatures that differ.
    after = held_out_probability(ScoredFaces(margins, fake, videos))
    for half in (second, ~second):
        temperature = fit_temperature(margins[~half], fake[~half])
        np.testing.assert_allclose(after[half], probability(margins[half] / temperature))


def test_a_half_does_not_depend_on_its_own_labels_scale_or_on_the_order():
    margins, fake = drawn(2, 400, temperature=2.0)
    videos = np.array([f"v{i:03d}" for i in range(400)])
    found = held_out_probability(ScoredFaces(margins, fake, videos))
    order = np.random.default_rng(0).permutation(400)
    mixed = held_out_probability(ScoredFaces(margins[order], fake[order], videos[order]))
    np.testing.assert_allclose(mixed, found[order], rtol=1e-9)
