"""Tests the files that describe a run."""

import numpy as np

from fsvfm_jax.run.descriptions import parameter_table


def test_parameter_table_lists_every_array():
    params = {
        "encoder": {"kernel": np.zeros((3, 4), np.float32), "bias": np.zeros(4, np.float32)},
        "scale": np.zeros((1000,), np.float16),
    }
    assert parameter_table(params).splitlines() == [
        "+----------------+---------+---------+-------+",
        "| Name           | Shape   | Dtype   | Size  |",
        "+----------------+---------+---------+-------+",
        "| encoder/bias   | (4,)    | float32 | 4     |",
        "| encoder/kernel | (3, 4)  | float32 | 12    |",
        "| scale          | (1000,) | float16 | 1,000 |",
        "+----------------+---------+---------+-------+",
        "Total: 1,016 -- 2,064 bytes",
    ]
