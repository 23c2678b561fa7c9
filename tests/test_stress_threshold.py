"""Tests which threshold a stress test takes, and what it says of it."""

import dataclasses

import numpy as np
import pytest
from scored_sets import scored
from stored_calibration import CALIBRATION

from configs import transfer
from fsvfm_jax.data.labelled.detection_sets import open_sets
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.predict.labelled import LabelledSets
from fsvfm_jax.predict.stress_threshold import (
    SAME_SET,
    own_threshold,
    threshold_before_scoring,
)

DESCRIBED = {"a": transfer.rendered_set("swap-a", "test", videos=24, frames=2)}
SETS = LabelledSets(
    None, open_sets(transfer.ConfigDict(DESCRIBED), (), image_size=32), ("a",), None
)


def found(name, stored=None):
    return threshold_before_scoring(name, SETS, stored=stored, score_name="p_fake")


def test_without_a_calibration_it_is_a_number_or_of_the_same_sets(caplog):
    assert found(None) == ("0.5", 0.5, "not calibrated", 1.0, False)
    assert found("0.3") == ("0.3", 0.3, "given", 1.0, False) and not caplog.messages
    assert found("eer") is None and caplog.messages == [SAME_SET]
    with pytest.raises(ConfigError, match="needs 20 real ones; there are 12"):
        found("fpr_5")


def test_of_a_calibration_it_names_the_faces_and_says_if_these_are_the_same(caplog):
    stored = dataclasses.replace(CALIBRATION, fingerprint="0" * 64)
    origin = "of calibration.json, chosen on 50 real and 50 fake videos of x, 2026-11-29"
    assert found(None, stored) == ("fpr_5", 0.7, origin, 2.5, False)
    assert found("0.3", stored) == ("0.3", 0.3, "given", 2.5, False)
    assert SAME_SET not in caplog.messages
    same = dataclasses.replace(CALIBRATION, fingerprint=SETS.fingerprint())
    assert found("eer", same) == ("eer", 0.25, origin, 2.5, True)
    assert SAME_SET in caplog.messages


def test_a_threshold_that_the_scores_do_not_determine_has_no_value():
    ones = scored("mine", {f"{label}{i}": (1.0,) for label in "fr" for i in range(20)})
    undetermined = own_threshold(ones, name="fpr_5")
    assert undetermined.value is None and "share the highest score" in undetermined.origin
    halves = ones._replace(p_fake=np.where(ones.fake, 0.9, 0.1))
    determined = own_threshold(halves, name="eer")
    assert 0.1 < determined.value < 0.9 and determined.is_of_same_set
