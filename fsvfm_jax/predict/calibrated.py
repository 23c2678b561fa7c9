"""Opens a network with the calibration that lies beside it: `fsvfm_jax.load`."""

import os
from pathlib import Path
from typing import Any

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.predict.calibration import calibration_of
from fsvfm_jax.predict.networks import Detector, Encoder
from fsvfm_jax.predict.networks import load as load_network


def load(
    path: str | os.PathLike, *, calibration: str | os.PathLike | None = None, **options: Any
) -> Encoder | Detector:
    """Opens a network; a detector then has the temperature that `predict score` applies, too.

    Args:
        path: A workdir, an exported folder, a `.pth` file of the reference, or an encoder of
            another library.
        calibration: The calibration.json of the detector; None is the one in `path`, if there is
            one.
        options: The options of `networks.load`.

    Raises:
        DataError: There are no such weights, they are damaged, or the calibration is missing,
            damaged, or one of another network.
        ConfigError: A value that the weights do not contain is not given, a given value does not
            fit the weights, or the calibration does not fit the faces.
    """
    network = load_network(path, **options)
    file = None if calibration is None else Path(calibration)
    if not isinstance(network, Detector):
        if file is not None:
            raise ConfigError(f"{path} is an encoder, which has no calibration: leave it out")
        return network
    found = calibration_of(network, path, file=file, facts=network.facts)
    if found is not None:
        network.temperature = found.temperature
    return network
