"""Where arrays live: one mesh over all devices, the state replicated, batches split over devices.

The only file that knows `PartitionSpec`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from fsvfm_jax.errors import ConfigError

AXES = ("data", "fsdp")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices (or those given) in one line along `data`."""
    devices = jax.devices() if devices is None else devices
    auto = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((len(devices), 1), AXES, axis_types=auto, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 split over every device, whatever the mesh's shape."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from this process's rows of a batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


def with_sharding(shapes: PyTree, sharding: NamedSharding) -> Any:
    """A tree of `ShapeDtypeStruct` that also says where each array lives."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def check_batch_size(batch_size: int, *, accum_steps: int, mesh: Mesh) -> None:
    """Raises ConfigError unless all devices get as many images in every micro-batch."""
    if batch_size % (mesh.size * accum_steps):
        raise ConfigError(
            f"config.batch_size = {batch_size} does not divide over {mesh.size} devices x"
            f" {accum_steps} accum_steps: make it a multiple of {mesh.size * accum_steps}"
        )
