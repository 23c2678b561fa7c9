"""Tests the arrays of a compiled program's text; the tests of collectives parse whole programs."""

import pytest

from fsvfm_jax.plan import hlo


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("f32", (), 4),
        ("bf16", (2, 3), 12),
        ("pred", (5,), 5),
        ("s4", (3,), 2),
        ("f8e4m3fn", (4,), 4),
        ("c64", (2,), 16),
        ("token", (), 0),
        ("f32", (0, 7), 0),
    ],
)
def test_bytes_of_an_array(dtype, shape, size):
    assert hlo.HloArray(dtype, shape, in_hbm=True).bytes == size
