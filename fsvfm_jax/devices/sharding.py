"""Where arrays live: one mesh over all devices, with the axes `data` and `fsdp`.

A batch is split over both axes. The state is replicated over `data` and split over `fsdp`, each
array along one of its axes; with `fsdp` 1 that is plain data parallelism. The layer axis of a
scanned stack is never split: the loop gathers one layer's parameters at a time.

The only file that knows `PartitionSpec`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, Shaped
from ml_collections import ConfigDict

from fsvfm_jax.errors import ConfigError

AXES = ("data", "fsdp")
BATCH = PartitionSpec(AXES)
# A number of micro-batches: the fewest that fit.
AUTO = "auto"


def make_mesh(
    sizes: Mapping[str, int] | ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Arranges all devices (or those given) by the config's mesh section.

    Args:
        sizes: `data` and `fsdp`; one may be -1, which stands for the rest of the devices.
        devices: Instead of all of them.

    Raises:
        ConfigError: The sizes do not multiply to the number of devices: none may be idle.
    """
    devices = jax.devices() if devices is None else devices
    shape = [sizes[axis] for axis in AXES]
    known = math.prod(size for size in shape if size != -1)
    if shape.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        shape[shape.index(-1)] = len(devices) // known
    if math.prod(shape) != len(devices) or min(shape) < 1:
        raise ConfigError(
            f"config.mesh.data = {sizes['data']} x config.mesh.fsdp = {sizes['fsdp']} does not"
            f" make {len(devices)} devices: make one of them -1, and the other a divisor"
        )
    # In the order of processes, which `jax.make_mesh` may change: process h of H then holds the
    # h-th of H equal parts of a batch, and the masks' rows meet the same faces everywhere.
    auto = (AxisType.Auto, AxisType.Auto)
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=auto)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 split over every device, whatever the mesh's shape."""
    return NamedSharding(mesh, BATCH)


def replicate(tree: PyTree, mesh: Mesh) -> Any:
    """Whole copies of NumPy arrays on every device; all processes have the same."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), tree
    )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from this process's rows of a batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


def constrain_batch(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """Says under a mesh that axis 0 is the batch: else activations might follow the parameters."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, BATCH)


def state_template(shapes: PyTree, mesh: Mesh) -> Any:
    """A tree of `ShapeDtypeStruct` that also says where each array of the state lives."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, _fsdp_spec(path, x.shape, mesh))
        ),
        shapes,
    )


def shardings_of(template: PyTree) -> Any:
    return jax.tree.map(lambda x: x.sharding, template)


def bytes_per_device(template: PyTree) -> int:
    """Of the part of the state that one device holds."""
    return sum(
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(template)
    )


def _fsdp_spec(path: tuple[Any, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Splits matrices along the longest axis that `fsdp` divides, the layers of a stack apart."""
    size = mesh.shape["fsdp"]
    names = [str(getattr(key, "key", "")) for key in path]
    if names[-1].endswith("pos_embed"):  # gathered by index on every device
        return PartitionSpec()
    first = int(any(name.endswith("blocks") for name in names))
    axes = [axis for axis in range(first, len(shape)) if shape[axis] % size == 0]
    # Splitting biases, scales and tokens saves nothing and costs a message each.
    matrix = sum(length > 1 for length in shape[first:]) >= 2
    if size == 1 or not matrix or not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(["fsdp" if axis == longest else None for axis in range(len(shape))]))


def check_batch_size(batch_size: int, *, accum_steps: int | str, mesh: Mesh) -> None:
    """Raises ConfigError unless all devices get as many images in every micro-batch.

    The number of micro-batches that `AUTO` stands for divides whatever a device gets.
    """
    if accum_steps == AUTO:
        accum_steps = 1
    if batch_size % (mesh.size * accum_steps):
        raise ConfigError(
            f"config.batch_size = {batch_size} does not divide over {mesh.size} devices x"
            f" {accum_steps} accum_steps: make it a multiple of {mesh.size * accum_steps}"
        )
