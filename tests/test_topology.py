"""Tests devices by the name of a topology."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from fsvfm_jax.devices.memory import GIB
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.plan.chips import find_chip
from fsvfm_jax.plan.topology import topology_devices


def test_the_cpu_stands_for_itself():
    devices, chip = topology_devices("cpu:4")
    assert devices == jax.devices("cpu")[:4] and chip is None


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5e:3x3", "v5e comes as 1x1, 2x2, 2x4"),
        ("v5e:32x32", "16x16"),
        ("v6e", "v6e comes as"),
        ("v5p:4x4", "AxBxC of multiples of 4"),
        ("v5p:4x8x4", "A <= B <= C"),
        ("v5p:0x4x4", "multiples of 4"),
        ("v4:16x16x32", "at most 4096 chips"),
        ("tpu", "v5p:4x4x8"),
        ("h200:many", "use h200:8, or h200:8x2"),
        ("h100:8x", "use h100:8, or h100:8x2"),
        ("a100:8x2x2", "use a100:8, or a100:8x2"),
        ("b200:0", "use b200:8, or b200:8x2"),
        ("h100:16", "at most 8 GPUs; two nodes are h100:8x2"),
        ("cpu:0", "cpu:8"),
        ("cpu:100", "has 8 devices"),
        ("cpu:²", "from 1 to 1,024: use cpu:8"),
        ("cpu:1025", "from 1 to 1,024: use cpu:8"),
        ("cpu", "from 1 to 1,024: use cpu:8"),
        ("h200:²", "use h200:8, or h200:8x2"),
        ("h200:8x1025", "at most 1,024 nodes"),
        ("v5p:²x4x4", "multiples of 4"),
        ("v5p:04x4x4", "multiples of 4"),
        ("v5p:4x4x4x4", "multiples of 4"),
        ("gpu", "sees no GPU"),
    ],
)
def test_an_unknown_topology_is_told_what_there_is(topology, message):
    with pytest.raises(ConfigError, match=message):
        topology_devices(topology)


@pytest.mark.parametrize("kind", ["cpu", "h200", "v5p", "v5e", "x"])
def test_a_long_number_is_refused_in_a_short_sentence(kind):
    with pytest.raises(ConfigError) as raised:
        topology_devices(f"{kind}:{'9' * 5000}")
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("topology", "extra"), [("v5e:2x2", "plan"), ("h200:8", "plan-gpu"), ("h100:8x2", "plan-gpu")]
)
def test_without_the_compiler_the_extra_is_named(topology, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"pip install '\.\[{extra}\]'"):
        topology_devices(topology)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install '.[plan]'"
)
@pytest.mark.parametrize(
    ("topology", "number"),
    [("v4:2x2x1", 4), ("v5e:1x1", 1), ("v5e:16x16", 256), ("v5p:4x4x8", 128), ("v6e:2x4", 8)],
)
def test_the_facts_of_tpus_are_those_of_the_compiler(topology, number):
    devices, chip = topology_devices(topology)
    assert len(devices) == number
    assert find_chip(devices[0].device_kind) == chip
    sharding = jax.sharding.SingleDeviceSharding(devices[0])
    shape = jax.ShapeDtypeStruct((2**36,), jnp.float32, sharding=sharding)
    # 256 GiB are too much for every chip, and the message contains the memory of the chip.
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        jax.jit(lambda x: x + 1).lower(shape).compile()
    assert f"available HBM ({chip.hbm_bytes / GIB:.2f}G)" in str(raised.value)
