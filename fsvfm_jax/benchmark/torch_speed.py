"""Measures the pretraining step in PyTorch: `benchmark step --framework=torch`."""

import os
import resource
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor

from fsvfm_jax import cli
from fsvfm_jax.benchmark import step_times
from fsvfm_jax.benchmark.torch_step import TorchBatch, TorchStep
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.convert.reference import to_state_dict
from fsvfm_jax.errors import ConfigError, OutOfMemory
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.learners import make_learner
from fsvfm_jax.masking import Masks
from fsvfm_jax.models.vit import OPTIONS, ViT
from fsvfm_jax.plan.estimate import STATS
from fsvfm_jax.train_state import StepValues

# Fields of which the yardstick has one value.
ONLY = {
    "task": "pretrain",
    "accum_steps": 1,
    "mesh.fsdp": 1,
    "model.remat": "none",
    "loss.similarity": "simsiam",
}


def measure_torch_step(
    config: ConfigDict, *, steps: int, warmup: int, peak_tflops: float | None = None
) -> dict[str, Any]:
    """Times the yardstick as `step_speed.measure_step` does, from the same weights and batches.

    Args:
        config: The config as loaded from its file.
        steps: Number of timed steps.
        warmup: Number of steps before the timed ones.
        peak_tflops: Peak of the device; None for the datasheet's value, if the device is known.

    Returns:
        The measurements and their conditions, ready for JSON.

    Raises:
        ConfigError: The yardstick lacks what the config asks for.
        OutOfMemory: The batch does not fit.
        NotFiniteError: The network diverged, so its times are not meaningful.
    """
    config = resolve(config)
    check_config(config)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(threads) if threads.isdecimal() else available_cores())
    device = _find_device()
    weights, batches = start(config, device, steps=step_times.steps_in_all(steps, warmup))
    step = TorchStep(config, weights, stats=STATS, device=device)

    def dispatch(state: None, batch: TorchBatch, values: StepValues) -> tuple[None, Any]:
        metrics, done = step(batch, values), torch.cuda.Event() if device.type == "cuda" else None
        if done is not None:
            done.record()
        return None, (metrics, done)

    try:
        running = step_times.run_steps(dispatch, None, batches, wait=_wait)
        seconds = step_times.time_steps(running, steps=steps, warmup=warmup)
        loss = step_times.checked_loss(next(running))
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(step_times.too_large(config.batch_size)) from error
    on = {"device_kind": "cpu", "device_count": 1}
    memory = {"peak_memory_bytes": _peak_memory(), "peak_memory_source": "process"}
    if device.type == "cuda":
        on["device_kind"] = torch.cuda.get_device_name()
        memory = {
            "peak_memory_bytes": torch.cuda.max_memory_allocated(),
            "peak_memory_source": "device",
        }
    return {
        **step_times.conditions(config, **on, steps=steps, warmup=warmup),
        "framework": "torch",
        "torch": torch.__version__,
        "input": "synthetic",
        "loss": loss,
        "compile_seconds": None,
        **memory,
        **step_times.speed(config, seconds, **on, peak_tflops=peak_tflops),
    }


def _find_device() -> torch.device:
    """Returns the GPU, or the CPU if there is no GPU or JAX_PLATFORMS is "cpu"."""
    if torch.cuda.is_available() and os.environ.get("JAX_PLATFORMS") != "cpu":
        return torch.device("cuda")
    cli.check_accelerator("cpu", library="PyTorch")
    return torch.device("cpu")


def _wait(dispatched: tuple[dict[str, Tensor], Any]) -> dict[str, Tensor]:
    metrics, done = dispatched
    if done is not None:
        done.synchronize()
    return metrics


def check_config(config: ConfigDict) -> None:
    """Raises ConfigError unless the yardstick can make the step of a resolved config."""
    for name in OPTIONS:
        value = config.model[name]
        if value is not None and value != (plain := getattr(ViT, name)):
            raise ConfigError(
                f"config.model.{name} is {value!r}, and the PyTorch step has {plain!r} only: leave"
                " it out"
            )
    for name, value in ONLY.items():
        section, _, field = name.rpartition(".")
        found = (config[section] if section else config)[field]
        if found != value:
            raise ConfigError(
                f"config.{name} is {found!r}, and the PyTorch step has {value!r} only: set"
                f" --config.{name}={value}"
            )


def start(
    config: ConfigDict, device: torch.device, *, steps: int
) -> tuple[dict[str, np.ndarray], Iterator[TorchBatch]]:
    """Returns the weights, batches and masks of our steps, by the config's seed, made by JAX.

    Args:
        config: The resolved config.
        device: The device for the batches.
        steps: Number of batches.
    """
    config = config.copy_and_resolve_references()
    config.model.update(attention="xla", unroll=1)
    learner = make_learner(config, stats=STATS)
    params = jax.jit(learner.model.init_params)(jax.random.key(config.seed))
    drawn = step_times.draw_batches(config, learner.row_shapes, process=0, rows=config.batch_size)
    images = [torch.tensor(x["image"], device=device).permute(0, 3, 1, 2) for x in drawn]
    images = [x.contiguous() for x in images]

    @jax.jit
    def sample(step: jax.Array, classes: jax.Array) -> Masks:
        return learner.sample(jax.random.fold_in(jax.random.key(config.seed), step), classes)

    def batches() -> Iterator[TorchBatch]:
        for step in range(steps):
            masks = sample(step, drawn[step % len(drawn)]["classes"])
            masks = [torch.tensor(np.asarray(x).astype(np.int64), device=device) for x in masks]
            yield TorchBatch(images[step % len(drawn)], Masks(*masks))

    return to_state_dict(jax.device_get(params)), iter(list(batches()))


def _peak_memory() -> int:
    """Returns the largest number of bytes that this process has had in memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
