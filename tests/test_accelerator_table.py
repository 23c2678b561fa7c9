"""Tests the Markdown table of `benchmark accelerator`."""

from test_measurements import CPU, GPU

from fsvfm_jax.benchmark.accelerator_table import HEADINGS, markdown
from fsvfm_jax.benchmark.measurements import SIZES, measurements

CONDITIONS = GPU | {
    "torch": "2.11.0",
    "program": "0123-4567",
    "config": None,
    "values": None,
    "batch_size": None,
    "environment": {"XLA_FLAGS": None},
    "cores": 16,
    "fields": [],
    "steps": 2,
    "peak_tflops": None,
}
RECORD = {
    "device_kind": "NVIDIA H200",
    "device_count": 1,
    "step_time_ms": {"median": 50.0, "mean": 52.0, "p10": 49.0, "p90": 52.0},
    "images_per_second": 5120.0,
    "mfu": 0.4,
    "peak_tflops": 989.0,
    "peak_source": "datasheet",
    "compile_seconds": 60.0,
    "compiled_earlier": False,
    "peak_memory_bytes": 3e10,
    "peak_memory_source": "device",
    "batch_size": 256,
    "data": {"source": "tfds", "num_workers": 8},
}
ERRORS = {
    "device_kind": "NVIDIA H200",
    "errors": [
        {
            "cudnn": {"output": 0.002, "gradients": [0.003, 0.004, 0.002]},
            "xla": {"output": 0.003, "gradients": [0.003, 0.003, 0.003]},
        }
    ],
}


def row(
    name: str,
    *,
    size: str = "S",
    kind: str = "step",
    record: dict | None = None,
    message: str | None = None,
):
    return {
        "name": name,
        "size": size,
        "kind": kind,
        "arguments": [],
        "command": "the command",
        "date": "2026-11-29T08:00:00+00:00",
        "seconds": 1.0,
        "message": message,
        "log": "",
        "record": record,
    }


def timed(*, median: float, mean: float | None = None, **changes) -> dict:
    times = {"median": median, "mean": mean or median, "p10": median, "p90": median}
    return RECORD | {"step_time_ms": times} | changes


def table(*rows: dict, missing=(), **changes) -> str:
    return markdown({"conditions": CONDITIONS | changes, "rows": [*rows]}, missing)


def results(text: str) -> list[str]:
    """Returns the last cell of each row."""
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return [line.strip("| ").split("|")[-1].strip() for line in lines]


def test_a_row_is_compared_with_ours_of_the_same_network_and_images_per_device():
    ours, slower = timed(median=50.0, batch_size=512, device_count=2), timed(median=100.0)
    found = results(
        table(
            row("XLA's default scheduler", kind="setting", record=slower | {"batch_size": 128}),
            row("this project", record=ours),
            row("this project", size="B", record=slower),
            row("64 images per device", record=slower | {"batch_size": 64}),
            row("PyTorch", kind="torch", record=slower),
            row("PyTorch", kind="torch", record=slower | {"batch_size": 64}),
            row("PyTorch", kind="torch", size="L", record=slower),
        )
    )
    assert found[4:6] == [f"{x} of this project's speed per device" for x in ("0.500", "1.000")]
    assert not any("speed" in result for result in [*found[:4], found[6]])


def test_real_input_is_compared_by_means():
    text = table(
        row("this project", record=timed(median=50.0, mean=60.0)),
        row("real input", kind="real", record=timed(median=50.0, mean=80.0)),
        row("a setting", kind="setting", record=timed(median=50.0, mean=80.0)),
    )
    assert [x[:5] for x in results(text)][1:] == ["0.750", "1.000"]
    assert "Real input is read by 8 workers on 16 cores, and its rates are means." in text


def test_the_conditions_are_named():
    text = table(row("this project", record=RECORD))
    assert "on 1 x NVIDIA H200; jax 0.10.2, jaxlib 0.10.2, torch 2.11.0, program 0123" in text
    assert "Command: the command" in text and "Not measured on a device" not in text
    assert "MFU is the share of 989 TFLOP/s per device (datasheet)." in text
    assert "| S | this project | 256 | 5,120 | 50.0 (49.0 to 52.0) | 40.0% | 30.0 | 60 |" in text


def test_figures_that_a_device_does_not_have_are_empty():
    unknown = {"mfu": None, "peak_tflops": None, "peak_source": None, "compile_seconds": None}
    record = RECORD | unknown | {"peak_memory_source": "compiler"}
    text = table(row("this project", record=record), **CPU)
    assert "| 50.0 (49.0 to 52.0) |  | 30.0 (by the compiler) |  |  |" in text
    assert "MFU is unknown without --peak-tflops" in text
    assert "Not measured on a device: this is the speed of a CPU." in text


def test_a_program_of_the_cache_has_no_compile_time():
    text = table(row("this project", record=RECORD | {"compiled_earlier": True}))
    assert "| 30.0 | earlier |  |" in text


def test_what_was_not_started_is_named():
    planned = list(measurements(SIZES, [], devices=GPU, data=[], steps=2))
    text = table(row("this project", record=RECORD), missing=planned[1:3])
    assert "Not started, because the time was over: B, this project; L, this project." in text


def test_a_message_cannot_leave_its_cell():
    text = table(row("this project", message="a | b\n# c" + "x" * 1000))
    last = text.splitlines()[-1]
    assert last.count(" | ") == len(HEADINGS) - 1 and r"a \| b" in last and len(last) < 400
