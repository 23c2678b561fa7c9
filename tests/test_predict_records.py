"""Tests that records are complete lines, in every format, whatever the names of the files."""

import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from fsvfm_jax.errors import ConfigError, StorageError
from fsvfm_jax.predict import records
from fsvfm_jax.predict.records import record_writer

FACE = {"box": [1, 2, 3, 4], "score": 1.5, "p_fake": 0.75, "frame": 3, "time": 0.5, "track": 0}
ABOUT = "threshold: p_fake 0.25 (eer), with an FPR of 5 % on the 50 real videos of x"
WORDS = {"score_name": "p_fake", "about": ABOUT, "taken": lambda record: None}
PERSON = {"track": 0, "p_fake": 0.75, "frames": 1}
NAMES = [
    "a.jpg",
    "new\nline.jpg",
    "\x1b[31mred.jpg",
    os.fsdecode(b"\xff.jpg"),
    "=1+1.jpg",
    "+1.jpg",
    "-1.jpg",
    "@SUM(A1).jpg",
    "\u202egpj.exe",
    'quote",comma.jpg',
    "\t=tab.jpg",
]


def record(path: str, **changes: Any) -> dict[str, Any]:
    """Returns the record of a file with one face."""
    return {
        "path": path,
        "p_fake": 0.75,
        "decision": "fake",
        "threshold": {"value": 0.5, "name": "given"},
        "temperature": None,
        "frames": 1,
        "searched_at": 0.5,
        "people": [PERSON],
        "faces": [FACE],
        "note": None,
        "error": None,
        **changes,
    }


RECORDS = [record(name) for name in NAMES] + [
    record("none.jpg", p_fake=None, decision=None, people=[], faces=[], note="no face found"),
    record("bad.jpg", p_fake=None, decision=None, people=[], faces=[], error="=it is\ndamaged"),
]


def write(output: Path | None, lines: list[dict[str, Any]] = RECORDS) -> None:
    with record_writer(output, **WORDS) as writer:
        for place, line in enumerate(lines):
            writer(place, line)


