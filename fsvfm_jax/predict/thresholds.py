"""What is known of a threshold before the network is opened; imports no JAX."""

import contextlib
import os
from pathlib import Path
from typing import get_args

from fsvfm_jax.errors import ConfigError, nearest
from fsvfm_jax.predict.points import PointName

CALIBRATION_FILE = "calibration.json"


def number_of(threshold: str) -> float | None:
    """Returns the number that a threshold is; None for the name of an operating point.

    Args:
        threshold: A number from 0 to 1, or a name.

    Raises:
        ConfigError: It is another number.
    """
    with contextlib.suppress(ValueError):
        number = float(threshold)
        if not 0 <= number <= 1:
            raise ConfigError(f"--threshold={threshold} is not from 0 to 1")
        return number
    return None


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
    if threshold not in get_args(PointName):
        known = nearest(threshold, get_args(PointName))
        raise ConfigError(
            f"--threshold={threshold} is no number from 0 to 1 and no operating point: {known}"
        )
    if calibration is None and not os.path.lexists(Path(model) / CALIBRATION_FILE):
        raise not_calibrated(threshold)
