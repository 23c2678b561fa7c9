"""Facts of the accelerators that a run can be planned for.

Compute and bandwidths are the manufacturers' figures: Google's pages on Cloud TPU v4, v5e, v5p and
v6e (docs.cloud.google.com/tpu/docs/v5e and so on), and NVIDIA's datasheets of A100, H100, H200 and
B200 SXM and of the DGX machines with eight of them. NVIDIA's bf16 figure includes sparsity; the
dense peak is half of it. `ici_bandwidth` is one direction, half of the advertised bidirectional
bandwidth; per chip it is also the all-reduce bandwidth of a pod on Google's pages.

The memory of a TPU is what its compiler lets a program use ("available HBM" in its errors). The
memory of a GPU is what JAX reserves by default, three quarters of the memory that nvidia-smi shows
(CUDA keeps up to 1 % of it); XLA_PYTHON_CLIENT_MEM_FRACTION changes that.
"""

import math
from typing import NamedTuple

from fsvfm_jax.devices.memory import GIB

MIB = 2**20
# The part of a GPU's memory that JAX reserves by default.
GPU_SHARE = 0.75


class Chip(NamedTuple):
    """One accelerator, which is one JAX device here.

    Attributes:
        name: Short name, as in the name of a topology.
        device_kinds: The possible values of `jax.Device.device_kind`.
        bf16_flops: Dense peak, operations per second.
        hbm_bytes: Memory that a program may use.
        hbm_bandwidth: Bytes per second, read and written together.
        ici_bandwidth: Bytes per second that one chip sends over all its links (ICI, NVLink).
        network_bandwidth: Bytes per second that one GPU sends to other nodes; infinite for TPUs,
            whose slices have no other links.
    """

    name: str
    device_kinds: tuple[str, ...]
    bf16_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    ici_bandwidth: float
    network_bandwidth: float = math.inf


def _reserved(mebibytes: int) -> int:
    """Returns the bytes that a program may use of a GPU's memory."""
    return int(GPU_SHARE * mebibytes * MIB)


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
        # NVLink, 600 GB/s both ways; 200 Gbit/s of InfiniBand per GPU.
        Chip("a100", ("NVIDIA A100-SXM4-80GB",), 312e12, _reserved(81_920), 2.039e12, 300e9, 25e9),
        # NVLink, 900 GB/s both ways; 400 Gbit/s of InfiniBand per GPU.
        Chip("h100", ("NVIDIA H100 80GB HBM3",), 989e12, _reserved(81_559), 3.35e12, 450e9, 50e9),
        Chip("h200", ("NVIDIA H200",), 989e12, _reserved(143_771), 4.8e12, 450e9, 50e9),
        # NVLink, 1,800 GB/s both ways; 400 Gbit/s of InfiniBand per GPU.
        Chip("b200", ("NVIDIA B200",), 2250e12, _reserved(183_359), 8e12, 900e9, 50e9),
    )
}


def find_chip(device_kind: str) -> Chip | None:
    """Returns the chip of a JAX device's `device_kind`; None if the table does not contain it."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.device_kinds), None)
