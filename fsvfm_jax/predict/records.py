"""Writes one record per scored file: JSON Lines, CSV or Parquet, and a table on a terminal.

Names of files may come from strangers. JSON escapes them; CSV, Parquet and the table contain them
as `printable` escapes them.
"""

import contextlib
import csv
import io
import json
import logging
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

logger = logging.getLogger(__name__)

# What `decision.make_record` returns.
Record = Mapping[str, Any]
Write = Callable[[Record], None]
# Takes the place of a file among the inputs, too.
WriteAt = Callable[[int, Record], None]

ROWS_AT_ONCE = 1000  # rows of a Parquet file that are held in memory
MAX_HELD = 1000  # records that wait for that of an earlier file
# Spreadsheets take a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@")


@contextlib.contextmanager
def record_writer(output: Path | None, *, score_name: str, about: str) -> Iterator[WriteAt]:
    """Yields a function that writes a record, in the order of the files' places.

    Records go to the file, if one is given, and otherwise to standard output: as a table on a
    terminal, elsewhere as JSON Lines. A record waits for those of earlier files, but not if
    MAX_HELD records wait already: that of the slow file is then written later. When a signal ends
    the process, the records that wait are written, and all are complete.

    Args:
        output: A new file that ends in .jsonl, .csv or .parquet; None for standard output.
        score_name: "p_fake" or "p_spoof".
        about: The threshold in words.

    Raises:
        ConfigError: The file has another suffix.
        StorageError: The file exists already, or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        if output is not None:
            check_records_file(output)
            logger.info("%s", about)
            # The stack contains this, so that it names the file in an error of the end, too.
            stack.enter_context(written(output, mend=ELSEWHERE))
            opened = stack.enter_context(FORMATS[output.suffix.lower()](output, score_name))
            write = _naming(opened, output)
        elif sys.stdout.isatty():
            write = stack.enter_context(_table(score_name, about))
        else:
            logger.info("%s", about)
            write = _print_json
        held = _Closable(write, stack.pop_all())
        with signals.released_at_once(held) as write_at:
            yield write_at
    if output is not None:
        beside = f", {faces_file(output)}" if output.suffix.lower() == ".csv" else ""
        logger.info("written: %s (%s records)%s", output, f"{held.count:,}", beside)


def check_records_file(output: Path) -> None:
    """Checks the name of the file for the records, and of the second one that CSV needs.

    Raises:
        ConfigError: As `check_new_file`.
        StorageError: As `check_new_file`.
    """
    check_new_file(output, flag="--output", suffixes=FORMATS)
    if output.suffix.lower() == ".csv":
        check_new_file(faces_file(output), flag="--output", suffixes=FORMATS)


def faces_file(output: Path) -> Path:
    """Returns the file beside a CSV file that contains a row per face."""
    return output.with_suffix(f".faces{output.suffix}")


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
    """Writes records in order until it is closed, by any thread, between two records.

    Args:
        write: Writes a record.
        stack: Closes the files.

    Attributes:
        count: Number of records that are written.
    """

    def __init__(self, write: Write, stack: contextlib.ExitStack):
        self._put, self._stack = write, stack
        self._lock, self._closed = threading.Lock(), False
        self._held: dict[int, Record] = {}
        self._next = self.count = 0

    def __enter__(self) -> WriteAt:
        return self._write

    def __exit__(self, *error: Any) -> None:
        with self._lock, self._stack:
            self._closed = True
            self._flush()

    def _write(self, place: int, record: Record) -> None:
        with self._lock:
            if self._closed:
                return
            self._held[place] = record
            if place < self._next:  # It is that of a slow file.
                self._put_one(place)
            while self._next in self._held:
                self._put_one(self._next)
                self._next += 1
            if len(self._held) > MAX_HELD:
                self._flush()

    def _flush(self) -> None:
        for place in sorted(self._held):
            self._put_one(place)
            self._next = max(self._next, place + 1)

    def _put_one(self, place: int) -> None:
        self._put(self._held.pop(place))
        self.count += 1


def _print_json(record: Record) -> None:
    print(_json(record), flush=True)


@contextlib.contextmanager
def _json_lines(output: Path, score_name: str) -> Iterator[Write]:
    with open(output, "xb", buffering=0) as file:
        yield lambda record: _write_whole(file, f"{_json(record)}\n".encode())


@contextlib.contextmanager
def _csv(output: Path, score_name: str) -> Iterator[Write]:
    columns, of_face = _columns(score_name), _face_columns(score_name)
    with open(output, "xb", buffering=0) as file, open(faces_file(output), "xb", 0) as faces:
        _write_whole(file, _csv_line([*columns]))
        _write_whole(faces, _csv_line(["path", *of_face]))

        def write(record: Record) -> None:
            path = _cell(record["path"])
            rows = [[path, *(x(face) for x in of_face.values())] for face in record["faces"]]
            _write_whole(faces, b"".join(map(_csv_line, rows)))
            _write_whole(file, _csv_line([_cell(value(record)) for value in columns.values()]))

        yield write


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
        "searched_at": lambda record: record["searched_at"],
        "faces": lambda record: len(record["faces"]),
        "people": lambda record: len(record["people"]),
        "note": lambda record: record["note"],
        "error": lambda record: record["error"],
    }


def _face_columns(score_name: str) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """Returns the columns of the CSV file of faces, without the path."""
    edges = {
        name: lambda face, place=place: face["box"][place]
        for place, name in enumerate(("left", "top", "right", "bottom"))
    }
    names = (score_name, "score", "frame", "time", "track")
    return edges | {name: lambda face, name=name: face[name] for name in names}


def _schema(score_name: str) -> Any:
    import pyarrow as pa

    threshold = pa.struct({"value": pa.float64(), "name": pa.string()})
    person = pa.struct({"track": pa.int64(), score_name: pa.float64(), "frames": pa.int64()})
    face = {"box": pa.list_(pa.int64()), "score": pa.float64(), score_name: pa.float64()}
    face |= {"frame": pa.int64(), "time": pa.float64(), "track": pa.int64()}
    columns = {"path": pa.string(), score_name: pa.float64(), "decision": pa.string()}
    columns |= {"threshold": threshold, "temperature": pa.float64(), "frames": pa.int64()}
    columns |= {"searched_at": pa.float64()}
    columns |= {"people": pa.list_(person), "faces": pa.list_(pa.struct(face))}
    return pa.schema(columns | {"note": pa.string(), "error": pa.string()})


@contextlib.contextmanager
def _table(score_name: str, about: str) -> Iterator[Write]:
    """Yields a function that prints a row; the path is last, so a long one moves no column."""
    print_above(printable(about))
    print_above(f"{score_name:>7}  decision  frames  faces  file")

    def write(record: Record) -> None:
        score = "" if record[score_name] is None else f"{record[score_name]:.4f}"
        decision = "error" if record["error"] else record["decision"] or "-"
        said = [printable(record["path"])]
        if len(record["people"]) > 1:
            scores = (f"{one['track']}: {one[score_name]:.4f}" for one in record["people"])
            said.append(f"({', '.join(scores)})")
        said += [printable(f"({record[key]})") for key in ("note", "error") if record[key]]
        print_above(
            f"{score:>7}  {decision:8}  {record['frames']:6}  {len(record['faces']):5}"
            f"  {' '.join(said)}"
        )

    yield write


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
