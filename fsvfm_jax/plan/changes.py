"""Finds changes of config fields that may let a step fit in a device's memory."""

import itertools
from collections.abc import Iterator
from typing import Any

from fsvfm_jax.devices.memory import GRADIENT_SHARE, Memory

# The share of the activations that each `remat` keeps, the fastest first. The shares are low
# estimates, which exclude only what cannot fit.
REMAT_KEEPS = {"none": 1.0, "dots": 0.3, "full": 0.05}


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
    """Yields changes of config fields that may let a step fit, the least intrusive first.

    The order is: remat, a state split over so many devices that it leaves half of the memory, both;
    then the same with ever smaller micro-batches; then all of these with a state split over twice
    as many devices. Changes that certainly do not fit are skipped.

    Args:
        memory: Memory of the step that does not fit.
        state_bytes: The part of the state that one device holds, in bytes.
        images_per_device: Images of a device in a micro-batch.
        num_devices: Number of all devices.
        fsdp: Devices that share a state.
        accum_steps: Micro-batches in a step.
        remat: The current value, one of `models.layers.REMATS`.
    """
    assert memory.available is not None
    fixed = state_bytes * (1 + GRADIENT_SHARE)
    activations = memory.total - fixed
    doublings = [n for n in _divisors(num_devices // fsdp) if n.bit_count() == 1]
    splits = [n for n in doublings if fixed / n <= memory.available / 2] or doublings[-1:]
    remats = list(REMAT_KEEPS)[list(REMAT_KEEPS).index(remat) :]
    micros = _divisors(images_per_device)
    first = itertools.product(micros, dict.fromkeys([1, splits[0]]), remats)
    for micro, split, name in (*first, *itertools.product(micros, splits[1:2], remats)):
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


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
