"""Tests that weights that are not finite are named, with the number of such values."""

import jax.numpy as jnp
import numpy as np
import pytest

from fsvfm_jax.convert.finite import check_finite
from fsvfm_jax.errors import DataError


def test_finite_weights_pass():
    check_finite(
        {"a": {"b": np.ones(3, np.float32)}, "c": jnp.ones(2, jnp.bfloat16), "d": np.arange(2)},
        what="x",
    )
    check_finite({}, what="x")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_each_kind_of_value_is_found(dtype, value):
    array = np.array([[1, value], [value, 2]], dtype)
    with pytest.raises(DataError, match=r"^x has .* in a/b \(2 of 4\): .* --allow-not-finite"):
        check_finite({"a": {"b": array}, "c": np.ones(2)}, what="x")


def test_the_first_arrays_are_named_and_the_others_counted():
    arrays = {f"a{i}": np.array([np.nan]) for i in range(1005)}
    with pytest.raises(DataError, match=r"a0 \(1 of 1\), .*, a4 \(1 of 1\) and 1,000 more"):
        check_finite(arrays, what="x")
