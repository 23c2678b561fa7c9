"""What a compiled step needs of a device's memory, and what to change where that is too much."""

import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

# To pass over changes that cannot help: gradients by the size of the state, and a low guess of the
# share of the activations that remat keeps.
GRADIENT_SHARE, REMAT_KEEPS = 0.25, 0.15


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


def _needed(error: jax.errors.JaxRuntimeError) -> int:
    """The bytes that the compiler says it would need; raises what is another error."""
    size = re.search(r"RESOURCE_EXHAUSTED.*?([\d.]+)([KMGT])\b", str(error), re.DOTALL)
    if size is None:
        raise error
    return int(float(size[1]) * 1024 ** (1 + "KMGT".index(size[2])))


def possible_changes(step: Step, num_devices: int) -> Iterator[dict[str, Any]]:
    """Changes of config fields that may let a step fit, the least intrusive first.

    Remat, a state split over more devices, and both; then the same with ever smaller
    micro-batches. What cannot fit by proportion is passed over.
    """
    fixed = step.state_bytes * (1 + GRADIENT_SHARE)
    activations = step.memory.total - fixed
    fsdp, accum = step.mesh["fsdp"], step.config.accum_steps
    images = step.config.batch_size // (num_devices * accum)
    splits = [n for n in _doublings(num_devices // fsdp) if fixed / n <= step.memory.available / 2]
    for micro, split, remat in itertools.product(
        _doublings(images), dict.fromkeys([1, *splits[:1]]), (False, True)
    ):
        keeps = (REMAT_KEEPS if remat else 1) / micro
        useless = remat and step.config.model.remat
        if useless or fixed / split + activations * keeps > step.memory.available:
            continue
        change: dict[str, Any] = {"model.remat": True} if remat else {}
        if split > 1:
            change |= {"mesh.data": -1, "mesh.fsdp": fsdp * split}
        if micro > 1:
            change |= {"accum_steps": accum * micro}
        if change:
            yield change


def _doublings(number: int) -> list[int]:
    """1, 2, 4, ... as far as they divide a number."""
    return [2**k for k in range(number.bit_length()) if number % 2**k == 0]


def as_flags(change: dict[str, Any]) -> str:
    return " ".join(f"--config.{path}={value}" for path, value in change.items())


