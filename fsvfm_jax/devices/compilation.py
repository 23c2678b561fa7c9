"""From a learner to the compiled training step: lowered for a mesh, in micro-batches that fit."""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fsvfm_jax.devices import distributed, sharding
from fsvfm_jax.devices.backends import settings_for
from fsvfm_jax.devices.memory import Memory, fits_with
from fsvfm_jax.devices.sharding import AUTO
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.train_state import Learner, StepValues, TrainState

logger = logging.getLogger(__name__)


class CompiledStep(NamedTuple):
    """The training step as a program.

    Attributes:
        program: None where the compiler refused it for its memory.
        memory: What a device needs for it.
        accum_steps: Micro-batches in a step.
    """

    program: jax.stages.Compiled | None
    memory: Memory
    accum_steps: int


def place(
    config: ConfigDict, devices: Sequence[jax.Device] | None = None
) -> tuple[Mesh, ConfigDict]:
    """The mesh over all devices (or those given), and the config with their kind's settings.

    Args:
        config: The resolved config.
        devices: Instead of all of them.

    Raises:
        ConfigError: The mesh or the batch does not divide over them, or they cannot do what the
            config asks for.
    """
    mesh = sharding.make_mesh(config.mesh, devices)
    sharding.check_batch_size(config.batch_size, accum_steps=config.accum_steps, mesh=mesh)
    return mesh, settings_for(config, mesh.devices.flat[0].platform)


def state_template(learner: Learner, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state: no array is ever made in the wrong place."""
    return sharding.state_template(jax.eval_shape(learner.init, jax.random.key(0)), mesh)


def fresh_state(learner: Learner, template: TrainState, *, seed: int) -> TrainState:
    """The state at step 0, every array made where `state_template` says that it lives."""
    init = jax.jit(learner.init, out_shardings=sharding.shardings_of(template))
    return init(jax.random.key(seed))


def lower_step(
    learner: Learner, mesh: Mesh, *, batch_size: int, accum_steps: int = 1
) -> jax.stages.Lowered:
    """The training step as the loop runs it, traced for the mesh's devices but not compiled."""
    batch = {
        name: jax.ShapeDtypeStruct(
            (batch_size, *x.shape), x.dtype, sharding=sharding.batch_sharding(mesh)
        )
        for name, x in learner.row_shapes.items()
    }
    template = state_template(learner, mesh)
    # The state leaves a step where it entered it, or the next step could not take it.
    train_step = jax.jit(
        partial(learner.train_step, accum_steps=accum_steps),
        donate_argnums=0,
        out_shardings=(sharding.shardings_of(template), sharding.replicated(mesh)),
    )
    with jax.set_mesh(mesh):
        return train_step.lower(template, batch, StepValues(np.float32(0), np.float32(0)))


def compile_step(
    learner: Learner,
    mesh: Mesh,
    *,
    batch_size: int,
    accum_steps: int | str,
    available: int | None,
    options: Mapping[str, Any],
) -> CompiledStep:
    """Compiles the training step; with "auto", in the fewest micro-batches that fit.

    Numbers of micro-batches that cannot fit by proportion are passed over, not compiled.

    Args:
        learner: The network in training.
        mesh: Over the devices to compile for.
        batch_size: Images per update, over all devices.
        accum_steps: Micro-batches per update, or "auto".
        available: Bytes that a program may use on a device; None fits always.
        options: XLA's, by name.

    Returns:
        The step; with "auto" and if none fits, the one with the smallest micro-batches.

    Raises:
        ConfigError: The compiler does not know an option.
    """
    counts = [accum_steps]
    if accum_steps == AUTO:
        images = batch_size // mesh.size
        counts = [n for n in range(1, images + 1) if images % n == 0]
    step = None
    for count in counts:
        if step is not None and count != counts[-1]:
            may_fit = fits_with(
                step.memory,
                state_bytes=sharding.bytes_per_device(state_template(learner, mesh)),
                micro_batches=count / step.accum_steps,
            )
            if distributed.number_of_processes(not may_fit):
                continue
        lowered = lower_step(learner, mesh, batch_size=batch_size, accum_steps=count)
        step = CompiledStep(*_compile(lowered, available=available, options=options), count)
        # Compilers may differ in their figures, but not the processes in what they run.
        if distributed.number_of_processes(step.memory.fits is False) == 0:
            break
    return step


def compile_for_devices(learner: Learner, mesh: Mesh, config: ConfigDict) -> CompiledStep:
    """Compiles the training step for the devices there are, and says what it needs.

    Raises:
        ConfigError: The compiler refuses it for its memory.
    """
    started = time.monotonic()
    step = compile_step(
        learner,
        mesh,
        batch_size=config.batch_size,
        accum_steps=config.accum_steps,
        available=available_bytes(),
        options=config.compiler_options.to_dict(),
    )
    memory = step.memory
    if memory.argument is not None:
        logger.info(
            "compiled the training step in %.1f s; memory per device: arguments %.2f GB,"
            " temporaries %.2f GB",
            time.monotonic() - started,
            memory.argument / 1e9,
            memory.temporary / 1e9,
        )
    advice = (
        "raise config.mesh.fsdp, set config.model.remat='full' or config.accum_steps='auto', or"
        " lower config.batch_size"
    )
    if distributed.number_of_processes(step.program is None):
        needed = f"{memory.total / 1e9:.1f} GB per device are needed"
        raise ConfigError(f"the training step does not fit, {needed}: {advice}")
    if memory.fits is False:
        needed = f"{memory.total / 1e9:.1f} GB of {memory.available / 1e9:.1f} GB per device"
        logger.warning("this will probably not fit, %s: %s", needed, advice)
    logger.info(
        "effective batch: %d = %d devices x %d x %d%s",
        config.batch_size,
        mesh.size,
        config.batch_size // (mesh.size * step.accum_steps),
        step.accum_steps,
        " micro-batches, the fewest that fit" if config.accum_steps == AUTO and memory.fits else "",
    )
    return step


def _compile(
    lowered: jax.stages.Lowered, *, available: int | None, options: Mapping[str, Any]
) -> tuple[jax.stages.Compiled | None, Memory]:
    """A TPU's compiler refuses what does not fit, and says only how much it would need."""
    try:
        compiled = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        if needed := _needed_bytes(str(error)):
            return None, Memory(None, None, None, None, None, needed, available)
        if "compile option" in str(error) or "setting option" in str(error):
            raise ConfigError(f"config.compiler_options: {str(error).splitlines()[0]}") from error
        raise
    return compiled, Memory.of(compiled, available=available)


def _needed_bytes(message: str) -> int | None:
    """Such as 40.36 GiB of "RESOURCE_EXHAUSTED: ... hbm ... (40.36G) exceeds available ..."."""
    size = re.search(
        r"RESOURCE_EXHAUSTED.*?\bHBM\b.*?([\d.]+)([KMGT])\b", message, re.DOTALL | re.I
    )
    return int(float(size[1]) * 1024 ** (1 + "KMGT".index(size[2]))) if size else None


def available_bytes() -> int | None:
    """What a program may use on each device, by the poorest process; None where one does not know.

    The CPU's devices share the machine's memory.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None and device.platform == "cpu":
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
    # In MiB, for int32; all processes must decide alike on what fits.
    mebibytes = np.int32(-1 if limit is None else limit >> 20)
    poorest = int(np.min(multihost_utils.process_allgather(mebibytes)))
    return None if poorest < 0 else poorest << 20
