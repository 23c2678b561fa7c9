"""Measures this project's step and PyTorch's in turn: `benchmark step --against=torch`."""

import argparse
import contextlib
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from fsvfm_jax import cli
from fsvfm_jax.benchmark.measurements import measure
from fsvfm_jax.benchmark.step_speed import FRAMEWORKS
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.signals import released_at_once

CACHE = "JAX_COMPILATION_CACHE_DIR"

logger = logging.getLogger(__name__)


def benchmark_against(args: argparse.Namespace, fields: Sequence[str], *, command: str) -> None:
    """Measures both steps in rounds, and prints a summary on stderr and one JSON line on stdout.

    Every measurement has a process of its own, so the two never share threads or memory. Which
    framework is the first changes from round to round.

    Args:
        args: The arguments of `step`.
        fields: `--config` and its fields.
        command: The command line, for the record.

    Raises:
        MeasurementFailed: A measurement has no result.
        ConfigError: JAX has more than one device.
        StorageError: `args.output` cannot be written.
    """
    records: dict[str, list[dict[str, Any]]] = {framework: [] for framework in FRAMEWORKS}
    with cli.json_lines(args.output) as tell, compilation_cache() as environment:
        for number in range(args.rounds):
            order = FRAMEWORKS if number % 2 == 0 else FRAMEWORKS[::-1]
            for framework in order:
                line = [*step_flags(args), f"--framework={framework}", *fields]
                record = measure(line, environment=environment)
                if record["device_count"] != 1:
                    raise ConfigError(
                        f"PyTorch's step uses one device and JAX has {record['device_count']}:"
                        " show JAX one, for example with CUDA_VISIBLE_DEVICES=0"
                    )
                records[framework].append(record)
                logger.info(
                    "round %d of %d: %s, %.1f ms",
                    number + 1,
                    args.rounds,
                    framework,
                    record["step_time_ms"]["median"],
                )
        compared = compare(records)
        print(summary(compared), file=sys.stderr)
        tell({"command": command, "config": cli.config_filename()} | compared)


def step_flags(args: argparse.Namespace) -> list[str]:
    """Returns the verb `step` and those of its flags that a single measurement takes too."""
    values = {
        "batch-size": args.batch_size,
        "steps": args.steps,
        "warmup": args.warmup,
        "peak-tflops": args.peak_tflops,
    }
    return ["step", *(f"--{name}={x}" for name, x in values.items() if x is not None)]


@contextlib.contextmanager
def compilation_cache() -> Iterator[dict[str, str]]:
    """Yields the environment in which JAX compiles a step once for all processes."""
    if CACHE in os.environ:
        yield {}
    else:
        with released_at_once(tempfile.TemporaryDirectory(prefix="fsvfm-")) as folder:
            yield {CACHE: folder}


def compare(records: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Returns JAX's speed as a share of PyTorch's, the medians, and the records.

    Args:
        records: For each framework the record of every round.
    """
    times = {
        framework: [record["step_time_ms"]["median"] for record in of]
        for framework, of in records.items()
    }
    rounds = [torch / jax for jax, torch in zip(times["jax"], times["torch"], strict=True)]
    medians = {framework: statistics.median(of) for framework, of in times.items()}
    return {
        "speed_ratio": medians["torch"] / medians["jax"],
        "speed_ratio_min": min(rounds),
        "speed_ratio_max": max(rounds),
        "median_step_ms": medians,
        "records": records,
    }


def summary(compared: dict[str, Any]) -> str:
    """Returns a summary of two lines."""
    first, medians = compared["records"]["jax"][0], compared["median_step_ms"]
    return (
        f"{compared['speed_ratio']:.2f} of PyTorch's speed"
        f" ({compared['speed_ratio_min']:.2f} to {compared['speed_ratio_max']:.2f} in"
        f" {len(compared['records']['jax'])} rounds)\n"
        f"step {medians['jax']:.1f} ms, PyTorch's {medians['torch']:.1f} ms; batch"
        f" {first['batch_size']}, {first['model']['dtype']}, {first['device_kind']}"
    )
