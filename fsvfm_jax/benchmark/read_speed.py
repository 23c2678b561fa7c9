"""Measures how fast records of a packed set are read: `benchmark read SET`."""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from fsvfm_jax import cli
from fsvfm_jax.data.pipeline import CHUNK
from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.host.progress import progress

RECORDS = 512  # random records in one measurement
REPEATS = 9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `read`."""
    parser.add_argument(
        "set", metavar="SET", help="packed set; a larger set gives more realistic figures"
    )
    parser.add_argument("--split", default="train", metavar="NAME")
    parser.add_argument(
        "--chunks",
        nargs="+",
        type=int,
        default=[CHUNK, 4 * CHUNK],
        metavar="N",
        help=f"records read at once; training reads {CHUNK}",
    )
    parser.add_argument("--output", metavar="JSONL", help="append the JSON line to this file too")


def benchmark_read(args: argparse.Namespace, *, command: str) -> None:
    """Measures the reading, and prints a table on stderr and one JSON line on stdout.

    Args:
        args: The arguments of `add_arguments`.
        command: The command line, for the record.

    Raises:
        ConfigError: A chunk is not between 1 and the number of records in one measurement.
        DataError: The set cannot be read.
        StorageError: `args.output` cannot be written.
    """
    for chunk in args.chunks:
        if not 1 <= chunk <= RECORDS:
            raise ConfigError(f"--chunks has {chunk}; give 1 to {RECORDS}")
    with cli.json_lines(args.output) as tell:
        record = {
            "command": command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "cores": available_cores(),
            **_measure(args.set, args.split, [1, *args.chunks]),
        }
        print(summary(record), file=sys.stderr)
        tell(record)


def summary(record: dict[str, Any]) -> str:
    """Returns a Markdown table, with the speed-up over single reads in parentheses."""
    lines = [
        f"{record['records']} records in {record['shards']} shards, microseconds per record:",
        "",
        "| read at once | from the page cache | from the disk |",
        "|---:|---:|---:|",
    ]
    single = record["rows"][0]
    for row in record["rows"]:
        cells = []
        for where in ("cached_us", "disk_us"):
            us, first = row[where], single[where]
            cells.append("-" if us is None else f"{us:.1f} ({first / us:.1f})")
        lines.append(f"| {row['at_once']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _measure(path: str, split: str, chunks: Sequence[int]) -> dict[str, Any]:
    source = FaceRecords(path, image_size=1, split=split)  # Records are not decoded.
    rng = np.random.default_rng(0)
    can_evict = hasattr(os, "posix_fadvise")
    rows = []
    for chunk in progress(chunks, total=len(chunks), description="reading"):
        cached, disk = [], []
        for _ in range(REPEATS):
            indices = rng.integers(len(source), size=RECORDS).tolist()
            if can_evict:
                _evict(source.shards)
                disk.append(_seconds(source, indices, chunk))
            source.records(indices)
            cached.append(_seconds(source, indices, chunk))
        rows.append(
            {
                "at_once": chunk,
                "cached_us": statistics.median(cached) / RECORDS * 1e6,
                "disk_us": statistics.median(disk) / RECORDS * 1e6 if disk else None,
            }
        )
    return {"records": len(source), "shards": len(source.shards), "rows": rows}


def _seconds(source: FaceRecords, indices: list[int], chunk: int) -> float:
    began = time.perf_counter()
    for first in range(0, len(indices), chunk):
        source.records(indices[first : first + chunk])
    return time.perf_counter() - began


def _evict(files: Sequence[str]) -> None:
    """Drops the cached contents of files from the system's memory."""
    for file in files:
        opened = os.open(file, os.O_RDONLY)
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(opened)
