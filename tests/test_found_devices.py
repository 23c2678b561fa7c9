"""Tests the description of the devices."""

import json
import os
import subprocess
import sys

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


def test_devices_that_cannot_be_started_are_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "fsvfm_jax.benchmark", "devices"],
        env=os.environ | {"JAX_PLATFORMS": "abc"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 78 and "Traceback" not in done.stderr
    assert "error: JAX cannot start its devices (RuntimeError: " in done.stderr
    assert "check JAX_PLATFORMS" in done.stderr
