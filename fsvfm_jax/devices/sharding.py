"""Where arrays are placed: one mesh over all devices, with the axes `data` and `fsdp`.

A batch is split over both axes. The state is replicated over `data` and split over `fsdp`, each
array along one of its axes; with `fsdp` 1 that is plain data parallelism. The layer axis of a
scanned stack is never split: the loop gathers one layer's parameters at a time.

Only this file uses `PartitionSpec`.
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
# A value of `accum_steps`: the smallest number of micro-batches that fits in memory.
AUTO = "auto"


def make_mesh(
    sizes: Mapping[str, int] | ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Arranges devices as the config's mesh section describes.

    Args:
        sizes: Sizes of `data` and `fsdp`; one may be -1 for the remaining devices.
        devices: The devices; None for all devices.

    Raises:
        ConfigError: The product of the sizes is not the number of devices; no device may be idle.
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
    # The devices stay in the order of processes, which `jax.make_mesh` may change. Process h of H
    # then holds the h-th of H equal parts of a batch, and every number of processes gives a face
    # the same row of the masks.
    auto = (AxisType.Auto, AxisType.Auto)
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=auto)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that places a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits axis 0 over all devices, for every shape of the mesh."""
    return NamedSharding(mesh, BATCH)


def replicate(tree: PyTree, mesh: Mesh) -> Any:
    """Places whole copies of NumPy arrays, which all processes must have, on every device."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), tree
    )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns global arrays from this process's rows of a batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


def constrain_batch(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """Constrains axis 0 to be split like a batch, if there is a mesh.

    Without the constraint, activations might be split like parameters.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, BATCH)


def gather(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Constrains an array to be whole on every device, if there is a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def state_template(shapes: PyTree, mesh: Mesh) -> Any:
    """Returns a tree of `ShapeDtypeStruct` with the sharding of each array of the state."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, _fsdp_spec(path, x.shape, mesh))
        ),
        shapes,
    )


def shardings_of(template: PyTree) -> Any:
    """Returns the shardings of a template."""
    return jax.tree.map(lambda x: x.sharding, template)


def bytes_per_device(template: PyTree) -> int:
    """Returns the bytes of the part of the state that one device holds."""
    return sum(
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(template)
    )


def _fsdp_spec(path: tuple[Any, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Splits matrices along the longest axis divisible by `fsdp`, never along the layer axis."""
    size = mesh.shape["fsdp"]
    names = [str(getattr(key, "key", "")) for key in path]
    if names[-1].endswith("pos_embed"):  # Every device gathers from it by index.
        return PartitionSpec()
    first = int(any(name.endswith("blocks") for name in names))
    axes = [axis for axis in range(first, len(shape)) if shape[axis] % size == 0]
    # Splitting biases, scales and tokens saves nothing, and each would cost a message.
    matrix = sum(length > 1 for length in shape[first:]) >= 2
    if size == 1 or not matrix or not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(["fsdp" if axis == longest else None for axis in range(len(shape))]))


def check_batch_size(batch_size: int, *, accum_steps: int | str, mesh: Mesh) -> None:
    """Raises ConfigError unless all devices get equally many images in every micro-batch.

    For `AUTO`, only the devices are checked: the number chosen later divides each device's images.

    Args:
        batch_size: Images per update.
        accum_steps: Number of micro-batches, or `AUTO`.
        mesh: The devices.
    """
    if accum_steps == AUTO:
        accum_steps = 1
    if batch_size % (mesh.size * accum_steps):
        raise ConfigError(
            f"config.batch_size = {batch_size} does not divide over {mesh.size} devices x"
            f" {accum_steps} accum_steps: make it a multiple of {mesh.size * accum_steps}"
        )
