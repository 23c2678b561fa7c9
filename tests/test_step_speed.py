"""Tests the benchmark of a step from its arithmetic to its JSON line, but not any speed."""

import json
import os
from argparse import Namespace
from datetime import datetime
from pathlib import Path

import jax
import pytest

from configs import vit_s
from fsvfm_jax.benchmark import step_speed, step_times
from fsvfm_jax.errors import ConfigError, NotFiniteError, OutOfMemory, StorageError
from fsvfm_jax.models import build
from fsvfm_jax.plan.flops import training_flops_per_image
from fsvfm_jax.prepare import extras

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
    assert record["compile_seconds"] > 0 and record["loss"] > 0
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
    assert "MFU unknown" in step_times.summary(record)
    assert list(tmp_path.glob("**/*.xplane.pb"))


# Command


def arguments(**changes) -> Namespace:
    defaults = {
        "batch_size": None,
        "steps": 1,
        "warmup": 0,
        "input": "synthetic",
        "framework": "jax",
        "against": None,
        "rounds": 3,
        "profile": None,
        "output": None,
        "peak_tflops": None,
    }
    return Namespace(**(defaults | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"steps": 0}, "--steps is 0"),
        ({"warmup": -1}, "--warmup is -1"),
        ({"rounds": 0}, "--rounds is 0"),
        ({"peak_tflops": 0.0}, r"--peak-tflops is 0\.0"),
        ({"peak_tflops": float("nan")}, "--peak-tflops is nan"),
        ({"framework": "torch", "against": "torch"}, "leave out --framework"),
        ({"framework": "torch", "input": "real"}, "leave out --input"),
        ({"against": "torch", "profile": "trace"}, "leave out --profile"),
    ],
)
def test_a_wrong_flag_is_named(changes, message):
    step_speed.check_arguments(arguments())
    with pytest.raises(ConfigError, match=message):
        step_speed.check_arguments(arguments(**changes))


@pytest.mark.parametrize("changes", [{"framework": "torch"}, {"against": "torch"}])
def test_without_pytorch_the_line_that_installs_it_is_named(monkeypatch, changes):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"torch is not installed: pip install '\.\[convert\]'"):
        step_speed.check_arguments(arguments(**changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 3}, ConfigError, "3 does not divide over 8 devices"),
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
    with pytest.raises(OutOfMemory, match="batches of 4096 images do not fit"):
        step_speed.benchmark_step(arguments(batch_size=4096), tiny_config(), command="")


@pytest.mark.parametrize(("input_", "expected"), [("synthetic", 5), ("real", 11)])
def test_without_a_flag_the_warmup_exceeds_what_is_made_ahead(monkeypatch, input_, expected):
    def measure_step(*args, warmup, **options):
        raise NotFiniteError(f"warmup {warmup}")

    monkeypatch.setattr(step_speed, "measure_step", measure_step)
    config = tiny_config()
    config.data.num_workers, config.batch_size = 3, 8  # 6 buffered chunks, 3 in work, 2
    with pytest.raises(NotFiniteError, match=f"warmup {expected}"):
        step_speed.benchmark_step(arguments(input=input_, warmup=None), config, command="")


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
