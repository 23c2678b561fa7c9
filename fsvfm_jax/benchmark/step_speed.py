"""Measures how fast the training step is on these devices: `benchmark step`."""

import argparse
import contextlib
import itertools
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import jax
import jaxlib
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fsvfm_jax import cli
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import compilation
from fsvfm_jax.devices.memory import Memory
from fsvfm_jax.errors import ConfigError, NotFiniteError
from fsvfm_jax.plan.chips import find_chip
from fsvfm_jax.train_state import Batch, Metrics, StepValues

# Number of synthetic batches, which are made once and used in turn; every step draws new masks.
NUM_BATCHES = 4
# Steps that --profile traces, after the timed steps, because tracing takes time.
PROFILED_STEPS = 3
# They make no difference to the time.
STATS = Stats((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `step`."""
    parser.add_argument("--batch-size", type=int, metavar="N", help="instead of config.batch_size")
    parser.add_argument("--steps", type=int, default=30, metavar="N", help="timed steps")
    parser.add_argument("--warmup", type=int, default=5, metavar="N", help="untimed first steps")
    parser.add_argument(
        "--input",
        choices=("synthetic", "real"),
        default="synthetic",
        help="batches that are already on the devices, or batches of the config's data as in"
        " training; --warmup must then exceed the 2 x config.data.num_workers prefetched batches",
    )
    parser.add_argument("--profile", metavar="DIR", help="folder for a trace of three more steps")
    parser.add_argument("--output", metavar="JSONL", help="append the JSON line to this file too")
    parser.add_argument(
        "--peak-tflops",
        type=float,
        metavar="P",
        help="peak of one device; the default is the datasheet's for dense bf16, if known",
    )


def benchmark_step(args: argparse.Namespace, config: ConfigDict, *, command: str) -> None:
    """Measures the step, and prints a summary on stderr and one JSON line on stdout.

    Raises:
        ConfigError: A flag or field has a value that is not allowed, or the batch does not fit.
        StorageError: `args.output` cannot be written.
    """
    for flag, least in (("batch_size", 1), ("steps", 1), ("warmup", 0), ("peak_tflops", 1e-3)):
        value = getattr(args, flag)
        if value is not None and not value >= least:
            name = flag.replace("_", "-")
            raise ConfigError(f"--{name} is {value}; it must be at least {least}")
    if args.batch_size is not None:
        config.batch_size = args.batch_size
    with cli.json_lines(args.output if jax.process_index() == 0 else None) as tell:
        try:
            record = measure_step(
                config,
                steps=args.steps,
                warmup=args.warmup,
                real_input=args.input == "real",
                profile=args.profile,
                peak_tflops=args.peak_tflops,
            )
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise ConfigError(
                f"batches of {config.batch_size} images do not fit in the devices' memory: lower"
                " --batch-size, raise config.accum_steps, or set config.model.remat"
            ) from error
        if jax.process_index() == 0:
            print(summary(record), file=sys.stderr)
            tell({"command": command, "config": cli.config_filename()} | record)


def measure_step(
    config: ConfigDict,
    *,
    steps: int,
    warmup: int,
    real_input: bool = False,
    profile: str | None = None,
    peak_tflops: float | None = None,
) -> dict[str, Any]:
    """Compiles the training step and times it with a new batch in every step.

    Args:
        config: The config as loaded from its file.
        steps: Number of timed steps.
        warmup: Number of steps before the timed ones.
        real_input: Whether to read the config's data while the devices work, as in training;
            otherwise batches of random pixels and regions are already on the devices.
        profile: Folder for a trace of a few more steps; None for no trace.
        peak_tflops: Peak of one device; None for the datasheet's value, if the device is known.

    Returns:
        The measurements and their conditions, ready for JSON.

    Raises:
        NotFiniteError: The network diverged, so its times are not meaningful.
        UserError: The config does not fit; an error of another subclass.
    """
    from fsvfm_jax.config.resolve import resolve
    from fsvfm_jax.learners import make_learner

    mesh, config = compilation.place(resolve(config))
    learner = make_learner(config, stats=STATS)

    started = time.perf_counter()
    step = compilation.compile_for_devices(learner, mesh, config)
    compile_seconds = time.perf_counter() - started

    if real_input:
        batches = _real_batches(config, mesh, stats=STATS)
    else:
        batches = _synthetic_batches(config, learner.row_shapes, mesh)
    template = compilation.state_template(learner, mesh)
    state = compilation.fresh_state(learner, template, seed=config.seed)
    with contextlib.closing(batches):
        running = run_steps(partial(_place_and_step, step.program, mesh), state, batches)
        seconds = time_steps(running, steps=steps, warmup=warmup)
        _profile(running, profile)
        check_finite(next(running))

    return {
        **_conditions(config, mesh),
        "accum_steps": step.accum_steps,
        "input": "real" if real_input else "synthetic",
        "data": {"source": config.data.get("source"), "num_workers": config.data.num_workers},
        "steps": steps,
        "warmup": warmup,
        "compile_seconds": compile_seconds,
        **_peak_memory(step.memory, mesh),
        **_speed(config, mesh, seconds, real_input=real_input, peak_tflops=peak_tflops),
    }


def _place_and_step(
    program: jax.stages.Compiled, mesh: Mesh, state: Any, batch: Batch, values: StepValues
) -> tuple[Any, Metrics]:
    """Makes a step as the training loop does: the values of the step are placed each time."""
    from fsvfm_jax.devices import sharding

    values = sharding.replicate(values, mesh)
    with jax.transfer_guard("disallow"):
        return program(state, batch, values)


def _profile(running: Iterator[Metrics], folder: str | None) -> None:
    """Writes a trace of a few more steps to a folder, if there is one."""
    if folder is not None:
        with jax.profiler.trace(folder):
            time_steps(running, steps=PROFILED_STEPS, warmup=0)


def run_steps(
    train_step: Callable[..., tuple[Any, Metrics]], state: Any, batches: Iterator[Batch]
) -> Iterator[Metrics]:
    """Yields the metrics of each step when it has ended.

    As in the training loop, the next step is dispatched before, and its batch is read while the
    devices work.
    """
    # The values make no difference to the time; the network should not diverge.
    values = StepValues(np.float32(1e-5), np.float32(4e-3))
    previous = None
    for batch in batches:
        state, metrics = train_step(state, batch, values)
        if previous is not None:
            yield jax.block_until_ready(previous)
        previous = metrics


def time_steps(running: Iterator[Any], *, steps: int, warmup: int) -> list[float]:
    """Returns the seconds between the ends of `steps` steps, after `warmup` steps and one more."""
    for _ in range(warmup + 1):
        next(running)
    ends = [time.perf_counter()]
    for _ in range(steps):
        next(running)
        ends.append(time.perf_counter())
    return [end - start for start, end in itertools.pairwise(ends)]


def step_times_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Returns median, mean, 10th and 90th percentile in ms, and their `spread` p90 - p10."""
    p10, median, p90 = np.percentile(np.asarray(seconds) * 1e3, [10, 50, 90]).tolist()
    mean = sum(seconds) / len(seconds) * 1e3
    return {"median": median, "mean": mean, "p10": p10, "p90": p90, "spread": p90 - p10}


def find_peak(device_kind: str, peak_tflops: float | None) -> tuple[float | None, str | None]:
    """Returns the TFLOP/s of one device and their source; both are None if they are unknown."""
    if peak_tflops is not None:
        return peak_tflops, "--peak-tflops"
    chip = find_chip(device_kind)
    return (None, None) if chip is None else (chip.bf16_flops / 1e12, "datasheet")


def check_finite(metrics: Metrics) -> None:
    """Raises NotFiniteError if loss or gradient are not finite after the timed steps."""
    for name in ("loss", "grad_norm"):
        value = float(metrics[name])
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{name} is {value} after the timed steps, whose times then mean little: try"
                " another config.model.dtype"
            )


def summary(record: dict[str, Any]) -> str:
    """Returns a summary of three lines."""
    times, mfu = record["step_time_ms"], "MFU unknown without --peak-tflops"
    if record["mfu"] is not None:
        mfu = f"MFU {record['mfu']:.1%} of {record['peak_tflops']:g} TFLOP/s per device"
    return "\n".join(
        [
            f"{record['images_per_second']:.4g} images/s on {record['device_count']} x"
            f" {record['device_kind']}, batch {record['batch_size']},"
            f" {record['model']['dtype']}, {record['input']} input",
            f"step {times['median']:.1f} ms (median of {record['steps']}; 10 to 90 %:"
            f" {times['p10']:.1f} to {times['p90']:.1f}), {mfu}"
            f" ({record['flops_per_image'] / 1e9:.2f} GFLOP/image)",
            f"memory {record['peak_memory_bytes'] / 1e9:.2f} GB per device (by the"
            f" {record['peak_memory_source']}), compiled in {record['compile_seconds']:.1f} s",
        ]
    )


def _synthetic_batches(
    config: ConfigDict, row_shapes: dict[str, jax.ShapeDtypeStruct], mesh: Mesh
) -> Generator[Batch, None, None]:
    from fsvfm_jax.devices import sharding

    rng = np.random.default_rng((config.seed, jax.process_index()))
    rows = config.batch_size // jax.process_count()

    def draw(x: jax.ShapeDtypeStruct) -> np.ndarray:
        # Unsigned numbers are pixels and regions of all values; signed numbers are labels.
        high = 1 if np.issubdtype(x.dtype, np.signedinteger) else np.iinfo(x.dtype).max
        return rng.integers(high, size=(rows, *x.shape), dtype=x.dtype, endpoint=True)

    batches = [
        sharding.put_batch({name: draw(x) for name, x in row_shapes.items()}, mesh)
        for _ in range(NUM_BATCHES)
    ]
    yield from itertools.cycle(batches)


def _real_batches(config: ConfigDict, mesh: Mesh, *, stats: Any) -> Generator[Batch, None, None]:
    from fsvfm_jax import train
    from fsvfm_jax.devices import sharding
    from fsvfm_jax.tasks import TASKS

    task = TASKS[config.task]
    stream = train.open_stream(config, task.open_source(config), task.element(config, stats=stats))
    with contextlib.closing(stream):
        for batch in stream:
            yield sharding.put_batch(batch, mesh)


def _conditions(config: ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """Returns everything that affects the time and can be read."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "device_kind": mesh.devices.flat[0].device_kind,
        "device_count": mesh.size,
        "process_count": jax.process_count(),
        "host_cores": os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "libtpu_init_args": os.environ.get("LIBTPU_INIT_ARGS", ""),
        "compilation_cache": jax.config.jax_compilation_cache_dir is not None,
        "model": config.model.to_dict(),
        "task": config.task,
        "mask": config.mask.to_dict() if "mask" in config else None,
        "mesh": dict(mesh.shape),
        "batch_size": config.batch_size,
        "compiler_options": config.compiler_options.to_dict(),
    }


def _peak_memory(memory: Memory, mesh: Mesh) -> dict[str, Any]:
    """Returns the peak memory of this process's fullest device, or else the compiler's figure."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    if all(stats):
        peak, by = max(device["peak_bytes_in_use"] for device in stats), "device"
    else:
        peak, by = memory.total, "compiler"
    return {"peak_memory_bytes": peak, "peak_memory_source": by}


def _speed(
    config: ConfigDict,
    mesh: Mesh,
    seconds: Sequence[float],
    *,
    real_input: bool,
    peak_tflops: float | None,
) -> dict[str, Any]:
    from fsvfm_jax.models import build, build_detector
    from fsvfm_jax.plan.flops import (
        detection_flops_per_image,
        model_flops_utilisation,
        training_flops_per_image,
    )

    times = step_times_ms(seconds)
    # Waits for data come in bursts, which a median does not show.
    images_per_second = config.batch_size * 1e3 / times["mean" if real_input else "median"]
    if config.task == "finetune":
        flops = detection_flops_per_image(build_detector(config.model), config.mode)
    else:
        flops = training_flops_per_image(build(config.model), config.mask.mask_ratio).total
    peak_tflops, peak_source = find_peak(mesh.devices.flat[0].device_kind, peak_tflops)
    mfu = None
    if peak_tflops is not None:
        mfu = model_flops_utilisation(
            flops, images_per_second, num_devices=mesh.size, peak_tflops=peak_tflops
        )
    return {
        "images_per_second": images_per_second,
        "step_time_ms": times,
        "flops_per_image": flops,
        "peak_tflops": peak_tflops,
        "peak_source": peak_source,
        "mfu": mfu,
    }
