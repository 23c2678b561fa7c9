"""What a compiled step needs of a device's memory, and what to change where that is too much."""

from typing import NamedTuple

import jax

# Low guesses, to pass over only what cannot fit: gradients as a share of the state, and the share
# of the activations that each `remat` keeps, the cheapest in time first.
GRADIENT_SHARE = 0.2


class Memory(NamedTuple):
    """Bytes of one device by the compiler; of a program that it refused, only the total.

    Attributes:
        argument: State and batch.
        output: The next state and the metrics.
        alias: The part of the output that takes the place of arguments.
        temporary: Gradients, activations and all else that lives within a step.
        code: The program.
        total: What a step needs.
        available: What a program may use; None where nobody knows.
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
        """By the compiler's own analysis of the program."""
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
        if self.argument is None:
            return False
        return None if self.available is None else self.total <= self.available


def fits_with(memory: Memory, *, state_bytes: int, micro_batches: float) -> bool:
    """Whether so many times as many micro-batches may fit; False only where they cannot.

    Args:
        memory: Of the step as it is.
        state_bytes: The part of the state that one device holds.
        micro_batches: How many now take the place of one.
    """
    if memory.available is None:
        return True
    fixed = state_bytes * (1 + GRADIENT_SHARE)
    return fixed + (memory.total - fixed) / micro_batches <= memory.available
