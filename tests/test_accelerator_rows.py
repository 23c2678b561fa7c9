"""Tests that rows of an earlier call are read, and that hostile or older files are refused."""

import json

import pytest
from test_accelerator import ERRORS, RECORD
from test_accelerator_table import row

from fsvfm_jax.benchmark.accelerator_rows import read_rows
from fsvfm_jax.errors import StorageError


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [
        row("this project", record=RECORD | {"mfu": None, "more": [1]}),
        row("attention", record=ERRORS) | {"kind": "attention"},
        row("real input", message="not started") | {"kind": "real"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert read_rows(tmp_path / "rows.json") == rows
    assert read_rows(tmp_path / "missing.json") == []


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
        {"record": RECORD | {"jax": ["x"]}},
        {"record": RECORD, "kind": "attention"},
        {"record": ERRORS | {"errors": []}, "kind": "attention"},
        {"record": ERRORS},
        {"kind": "unknown"},
        {"seconds": float("nan")},
        {"seconds": -1.0},
        {"name": "x" * 10_000},
    ],
)
def test_other_rows_are_refused(tmp_path, changes):
    (tmp_path / "rows.json").write_text(json.dumps([row("this project") | changes]))
    with pytest.raises(StorageError, match=r"is damaged.*: choose another --output$"):
        read_rows(tmp_path / "rows.json")
