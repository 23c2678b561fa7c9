"""The names of thresholds; a command checks them before it imports JAX."""

import contextlib
import os
from pathlib import Path
from typing import Literal, get_args

from fsvfm_jax.errors import ConfigError, nearest

CALIBRATION_FILE = "calibration.json"
# The largest FPR of each operating point. "eer" is the point where FPR and 1 - TPR are nearest.
FALSE_POSITIVE_RATES = {"fpr_0.1": 0.001, "fpr_1": 0.01, "fpr_5": 0.05}
EER = "eer"
PointName = Literal["fpr_0.1", "fpr_1", "fpr_5", "eer"]


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
