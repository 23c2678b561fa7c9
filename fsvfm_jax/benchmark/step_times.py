"""What every measurement of a training step shares: batches, the loop, times and conditions."""

import itertools
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jax
import jaxlib
import numpy as np
from ml_collections import ConfigDict

from fsvfm_jax.config.lookup import BUNDLED
from fsvfm_jax.devices.distributed import PACKAGE
from fsvfm_jax.errors import NotFiniteError
from fsvfm_jax.host.hashing import sha256_of_code
from fsvfm_jax.plan.chips import find_chip
from fsvfm_jax.train_state import StepValues

# Number of synthetic batches, which are made once and used in turn; every step draws new masks.
NUM_BATCHES = 4


def draw_batches(
    config: ConfigDict, row_shapes: dict[str, jax.ShapeDtypeStruct], *, process: int, rows: int
) -> list[dict[str, np.ndarray]]:
    """Returns NUM_BATCHES batches of random values, by the config's seed.

    Args:
        config: The resolved config.
        row_shapes: Shape and dtype of one row of a batch, by name.
        process: Number of this process.
        rows: Rows of a batch that this process has.
    """
    rng = np.random.default_rng((config.seed, process))

    def draw(x: jax.ShapeDtypeStruct) -> np.ndarray:
        # Unsigned numbers are pixels and regions of all values; signed numbers are labels.
        high = 1 if np.issubdtype(x.dtype, np.signedinteger) else np.iinfo(x.dtype).max
        return rng.integers(high, size=(rows, *x.shape), dtype=x.dtype, endpoint=True)

    return [{name: draw(x) for name, x in row_shapes.items()} for _ in range(NUM_BATCHES)]


def run_steps(
    train_step: Callable[..., tuple[Any, Any]],
    state: Any,
    batches: Iterator[Any],
    *,
    wait: Callable[[Any], Mapping[str, Any]] = jax.block_until_ready,
) -> Iterator[Mapping[str, Any]]:
    """Yields the metrics of each step when it has ended.

    As in the training loop, the next step is dispatched before the wait for this one, and its batch
    is read while the devices work.

    Args:
        train_step: Takes state, batch and values; returns the next state and the metrics.
        state: The first state.
        batches: One batch for each step.
        wait: Takes what a step returned as its metrics, and returns them when the step has ended.
    """
    # The values make no difference to the time; the network should not diverge.
    values = StepValues(np.float32(1e-5), np.float32(4e-3))
    previous = None
    for batch in batches:
        state, metrics = train_step(state, batch, values)
        if previous is not None:
            yield wait(previous)
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


def steps_in_all(steps: int, warmup: int) -> int:
    """Returns how many batches `time_steps`, the check after it, and one step ahead need."""
    return warmup + 1 + steps + 1 + 1


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


def checked_loss(metrics: Mapping[str, Any]) -> float:
    """Returns the loss; raises NotFiniteError if loss or gradient are not finite."""
    for name in ("loss", "grad_norm"):
        value = float(metrics[name])
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{name} is {value} after the timed steps, whose times then mean little: try"
                " another config.model.dtype"
            )
    return float(metrics["loss"])


def too_large(batch_size: int) -> str:
    """Returns the sentence about a batch for which the devices have not enough memory."""
    return (
        f"batches of {batch_size} images do not fit in the devices' memory: lower --batch-size,"
        " raise config.accum_steps, or set config.model.remat"
    )


def summary(record: dict[str, Any]) -> str:
    """Returns a summary of three lines."""
    times, mfu = record["step_time_ms"], "MFU unknown without --peak-tflops"
    if record["mfu"] is not None:
        mfu = f"MFU {record['mfu']:.1%} of {record['peak_tflops']:g} TFLOP/s per device"
    compiled = "not compiled"
    if record["compile_seconds"] is not None:
        compiled = f"compiled in {record['compile_seconds']:.1f} s"
    return "\n".join(
        [
            f"{record['images_per_second']:.4g} images/s on {record['device_count']} x"
            f" {record['device_kind']}, batch {record['batch_size']},"
            f" {record['model']['dtype']}, {record['input']} input",
            f"step {times['median']:.1f} ms (median of {record['steps']}; 10 to 90 %:"
            f" {times['p10']:.1f} to {times['p90']:.1f}), {mfu}"
            f" ({record['flops_per_image'] / 1e9:.2f} GFLOP/image)",
            f"memory {record['peak_memory_bytes'] / 1e9:.2f} GB per device (by the"
            f" {record['peak_memory_source']}), {compiled}",
        ]
    )


def program() -> str:
    """Returns a hash of this package's code and config files."""
    return f"{sha256_of_code(PACKAGE)[:8]}-{sha256_of_code(BUNDLED / 'configs')[:8]}"


def conditions(
    config: ConfigDict, *, device_kind: str, device_count: int, steps: int, warmup: int
) -> dict[str, Any]:
    """Returns everything that affects the time and can be read."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": program(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "device_kind": device_kind,
        "device_count": device_count,
        "process_count": jax.process_count(),
        "host_cores": os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "libtpu_init_args": os.environ.get("LIBTPU_INIT_ARGS", ""),
        "compilation_cache": jax.config.jax_compilation_cache_dir is not None,
        "model": config.model.to_dict(),
        "task": config.task,
        "mask": config.mask.to_dict() if "mask" in config else None,
        "batch_size": config.batch_size,
        "steps": steps,
        "warmup": warmup,
    }


def speed(
    config: ConfigDict,
    seconds: Sequence[float],
    *,
    device_kind: str,
    device_count: int,
    real_input: bool = False,
    peak_tflops: float | None = None,
) -> dict[str, Any]:
    """Returns times, images per second and MFU from the seconds of each step."""
    from fsvfm_jax.models import build, build_detector
    from fsvfm_jax.plan.flops import (
        detection_flops_per_image,
        model_flops_utilisation,
        training_flops_per_image,
    )
    from fsvfm_jax.tuning import make_tuning

    times = step_times_ms(seconds)
    # Waits for data come in bursts, which a median does not show.
    images_per_second = config.batch_size * 1e3 / times["mean" if real_input else "median"]
    if config.task == "finetune":
        flops = detection_flops_per_image(build_detector(config.model), make_tuning(config))
    else:
        flops = training_flops_per_image(build(config.model), config.mask.mask_ratio).total
    peak_tflops, peak_source = find_peak(device_kind, peak_tflops)
    mfu = None
    if peak_tflops is not None:
        mfu = model_flops_utilisation(
            flops, images_per_second, num_devices=device_count, peak_tflops=peak_tflops
        )
    return {
        "images_per_second": images_per_second,
        "step_time_ms": times,
        "flops_per_image": flops,
        "peak_tflops": peak_tflops,
        "peak_source": peak_source,
        "mfu": mfu,
    }
