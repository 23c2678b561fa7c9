"""Tests what is known of a threshold before the network is."""

from pathlib import Path

import pytest

from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.predict.calibration import CALIBRATION_FILE
from fsvfm_jax.predict.thresholds import (
    check_calibration,
    check_threshold,
    number_of,
)


def test_a_threshold_is_a_number_or_a_name() -> None:
    assert number_of("0.25") == 0.25 and number_of("1") == 1 and number_of("eer") is None
    for text in ("1.5", "-0.1", "nan", "inf"):
        with pytest.raises(ConfigError, match="is not from 0 to 1"):
            number_of(text)
    for text, nearest in (("fpr1", "did you mean 'fpr_1'"), ("", "known: fpr_0.1, fpr_1, fpr_5")):
        with pytest.raises(ConfigError, match=f"no operating point: {nearest}"):
            number_of(text)


def test_a_name_needs_a_calibration(tmp_path: Path) -> None:
    model, file = str(tmp_path), tmp_path / CALIBRATION_FILE
    check_threshold(None, model=model, calibration=None)
    check_threshold("0.5", model=model, calibration=None)
    with pytest.raises(ConfigError, match="names a threshold of a calibration, and there is none"):
        check_threshold("fpr_1", model=model, calibration=None)
    check_threshold("fpr_1", model=model, calibration=file)
    file.write_text("")
    check_threshold("fpr_1", model=model, calibration=None)


def test_a_calibration_that_is_named_is_there(tmp_path: Path) -> None:
    check_calibration(None)
    for name in ("missing.json", "a\0b"):
        with pytest.raises(DataError, match=r"does not exist: name a calibration\.json of"):
            check_calibration(tmp_path / name)
    with pytest.raises(ConfigError, match=r"is a folder: name the file calibration\.json in it$"):
        check_calibration(tmp_path)
    (tmp_path / CALIBRATION_FILE).write_text("")
    check_calibration(tmp_path / CALIBRATION_FILE)
