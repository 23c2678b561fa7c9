"""Finds weights that are infinite or not a number before they are converted."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from fsvfm_jax.errors import DataError, short_list

MAX_NAMED = 5


def check_finite(params: Mapping[str, Any], *, what: str) -> None:
    """Raises DataError if a tree of parameters has values that are not finite.

    Args:
        params: A tree of arrays.
        what: Source of the parameters, for the message.
    """
    bad_arrays = []
    for name, array in traverse_util.flatten_dict(dict(params), sep="/").items():
        bad = np.size(array) - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            bad_arrays.append(f"{name} ({bad:,} of {np.size(array):,})")
    if not bad_arrays:
        return
    named = short_list(bad_arrays, most=MAX_NAMED, rest="more arrays")
    raise DataError(
        f"{what} has values that are infinite or not a number, in {named}: take an earlier"
        " checkpoint, or give --allow-not-finite to convert them as they are"
    )
