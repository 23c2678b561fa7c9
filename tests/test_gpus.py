"""Tests the descriptions of GPUs, and the compiler for GPUs where it is installed."""

import importlib.util
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fsvfm_jax.plan import gpus
from fsvfm_jax.plan.chips import CHIPS, find_chip
from fsvfm_jax.plan.collectives import collectives
from fsvfm_jax.plan.gpus import GPUS, PLUGINS, gpu_devices, target_config
from fsvfm_jax.plan.hlo import parse

needs_compiler = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, PLUGINS)),
    reason="XLA's compiler for GPUs is missing: pip install '.[plan-gpu]'",
)


@pytest.mark.parametrize("name", GPUS)
def test_a_description_has_the_facts_of_its_chip(name):
    chip = CHIPS[name]
    text = target_config(chip)
    assert f"memory_bandwidth: {chip.hbm_bandwidth:.0f}\n" in text
    assert f'"{chip.device_kinds[0]}"' in text
    assert text.count("{") == text.count("}")
    # A program gets three quarters of the memory.
    assert f"device_memory_size: {chip.hbm_bytes * 4 // 3}" in text


@pytest.mark.parametrize(("shape", "expected"), [("8", "1x1x8"), ("4x2", "1x2x4")])
def test_the_compiler_is_given_nodes_and_gpus(monkeypatch, shape, expected):
    asked = {}

    def describe(**options):
        asked.update(options)
        return SimpleNamespace(devices=[])

    monkeypatch.setattr(gpus.topologies, "get_topology_desc", describe)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert gpu_devices(CHIPS["h200"], shape) == []
    assert asked["topology"] == expected


@needs_compiler
@pytest.mark.parametrize("name", GPUS)
def test_gpus_of_two_nodes_sum_over_both(name):
    devices = gpu_devices(CHIPS[name], "4x2")
    assert [device.process_index for device in devices] == [0] * 4 + [1] * 4
    assert find_chip(devices[0].device_kind) == CHIPS[name]
    mesh = Mesh(np.asarray(devices), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((64, 256), jnp.float32, sharding=rows)
    total = jax.jit(lambda x: x.sum(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    [found] = collectives(parse(total.lower(x).compile().as_text()))
    assert (found.kind, found.groups, found.bytes) == ("all-reduce", (tuple(range(8)),), 1024)
    assert found.sent_between([device.process_index for device in devices]) == 1024 / 4
