"""Returns devices to compile for by the name of a topology, such as `v5p:4x4x8` or `h200:8`."""

import importlib.util
import math
import os

import jax
from jax.experimental import topologies

from fsvfm_jax.errors import ConfigError, brief, shortened
from fsvfm_jax.plan.chips import CHIPS, Chip, find_chip
from fsvfm_jax.plan.counts import read_count
from fsvfm_jax.plan.gpus import GPUS, gpu_devices

# Slices that Google Cloud offers. v5e and v6e slices are parts of a pod of 16 x 16; v4 and v5p
# slices consist of cubes of 4 x 4 x 4, or are a part of one cube.
FLAT_SHAPES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SMALL_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
MOST_CHIPS = {"v4": 4096, "v5p": 6144}
MOST_CPU_DEVICES = 1024
# Without these variables libtpu looks up this machine's type on the network, warns if it is not a
# TPU VM, and allows only one process at a time, although no TPU is used here.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
EXAMPLES = "v5e:16x16, v6e:8x8, v5p:4x4x8, v4:4x4x4, h200:8, h100:8x2, cpu:8, gpu"


def topology_devices(topology: str) -> tuple[list[jax.Device], Chip | None]:
    """Returns devices to compile for, and the chip that the program is meant for.

    The compilers for TPUs and NVIDIA GPUs need no such device, only the packages of the extras
    `plan` and `plan-gpu`.

    Args:
        topology: A chip and its shape (`v5p:4x4x8`), a GPU, the number in a node and the number of
            nodes (`h200:8`, `h100:8x2`), `cpu` and a number, or `gpu` for the GPUs of this machine.

    Raises:
        ConfigError: The name is unknown, no slice has the shape, or a package is missing.
    """
    kind, _, shape = topology.partition(":")
    if kind in ("v4", "v5e", "v5p", "v6e"):
        return _tpu_devices(kind, shape), CHIPS[kind]
    if kind in GPUS:
        return gpu_devices(CHIPS[kind], shape), CHIPS[kind]
    if topology == "gpu":
        if jax.default_backend() != "gpu":
            raise ConfigError(
                "--topology=gpu, but JAX sees no GPU here: name a GPU, such as h200:8"
            )
        devices = jax.devices()
        return devices, find_chip(devices[0].device_kind)
    if kind == "cpu":
        return _cpu_devices(shape), None
    raise ConfigError(
        f"--topology={brief(topology)} is unknown; there are, for example, {EXAMPLES}"
    )


def _cpu_devices(shape: str) -> list[jax.Device]:
    number, devices = read_count(shape, most=MOST_CPU_DEVICES), jax.devices("cpu")
    if number is None:
        raise ConfigError(
            f"--topology=cpu:{shortened(shape)} gives no number of devices from 1 to"
            f" {MOST_CPU_DEVICES:,}: use cpu:8"
        )
    if len(devices) < number:
        raise ConfigError(f"--topology=cpu:{number}, but this process has {len(devices)} devices")
    return devices[:number]


def _tpu_devices(kind: str, shape: str) -> list[jax.Device]:
    if kind in MOST_CHIPS:
        known = shape in SMALL_CUBES or _has_whole_cubes(shape, most=MOST_CHIPS[kind])
        allowed = f"{', '.join(SMALL_CUBES)}, or AxBxC of multiples of 4 with A <= B <= C, at most"
        allowed += f" {MOST_CHIPS[kind]} chips"
    else:
        known, allowed = shape in FLAT_SHAPES, ", ".join(FLAT_SHAPES)
    if not known:
        raise ConfigError(
            f"--topology={kind}:{shortened(shape)} is no slice; {kind} comes as {allowed}"
        )
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


def _has_whole_cubes(shape: str, *, most: int) -> bool:
    """Returns whether a slice consists of cubes of 4 x 4 x 4, and of at most that many chips."""
    sides = [read_count(side, most=most) for side in shape.split("x")]
    if len(sides) != 3 or None in sides:
        return False
    in_order = sides == sorted(sides)
    return in_order and all(side % 4 == 0 for side in sides) and math.prod(sides) <= most
