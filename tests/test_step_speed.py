"""Tests the benchmark of a step from its arithmetic to its JSON line, but not any speed."""

import json
import os
from argparse import Namespace
from datetime import datetime
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs import vit_s
from fsvfm_jax.benchmark import step_speed
from fsvfm_jax.errors import ConfigError, NotFiniteError, StorageError
from fsvfm_jax.models import build
from fsvfm_jax.plan.flops import training_flops_per_image

ROOT = Path(__file__).parent.parent
TINY = {
    "batch_size": 8,
    "model.image_size": 32,
    "model.width": 32,
    "model.depth": 1,
    "model.decoder_width": 32,
    "model.decoder_depth": 1,
}


def tiny_config(changes: dict | None = None):
    config = vit_s.get_config("smoke")
    config.update_from_flattened_dict(TINY | (changes or {}))
    return config


# Arithmetic


def test_step_times_of_a_worked_example():
    times = step_speed.step_times_ms([0.4, 0.1, 1.0, 0.3, 0.2])
    expected = {"median": 300, "mean": 400, "p10": 140, "p90": 760, "spread": 620}
    assert times == pytest.approx(expected)


def test_the_peak_is_the_flag_before_the_datasheet():
    assert step_speed.find_peak("NVIDIA H200", None) == (989, "datasheet")
    assert step_speed.find_peak("NVIDIA H200", 790.0) == (790, "--peak-tflops")
    assert step_speed.find_peak("cpu", None) == (None, None)


# Steps


def test_a_step_is_handed_over_before_the_last_one_is_waited_for():
    events = []

    def train_step(state, batch, values):
        assert values.learning_rate > 0
        events.append(("step", state, batch))
        return state + 1, {"loss": jnp.array(state)}

    running = step_speed.run_steps(train_step, 0, iter("abcd"))
    for metrics in running:
        events.append(("ended", int(metrics["loss"])))
    assert events == [
        ("step", 0, "a"),
        ("step", 1, "b"),
        ("ended", 0),
        ("step", 2, "c"),
        ("ended", 1),
        ("step", 3, "d"),
        ("ended", 2),
    ]


def test_the_time_of_a_step_is_from_end_to_end_after_the_warm_up(monkeypatch):
    clock = Namespace(now=0.0)
    monkeypatch.setattr(step_speed.time, "perf_counter", lambda: clock.now)

    def running():
        for duration in (100, 50, 10, 1, 2, 3, 1000):
            clock.now += duration
            yield

    # Two steps warm up, and the time starts at the end of the third.
    assert step_speed.time_steps(running(), steps=3, warmup=2) == [1, 2, 3]


# Record


def check_record(record: dict, *, images_per_second_from: str) -> None:
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    datetime.fromisoformat(record["date"])
    assert (record["jax"], record["device_kind"]) == (jax.__version__, "cpu")
    assert (record["model"]["depth"], record["model"]["dtype"]) == (1, "float32")
    assert record["model"].keys() >= {"remat", "unroll"} and record["accum_steps"] == 1
    times = record["step_time_ms"]
    assert 0 < times["p10"] <= times["median"] <= times["p90"]
    typical = times[images_per_second_from]
    assert record["images_per_second"] == pytest.approx(record["batch_size"] * 1e3 / typical)
    assert record["compile_seconds"] > 0
    assert record["peak_memory_source"] == "compiler" and record["peak_memory_bytes"] > 100_000
    model = build(tiny_config({"model.rep_pos": "sincos"}).model)
    assert record["flops_per_image"] == training_flops_per_image(model, 0.75).total


