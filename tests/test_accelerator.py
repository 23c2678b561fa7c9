"""Tests the measurements of an accelerator with stand-ins, and once with real ones on a CPU."""

import json
from argparse import Namespace

import numpy as np
import pytest
import tiny
from PIL import Image
from test_accelerator_table import ERRORS, RECORD
from test_measurements import CPU, GPU

from fsvfm_jax.benchmark import __main__ as benchmark
from fsvfm_jax.benchmark import accelerator, child
from fsvfm_jax.benchmark.accelerator import FACES, RESULTS, TABLE, Config, benchmark_accelerator
from fsvfm_jax.benchmark.child import MeasurementFailed
from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.errors import ConfigError, StorageError

CONFIG = "configs/vit_s.py:smoke"
ALL = 19  # measurements of a GPU


class Device:
    """Stands for a device, on which each measurement takes the given seconds."""

    def __init__(self, monkeypatch, *, seconds: float = 1.0, devices: dict = GPU):
        self.now, self.seconds, self.devices, self.lines = 0.0, seconds, devices, []
        self.limits = []
        self.failing = "--config=configs/vit_l.py"
        monkeypatch.setattr(accelerator, "measure", self.measure)
        monkeypatch.setattr(accelerator, "_make_faces", lambda target: None)
        clock = Namespace(monotonic=lambda: self.now)
        monkeypatch.setattr(accelerator, "time", clock)

    def measure(self, arguments, *, environment, seconds=None):
        if arguments == ["devices"]:
            return self.devices
        self.lines.append(arguments)
        self.limits.append(seconds)
        self.now += min(self.seconds, seconds)
        if self.seconds > seconds:
            raise MeasurementFailed(f"stopped after {seconds:.0f} s")
        if self.failing in arguments:
            raise MeasurementFailed("RESOURCE_EXHAUSTED: Out of | memory", log="the end")
        return ERRORS if arguments[0] == "attention" else RECORD


def call(folder, *, minutes: float = 60.0, config: Config | None = None, fields=(), steps=2):
    args = Namespace(output=str(folder), minutes=minutes, steps=steps, peak_tflops=None)
    benchmark_accelerator(args, config, list(fields), command="the command")
    return stored(folder)


def stored(folder) -> list[dict]:
    return json.loads((folder / RESULTS).read_text())["rows"]


def test_failures_are_rows_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    device = Device(monkeypatch)
    rows = call(tmp_path / "new")
    assert len(rows) == len(device.lines) == ALL
    failed = [row for row in rows if row["size"] == "L"]
    assert all((row["record"], row["log"]) == (None, "the end") for row in failed)
    table = (tmp_path / "new" / TABLE).read_text()
    assert capsys.readouterr().out.strip() == table.strip()
    assert r"RESOURCE_EXHAUSTED: Out of \| memory" in table
    assert "cudnn 0.20% (output) and 0.40% (gradients)" in table
    assert "Not started" not in table


def test_a_measurement_starts_if_there_is_time_for_it(monkeypatch, tmp_path):
    # The first step takes 100 s, so that the second starts after 100 s and the third does not.
    device = Device(monkeypatch, seconds=100.0)
    rows = call(tmp_path, minutes=290 / 60)
    # The first measurement of another kind has a shorter expectation, and is stopped.
    found = [(row["size"], row["name"], row["message"]) for row in rows]
    assert found == [
        ("S", "this project", None),
        ("B", "this project", None),
        ("S", "PyTorch", "stopped after 90 s"),
    ]
    assert len(device.lines) == 3
    table = (tmp_path / TABLE).read_text()
    assert "Not started, because the time was over: L, this project; B, PyTorch;" in table


def test_a_measurement_that_hangs_does_not_take_all_the_time(monkeypatch, tmp_path):
    device = Device(monkeypatch, seconds=1e9)
    with pytest.raises(MeasurementFailed, match="no measurement has a result"):
        call(tmp_path, minutes=60.0)
    assert device.limits[:4] == [360.0, 360.0, 360.0, 135.0]


