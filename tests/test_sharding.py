"""Where arrays live."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from fsvfm_jax import sharding
from fsvfm_jax.errors import ConfigError


def test_the_mesh_holds_every_device_and_is_auto():
    mesh = sharding.make_mesh()
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_a_batch_is_split_in_order():
    rows = np.arange(16 * 3).reshape(16, 3)
    batch = sharding.put_batch({"x": rows}, sharding.make_mesh())
    np.testing.assert_array_equal(batch["x"], rows)
    shards = sorted(batch["x"].addressable_shards, key=lambda s: s.index[0].start)
    assert [s.data.shape for s in shards] == [(2, 3)] * 8
    np.testing.assert_array_equal(shards[3].data, rows[6:8])


def test_an_uneven_batch_is_refused():
    mesh = sharding.make_mesh()
    sharding.check_batch_size(64, accum_steps=4, mesh=mesh)
    with pytest.raises(ConfigError, match=r"8 devices x 3 accum_steps: make it a multiple of 24"):
        sharding.check_batch_size(64, accum_steps=3, mesh=mesh)
