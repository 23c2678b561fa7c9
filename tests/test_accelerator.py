"""Tests the measurements of an accelerator with stand-ins, and once with real ones on a CPU."""

import json
from argparse import Namespace

import pytest
import tiny

from fsvfm_jax.benchmark import __main__ as benchmark
from fsvfm_jax.benchmark import accelerator, measurements
from fsvfm_jax.benchmark.accelerator import RESULTS, TABLE, benchmark_accelerator
from fsvfm_jax.benchmark.measurements import MeasurementFailed
from fsvfm_jax.errors import ConfigError, StorageError

CONFIG = "configs/vit_s.py:smoke"
RECORD = {
    "device_kind": "NVIDIA H200",
    "device_count": 1,
    "jax": "0.10.2",
    "step_time_ms": {"median": 50.0, "p10": 49.0, "p90": 52.0},
    "images_per_second": 5120.0,
    "mfu": 0.4,
    "compile_seconds": 60.0,
    "peak_memory_bytes": 3e10,
    "batch_size": 256,
}
ERRORS = {
    "device_kind": "NVIDIA H200",
    "jax": "0.10.2",
    "errors": [
        {
            "cudnn": {"output": 0.002, "gradients": [0.003, 0.004, 0.002]},
            "xla": {"output": 0.003, "gradients": [0.003, 0.003, 0.003]},
        }
    ],
}


class Device:
    """Stands for a device, on which each measurement takes the given seconds."""

    def __init__(self, monkeypatch, *, seconds: float = 1.0):
        self.now, self.seconds, self.lines = 0.0, seconds, []
        monkeypatch.setattr(accelerator, "measure", self.measure)
        monkeypatch.setattr(accelerator, "pack", lambda *args, **options: None)
        monkeypatch.setattr(accelerator.input_speed, "render_tree", lambda *args: "tree")
        clock = Namespace(monotonic=lambda: self.now)
        monkeypatch.setattr(accelerator, "time", clock)

    def measure(self, arguments, *, environment, seconds):
        self.lines.append(arguments)
        self.now += min(self.seconds, seconds)
        if self.seconds > seconds:
            raise MeasurementFailed(f"stopped after {seconds:.0f} s")
        if "--config=configs/vit_l.py" in arguments:
            raise MeasurementFailed("RESOURCE_EXHAUSTED: Out of | memory", log="the end")
        if arguments[0] == "attention":
            return ERRORS
        speed = 2560.0 if "--framework=torch" in arguments else 5120.0
        return RECORD | {"images_per_second": speed}


def call(folder, *, minutes: float = 60.0, config: str | None = None, fields=()) -> list[dict]:
    args = Namespace(output=str(folder), minutes=minutes, steps=2)
    benchmark_accelerator(args, config, list(fields), command="the command")
    return json.loads((folder / RESULTS).read_text())


def test_failures_are_rows_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    device = Device(monkeypatch)
    rows = call(tmp_path / "new")
    assert len(rows) == len(device.lines) == 19
    failed = [row for row in rows if row["size"] == "L"]
    assert all((row["record"], row["log"]) == (None, "the end") for row in failed)
    table = (tmp_path / "new" / TABLE).read_text()
    assert capsys.readouterr().out.strip() == table.strip()
    assert "on NVIDIA H200; jax 0.10.2." in table and "Command: the command" in table
    assert r"RESOURCE_EXHAUSTED: Out of \| memory" in table
    assert "0.500 of this project's speed per device" in table
    assert "cudnn 0.20% (output) and 0.40% (gradients)" in table
    assert "| S | this project | 256 | 5,120 | 50.0 (49.0 to 52.0) | 40.0% | 30.0 | 60 |" in table
    assert "Not measured on a device" not in table


def test_a_measurement_starts_if_there_is_time_for_it(monkeypatch, tmp_path):
    # The first step takes 100 s, so that the second starts after 100 s and the third does not.
    device = Device(monkeypatch, seconds=100.0)
    rows = call(tmp_path, minutes=290 / 60)
    assert [row["message"] for row in rows[:3]] == [
        None,
        None,
        "not started: 100 s are expected and 90 s were left",
    ]
    # The first measurement of another kind has a shorter expectation, and is stopped.
    assert rows[3]["message"] == "stopped after 90 s"
    assert all(row["message"].startswith("not started") for row in rows[4:])
    assert len(device.lines) == 3


