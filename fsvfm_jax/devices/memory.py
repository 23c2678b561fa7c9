"""What a compiled step needs of a device's memory, and what to change where that is too much."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

# Low guesses, to pass over only what cannot fit: gradients as a share of the state, and the share
# of the activations that each `remat` keeps, the cheapest in time first.
GRADIENT_SHARE = 0.2
REMAT_KEEPS = {"none": 1.0, "dots": 0.3, "full": 0.05}


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


def possible_changes(
    memory: Memory,
    *,
    state_bytes: int,
    images_per_device: int,
    num_devices: int,
    fsdp: int,
    accum_steps: int,
    remat: str,
) -> Iterator[dict[str, Any]]:
    """Changes of config fields that may let a step fit, the least intrusive first.

    Remat, a state split over more devices, and both; then the same with ever smaller
    micro-batches. What cannot fit by proportion is passed over.

    Args:
        memory: Of the step that does not fit.
        state_bytes: The part of the state that one device holds.
        images_per_device: In a micro-batch.
        num_devices: All.
        fsdp: Devices that share a state.
        accum_steps: Micro-batches in a step.
        remat: What is recomputed now, of `models.layers.REMATS`.
    """
    assert memory.available is not None
    fixed = state_bytes * (1 + GRADIENT_SHARE)
    activations = memory.total - fixed
    splits = [n for n in _doublings(num_devices // fsdp) if fixed / n <= memory.available / 2]
    splits = dict.fromkeys([1, *splits[:1]])
    remats = list(REMAT_KEEPS)[list(REMAT_KEEPS).index(remat) :]
    for micro, split, name in itertools.product(_doublings(images_per_device), splits, remats):
        kept = activations / micro * REMAT_KEEPS[name] / REMAT_KEEPS[remat]
        if fixed / split + kept > memory.available:
            continue
        change: dict[str, Any] = {"model.remat": name} if name != remat else {}
        if split > 1:
            change |= {"mesh.data": -1, "mesh.fsdp": fsdp * split}
        if micro > 1:
            change |= {"accum_steps": accum_steps * micro}
        if change:
            yield change


def _doublings(number: int) -> list[int]:
    """1, 2, 4, ... as far as they divide a number."""
    return [2**k for k in range(number.bit_length()) if number % 2**k == 0]
