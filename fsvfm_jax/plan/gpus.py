"""Describes NVIDIA GPUs to XLA's compiler, which then needs no GPU.

The figures are public: NVIDIA's datasheets and tables of compute capabilities. The compiler decides
from them what it fuses and how it tiles. It cannot measure the candidates of a matrix product on a
GPU that is not there (autotuning), so it takes a default for each.
"""

import importlib.util
from typing import NamedTuple

import jax
from jax.experimental import topologies

from fsvfm_jax.errors import ConfigError, shortened
from fsvfm_jax.plan.chips import GPU_SHARE, MIB, Chip
from fsvfm_jax.plan.counts import read_count

MOST_IN_A_NODE = 8
MOST_NODES = 1024
PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


class Gpu(NamedTuple):
    """What the compiler reads of a GPU, beside the facts of its `Chip`.

    Attributes:
        capability: The major number of the compute capability.
        cores: Streaming multiprocessors.
        fpus: Units for float32 of one core.
        clock_ghz: Highest clock.
        l2_bytes: Size of the L2 cache.
        shared_bytes: Shared memory of one core; a block gets 1 KiB less.
    """

    capability: int
    cores: int
    fpus: int
    clock_ghz: float
    l2_bytes: int
    shared_bytes: int


KIB = 2**10
GPUS = {
    "a100": Gpu(8, 108, 64, 1.41, 40 * MIB, 164 * KIB),
    "h100": Gpu(9, 132, 128, 1.98, 50 * MIB, 228 * KIB),
    "h200": Gpu(9, 132, 128, 1.98, 50 * MIB, 228 * KIB),
    "b200": Gpu(10, 148, 128, 1.965, 126 * MIB, 228 * KIB),
}


def gpu_devices(chip: Chip, shape: str) -> list[jax.Device]:
    """Returns GPUs to compile for, node by node; `process_index` is the node.

    Args:
        chip: The GPU, one of `GPUS`.
        shape: GPUs in a node (`8`), or that and the number of nodes (`8x2`).

    Raises:
        ConfigError: No group of nodes has the shape, or the compiler is not installed.
    """
    topology = f"--topology={chip.name}:{shortened(shape)}"
    sizes = [read_count(size, most=MOST_NODES) for size in shape.split("x")]
    if len(sizes) > 2 or None in sizes:
        raise ConfigError(
            f"{topology} gives no number of GPUs: use {chip.name}:8, or {chip.name}:8x2 for two"
            f" nodes of eight; there are at most {MOST_NODES:,} nodes"
        )
    in_a_node, nodes = (*sizes, 1)[:2]
    if in_a_node > MOST_IN_A_NODE:
        raise ConfigError(
            f"{topology}: a node has at most {MOST_IN_A_NODE} GPUs; two nodes are"
            f" {chip.name}:{MOST_IN_A_NODE}x2"
        )
    if not any(map(importlib.util.find_spec, PLUGINS)):
        raise ConfigError(f"{topology} needs XLA's compiler for GPUs: pip install '.[plan-gpu]'")
    return topologies.get_topology_desc(
        platform="cuda",
        target_config=target_config(chip),
        topology=f"1x{nodes}x{in_a_node}",
    ).devices


def target_config(chip: Chip) -> str:
    """Returns the description of a GPU in the text form of XLA's `GpuTargetConfigProto`."""
    gpu = GPUS[chip.name]
    accelerated = "feature_extension: ACCELERATED_FEATURES" if gpu.capability >= 9 else ""
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * KIB}
  shared_memory_per_block_optin: {gpu.shared_bytes - KIB}
  shared_memory_per_core: {gpu.shared_bytes}
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  clock_rate_ghz: {gpu.clock_ghz}
  l2_cache_size: {gpu.l2_bytes}
  memory_bandwidth: {round(chip.hbm_bandwidth)}
  device_memory_size: {round(chip.hbm_bytes / GPU_SHARE)}
  cuda_compute_capability {{ major: {gpu.capability} {accelerated} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{chip.device_kinds[0]}"
"""