def test_the_same_command_makes_the_missing_measurements(monkeypatch, tmp_path):
    first = Device(monkeypatch, seconds=100.0)
    call(tmp_path, minutes=290 / 60)
    second = Device(monkeypatch)
    rows = call(tmp_path)
    done = [line for line in first.lines[:2]]
    assert len(rows) == 19 and not any(line in second.lines for line in done)


def test_the_first_measurement_always_starts(monkeypatch, tmp_path):
    device = Device(monkeypatch, seconds=90.0)
    rows = call(tmp_path, minutes=100 / 60)
    assert rows[0]["record"] and len(device.lines) == 1
    # The next call starts with the first one that is missing.
    rows = call(tmp_path, minutes=100 / 60)
    assert [bool(row["record"]) for row in rows[:3]] == [True, True, False]


def test_rows_have_the_order_of_the_plan(monkeypatch, tmp_path):
    Device(monkeypatch)
    expected = [row["arguments"] for row in call(tmp_path)]
    rows = json.loads((tmp_path / RESULTS).read_text())
    other = rows[0] | {"arguments": ["of another call"]}
    (tmp_path / RESULTS).write_text(json.dumps([other, *rows[:0:-1]]))
    found = [row["arguments"] for row in call(tmp_path)]
    assert found == [*expected, other["arguments"]]


def test_a_call_without_any_result_fails(monkeypatch, tmp_path, capsys):
    Device(monkeypatch, seconds=1000.0)
    with pytest.raises(MeasurementFailed, match="no measurement has a result"):
        call(tmp_path, minutes=2.0)
    assert "| S | this project |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argument", ["32", "--config", "--config.batch_size", "--configs=x", "--seed=1"]
)
def test_only_fields_with_a_value_are_arguments(monkeypatch, tmp_path, argument, capsys):
    monkeypatch.setattr(accelerator, "benchmark_accelerator", None)
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["accelerator", f"--output={tmp_path}", "--config.seed=1", argument])
    assert ended.value.code == 78
    assert f"unexpected argument '{argument}'" in capsys.readouterr().err


def test_results_are_written_after_each_measurement(monkeypatch, tmp_path):
    device = Device(monkeypatch)

    def stopped(*args, **options):
        if len(device.lines) == 2:
            raise KeyboardInterrupt
        return device.measure(*args, **options)

    monkeypatch.setattr(accelerator, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path)
    assert len(json.loads((tmp_path / RESULTS).read_text())) == 2
    assert "| B | this project |" in (tmp_path / TABLE).read_text()


def test_wrong_arguments_are_named(monkeypatch, tmp_path):
    Device(monkeypatch)
    for minutes in (0.0, float("inf"), float("nan"), 1e9):
        with pytest.raises(ConfigError, match=f"--minutes is {minutes:g}".replace("+", r"\+")):
            call(tmp_path, minutes=minutes)
    (tmp_path / RESULTS).write_text("{}")
    with pytest.raises(StorageError, match="choose another --output"):
        call(tmp_path)
    with pytest.raises(StorageError, match="--output cannot be written"):
        call(tmp_path / RESULTS)


@pytest.mark.e2e
def test_the_short_form_on_a_cpu(monkeypatch, tmp_path, fork_server):
    """Every measurement is a process that is forked, to save the time of the imports."""

    def run(command, *, env, timeout):
        return fork_server.run(*command[2:], environment=env)

    monkeypatch.setattr(measurements, "run", run)
    monkeypatch.setattr("fsvfm_jax.benchmark.variants.CANDIDATES", ())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # On a busy machine, threads wait for each other.
    network = tiny.NETWORK | {"depth": 1}
    fields = [f"--config.model.{name}={value}" for name, value in network.items()]
    rows = call(tmp_path, config=CONFIG, fields=[*fields, "--config.batch_size=8"])
    assert [(row["kind"], row["message"] is None) for row in rows] == [
        ("step", True),
        ("torch", True),
        ("attention", False),
        ("real", True),
    ]
    assert "needs NVIDIA GPUs" in rows[2]["message"]
    assert "Not measured on a device" in (tmp_path / TABLE).read_text()
    assert {row["record"]["device_kind"] for row in rows if row["record"]} == {"cpu"}
