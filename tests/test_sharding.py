"""Tests on which devices arrays are placed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fsvfm_jax.devices import sharding
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.models import build

DATA_PARALLEL = {"data": -1, "fsdp": 1}


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((-1, 1), (8, 1)), ((1, -1), (1, 8)), ((2, 4), (2, 4)), ((-1, 2), (4, 2)), ((8, 1), (8, 1))],
)
def test_the_mesh_holds_every_device_in_order_and_is_auto(sizes, shape):
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, sizes, strict=True)))
    assert tuple(mesh.shape.values()) == shape
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert list(mesh.devices.flat) == jax.devices()


@pytest.mark.parametrize("sizes", [(3, 1), (-1, 3), (4, 1), (-1, -1), (0, 8), (-2, -4)])
def test_an_idle_device_is_an_error(sizes):
    with pytest.raises(ConfigError, match="does not make 8 devices"):
        sharding.make_mesh(dict(zip(sharding.AXES, sizes, strict=True)))


def test_a_batch_is_split_in_order():
    rows = np.arange(16 * 3).reshape(16, 3)
    batch = sharding.put_batch({"x": rows}, sharding.make_mesh(DATA_PARALLEL))
    np.testing.assert_array_equal(batch["x"], rows)
    shards = sorted(batch["x"].addressable_shards, key=lambda s: s.index[0].start)
    assert [s.data.shape for s in shards] == [(2, 3)] * 8
    np.testing.assert_array_equal(shards[3].data, rows[6:8])


def test_an_uneven_batch_is_refused():
    mesh = sharding.make_mesh(DATA_PARALLEL)
    sharding.check_batch_size(64, accum_steps=4, mesh=mesh)
    with pytest.raises(ConfigError, match=r"8 devices x 3 accum_steps: make it a multiple of 24"):
        sharding.check_batch_size(64, accum_steps=3, mesh=mesh)


def spec_of(shape, *names, fsdp=4):
    mesh = sharding.make_mesh({"data": -1, "fsdp": fsdp})
    tree = jax.ShapeDtypeStruct(shape, np.float32)
    for name in reversed(names):
        tree = {name: tree}
    template = sharding.state_template(tree, mesh)
    return jax.tree.leaves(sharding.shardings_of(template))[0].spec


def test_the_rule_of_fsdp():
    # The longest axis that divides is split, but never the layers of a stack or a position table.
    assert spec_of((768, 512), "decoder_embed", "kernel") == P("fsdp", None)
    assert spec_of((768, 3072), "head", "kernel") == P(None, "fsdp")
    assert spec_of((4096, 48, 96), "blocks", "mlp", "kernel") == P(None, None, "fsdp")
    assert spec_of((4096, 63, 61), "blocks", "mlp", "kernel") == P()
    assert spec_of((1, 4096, 768), "pos_embed") == P()
    assert spec_of((768,), "norm", "scale") == spec_of((1, 1, 768), "cls_token") == P()
    assert spec_of((24, 3072), "blocks", "mlp", "bias") == P()
    assert spec_of((768, 512), "decoder_embed", "kernel", fsdp=1) == P()


def test_no_device_holds_the_whole_state():
    model = build("vit_base_patch16")
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    whole = sum(x.size for x in jax.tree.leaves(shapes))
    for fsdp in (2, 4, 8):
        template = sharding.state_template(shapes, sharding.make_mesh({"data": -1, "fsdp": fsdp}))
        held = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(template))
        assert held < 1.05 * whole / fsdp  # biases and tokens are not split


def test_constrain_batch_is_nothing_without_a_mesh():
    x = jnp.ones((4, 3))
    assert sharding.constrain_batch(x) is x
