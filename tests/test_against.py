"""Tests how the two frameworks take turns, and what is said of them, but not any speed."""

import json
from argparse import Namespace

import pytest

from fsvfm_jax import cli
from fsvfm_jax.benchmark import against
from fsvfm_jax.benchmark.child import CACHE
from fsvfm_jax.errors import ConfigError

FIELDS = ["--config=configs/vit_s.py:smoke", "--config.seed=1"]


def record(median: float, devices: int = 1) -> dict:
    return {
        "step_time_ms": {"median": median},
        "batch_size": 16,
        "model": {"dtype": "float32"},
        "device_kind": "cpu",
        "device_count": devices,
    }


@pytest.fixture
def measured(monkeypatch):
    """Returns the command lines that were measured, and gives each a time."""
    lines = []
    times = {"jax": iter([200.0, 100.0, 250.0]), "torch": iter([100.0, 80.0, 150.0])}

    def measure(line, *, environment):
        assert list(environment) in ([], [CACHE])
        lines.append(line)
        return record(next(times[line[-3].partition("=")[2]]))

    monkeypatch.setattr(against, "measure", measure)
    monkeypatch.setattr(cli, "config_filename", lambda: "configs/vit_s.py:smoke")
    return lines


def arguments(**changes) -> Namespace:
    values = {"batch_size": 16, "steps": 4, "warmup": 1, "peak_tflops": None}
    return Namespace(**(values | {"rounds": 3, "output": None} | changes))


def test_the_frameworks_take_turns(measured, capsys):
    against.benchmark_against(arguments(), FIELDS, command="the command")
    assert [line[-3] for line in measured] == [
        f"--framework={name}" for name in ("jax", "torch", "torch", "jax", "jax", "torch")
    ]
    own = ["step", "--batch-size=16", "--steps=4", "--warmup=1"]
    assert all(line[:4] == own and line[-2:] == FIELDS for line in measured)

    printed = capsys.readouterr()
    compared = json.loads(printed.out)
    assert (compared["command"], compared["config"]) == ("the command", "configs/vit_s.py:smoke")
    assert compared["median_step_ms"] == {"jax": 200, "torch": 100}
    ratios = [compared[f"speed_ratio{end}"] for end in ("", "_min", "_max")]
    assert ratios == pytest.approx([0.5, 0.5, 0.8])
    assert [len(of) for of in compared["records"].values()] == [3, 3]
    assert "0.50 of PyTorch's speed (0.50 to 0.80 in 3 rounds)" in printed.err
    assert "step 200.0 ms, PyTorch's 100.0 ms; batch 16, float32, cpu" in printed.err


def test_several_devices_are_refused(monkeypatch):
    monkeypatch.setattr(against, "measure", lambda line, environment: record(1.0, devices=8))
    with pytest.raises(ConfigError, match="JAX has 8: show JAX one"):
        against.benchmark_against(arguments(), FIELDS, command="")


def test_different_devices_are_refused(monkeypatch):
    def measure(line, environment):
        kind = "NVIDIA H200" if "--framework=jax" in line else "cpu"
        return record(1.0) | {"device_kind": kind}

    monkeypatch.setattr(against, "measure", measure)
    with pytest.raises(ConfigError, match="JAX uses NVIDIA H200 and PyTorch cpu: install"):
        against.benchmark_against(arguments(), FIELDS, command="")
