"""Tests the Markdown table of `benchmark accelerator`."""

from fsvfm_jax.benchmark.accelerator_table import HEADINGS, markdown

RECORD = {
    "device_kind": "cpu",
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


def test_a_row_is_compared_with_the_first_of_the_same_network_and_batch():
    slower = RECORD | {"images_per_second": 1280.0}
    rows = [
        row("this project", record=RECORD),
        row("other network", size="B", record=slower),
        row("other batch", record=slower | {"batch_size": 128}),
        row("PyTorch", record=slower),
    ]
    lines = markdown(rows).splitlines()
    results = [line.strip("| ").split("|")[-1].strip() for line in lines[-4:]]
    assert [result == "0.250 of the first row's speed" for result in results] == [
        *(False, False, False, True)
    ]


def test_figures_that_a_device_does_not_have_are_empty():
    text = markdown([row("this project", record=RECORD)])
    assert "| S | this project | 256 | 5,120 | 50.0 (49.0 to 52.0) |  | 30.0 |  |  |" in text
    assert "Not measured on a device: this is the speed of a CPU." in text


def test_a_message_cannot_leave_its_cell():
    text = markdown([row("this project", message="a | b\n# c" + "x" * 1000)])
    last = text.splitlines()[-1]
    assert last.count(" | ") == len(HEADINGS) - 1 and r"a \| b" in last and len(last) < 400
    assert "on no device; no versions." in text