def test_the_same_command_makes_what_is_missing_and_then_what_failed(monkeypatch, tmp_path):
    first = Device(monkeypatch, seconds=100.0)
    call(tmp_path, minutes=290 / 60)
    second = Device(monkeypatch)
    rows = call(tmp_path)
    assert len(rows) == ALL and not any(line in second.lines for line in first.lines[:2])
    # PyTorch's step of S was stopped in the first call.
    assert second.lines[-1] == first.lines[2] and second.lines.count(first.lines[2]) == 1
    third = Device(monkeypatch)
    third.failing = None
    rows = call(tmp_path)
    assert all(row["record"] for row in rows)
    assert all("--config=configs/vit_l.py" in line for line in third.lines)


def test_a_measurement_that_is_not_started_keeps_its_earlier_message(monkeypatch, tmp_path):
    Device(monkeypatch)
    call(tmp_path)
    device = Device(monkeypatch, seconds=100.0)
    rows = call(tmp_path, minutes=1.0)
    assert len(device.lines) == 1  # The first that failed.
    messages = [row["message"] for row in rows if row["size"] == "L"]
    assert messages == ["stopped after 60 s"] + ["RESOURCE_EXHAUSTED: Out of | memory"] * 3


def test_the_first_measurement_always_starts(monkeypatch, tmp_path):
    device = Device(monkeypatch, seconds=90.0)
    call(tmp_path, minutes=100 / 60)
    assert len(device.lines) == 1
    # The next call starts with the first one that is missing.
    rows = call(tmp_path, minutes=100 / 60)
    assert [(row["size"], bool(row["record"])) for row in rows] == [("S", True), ("B", True)]


def test_rows_have_the_order_of_the_plan(monkeypatch, tmp_path):
    Device(monkeypatch)
    expected = [row["arguments"] for row in call(tmp_path)]
    results = json.loads((tmp_path / RESULTS).read_text())
    results["rows"] = results["rows"][:0:-1]
    (tmp_path / RESULTS).write_text(json.dumps(results))
    assert [row["arguments"] for row in call(tmp_path)] == expected


def test_a_folder_has_measurements_of_one_device_and_program(monkeypatch, tmp_path):
    device = Device(monkeypatch)
    call(tmp_path)
    with pytest.raises(ConfigError, match=r"with steps = 2, and this call has 3: choose another"):
        call(tmp_path, steps=3)
    with pytest.raises(ConfigError, match=r"with fields = \[\], and this call has \['--config.x"):
        call(tmp_path, fields=["--config.x=1"])
    with pytest.raises(ConfigError, match="with config = None, and this call has 'configs/vit_s"):
        call(tmp_path, config=Config(CONFIG, "a", 8))
    call(tmp_path / "mine", config=Config(CONFIG, "a", 8))
    with pytest.raises(ConfigError, match="with values = 'a', and this call has 'b'"):
        call(tmp_path / "mine", config=Config(CONFIG, "b", 8))
    device.lines.clear()
    device.devices = GPU | {"device_kind": "NVIDIA H100"}
    with pytest.raises(ConfigError, match="= 'NVIDIA H200', and this call has 'NVIDIA H100'"):
        call(tmp_path)
    device.devices = GPU
    with monkeypatch.context() as changed:
        changed.setenv("XLA_FLAGS", "--xla_other=1")
        with pytest.raises(ConfigError, match="with environment = "):
            call(tmp_path)
    monkeypatch.setattr(accelerator, "program", lambda: "of tomorrow")
    with pytest.raises(ConfigError, match="and this call has 'of tomorrow'"):
        call(tmp_path)
    assert not device.lines


def test_a_record_without_its_fields_is_a_failure(monkeypatch, tmp_path):
    device = Device(monkeypatch)
    nan = ERRORS["errors"][0] | {"xla": {"output": float("nan"), "gradients": [0.0]}}
    monkeypatch.setitem(ERRORS, "errors", [nan])
    rows = call(tmp_path)
    (row,) = (row for row in rows if row["kind"] == "attention")
    assert row["message"].startswith("its record is wrong: ") and row["record"] is None
    device.lines.clear()
    call(tmp_path)  # The file can be read again.
    assert ("attention", "--config=configs/vit_b.py") in device.lines


