"""Tests the Markdown table of `benchmark accelerator`."""

from fsvfm_jax.benchmark.accelerator_table import HEADINGS, markdown

RECORD = {
    "device_kind": "cpu",
    "device_count": 1,
    "jax": "0.10.2",
    "step_time_ms": {"median": 50.0, "p10": 49.0, "p90": 52.0},
    "images_per_second": 5120.0,
    "mfu": None,
    "compile_seconds": None,
    "peak_memory_bytes": 3e10,
    "batch_size": 256,
}


def row(name: str, *, size: str = "S", record: dict | None = None, message: str | None = None):
    return {
        "name": name,
        "size": size,
        "kind": "step",
        "arguments": [],
        "command": "the command",
        "date": "2026-11-29T08:00:00+00:00",
        "seconds": 1.0,
        "message": message,
        "log": "",
        "record": record,
    }


def test_a_row_is_compared_with_ours_of_the_same_network_and_batch():
    slower = RECORD | {"images_per_second": 1280.0}
    rows = [
        row("XLA's default scheduler", record=RECORD | {"batch_size": 128}),
        row("this project", record=RECORD | {"device_count": 2}),
        row("this project", size="B", record=slower),
        row("another batch", record=slower | {"batch_size": 64}),
        row("PyTorch", record=slower),
        row("PyTorch", record=slower | {"batch_size": 64}),
        row("PyTorch", size="L", record=slower),
    ]
    lines = markdown(rows).splitlines()
    results = [line.strip("| ").split("|")[-1].strip() for line in lines[-7:]]
    # The first two have 2,560 images per second and device, and 1,280.
    assert results[4:6] == [f"{x} of this project's speed per device" for x in ("0.500", "1.000")]
    assert not any("speed" in result for result in [*results[:4], results[6]])


def test_figures_that_a_device_does_not_have_are_empty():
    text = markdown([row("this project", record=RECORD)])
    assert "| S | this project | 256 | 5,120 | 50.0 (49.0 to 52.0) |  | 30.0 |  |  |" in text
    assert "Not measured on a device: this is the speed of a CPU." in text


def test_a_message_cannot_leave_its_cell():
    text = markdown([row("this project", message="a | b\n# c" + "x" * 1000)])
    last = text.splitlines()[-1]
    assert last.count(" | ") == len(HEADINGS) - 1 and r"a \| b" in last and len(last) < 400
    assert "on no device; no versions." in text
