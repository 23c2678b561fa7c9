"""What is known of a threshold and a calibration before the network is opened; imports no JAX."""

import os
from pathlib import Path

from fsvfm_jax.errors import ConfigError, DataError, nearest
from fsvfm_jax.predict.calibration import CALIBRATION_FILE
from fsvfm_jax.predict.points import POINTS


def number_of(threshold: str) -> float | None:
    """Returns the number that a threshold is; None for the name of an operating point.

    Args:
        threshold: A number from 0 to 1, or the name of an operating point.

    Raises:
        ConfigError: It is neither.
    """
    if threshold in POINTS:
        return None
    try:
        number = float(threshold)
    except ValueError as error:
        raise ConfigError(
            f"--threshold={threshold} is no number from 0 to 1 and no operating point:"
            f" {nearest(threshold, POINTS)}"
        ) from error
    if not 0 <= number <= 1:
        raise ConfigError(f"--threshold={threshold} is not from 0 to 1")
    return number


def not_calibrated(threshold: str) -> ConfigError:
    """Returns the error for the name of an operating point without a calibration."""
    return ConfigError(
        f"--threshold={threshold} names a threshold of a calibration, and there is none: give a"
        " number from 0 to 1, or make one with `predict calibrate`"
    )


def check_threshold(threshold: str | None, *, model: str, calibration: Path | None) -> None:
    """Checks a threshold as far as this is possible without the network.

    Args:
        threshold: A number from 0 to 1, or the name of an operating point; None for the default.
        model: Where the network comes from.
        calibration: The calibration that the user names; None for that of the model.

    Raises:
        ConfigError: The threshold is neither, or there is no calibration.
    """
    if threshold is None or number_of(threshold) is not None:
        return
    if calibration is None and not os.path.lexists(Path(model) / CALIBRATION_FILE):
        raise not_calibrated(threshold)


def check_calibration(file: Path | None) -> None:
    """Checks that the calibration which the user names is there; None for that of the model.

    Raises:
        DataError: The file does not exist.
        ConfigError: It is a folder.
    """
    if file is None:
        return
    if file.is_dir():
        raise ConfigError(f"{file} is a folder: name the file {CALIBRATION_FILE} in it")
    if not os.path.lexists(file):
        raise DataError(f"{file} does not exist: name a {CALIBRATION_FILE} of `predict calibrate`")
