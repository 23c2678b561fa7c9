"""Writes one record per scored file: JSON Lines, CSV or Parquet, and a table on a terminal.

Names of files may come from strangers. JSON escapes them; CSV, Parquet and the table contain them
as `printable` escapes them.
"""

import contextlib
import csv
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fsvfm_jax.errors import ConfigError, StorageError
from fsvfm_jax.host import signals
from fsvfm_jax.host.progress import print_above
from fsvfm_jax.host.storage import ELSEWHERE, whole_file, written
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.prepare.extras import check_installed

# What `decision.make_record` returns.
Record = Mapping[str, Any]
Write = Callable[[Record], None]

ROWS_AT_ONCE = 1000  # rows of a Parquet file that are held in memory
# Spreadsheets take a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@")


@contextlib.contextmanager
def record_writer(output: Path | None, *, score_name: str) -> Iterator[Write]:
    """Yields a function that writes a record.

    Records go to the file, if one is given. On a terminal they are a table, too; otherwise, without
    a file, they are JSON Lines on standard output. When a signal ends the process, the records
    written so far are complete.

    Args:
        output: A new file that ends in .jsonl, .csv or .parquet; None for standard output alone.
        score_name: "p_fake" or "p_spoof".

    Raises:
        ConfigError: The file has another suffix.
        StorageError: The file exists already, or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        writes: list[Write] = []
        if output is not None:
            check_new_file(output, flag="--output", suffixes=FORMATS)
            # The stack contains this, so that it names the file in an error of the end, too.
            stack.enter_context(written(output, mend=ELSEWHERE))
            opened = stack.enter_context(FORMATS[output.suffix.lower()](output, score_name))
            writes.append(_naming(opened, output))
        if sys.stdout.isatty():
            writes.append(_table(score_name))
        elif output is None:
            writes.append(lambda record: print(_json(record), flush=True))
        with signals.released_at_once(_Closable(writes, stack.pop_all())) as write:
            yield write


def check_new_file(file: Path, *, flag: str, suffixes: Collection[str]) -> None:
    """Checks the name of a file to write, before the work: a wrong name must not cost minutes.

    Args:
        file: The file.
        flag: The flag that names it.
        suffixes: The suffixes that it may have.

    Raises:
        ConfigError: The file has another suffix, or the library for its format is not installed.
        StorageError: The file exists already, or its folder does not exist or is not writable.
    """
    if file.suffix.lower() not in suffixes:
        raise ConfigError(f"{flag}={file} does not end in {' or '.join(suffixes)}")
    if file.suffix.lower() == ".parquet":
        check_installed({"pyarrow"}, extra="parquet")
    if os.path.lexists(file):
        raise StorageError(f"{file} is there already; name another file, or remove it")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise StorageError(f"{file} cannot be written: choose a folder that exists and is writable")


class _Closable:
    """Writes records until it is closed, by any thread, between two records.

    Args:
        writes: Functions that write a record.
        stack: Closes the files.
    """

    def __init__(self, writes: Sequence[Write], stack: contextlib.ExitStack):
        self._writes, self._stack = writes, stack
        self._lock, self._closed = threading.Lock(), False

    def __enter__(self) -> Write:
        return self._write

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self._closed = True
            self._stack.close()

    def _write(self, record: Record) -> None:
        with self._lock:
            if not self._closed:
                for write in self._writes:
                    write(record)


@contextlib.contextmanager
def _json_lines(output: Path, score_name: str) -> Iterator[Write]:
    with open(output, "xb", buffering=0) as file:
        yield lambda record: _write_whole(file, f"{_json(record)}\n".encode())


@contextlib.contextmanager
def _csv(output: Path, score_name: str) -> Iterator[Write]:
    columns = _columns(score_name)
    with open(output, "xb", buffering=0) as file:
        _write_whole(file, _csv_line([*columns]))
        yield lambda record: _write_whole(
            file, _csv_line([_cell(value(record)) for value in columns.values()])
        )


@contextlib.contextmanager
def _parquet(output: Path, score_name: str) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    schema = _schema(score_name)
    rows: list[Record] = []
    with whole_file(output) as unfinished, parquet.ParquetWriter(unfinished, schema) as file:

        def flush() -> None:
            file.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            rows.clear()

        def write(record: Record) -> None:
            texts = {x: printable(record[x]) for x in ("path", "note", "error") if record[x]}
            rows.append({**record, **texts})
            if len(rows) == ROWS_AT_ONCE:
                flush()

        try:
            yield write
        finally:
            flush()


FORMATS = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}


def _columns(score_name: str) -> dict[str, Callable[[Record], Any]]:
    """Returns the columns of CSV: one value per file, and numbers in place of lists."""
    return {
        "path": lambda record: record["path"],
        score_name: lambda record: record[score_name],
        "decision": lambda record: record["decision"],
        "threshold": lambda record: record["threshold"]["value"],
        "threshold_name": lambda record: record["threshold"]["name"],
        "temperature": lambda record: record["temperature"],
        "frames": lambda record: record["frames"],
        "faces": lambda record: len(record["faces"]),
        "people": lambda record: len(record["people"]),
        "note": lambda record: record["note"],
        "error": lambda record: record["error"],
    }


def _schema(score_name: str) -> Any:
    import pyarrow as pa

    threshold = pa.struct({"value": pa.float64(), "name": pa.string()})
    person = pa.struct({"track": pa.int64(), score_name: pa.float64(), "frames": pa.int64()})
    face = {"box": pa.list_(pa.int64()), "score": pa.float64(), score_name: pa.float64()}
    face |= {"frame": pa.int64(), "time": pa.float64(), "track": pa.int64()}
    columns = {"path": pa.string(), score_name: pa.float64(), "decision": pa.string()}
    columns |= {"threshold": threshold, "temperature": pa.float64(), "frames": pa.int64()}
    columns |= {"people": pa.list_(person), "faces": pa.list_(pa.struct(face))}
    return pa.schema(columns | {"note": pa.string(), "error": pa.string()})


def _table(score_name: str) -> Write:
    """Returns a function that prints a row; the path is last, so a long one moves no column."""
    is_first = True

    def write(record: Record) -> None:
        nonlocal is_first
        if is_first:
            print_above(f"{score_name:>7}  decision  frames  faces  file")
            is_first = False
        score = "" if record[score_name] is None else f"{record[score_name]:.4f}"
        decision = "error" if record["error"] else record["decision"] or "-"
        told = [printable(record["path"])]
        if len(record["people"]) > 1:
            scores = (f"{one['track']}: {one[score_name]:.4f}" for one in record["people"])
            told.append(f"({', '.join(scores)})")
        told += [printable(f"({record[key]})") for key in ("note", "error") if record[key]]
        print_above(
            f"{score:>7}  {decision:8}  {record['frames']:6}  {len(record['faces']):5}"
            f"  {' '.join(told)}"
        )

    return write


def _json(record: Record) -> str:
    return json.dumps(record, allow_nan=False)


def _csv_line(cells: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Returns a value as a cell that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _write_whole(file: io.FileIO, content: bytes) -> None:
    """Writes all bytes at the end of a file, or none; raises OSError if there is no space."""
    start = file.tell()
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(start)
        raise


def _naming(write: Write, output: Path) -> Write:
    def named(record: Record) -> None:
        with written(output, mend=ELSEWHERE):
            write(record)

    return named
