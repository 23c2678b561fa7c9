"""Measures this project's step and PyTorch's in turn: `benchmark step --against=torch`."""

import argparse
import logging
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from fsvfm_jax import cli
from fsvfm_jax.benchmark.child import compilation_cache, measure
from fsvfm_jax.benchmark.step_speed import FRAMEWORKS
from fsvfm_jax.errors import ConfigError

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
        ConfigError: JAX has more than one device, or another one than PyTorch.
        StorageError: `args.output` cannot be written.
    """
    records: dict[str, list[dict[str, Any]]] = {framework: [] for framework in FRAMEWORKS}
    with cli.json_lines(args.output) as tell, compilation_cache() as environment:
        for number in range(args.rounds):
            order = FRAMEWORKS if number % 2 == 0 else FRAMEWORKS[::-1]
            for framework in order:
                line = [*step_flags(args), f"--framework={framework}", *fields]
                record = measure(line, environment=environment)
                records[framework].append(record)
                _check_devices(records)
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


def _check_devices(records: dict[str, list[dict[str, Any]]]) -> None:
    """Raises ConfigError unless both frameworks use the same single device."""
    if any((count := record["device_count"]) != 1 for record in records["jax"]):
        raise ConfigError(
            f"PyTorch's step uses one device and JAX has {count}: show JAX one, for example with"
            " CUDA_VISIBLE_DEVICES=0"
        )
    kinds = {name: of[0]["device_kind"] for name, of in records.items() if of}
    if len(set(kinds.values())) > 1:
        raise ConfigError(
            f"JAX uses {kinds['jax']} and PyTorch {kinds['torch']}: install a PyTorch for the same"
            " device, or set JAX_PLATFORMS=cpu to measure both on the CPU"
        )


def step_flags(args: argparse.Namespace) -> list[str]:
    """Returns the verb `step` and those of its flags that a single measurement takes too."""
    values = {
        "batch-size": args.batch_size,
        "steps": args.steps,
        "warmup": args.warmup,
        "peak-tflops": args.peak_tflops,
    }
    return ["step", *(f"--{name}={x}" for name, x in values.items() if x is not None)]


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
