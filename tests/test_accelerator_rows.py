"""Tests that rows of an earlier call are read, and that hostile or older files are refused."""

import json

import pytest
from test_accelerator_table import CONDITIONS, ERRORS, RECORD, row

from fsvfm_jax.benchmark.accelerator_rows import read_results
from fsvfm_jax.errors import StorageError


def stored(rows: list[dict], **changes) -> str:
    return json.dumps({"conditions": CONDITIONS | changes, "rows": rows})


def test_results_are_read_as_they_were_written(tmp_path):
    rows = [
        row("this project", record=RECORD | {"mfu": None, "more": [1]}),
        row("attention", record=ERRORS) | {"kind": "attention"},
        row("real input", message="the reason") | {"kind": "real"},
    ]
    (tmp_path / "rows.json").write_text(stored(rows))
    assert read_results(tmp_path / "rows.json") == {"conditions": CONDITIONS, "rows": rows}
    assert read_results(tmp_path / "missing.json") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"record": {}},
        {"record": {"device_kind": "cpu"}},
        {"record": RECORD | {"device_count": 0}},
        {"record": RECORD | {"images_per_second": 0}},
        {"record": RECORD | {"images_per_second": float("nan")}},
        {"record": RECORD | {"images_per_second": float("inf")}},
        {"record": RECORD | {"peak_memory_bytes": 10**400}},
        {"record": RECORD | {"step_time_ms": {"median": 1.0}}},
        {"record": RECORD | {"mfu": "x"}},
        {"record": RECORD | {"peak_memory_source": ["x"]}},
        {"record": RECORD, "kind": "attention"},
        {"record": ERRORS | {"errors": []}, "kind": "attention"},
        {"record": ERRORS},
        {"record": {k: x for k, x in RECORD.items() if k != "data"}, "kind": "real"},
        {"record": RECORD | {"step_time_ms": RECORD["step_time_ms"] | {"median": 0.0}}},
        {"kind": "unknown"},
        {"seconds": float("nan")},
        {"seconds": -1.0},
        {"name": "x" * 10_000},
    ],
)
def test_other_rows_are_refused(tmp_path, changes):
    (tmp_path / "rows.json").write_text(stored([row("this project") | changes]))
    with pytest.raises(StorageError, match=r"is damaged.*: choose another --output$"):
        read_results(tmp_path / "rows.json")


@pytest.mark.parametrize(
    "changes",
    [{"platform": "rocm"}, {"device_count": 0}, {"fields": "x"}, {"peak_tflops": 0.0}],
)
def test_other_conditions_are_refused(tmp_path, changes):
    (tmp_path / "rows.json").write_text(stored([], **changes))
    with pytest.raises(StorageError, match=r"is damaged.*: choose another --output$"):
        read_results(tmp_path / "rows.json")
