"""Tests the operating points of a detector."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.predict.points import (
    FALSE_POSITIVE_RATES,
    operating_points,
    point_at,
)
from fsvfm_jax.report.metrics import tpr_at_fpr


@given(st.data())
def test_a_point_keeps_its_rate_and_no_threshold_within_it_finds_more(data):
    score = st.integers(0, 30).map(lambda k: k / 30) | st.floats(0, 1)
    real = np.array(data.draw(st.lists(score, min_size=20, max_size=60)), np.float64)
    fakes = np.array(data.draw(st.lists(score, min_size=1, max_size=60)), np.float64)
    scores = np.concatenate([real, fakes])
    fake = np.repeat([False, True], [len(real), len(fakes)])
    points = operating_points(scores, fake)
    for name, largest in FALSE_POSITIVE_RATES.items():
        point = points[name]
        if len(real) < round(1 / largest):
            assert point.threshold is None and f"there are {len(real)}" in point.note
        elif point.threshold is None:
            assert "share the highest score" in point.note
            assert np.mean(real == scores.max()) > largest
        else:
            assert point.fpr == np.mean(real >= point.threshold) <= largest
            assert point.tpr == np.mean(fakes >= point.threshold)
            assert point.tpr == tpr_at_fpr(scores, fake, largest)
    eer = points["eer"]
    assert eer.fpr == np.mean(real >= eer.threshold)
    gaps = [abs(np.mean(real >= t) - np.mean(fakes < t)) for t in scores]
    assert abs(eer.fpr - (1 - eer.tpr)) == pytest.approx(min(gaps))


def test_a_threshold_is_between_two_scores_so_that_rounding_changes_no_decision():
    scores = np.array([*np.linspace(0.1, 0.5, 20), 0.9])
    fake = np.arange(21) == 20
    assert operating_points(scores, fake)["eer"].threshold == pytest.approx(0.7)
    near = np.nextafter(0.5, 1)
    scores[-1] = near
    assert operating_points(scores, fake)["eer"].threshold == near


def test_saturated_scores_of_real_videos_leave_a_point_undetermined():
    scores, fake = np.ones(40), np.arange(40) >= 20
    point = operating_points(scores, fake)["fpr_5"]
    assert point.threshold is None and "share the highest score" in point.note


def test_a_class_that_is_missing_has_no_rate():
    point = point_at(np.array([0.2, 0.7]), np.array([True, True]), threshold=0.5)
    assert point.tpr == 0.5 and point.fpr is None and point.fpr_interval is None
