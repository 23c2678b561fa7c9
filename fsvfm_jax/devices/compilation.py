"""Compiles the training step of a learner for a mesh, in micro-batches that fit into memory."""

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
from fsvfm_jax.devices.backends import has_cudnn_attention, settings_for
from fsvfm_jax.devices.memory import GIB, SMALLER_STEP, Memory, fits_with
from fsvfm_jax.devices.sharding import AUTO
from fsvfm_jax.errors import ConfigError, StepTooLarge, brief
from fsvfm_jax.train_state import Learner, StepValues, TrainState

logger = logging.getLogger(__name__)


class CompiledStep(NamedTuple):
    """The training step as a program.

    Attributes:
        program: The program; None if the compiler refused it because of its memory.
        memory: The memory that the program needs on a device.
        accum_steps: Number of micro-batches in a step.
    """

    program: jax.stages.Compiled | None
    memory: Memory
    accum_steps: int


def place(
    config: ConfigDict, devices: Sequence[jax.Device] | None = None
) -> tuple[Mesh, ConfigDict]:
    """Returns the mesh over the devices, and the config with the settings for their platform.

    Args:
        config: The resolved config.
        devices: The devices to use; None uses all.

    Raises:
        ConfigError: The mesh or the batch cannot be divided over the devices, or the devices do not
            support the config.
    """
    mesh = sharding.make_mesh(config.mesh, devices)
    sharding.check_batch_size(config.batch_size, accum_steps=config.accum_steps, mesh=mesh)
    device = mesh.devices.flat[0]
    has_cudnn = has_cudnn_attention(device)
    return mesh, settings_for(config, device.platform, has_cudnn=has_cudnn)


def state_template(learner: Learner, mesh: Mesh) -> TrainState:
    """Returns shapes, dtypes and shardings of the state, to create each array where it belongs."""
    return sharding.state_template(jax.eval_shape(learner.init, jax.random.key(0)), mesh)


def fresh_state(learner: Learner, template: TrainState, *, seed: int) -> TrainState:
    """Returns the state at step 0, with every array created on the devices that will hold it.

    Args:
        learner: The network in training.
        template: Shapes, dtypes and shardings of the state, from `state_template`.
        seed: Seed of the parameters.
    """
    init = jax.jit(learner.init, out_shardings=sharding.shardings_of(template))
    return init(jax.random.key(seed))


def compile_picture(
    learner: Learner, mesh: Mesh, template: TrainState, faces: dict[str, np.ndarray]
) -> jax.stages.Compiled:
    """Compiles the picture that a run draws every few steps.

    Args:
        learner: The network in training.
        mesh: The mesh over all devices.
        template: Shapes, dtypes and shardings of the state, from `state_template`.
        faces: The rows of the picture, arrays by name with the rows on axis 0.
    """
    draw = jax.jit(learner.draw, out_shardings=sharding.replicated(mesh))
    return draw.lower(template, faces).compile()


def lower_step(
    learner: Learner, mesh: Mesh, *, batch_size: int, accum_steps: int = 1
) -> jax.stages.Lowered:
    """Returns the training step as the loop runs it, traced for the mesh but not compiled.

    Args:
        learner: The network in training.
        mesh: The mesh over the devices.
        batch_size: Images per update, over all devices.
        accum_steps: Number of micro-batches per update.
    """
    batch = {
        name: jax.ShapeDtypeStruct(
            (batch_size, *x.shape), x.dtype, sharding=sharding.batch_sharding(mesh)
        )
        for name, x in learner.row_shapes.items()
    }
    template = state_template(learner, mesh)
    # The state has the same shardings before and after a step, so that the next step accepts it.
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
    """Compiles the training step; with "auto", in the fewest micro-batches that fit into memory.

    With "auto", a number of micro-batches is skipped if a low estimate from the last compilation
    already exceeds the memory.

    Args:
        learner: The network in training.
        mesh: The mesh over the devices to compile for.
        batch_size: Images per update, over all devices.
        accum_steps: Number of micro-batches per update, or "auto".
        available: Bytes that a program may use on a device; with None every program fits.
        options: XLA's compiler options by name.

    Returns:
        The compiled step. If no number fits with "auto", it has the smallest micro-batches.

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
        # The compilers may report different figures, but all processes must run the same program.
        if distributed.number_of_processes(step.memory.fits is False) == 0:
            break
    return step


def compile_for_devices(learner: Learner, mesh: Mesh, config: ConfigDict) -> CompiledStep:
    """Compiles the training step of a config for the present devices, and logs its memory.

    Args:
        learner: The network in training.
        mesh: The mesh over the devices.
        config: The resolved config.

    Raises:
        StepTooLarge: The compiler refuses the step because of its memory.
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
            "compiled the training step in %.1f s; memory per device: arguments %.2f GiB,"
            " temporaries %.2f GiB",
            time.monotonic() - started,
            memory.argument / GIB,
            memory.temporary / GIB,
        )
    if distributed.number_of_processes(step.program is None):
        needed = f"{memory.total / GIB:.1f} GiB per device are needed"
        raise StepTooLarge(f"the training step does not fit, {needed}: {SMALLER_STEP}")
    if memory.fits is False:
        needed = f"{memory.total / GIB:.1f} of {memory.available / GIB:.1f} GiB per device"
        logger.warning("this will probably not fit, %s: %s", needed, SMALLER_STEP)
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
    """Compiles a step; returns no program if a TPU's compiler refuses it because of its memory.

    The message of the compiler then contains only the number of bytes that it needs.
    """
    try:
        compiled = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        if needed := _needed_bytes(str(error)):
            return None, Memory(None, None, None, None, None, needed, available)
        if "compile option" in str(error) or "setting option" in str(error):
            raise ConfigError(f"config.compiler_options: {str(error).splitlines()[0]}") from error
        raise
    except TypeError as error:  # JAX reads four options itself, and passes the others on to XLA.
        given = {name: x for name, x in options.items() if not name.startswith("xla_")}
        raise ConfigError(
            f"config.compiler_options has {brief(given)}: optimization_level and"
            " memory_fitting_level take a whole number, such as 1 for O1;"
            " exec_time_optimization_effort and memory_fitting_effort take a number"
        ) from error
    return compiled, Memory.of(compiled, available=available)


def _needed_bytes(message: str) -> int | None:
    """Returns the bytes that a compiler's message names, or None if the error is another one.

    The message is "RESOURCE_EXHAUSTED: ... hbm ... (40.36G) exceeds available ...".
    """
    size = re.search(
        r"RESOURCE_EXHAUSTED.*?\bHBM\b.*?([\d.]+)([KMGT])\b", message, re.DOTALL | re.I
    )
    return int(float(size[1]) * 1024 ** (1 + "KMGT".index(size[2]))) if size else None


def available_bytes() -> int | None:
    """Returns the bytes that a program may use on every device; None if a process cannot know.

    It is the minimum over all processes. The devices of a CPU share the machine's memory equally.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None and device.platform == "cpu":
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
    # All processes must decide in the same way what fits. The unit is MiB, to fit into int32.
    mebibytes = np.int32(-1 if limit is None else limit >> 20)
    poorest = int(np.min(multihost_utils.process_allgather(mebibytes)))
    return None if poorest < 0 else poorest << 20
