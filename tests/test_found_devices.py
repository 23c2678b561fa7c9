"""Tests the description of the devices."""

import json

import jax

from fsvfm_jax.benchmark.accelerator_rows import Devices
from fsvfm_jax.benchmark.found_devices import find_devices


def test_the_devices_of_jax_are_described():
    found = find_devices()
    assert found.keys() == Devices.__required_keys__
    assert (found["platform"], found["device_kind"]) == ("cpu", "cpu")
    assert found["device_count"] == jax.device_count()
    assert not found["has_cudnn_attention"] and found["jax"] == jax.__version__


def test_the_verb_prints_one_line(fork_server):
    done = fork_server.run("fsvfm_jax.benchmark", "devices")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["platform"] == "cpu"
