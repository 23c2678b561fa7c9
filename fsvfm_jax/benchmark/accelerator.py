"""Measures in a few minutes what matters on an accelerator: `benchmark accelerator`.

Every measurement is a command of `fsvfm_jax.benchmark` in a process of its own. The results are
written after each of them, so a call that is cut off leaves what it has. The first measurement of
a call starts at once. Another one starts if the remaining time is likely enough for it: the time of
the longest earlier measurement of its kind, or that of EXPECTED_SECONDS if there was none. It is
stopped when the time is over.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from etils import epath

from fsvfm_jax import cli
from fsvfm_jax.benchmark import input_speed
from fsvfm_jax.benchmark.accelerator_rows import Row, read_rows
from fsvfm_jax.benchmark.accelerator_table import markdown
from fsvfm_jax.benchmark.against import CACHE
from fsvfm_jax.benchmark.measurements import MeasurementFailed, measure
from fsvfm_jax.benchmark.variants import SIZES, Measurement, Size, measurements
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.locks import alone_in
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.host.signals import released_at_once
from fsvfm_jax.host.storage import check_folder, write_json, write_text
from fsvfm_jax.prepare.pack import pack

# Seconds that a measurement is expected to take if none of its kind has been made: the compilation
# takes most of a step's, and finds the programs of "real" in the cache.
EXPECTED_SECONDS = {"step": 120.0, "torch": 45.0, "attention": 45.0, "real": 60.0}
MAX_MINUTES = 24 * 60
RESULTS, TABLE = "accelerator.json", "accelerator.md"
FACES, FACE_SIZE = "faces", 224

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `accelerator`."""
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help=f"folder for {RESULTS}, {TABLE} and compiled programs; measurements that it already"
        " contains are not made again",
    )
    parser.add_argument(
        "--minutes", type=float, default=8, metavar="M", help="time for all measurements"
    )
    parser.add_argument(
        "--steps", type=cli.count, default=30, metavar="N", help="timed steps of each measurement"
    )


def benchmark_accelerator(
    args: argparse.Namespace, config: str | None, fields: Sequence[str], *, command: str
) -> None:
    """Makes the measurements for which there is time, and prints the table.

    Args:
        args: The arguments of `add_arguments`.
        config: The only config to measure, with its own batch size and data; None for SIZES.
        fields: Fields of all configs, as flags.
        command: The command line, for the rows.

    Raises:
        ConfigError: `args.minutes` is not above 0, or above a day; or another process measures in
            the folder.
        StorageError: The folder cannot be written, or contains other results.
        MeasurementFailed: No measurement has a result.
    """
    if not 0 < args.minutes <= MAX_MINUTES:
        raise ConfigError(
            f"--minutes is {args.minutes:g}; it must be above 0 and at most {MAX_MINUTES}"
        )
    deadline = time.monotonic() + 60 * args.minutes
    folder = Path(args.output).absolute()
    check_folder(folder, flag="--output")
    with alone_in(folder, doing="measures in"):
        rows = _measure_all(folder, args, config, fields, deadline=deadline, command=command)
    print(markdown(rows))
    cli.check_output()
    if not any(row["record"] for row in rows):
        raise MeasurementFailed(f"no measurement has a result; the reasons are in {folder / TABLE}")


def _measure_all(
    folder: Path,
    args: argparse.Namespace,
    config: str | None,
    fields: Sequence[str],
    *,
    deadline: float,
    command: str,
) -> list[Row]:
    """Makes the measurements until the deadline, and returns those that the folder contains."""
    environment = {} if CACHE in os.environ else {CACHE: str(folder / "programs")}
    if config is None:
        faces = f"--config.data.paths=('{folder / FACES}',)"
        sizes, data = SIZES, ["--config.data.source=tfds", faces]
    else:
        sizes, data = [Size(Path(config).stem, config, (None,))], []

    rows, started = read_rows(folder / RESULTS), False
    planned = list(measurements(sizes, fields, data=data, steps=args.steps))
    order = {measurement.arguments: number for number, measurement in enumerate(planned)}
    for measurement in planned:
        if any(row["arguments"] == [*measurement.arguments] and row["record"] for row in rows):
            continue
        if measurement.kind == "real" and config is None:
            _make_faces(folder / FACES)
        row = _measured(measurement, rows, deadline, environment=environment, at_once=not started)
        started = True
        rows = [x for x in rows if x["arguments"] != row["arguments"]]
        rows.append(row | {"command": command})
        rows.sort(key=lambda x: order.get(tuple(x["arguments"]), len(order)))
        write_json(epath.Path(folder / RESULTS), rows)
        write_text(epath.Path(folder / TABLE), markdown(rows))
        logger.info("%s, %s: %s", row["size"], row["name"], row["message"] or "measured")
    return rows


def _make_faces(target: Path) -> None:
    """Packs rendered faces, unless that is already done."""
    with released_at_once(tempfile.TemporaryDirectory(prefix="fsvfm-")) as folder:
        tree = input_speed.render_tree(Path(folder) / "tree", FACE_SIZE)
        pack(tree, str(target), workers=available_cores())


def expected_seconds(kind: str, rows: Sequence[Row]) -> float:
    """Returns the seconds that a measurement of a kind probably takes."""
    earlier = [row["seconds"] for row in rows if row["kind"] == kind and row["record"]]
    return max(earlier, default=EXPECTED_SECONDS[kind])


def _measured(
    measurement: Measurement,
    rows: Sequence[Row],
    deadline: float,
    *,
    environment: Mapping[str, str],
    at_once: bool,
) -> Row:
    """Makes a measurement at once or if there is time; a failure is a row with its message."""
    started = time.monotonic()
    left, needed = max(deadline - started, 0), expected_seconds(measurement.kind, rows)
    record = message = None
    log = ""
    if left < needed and not at_once:
        message = f"not started: {needed:.0f} s are expected and {left:.0f} s were left"
    else:
        try:
            record = measure(measurement.arguments, environment=environment, seconds=left)
        except MeasurementFailed as error:
            message, log = str(error), error.log
    return {
        "name": measurement.name,
        "size": measurement.size,
        "kind": measurement.kind,
        "arguments": [*measurement.arguments],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": time.monotonic() - started,
        "message": message,
        "log": log,
        "record": record,
    }
