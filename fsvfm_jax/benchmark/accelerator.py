"""Measures in a few minutes what matters on an accelerator: `benchmark accelerator`.

Every measurement is a command of `fsvfm_jax.benchmark` in a process of its own. The results are
written after each of them, so a call that is cut off leaves what it has. The same command
continues: first it makes the measurements that were never started, and then those that failed.

The first measurement of a call always starts. Another one starts if the remaining time is at least
the expected time. That is the time of the longest earlier measurement of its kind that has a
result, or else that of EXPECTED_SECONDS. A measurement is stopped when the time of the call is
over, or after LONGEST times the expected time (that of EXPECTED_SECONDS, if it is longer).
"""

import argparse
import importlib.metadata
import importlib.util
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from etils import epath

from fsvfm_jax import cli
from fsvfm_jax.benchmark import input_speed
from fsvfm_jax.benchmark.accelerator_rows import (
    MEND,
    Conditions,
    Kind,
    Results,
    Row,
    check_record,
    read_results,
)
from fsvfm_jax.benchmark.accelerator_table import markdown
from fsvfm_jax.benchmark.child import MeasurementFailed, compilation_cache, measure
from fsvfm_jax.benchmark.measurements import SIZES, Measurement, Size, measurements
from fsvfm_jax.benchmark.step_times import program
from fsvfm_jax.data.set_manifest import SET_MANIFEST
from fsvfm_jax.errors import ConfigError, StorageError, UserError
from fsvfm_jax.host.locks import alone_in
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.host.signals import released_at_once
from fsvfm_jax.host.storage import (
    ELSEWHERE,
    check_folder,
    in_bucket,
    write_json,
    write_text,
    written,
)
from fsvfm_jax.plan.compare import VARIABLES
from fsvfm_jax.prepare.pack import pack

# Seconds that a measurement is expected to take if none of its kind has a result: the compilation
# takes most of a step's, and finds the programs of "real" in the cache.
EXPECTED_SECONDS = {
    "step": 120.0,
    "torch": 45.0,
    "attention": 45.0,
    "real": 60.0,
    "setting": 120.0,
}
LONGEST = 3
MAX_MINUTES = 24 * 60
MAX_STEPS = 10**6
# Fields that have no effect without --config, because each measurement sets them itself.
CHOSEN = ("--config.batch_size", "--config.data.")
RESULTS, TABLE, PROGRAMS = "accelerator.json", "accelerator.md", "programs"
FACES, FACE_SIZE = "faces", 224
# The set is named many times, because the order of a few faces takes longer to draw than to read.
NAMED = 32

logger = logging.getLogger(__name__)


