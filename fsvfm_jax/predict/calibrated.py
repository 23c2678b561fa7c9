"""Opens a network with the calibration that lies beside it: `fsvfm_jax.load`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsvfm_jax.convert.runs import is_run
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.predict.calibration import CALIBRATION_FILE, Calibration, read_calibration
from fsvfm_jax.predict.networks import Detector, Encoder
from fsvfm_jax.predict.networks import load as load_network
from fsvfm_jax.predict.thresholds import check_calibration


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
            fit the weights, or the calibration does not fit the network or the faces.
    """
    file = None if calibration is None else Path(calibration)
    check_calibration(file)
    network = load_network(path, **options)
    found = calibration_of(network, file=file, facts=network.facts)
    if found is not None:
        network.temperature = found.temperature
    return network


def calibration_of(
    network: Encoder, *, file: Path | None, facts: Mapping[str, Any]
) -> Calibration | None:
    """Returns the calibration of a network, if there is one.

    Args:
        network: The network. By default the calibration lies in the folder that it comes from.
        file: The calibration that the user names; None for the default.
        facts: What is known of the faces, "face_detector" and "crop_margin".

    Raises:
        DataError: The file is missing or damaged, or was made for another network.
        ConfigError: The network is an encoder, but a file is named; or the file is a folder, or
            was made for faces that are found, cropped or resized otherwise.
    """
    check_calibration(file)
    if not isinstance(network, Detector):
        if file is not None:
            raise ConfigError(
                f"{network.path} is an encoder, which has no calibration: leave out {file}"
            )
        return None
    path = file or network.path / CALIBRATION_FILE
    if not os.path.lexists(path):
        return None
    found = read_calibration(path)
    _check_weights(found, path, network)
    known = {"view": network.view, **{x: facts.get(x) for x in ("face_detector", "crop_margin")}}
    for name, used in known.items():
        fitted = getattr(found, name)
        if None not in (fitted, used) and fitted != used:
            raise ConfigError(
                f"{path} was made for faces with {name} = {fitted}, not {used}: give"
                f" --{name.replace('_', '-')}={fitted}, or calibrate again"
            )
    return found


def _check_weights(found: Calibration, path: Path, network: Detector) -> None:
    """Raises DataError if a calibration was made for another network."""
    if found.weights_sha256 == network.sha256:
        return
    step = "" if found.step is None else f", step {found.step}"
    own = ""
    if found.step is not None and is_run(network.path):  # Only a run has several steps.
        own = f" use those weights with --step={found.step},"
    raise DataError(
        f"{path} was made for other weights or statistics (SHA-256"
        f" {found.weights_sha256[:12]}...{step}; not {network.sha256[:12]}...):{own} make it again"
        " with `python -m fsvfm_jax.predict calibrate`, or remove the file"
    )
