"""What a compiled step needs of a device's memory, and what to change where that is too much."""

import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

# Low guesses, to pass over only what cannot fit: gradients as a share of the state, and the share
# of the activations that remat keeps.
GRADIENT_SHARE, REMAT_KEEPS = 0.2, 0.05


class Memory(NamedTuple):
    """Bytes of one device by the compiler; of a program that it refused, only the total.

    Attributes:
        argument: State and batch.
        output: The next state and the metrics.
        alias: The part of the output that takes the place of arguments.
        temporary: Gradients, activations and all else that lives within a step.
        code: The program.
        total: What a step needs.
        available: What a program may use; None for a CPU.
    """

    argument: int | None
    output: int | None
    alias: int | None
    temporary: int | None
    code: int | None
    total: int
    available: int | None

    @property
    def fits(self) -> bool | None:
        return None if self.available is None else self.total <= self.available


def compile_step(
    lowered: jax.stages.Lowered, *, available: int | None
) -> tuple[jax.stages.Compiled | None, Memory]:
    """Compiles a step and says what it needs; a TPU's compiler refuses what does not fit.

    Args:
        lowered: Of `train.lower_step`.
        available: Bytes that a program may use.

    Returns:
        The compiled step, or None where it was refused; and its memory.
    """
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _needed_bytes(str(error))
        if needed is None:
            raise
        return None, Memory(None, None, None, None, None, needed, available)
    stats = compiled.memory_analysis()
    parts = (
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )
    return compiled, Memory(*parts, sum(parts) - 2 * stats.alias_size_in_bytes, available)


def _needed_bytes(message: str) -> int | None:
    """Such as 40.36 GiB of "RESOURCE_EXHAUSTED: ... (40.36G) exceeds available HBM (15.75G)"."""
    size = re.search(r"RESOURCE_EXHAUSTED.*?([\d.]+)([KMGT])\b", message, re.DOTALL)
    return int(float(size[1]) * 1024 ** (1 + "KMGT".index(size[2]))) if size else None


def possible_changes(
    memory: Memory,
    *,
    state_bytes: int,
    images_per_device: int,
    num_devices: int,
    fsdp: int,
    accum_steps: int,
    remat: bool,
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
        remat: Whether activations are recomputed already.
    """
    assert memory.available is not None
    fixed = state_bytes * (1 + GRADIENT_SHARE)
    activations = memory.total - fixed
    splits = [n for n in _doublings(num_devices // fsdp) if fixed / n <= memory.available / 2]
    splits = dict.fromkeys([1, *splits[:1]])
    for micro, split, recompute in itertools.product(
        _doublings(images_per_device), splits, (False, True)
    ):
        kept = activations / micro * (REMAT_KEEPS if recompute else 1)
        if fixed / split + kept > memory.available or (recompute and remat):
            continue
        change: dict[str, Any] = {"model.remat": True} if recompute else {}
        if split > 1:
            change |= {"mesh.data": -1, "mesh.fsdp": fsdp * split}
        if micro > 1:
            change |= {"accum_steps": accum_steps * micro}
        if change:
            yield change


def _doublings(number: int) -> list[int]:
    """1, 2, 4, ... as far as they divide a number."""
    return [2**k for k in range(number.bit_length()) if number % 2**k == 0]
