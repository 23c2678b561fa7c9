"""FSFM / FS-VFM: self-supervised pretraining of face security vision transformers in JAX."""

import os
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    import fsvfm_jax.predict.networks

__version__ = "0.1.0"


def load(
    path: str | os.PathLike, **options: Any
) -> Union["fsvfm_jax.predict.networks.Encoder", "fsvfm_jax.predict.networks.Detector"]:
    """Opens an encoder or a detector: a workdir, an exported folder or a file of weights.

    The import of this package alone imports neither JAX nor NumPy; this function imports them.

    Args:
        path: The workdir, folder or file.
        options: The options of `fsvfm_jax.predict.calibrated.load`, such as `calibration`, and of
            `fsvfm_jax.predict.networks.load`.

    Returns:
        A `fsvfm_jax.predict.networks.Encoder` or `Detector`, with the methods `features` and
        `predict`.

    Raises:
        UserError: As `fsvfm_jax.predict.calibrated.load`.
    """
    from fsvfm_jax.predict.calibrated import load as load_calibrated

    return load_calibrated(path, **options)