class Config(NamedTuple):
    """A config to measure.

    Attributes:
        name: The value of `--config`.
        values: Hash of its values.
        batch_size: Its batch size.
    """

    name: str
    values: str
    batch_size: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `accelerator`."""
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help=f"folder for {RESULTS}, {TABLE} and compiled programs; measurements that have a result"
        " there are not made again",
    )
    parser.add_argument("--minutes", type=float, default=8, metavar="M", help="time of this call")
    parser.add_argument(
        "--steps", type=cli.count, default=30, metavar="N", help="timed steps of each measurement"
    )
    parser.add_argument(
        "--peak-tflops",
        type=float,
        metavar="P",
        help="peak of one device; the default is the datasheet's for dense bf16, if known",
    )


def benchmark_accelerator(
    args: argparse.Namespace, config: Config | None, fields: Sequence[str], *, command: str
) -> None:
    """Makes the measurements for which there is time, and prints the table.

    Args:
        args: The arguments of `add_arguments`.
        config: The only config to measure, with its own batch size and data; None for SIZES.
        fields: Fields of all configs, as flags.
        command: The command line, for the rows.

    Raises:
        ConfigError: A flag has a value that is not allowed, the folder contains measurements of
            something else, or another process measures in it.
        StorageError: The folder cannot be written, or contains something else.
        MeasurementFailed: JAX finds no devices, or no measurement has a result.
    """
    check_arguments(args, config, fields)
    deadline = time.monotonic() + 60 * args.minutes
    folder = Path(args.output).absolute()
    check_folder(folder, flag="--output")
    for name in (RESULTS, TABLE):
        if (folder / name).is_dir():
            raise StorageError(f"{folder / name} is a folder: remove it, or {MEND}")
    with alone_in(folder, doing="measures in"), compilation_cache(folder / PROGRAMS) as environment:
        logger.info("finding the devices")
        found = measure(["devices"], environment=environment, seconds=60 * args.minutes)
        conditions = _conditions(found, args, config, fields)
        results = _open(folder, conditions)
        call = _Call(folder, results, deadline, environment, command)
        missing = call.measure_all(_plan(folder, conditions))
    print(markdown(results, missing))
    cli.check_output()
    if not any(row["record"] for row in results["rows"]):
        raise MeasurementFailed(f"no measurement has a result; the reasons are in {folder / TABLE}")


def check_arguments(args: argparse.Namespace, config: Config | None, fields: Sequence[str]) -> None:
    """Raises ConfigError if a flag or a field has a value that is not allowed."""
    if not 0 < args.minutes <= MAX_MINUTES:
        raise ConfigError(
            f"--minutes is {args.minutes:g}; it must be above 0 and at most {MAX_MINUTES}"
        )
    if args.steps > MAX_STEPS:
        raise ConfigError(f"--steps is {args.steps}; it must be at most {MAX_STEPS}")
    if args.peak_tflops is not None and not 1e-3 <= args.peak_tflops <= 1e6:
        raise ConfigError(f"--peak-tflops is {args.peak_tflops:g}; it must be from 0.001 to 1e6")
    if not args.output or in_bucket(args.output):
        raise ConfigError(f"--output={args.output} is no local folder: name one")
    for field in fields:
        if config is None and field.startswith(CHOSEN):
            raise ConfigError(
                f"{field.partition('=')[0]} has no effect on S, B and L, which have several batches"
                " and rendered faces: add --config=FILE.py to measure one config with its own"
            )


def _conditions(
    devices: dict[str, Any],
    args: argparse.Namespace,
    config: Config | None,
    fields: Sequence[str],
) -> Conditions:
    """Returns the conditions of this call.

    Raises:
        ConfigError: The devices are of an unknown kind, or a field is too long.
    """
    found = {
        **devices,
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "cores": available_cores(),
        "torch": importlib.metadata.version("torch") if importlib.util.find_spec("torch") else None,
        "program": program(),
        "config": config and config.name,
        "values": config and config.values,
        "batch_size": config and config.batch_size,
        "fields": [*fields],
        "steps": args.steps,
        "peak_tflops": args.peak_tflops,
    }
    try:
        return msgspec.convert(found, Conditions)
    except msgspec.ValidationError as error:
        raise ConfigError(f"this cannot be measured: {error}") from error


def _open(folder: Path, conditions: Conditions) -> Results:
    """Returns the results in a folder, after a check that they have the same conditions."""
    results = read_results(folder / RESULTS)
    if results is None:
        return {"conditions": conditions, "rows": []}
    for name, value in conditions.items():
        if results["conditions"][name] != value:
            raise ConfigError(
                f"{folder} contains measurements with {name} = {results['conditions'][name]!r}, and"
                f" this call has {value!r}: {MEND}"
            )
    return results


def _plan(folder: Path, conditions: Conditions) -> list[Measurement]:
    """Returns all measurements, in the order of their value."""
    config = conditions["config"]
    if config is None:
        faces = f"--config.data.paths={(str(folder / FACES),) * NAMED}"
        sizes, data = SIZES, ["--config.data.source=tfds", faces]
    else:
        batch = conditions["batch_size"] // conditions["device_count"]
        sizes, data = [Size(Path(config).stem, config, (batch,))], []
    planned = measurements(
        sizes,
        conditions["fields"],
        devices=conditions,
        data=data,
        steps=conditions["steps"],
        peak_tflops=conditions["peak_tflops"],
    )
    return list(planned)


@dataclass(frozen=True)
class _Call:
    """One call of the command.

    Attributes:
        folder: The folder of the results.
        results: The results, to which rows are added.
        deadline: When the time is over, by `time.monotonic`.
        environment: Environment variables of all measurements.
        command: The command line.
    """

    folder: Path
    results: Results
    deadline: float
    environment: Mapping[str, str]
    command: str

    def measure_all(self, planned: Sequence[Measurement]) -> list[Measurement]:
        """Makes what there is time for, and returns what was never started."""
        rows = {(row["size"], row["name"]): row for row in self.results["rows"]}
        missing = {x.key: x for x in planned if x.key not in rows}
        failed = [x for x in planned if x.key in rows and not rows[x.key]["record"]]
        for number, measurement in enumerate([*missing.values(), *failed]):
            expected, left = self._expected_seconds(measurement.kind), self._seconds_left()
            if left < expected and number > 0:
                continue
            logger.info("%s, %s: about %.0f s; %.0f s are left", *measurement.key, expected, left)
            longest = LONGEST * max(expected, EXPECTED_SECONDS[measurement.kind])
            row = self._row(measurement, longest=longest)
            logger.info("%s, %s: %s", *measurement.key, row["message"] or "measured")
            rows[measurement.key] = row
            missing.pop(measurement.key, None)
            self.results["rows"] = [rows[x.key] for x in planned if x.key in rows]
            write_json(epath.Path(self.folder / RESULTS), self.results)
            text = markdown(self.results, list(missing.values()))
            write_text(epath.Path(self.folder / TABLE), text)
        return list(missing.values())

    def _seconds_left(self) -> float:
        return max(self.deadline - time.monotonic(), 0)

    def _expected_seconds(self, kind: Kind) -> float:
        # A setting compiles the step of the network in the middle again.
        kinds = ("step", "setting") if kind == "setting" else (kind,)
        rows = (row for row in self.results["rows"] if row["kind"] in kinds and row["record"])
        earlier = [row["seconds"] for row in rows]
        return max(earlier, default=EXPECTED_SECONDS[kind])

    def _row(self, measurement: Measurement, *, longest: float) -> Row:
        """Makes a measurement; a failure is a row with its message."""
        started = time.monotonic()
        record = message = None
        log = ""
        try:
            record = self._record(measurement, longest=longest)
        except UserError as error:
            message, log = str(error), getattr(error, "log", "")
        return {
            **measurement._asdict(),
            "arguments": [*measurement.arguments],
            "command": self.command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": time.monotonic() - started,
            "message": message,
            "log": log,
            "record": record,
        }

    def _record(self, measurement: Measurement, *, longest: float) -> dict[str, Any]:
        if measurement.kind == "real" and self.results["conditions"]["config"] is None:
            _make_faces(self.folder / FACES)
        record = measure(
            measurement.arguments,
            environment=self.environment,
            seconds=min(self._seconds_left(), longest),
        )
        try:
            check_record(measurement.kind, record)
        except msgspec.ValidationError as error:
            raise MeasurementFailed(f"its record is wrong: {error}") from error
        return record


def _make_faces(target: Path) -> None:
    """Packs rendered faces, unless that is already done.

    Raises:
        StorageError: They cannot be written, or something else has their name.
    """
    if (target / SET_MANIFEST).is_file():
        return
    if os.path.lexists(target):
        raise StorageError(f"{target} is no packed set of faces: remove it")
    unfinished = tempfile.TemporaryDirectory(prefix=".faces-", dir=target.parent)
    with written(target, mend=ELSEWHERE), released_at_once(unfinished) as folder:
        tree = input_speed.render_tree(Path(folder) / "tree", FACE_SIZE)
        pack(tree, str(Path(folder) / "set"), workers=available_cores())
        (Path(folder) / "set").rename(target)
