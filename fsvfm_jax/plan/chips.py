"""Facts of the accelerators that a run can be planned for, and the names of topologies.

Compute and bandwidths are the manufacturers' figures: Google's pages on Cloud TPU v4, v5e, v5p and
v6e (docs.cloud.google.com/tpu/docs/v5e and so on), and NVIDIA's datasheets of H100 SXM and H200
SXM. NVIDIA's bf16 figure includes sparsity; the dense peak is half of it. `ici_bandwidth` is one
direction, half of the advertised bidirectional bandwidth; per chip it is also the all-reduce
bandwidth of a pod on Google's pages.

The memory of a TPU is what its compiler lets a program use ("available HBM" in its errors). The
memory of a GPU is what JAX reserves by default, three quarters of the datasheet's figure;
XLA_PYTHON_CLIENT_MEM_FRACTION changes that.
"""

import importlib.util
import math
import os
from typing import NamedTuple

import jax
from jax.experimental import topologies

from fsvfm_jax.errors import ConfigError

GIB = 2**30


class Chip(NamedTuple):
    """One accelerator, which is one JAX device here.

    Attributes:
        name: Short name, as in the name of a topology.
        device_kinds: The possible values of `jax.Device.device_kind`.
        bf16_flops: Dense peak, operations per second.
        hbm_bytes: Memory that a program may use.
        hbm_bandwidth: Bytes per second, read and written together.
        ici_bandwidth: Bytes per second that one chip sends over all its links (ICI, NVLink).
    """

    name: str
    device_kinds: tuple[str, ...]
    bf16_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    ici_bandwidth: float


CHIPS = {
    chip.name: chip
    for chip in (
        # 2,400 Gbit/s on six links.
        Chip("v4", ("TPU v4",), 275e12, int(30.75 * GIB), 1.2e12, 300e9),
        # 1,600 Gbit/s on four links.
        Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, int(15.75 * GIB), 819e9, 200e9),
        # 4,800 Gbit/s on six links.
        Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, int(95.74 * GIB), 2.765e12, 600e9),
        # 800 GB/s both ways, on four links.
        Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, int(31.25 * GIB), 1.638e12, 400e9),
        # 80 and 141 GB; NVLink, 900 GB/s both ways.
        Chip("h100", ("NVIDIA H100 80GB HBM3",), 989e12, int(0.75 * 80e9), 3.35e12, 450e9),
        Chip("h200", ("NVIDIA H200",), 989e12, int(0.75 * 141e9), 4.8e12, 450e9),
    )
}

# Slices that Google Cloud offers. v5e and v6e slices are parts of a pod of 16 x 16; v4 and v5p
# slices consist of cubes of 4 x 4 x 4, or are a part of one cube.
FLAT_SHAPES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SMALL_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
MOST_CHIPS = {"v4": 4096, "v5p": 6144}
# Without these variables libtpu looks up this machine's type on the network, warns if it is not a
# TPU VM, and allows only one process at a time, although no TPU is used here.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
EXAMPLES = "v5e:16x16, v6e:8x8, v5p:4x4x8, v4:4x4x4, h200:8, h100:8, cpu:8, gpu"


def find_chip(device_kind: str) -> Chip | None:
    """Returns the chip of a JAX device's `device_kind`; None if the table does not contain it."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.device_kinds), None)


def topology_devices(topology: str) -> tuple[list[jax.Device], Chip | None]:
    """Returns devices to compile for, and the chip that the program is meant for.

    A TPU's topology needs no TPU. `h100:8` and `h200:8` are eight CPU devices in place of those
    GPUs, because XLA compiles for a GPU only on a machine that has one; `gpu` does so.

    Args:
        topology: Chip and shape (`v5p:4x4x8`), chip and number (`h200:8`, `cpu:8`), or `gpu`.

    Raises:
        ConfigError: The name is unknown, no slice has the shape, or a package is missing.
    """
    kind, _, shape = topology.partition(":")
    if kind in ("v4", "v5e", "v5p", "v6e"):
        return _tpu_devices(kind, shape), CHIPS[kind]
    if topology == "gpu":
        if jax.default_backend() != "gpu":
            raise ConfigError("--topology=gpu, but JAX sees no GPU here; name one, such as h200:8")
        devices = jax.devices()
        return devices, find_chip(devices[0].device_kind)
    if kind in ("cpu", "h100", "h200") and shape.isdigit() and int(shape) > 0:
        devices = jax.devices("cpu")
        if len(devices) < int(shape):
            raise ConfigError(f"--topology={topology}, but this process has {len(devices)} devices")
        return devices[: int(shape)], CHIPS.get(kind)
    raise ConfigError(f"--topology={topology!r} is unknown; there are, for example, {EXAMPLES}")


def _tpu_devices(kind: str, shape: str) -> list[jax.Device]:
    if kind in MOST_CHIPS:
        sides = [int(side) for side in shape.split("x") if side.isdigit()]
        whole_cubes = len(sides) == shape.count("x") + 1 == 3 and sides == sorted(sides)
        whole_cubes = whole_cubes and all(side > 0 and side % 4 == 0 for side in sides)
        known = shape in SMALL_CUBES or (whole_cubes and math.prod(sides) <= MOST_CHIPS[kind])
        allowed = f"{', '.join(SMALL_CUBES)}, or AxBxC of multiples of 4 with A <= B <= C, at most"
        allowed += f" {MOST_CHIPS[kind]} chips"
    else:
        known, allowed = shape in FLAT_SHAPES, ", ".join(FLAT_SHAPES)
    if not known:
        raise ConfigError(f"--topology={kind}:{shape} is no slice; {kind} comes as {allowed}")
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(f"--topology={kind}:{shape} needs libtpu: pip install '.[plan]'")
    options = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    before = dict(os.environ)
    os.environ.update(LIBTPU | before)
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{shape}", **options
        ).devices
    finally:  # Programs started later must not mistake this machine for a TPU VM.
        for name in LIBTPU.keys() - before.keys():
            del os.environ[name]