@pytest.mark.slow
def test_real_input_and_a_trace(tmp_path):
    record = step_speed.measure_step(
        tiny_config({"data.num_samples": 32}),
        steps=4,
        warmup=0,
        real_input=True,
        profile=str(tmp_path),
    )
    check_record(record, images_per_second_from="mean")
    assert record["input"] == "real"
    assert record["data"] == {"source": "synthetic", "num_workers": 0}
    assert record["peak_tflops"] is record["peak_source"] is record["mfu"] is None
    assert "MFU unknown" in step_speed.summary(record)
    assert list(tmp_path.glob("**/*.xplane.pb"))


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_network_that_diverged_gives_no_times(name):
    metrics = {"loss": jnp.ones(()), "grad_norm": jnp.ones(())}
    step_speed.check_finite(metrics)
    with pytest.raises(NotFiniteError, match=f"{name} is nan"):
        step_speed.check_finite(metrics | {name: jnp.array(jnp.nan)})


# Command


def arguments(**changes) -> Namespace:
    defaults = {
        "batch_size": None,
        "steps": 1,
        "warmup": 0,
        "input": "synthetic",
        "profile": None,
        "output": None,
        "peak_tflops": None,
    }
    return Namespace(**(defaults | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 0}, ConfigError, "--batch-size is 0"),
        ({"batch_size": 3}, ConfigError, "3 does not divide over 8 devices"),
        ({"steps": 0}, ConfigError, "--steps is 0"),
        ({"warmup": -1}, ConfigError, "--warmup is -1"),
        ({"peak_tflops": 0.0}, ConfigError, r"--peak-tflops is 0\.0"),
        ({"peak_tflops": float("nan")}, ConfigError, "--peak-tflops is nan"),
        ({"output": "/nowhere/speed.jsonl"}, StorageError, "/nowhere/speed.jsonl"),
    ],
)
def test_a_wrong_value_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        step_speed.benchmark_step(arguments(**changes), tiny_config(), command="")


def test_a_batch_that_does_not_fit_is_named(monkeypatch):
    def measure_step(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(step_speed, "measure_step", measure_step)
    with pytest.raises(ConfigError, match="batches of 4096 images do not fit"):
        step_speed.benchmark_step(arguments(batch_size=4096), tiny_config(), command="")


@pytest.mark.e2e
def test_the_command_prints_one_line_and_appends_it(fork_server, tmp_path):
    # The number of devices is the same as here, so that the compiled step is found in the cache.
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    output = tmp_path / "speed.jsonl"
    output.write_text("earlier\n")
    fields = [f"--config.{name}={value}" for name, value in TINY.items()]
    flags = ["--steps=4", "--warmup=1", "--peak-tflops=0.5", f"--output={output}"]
    arguments = ["step", "--config=configs/vit_s.py:smoke", *flags, *fields, "--batch-size=8"]
    result = fork_server.run("fsvfm_jax.benchmark", *arguments, environment=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    assert output.read_text() == "earlier\n" + result.stdout

    record = json.loads(result.stdout)
    check_record(record, images_per_second_from="median")
    assert record["config"] == "configs/vit_s.py:smoke"
    assert record["command"].startswith("python -m fsvfm_jax.benchmark step --config=configs/vit_s")
    assert (record["batch_size"], record["device_count"]) == (8, 8)
    assert (record["input"], record["steps"]) == ("synthetic", 4)
    assert (record["peak_tflops"], record["peak_source"]) == (0.5, "--peak-tflops")
    assert record["mesh"] == {"data": 8, "fsdp": 1}
    operations = record["flops_per_image"] * record["images_per_second"]
    assert record["mfu"] == pytest.approx(operations / (8 * 0.5e12))
    assert "images/s on 8 x cpu" in result.stderr and "MFU" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stpe", "--config=configs/vit_s.py:smoke"], "'stpe'"),
        (["step", "--config=configs/vit_s.py:smoke", "--stepps=3"], "stepps"),
        (["step", "--config=configs/vit_s.py:smoke", "3"], "unexpected argument '3'"),
        (["step"], "--config is missing"),
    ],
)
def test_a_wrong_command_line_ends_in_one_sentence(fork_server, arguments, message):
    result = fork_server.run("fsvfm_jax.benchmark", *arguments)
    assert (result.returncode, result.stdout) == (78, "")
    assert result.stderr.count("\n") == 1
    assert "error: " in result.stderr and message in result.stderr
