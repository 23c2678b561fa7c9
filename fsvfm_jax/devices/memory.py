"""The memory that a compiled step needs on a device, and a low estimate for other batch sizes."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import jax

from fsvfm_jax.errors import OutOfMemory

GIB = 2**30
# What a user can do if the training step does not fit.
SMALLER_STEP = (
    "raise config.mesh.fsdp, set config.model.remat='full' or config.accum_steps='auto', or lower"
    " config.batch_size"
)
# A low estimate of the gradients as a share of the state, so that only what cannot fit is skipped.
GRADIENT_SHARE = 0.2


class Memory(NamedTuple):
    """Bytes on one device as the compiler reports them; only the total if it refused the program.

    Attributes:
        argument: State and batch.
        output: The next state and the metrics.
        alias: The part of the output that reuses the memory of arguments.
        temporary: Gradients, activations and everything else that exists only within a step.
        code: The program.
        total: What a step needs.
        available: What a program may use; None if it is unknown.
    """

    argument: int | None
    output: int | None
    alias: int | None
    temporary: int | None
    code: int | None
    total: int
    available: int | None

    @classmethod
    def of(cls, compiled: jax.stages.Compiled, *, available: int | None) -> "Memory":
        """Returns the memory of a compiled program from the compiler's own analysis."""
        stats = compiled.memory_analysis()
        parts = (
            stats.argument_size_in_bytes,
            stats.output_size_in_bytes,
            stats.alias_size_in_bytes,
            stats.temp_size_in_bytes,
            stats.generated_code_size_in_bytes,
        )
        return cls(*parts, sum(parts) - 2 * stats.alias_size_in_bytes, available)

    @property
    def fits(self) -> bool | None:
        """Returns whether a step fits; None if the available memory is unknown."""
        if self.argument is None:
            return False
        return None if self.available is None else self.total <= self.available


@contextlib.contextmanager
def enough_memory(message: str) -> Iterator[None]:
    """Raises OutOfMemory with a message if an enclosed program needs more memory than there is.

    Args:
        message: What does not fit, and what the user can do.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not memory_ran_out(error):
            raise
        raise OutOfMemory(message) from error


def memory_ran_out(error: jax.errors.JaxRuntimeError) -> bool:
    """Returns whether the memory of a device or of this machine ran out.

    It did not if a kernel exceeds a TPU core's own memory (vmem): that follows from the program,
    and a smaller batch does not help.
    """
    return "RESOURCE_EXHAUSTED" in str(error) and "vmem" not in str(error)


def fits_with(memory: Memory, *, state_bytes: int, micro_batches: float) -> bool:
    """Returns False if a smaller or larger number of micro-batches certainly does not fit.

    Args:
        memory: Memory of the current step.
        state_bytes: The part of the state that one device holds, in bytes.
        micro_batches: Number of micro-batches that replace one micro-batch.
    """
    if memory.available is None:
        return True
    fixed = state_bytes * (1 + GRADIENT_SHARE)
    return fixed + (memory.total - fixed) / micro_batches <= memory.available