def test_the_faces_of_the_real_input_are_made_once(monkeypatch, tmp_path):
    def render_tree(root, image_size):
        for name in ("images", "parsing_maps"):
            (root / name).mkdir(parents=True)
        for index in range(2):
            image = np.full((32, 32, 3), index, np.uint8)
            Image.fromarray(image).save(root / "images" / f"{index}.png")
            np.save(root / "parsing_maps" / f"{index}.npy", np.zeros((32, 32), np.uint8))
        return str(root)

    monkeypatch.setattr(accelerator.input_speed, "render_tree", render_tree)
    monkeypatch.setattr(accelerator, "available_cores", lambda: 1)
    accelerator._make_faces(tmp_path / FACES)
    assert len(FaceRecords(str(tmp_path / FACES), image_size=32)) == 2
    monkeypatch.setattr(accelerator, "pack", None)
    accelerator._make_faces(tmp_path / FACES)
    assert [x.name for x in tmp_path.iterdir()] == [FACES]
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(StorageError, match="link is no packed set of faces: remove it"):
        accelerator._make_faces(tmp_path / "link")


def test_faces_that_cannot_be_made_are_a_failure(monkeypatch, tmp_path):
    Device(monkeypatch)

    def full(target):
        raise StorageError("no space")

    monkeypatch.setattr(accelerator, "_make_faces", full)
    rows = call(tmp_path)
    assert [row["message"] for row in rows if row["kind"] == "real"] == ["no space"]
    assert len(rows) == ALL


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
    assert len(stored(tmp_path)) == 2
    assert "| B | this project |" in (tmp_path / TABLE).read_text()


def test_wrong_arguments_are_named(monkeypatch, tmp_path):
    Device(monkeypatch)
    for minutes in (0.0, float("inf"), float("nan"), 1e9):
        with pytest.raises(ConfigError, match=f"--minutes is {minutes:g}".replace("+", r"\+")):
            call(tmp_path, minutes=minutes)
    for field in ("--config.batch_size", "--config.data.paths"):
        with pytest.raises(ConfigError, match=rf"{field} has no effect on S"):
            call(tmp_path, fields=[f"{field}=64"])
    with pytest.raises(ConfigError, match="--steps is 1000001; it must be at most"):
        call(tmp_path, steps=10**6 + 1)
    args = Namespace(output="gs://bucket/x", minutes=1.0, steps=2, peak_tflops=None)
    with pytest.raises(ConfigError, match="--output=gs://bucket/x is no local folder"):
        benchmark_accelerator(args, None, [], command="")
    args = Namespace(output=str(tmp_path), minutes=1.0, steps=2, peak_tflops=float("nan"))
    with pytest.raises(ConfigError, match="--peak-tflops is nan; it must be from 0"):
        benchmark_accelerator(args, None, [], command="")
    (tmp_path / "new" / TABLE).mkdir(parents=True)
    with pytest.raises(StorageError, match=r"accelerator.md is a folder: remove it, or choose"):
        call(tmp_path / "new")
    (tmp_path / RESULTS).write_text("[]")
    with pytest.raises(StorageError, match="choose another --output"):
        call(tmp_path)
    with pytest.raises(StorageError, match="--output cannot be written"):
        call(tmp_path / RESULTS)


@pytest.mark.e2e
def test_the_short_form_on_a_cpu(monkeypatch, tmp_path, fork_server):
    """Every measurement is a process that is forked, to save the time of the imports."""

    def run(command, *, env, timeout):
        return fork_server.run(*command[2:], environment=env)

    monkeypatch.setattr(child, "run", run)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # On a busy machine, threads wait for each other.
    network = tiny.NETWORK | {"depth": 1}
    fields = [f"--config.model.{name}={value}" for name, value in network.items()]
    rows = call(tmp_path, config=Config(CONFIG, "the values", 8), fields=fields)
    found = [(row["kind"], row["message"]) for row in rows]
    assert found == [("step", None), ("torch", None), ("real", None)]
    table = (tmp_path / TABLE).read_text()
    assert "Not measured on a device" in table and "read by threads" in table
    assert [row["record"]["compiled_earlier"] for row in rows if row["kind"] == "real"] == [True]
    conditions = json.loads((tmp_path / RESULTS).read_text())["conditions"]
    assert conditions.items() >= {"platform": "cpu", "device_kind": CPU["device_kind"]}.items()
