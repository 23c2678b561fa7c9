"""Measures how fast the training step is on these devices: `benchmark step`."""

import argparse
import contextlib
import itertools
import math
import sys
import time
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fsvfm_jax import cli
from fsvfm_jax.benchmark import step_times
from fsvfm_jax.benchmark.step_times import run_steps, time_steps
from fsvfm_jax.devices import compilation
from fsvfm_jax.devices.memory import Memory, enough_memory
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.storage import check_folder
from fsvfm_jax.plan.estimate import STATS
from fsvfm_jax.prepare.extras import check_installed
from fsvfm_jax.train_state import Batch, Learner, Metrics, StepValues

# Steps that --profile traces, after the timed steps, because tracing takes time.
PROFILED_STEPS = 3
WARMUP = 5
FRAMEWORKS = ("jax", "torch")
# JAX's event for a program that it reads from its cache of compiled programs.
CACHE_HIT = "/jax/compilation_cache/cache_hits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `step`."""
    parser.add_argument("--batch-size", type=int, metavar="N", help="instead of config.batch_size")
    parser.add_argument("--steps", type=int, default=30, metavar="N", help="timed steps")
    parser.add_argument(
        "--warmup",
        type=int,
        metavar="N",
        help=f"untimed first steps; by default {WARMUP}, or with --input=real the number of batches"
        " that may be made ahead",
    )
    parser.add_argument(
        "--input",
        choices=("synthetic", "real"),
        default="synthetic",
        help="batches that are already on the devices, or batches of the config's data as in"
        " training",
    )
    parser.add_argument(
        "--framework",
        choices=FRAMEWORKS,
        default="jax",
        help="this project's step, or the same step in plain PyTorch on one device",
    )
    parser.add_argument(
        "--against",
        choices=("torch",),
        help="measure both, in turn and each in a process of its own, and print the ratio",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="measurements of each with --against"
    )
    parser.add_argument("--profile", metavar="DIR", help="folder for a trace of three more steps")
    parser.add_argument("--output", metavar="JSONL", help="append the JSON line to this file too")
    parser.add_argument(
        "--peak-tflops",
        type=float,
        metavar="P",
        help="peak of one device; the default is the datasheet's for dense bf16, if known",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Raises ConfigError if flags are wrong, or PyTorch is needed and not installed."""
    for flag, least in (
        ("batch_size", 1),
        ("steps", 1),
        ("warmup", 0),
        ("rounds", 1),
        ("peak_tflops", 1e-3),
    ):
        value = getattr(args, flag)
        if value is not None and not least <= value < math.inf:
            name = flag.replace("_", "-")
            raise ConfigError(f"--{name} is {value}; it must be at least {least}, and finite")
    if args.profile is not None:
        check_folder(Path(args.profile), flag=f"--profile={args.profile}")
    if args.against and args.framework == "torch":
        raise ConfigError("--against measures both frameworks: leave out --framework")
    if args.against or args.framework == "torch":
        check_installed({"torch"}, extra="convert")
        if args.input == "real":
            raise ConfigError("the PyTorch step has no real input: leave out --input")
        if args.profile:
            raise ConfigError("the PyTorch step writes no trace: leave out --profile")


def benchmark_step(args: argparse.Namespace, config: ConfigDict, *, command: str) -> None:
    """Measures the step, and prints a summary on stderr and one JSON line on stdout.

    Raises:
        ConfigError: A flag or field has a value that is not allowed.
        OutOfMemory: The batch does not fit.
        StorageError: `args.output` cannot be written.
    """
    if args.batch_size is not None:
        config.batch_size = args.batch_size
    real_input, warmup = args.input == "real", args.warmup
    if warmup is None:
        warmup = _batches_ahead(config) if real_input else WARMUP
    options = {"steps": args.steps, "warmup": warmup, "peak_tflops": args.peak_tflops}
    if args.framework == "torch":
        from fsvfm_jax.benchmark.torch_speed import measure_torch_step as measure
    else:
        measure = partial(measure_step, real_input=real_input, profile=args.profile)
    with cli.json_lines(args.output if jax.process_index() == 0 else None) as tell:
        with enough_memory(step_times.too_large(config.batch_size)):
            record = measure(config, **options)
        if jax.process_index() == 0:
            print(step_times.summary(record), file=sys.stderr)
            tell({"command": command, "config": cli.config_filename()} | record)


def _batches_ahead(config: ConfigDict) -> int:
    from fsvfm_jax.data.pipeline import batches_ahead

    return batches_ahead(config.batch_size // jax.process_count(), config.data.num_workers)


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
    from fsvfm_jax.convert.warm_start import with_options
    from fsvfm_jax.learners import make_learner

    mesh, config = compilation.place(with_options(resolve(config), None))
    learner = make_learner(config, stats=STATS)
    step, compiled = _compile(learner, mesh, config)
    make_batches = _real_batches if real_input else _synthetic_batches
    batches = make_batches(config, learner, mesh)
    template = compilation.state_template(learner, mesh)
    state = compilation.fresh_state(learner, template, seed=config.seed)
    with contextlib.closing(batches):
        running = run_steps(partial(_place_and_step, step.program, mesh), state, batches)
        seconds = time_steps(running, steps=steps, warmup=warmup)
        loss = step_times.checked_loss(next(running))
        _profile(running, profile)
    device = {"device_kind": mesh.devices.flat[0].device_kind, "device_count": mesh.size}
    return {
        **step_times.conditions(config, **device, steps=steps, warmup=warmup),
        "framework": "jax",
        **_settings(config, mesh),
        "accum_steps": step.accum_steps,
        "input": "real" if real_input else "synthetic",
        "loss": loss,
        **compiled,
        **_peak_memory(step.memory, mesh),
        **step_times.speed(
            config, seconds, **device, real_input=real_input, peak_tflops=peak_tflops
        ),
    }


def _compile(
    learner: Learner, mesh: Mesh, config: ConfigDict
) -> tuple[compilation.CompiledStep, dict[str, Any]]:
    """Returns the step, the seconds, and whether JAX read a program from its cache."""
    hits = []

    def listen(event: str, **details: Any) -> None:
        del details
        if event == CACHE_HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    started = time.perf_counter()
    try:
        step = compilation.compile_for_devices(learner, mesh, config)
    finally:
        jax.monitoring.unregister_event_listener(listen)
    seconds = time.perf_counter() - started
    return step, {"compile_seconds": seconds, "compiled_earlier": bool(hits)}


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


def _synthetic_batches(
    config: ConfigDict, learner: Learner, mesh: Mesh
) -> Generator[Batch, None, None]:
    from fsvfm_jax.devices import sharding

    drawn = step_times.draw_batches(
        config,
        learner.row_shapes,
        process=jax.process_index(),
        rows=config.batch_size // jax.process_count(),
    )
    batches = [sharding.put_batch(batch, mesh) for batch in drawn]
    yield from itertools.cycle(batches)


def _real_batches(config: ConfigDict, learner: Learner, mesh: Mesh) -> Generator[Batch, None, None]:
    from fsvfm_jax import train
    from fsvfm_jax.devices import sharding
    from fsvfm_jax.tasks import TASKS

    task = TASKS[config.task]
    stream = train.open_stream(config, task.open_source(config), task.element(config, stats=STATS))
    with contextlib.closing(stream):
        for batch in stream:
            yield sharding.put_batch(batch, mesh)


def _settings(config: ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """Returns the conditions that PyTorch's step does not have."""
    return {
        "mesh": dict(mesh.shape),
        "compiler_options": config.compiler_options.to_dict(),
        "data": {"source": config.data.get("source"), "num_workers": config.data.num_workers},
    }


def _peak_memory(memory: Memory, mesh: Mesh) -> dict[str, Any]:
    """Returns the peak memory of this process's fullest device, or else the compiler's figure."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    if all(stats):
        peak, by = max(device["peak_bytes_in_use"] for device in stats), "device"
    else:
        peak, by = memory.total, "compiler"
    return {"peak_memory_bytes": peak, "peak_memory_source": by}