def test_json_lines_keep_every_name(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl")
    lines = (tmp_path / "x.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b"" and len(lines) == len(RECORDS)
    assert [json.loads(line) for line in lines] == RECORDS
    assert all(line.isascii() and b"\x1b" not in line for line in lines)


def test_cells_of_csv_are_printable_and_no_formulas(tmp_path: Path) -> None:
    write(tmp_path / "x.csv")
    content = (tmp_path / "x.csv").read_text()
    assert content.count("\n") == len(RECORDS) + 1
    rows = list(csv.DictReader(content.splitlines()))
    assert len(rows) == len(RECORDS)
    assert all(
        cell.isprintable() and not cell.startswith(tuple("=+-@\t"))
        for row in rows
        for cell in row.values()
    )
    assert rows[1]["path"] == r"new\nline.jpg" and rows[4]["path"] == "'=1+1.jpg"
    assert rows[0] == {
        "path": "a.jpg", "p_fake": "0.75", "decision": "fake", "threshold": "0.5",
        "threshold_name": "given", "temperature": "", "frames": "1", "searched_at": "0.5",
        "faces": "1", "people": "1", "note": "", "error": "",
    }  # fmt: skip
    assert rows[-1]["error"] == r"'=it is\ndamaged" and rows[-1]["p_fake"] == ""


def test_parquet_has_the_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "ROWS_AT_ONCE", 5)
    write(tmp_path / "x.parquet")
    found = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert found[0] == RECORDS[0]
    assert found[1]["path"] == r"new\nline.jpg" and found[-2] == RECORDS[-2]
    assert len(found) == len(RECORDS)
    write(tmp_path / "none.parquet", [])
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_a_pipe_gets_json_lines_and_a_terminal_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(None)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == RECORDS
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    two = record("v.mp4", people=[PERSON, PERSON | {"track": 1, "p_fake": 0.25}])
    write(None, [*RECORDS, two])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ABOUT
    assert lines[1] == " p_fake  decision  frames  faces  file"
    assert lines[2] == " 0.7500  fake           1      1  a.jpg"
    assert lines[3].endswith(r"new\nline.jpg")
    assert lines[-3].split(None, 3) == ["-", "1", "0", "none.jpg (no face found)"]
    assert lines[-2].split(None, 3) == ["error", "1", "0", r"bad.jpg (=it is\ndamaged)"]
    assert lines[-1].endswith("v.mp4 (0: 0.7500, 1: 0.2500)")
    assert all(line.isprintable() for line in lines)
    write(tmp_path / "x.jsonl", [*RECORDS, two])
    assert capsys.readouterr().out == ""


def test_a_signal_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exits what a signal exits, between two records, as another thread does."""
    held = []
    real = records.signals.released_at_once
    monkeypatch.setattr(
        records.signals, "released_at_once", lambda one: held.append(one) or real(one)
    )
    for suffix in ("jsonl", "csv", "parquet"):
        taken: list[Any] = []
        words = WORDS | {"taken": taken.append}
        with record_writer(tmp_path / f"x.{suffix}", **words) as writer:
            writer(0, RECORDS[0])
            writer(2, RECORDS[2])  # It waits, and the signal lets it be written.
            held[-1].__exit__(None, None, None)
            writer(1, RECORDS[1])
        assert taken == [RECORDS[0], RECORDS[2]]
    assert (tmp_path / "x.jsonl").read_text().count("\n") == 2
    assert (tmp_path / "x.csv").read_text().count("\n") == 3
    assert parquet.read_table(tmp_path / "x.parquet").num_rows == 2
    assert len(list(tmp_path.iterdir())) == 4


def names(file: Path) -> list[str]:
    return [json.loads(line)["path"] for line in file.read_text().splitlines()]


def test_records_are_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    with record_writer(file, **WORDS) as writer:
        for place in (2, 1, 4, 0, 3):
            writer(place, record(f"{place}.jpg"))
            assert len(names(file)) == {2: 0, 1: 0, 4: 0, 0: 3, 3: 5}[place]
    assert names(file) == [f"{place}.jpg" for place in range(5)]


def test_what_waits_for_a_slow_file_is_written_at_a_signal(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    with record_writer(file, **WORDS) as writer:
        writer(3, record("3.jpg"))
        writer(1, record("1.jpg"))
        assert names(file) == []
    assert names(file) == ["1.jpg", "3.jpg"]


def test_a_slow_file_does_not_make_others_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_HELD", 3)
    file = tmp_path / "x.jsonl"
    with record_writer(file, **WORDS) as writer:
        for place in (1, 2, 4, 5, 7):
            writer(place, record(f"{place}"))
        assert names(file) == ["1", "2", "4", "5"]
        writer(0, record("0"))
        writer(6, record("6"))
        writer(3, record("3"))
        assert names(file) == ["1", "2", "4", "5", "0", "6", "7", "3"]


def test_a_csv_file_has_a_second_one_with_a_row_per_face(tmp_path: Path) -> None:
    two = record("=v.mp4", faces=[FACE, FACE | {"track": 1, "score": None}])
    write(tmp_path / "x.csv", [two, RECORDS[-2], RECORDS[0]])
    assert (tmp_path / "x.faces.csv").read_text().splitlines() == [
        "path,left,top,right,bottom,p_fake,score,frame,time,track",
        "'=v.mp4,1,2,3,4,0.75,1.5,3,0.5,0",
        "'=v.mp4,1,2,3,4,0.75,,3,0.5,1",
        "a.jpg,1,2,3,4,0.75,1.5,3,0.5,0",
    ]
    with pytest.raises(StorageError, match=r"x\.faces\.csv is there already"):
        (tmp_path / "x.csv").unlink()
        write(tmp_path / "x.csv")


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    with (
        pytest.raises(StorageError, match="File exists"),
        record_writer(file, **WORDS) as writer,
    ):
        writer(0, RECORDS[0])
        file.write_text("mine")
    assert file.read_text() == "mine" and os.listdir(tmp_path) == ["x.parquet"]


def test_a_name_that_the_disk_does_not_take_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("x" * 300 + ".jsonl", "x" * 250 + ".csv"):  # Only the second file is too long.
        with pytest.raises(StorageError, match=r"\(File name too long\): choose a shorter name"):
            records.check_records_file(tmp_path / name)
    with pytest.raises(StorageError, match=r"\(No such file or directory\): choose"):
        records.check_records_file(tmp_path / "none" / "x.csv")
    assert os.listdir(tmp_path) == []


def test_the_written_file_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "fsvfm_jax"):
        write(tmp_path / "x.jsonl")
    assert f"x.jsonl ({len(RECORDS)} records)" in caplog.text and ABOUT in caplog.text


def test_records_of_a_failed_command_stay(tmp_path: Path) -> None:
    for suffix in ("jsonl", "parquet"):
        file = tmp_path / f"x.{suffix}"
        with (
            pytest.raises(ZeroDivisionError),
            record_writer(file, **WORDS) as writer,
        ):
            writer(0, RECORDS[0])
            raise ZeroDivisionError
    assert (tmp_path / "x.jsonl").read_text().count("\n") == 1
    assert parquet.read_table(tmp_path / "x.parquet").num_rows == 1


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    class Full(io.FileIO):
        def write(self, data: memoryview) -> int:
            if self.tell() > 10:
                raise OSError(28, "No space left on device")
            return super().write(data[:5])

    with Full(str(tmp_path / "x"), "wb") as full:
        full.write(b"1\n")
        with pytest.raises(OSError, match="No space"):
            records._write_whole(full, b"second line\n")
    assert (tmp_path / "x").read_bytes() == b"1\n"


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("mine")
    for name, error, message in (
        ("x.csv", StorageError, "is there already; name another file"),
        ("x.txt", ConfigError, "does not end in .jsonl or .csv or .parquet"),
        ("no/x.jsonl", StorageError, "cannot be written"),
        ("no/x.parquet", StorageError, "cannot be written"),
    ):
        with pytest.raises(error, match=message):
            write(tmp_path / name)
    assert (tmp_path / "x.csv").read_text() == "mine"


def test_a_full_disk_at_the_end_of_a_parquet_file_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", full)
    with pytest.raises(StorageError, match=r"x\.parquet cannot be written \(No space left"):
        write(tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())
