"""The training settings of each kind of device: attention kernel, unrolled blocks, XLA options.

`config.model.attention`, `config.model.unroll` and `config.compiler_options` override them. The
options apply only to the compilation of the training step, so `plan` compiles with them too;
XLA_FLAGS and LIBTPU_INIT_ARGS still apply to the whole process. An option in XLA_FLAGS takes the
place of the one here.

docs/pods.md contains the figures that decided the settings of GPUs and CPUs. cuDNN's attention
keeps no scores for the backward pass. In a loop over the blocks, GPUs and CPUs write every saved
activation twice: a kernel makes it, and a copy puts it into the array of all blocks.
"""

import os
import re
from typing import Any

import jax
from ml_collections import ConfigDict

from fsvfm_jax.errors import ConfigError, nearest

PLATFORMS = ("cpu", "gpu", "tpu")
WIDEST_CUDNN_HEAD = 128
OPTIONS: dict[str, dict[str, Any]] = {
    # YNNPACK, XLA's default for dense products, is up to 1.4 times slower at those of float32 than
    # Eigen, but faster at sums.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"},
    "gpu": {
        # The scheduler that lets collectives overlap with computing, as NVIDIA's images of JAX set
        # it; on TPUs it is XLA's default.
        "xla_gpu_enable_latency_hiding_scheduler": True,
        # Queries, keys and values are made by three products. XLA would merge them, and then copy
        # each part of the result.
        "xla_gpu_dot_merger_threshold_mb": 0,
    },
}


def compiler_options(platform: str) -> dict[str, Any]:
    """Returns XLA's options for a kind of device, such as "gpu", by name.

    Options that XLA_FLAGS sets are left out, since options of a compilation override XLA_FLAGS.
    """
    given = re.findall(r"--(\w+)", os.environ.get("XLA_FLAGS", ""))
    return {name: x for name, x in OPTIONS.get(platform, {}).items() if name not in given}


def has_cudnn_attention(device: jax.Device) -> bool:
    """Returns whether cuDNN's attention runs on a device: on NVIDIA GPUs since A100."""
    major = str(getattr(device, "compute_capability", "")).partition(".")[0]
    return major.isdecimal() and int(major) >= 8


def settings_for(config: ConfigDict, platform: str, *, has_cudnn: bool = False) -> ConfigDict:
    """Returns a copy of the config in which the settings of the device are filled in.

    Args:
        config: The resolved config; of `model.attention`, `model.unroll` and `compiler_options`,
            the fields that are None are filled in.
        platform: Kind of the devices that the step is compiled for, such as "tpu".
        has_cudnn: `has_cudnn_attention` of the devices.

    Raises:
        ConfigError: The devices do not support what the config asks for.
    """
    if platform not in PLATFORMS:
        raise ConfigError(
            f"no settings for devices of kind {platform!r}; {nearest(platform, PLATFORMS)}"
        )
    if config.model.attention == "cudnn" and not has_cudnn:
        raise ConfigError(
            f"config.model.attention = 'cudnn' needs NVIDIA GPUs, A100 or newer, and these devices"
            f" of kind {platform!r} are not: use 'xla'"
        )
    unfit = _unfit_heads(config.model)
    if config.model.attention == "cudnn" and unfit:
        raise ConfigError(
            f"config.model.attention = 'cudnn' needs heads whose width is a multiple of 8 up to"
            f" {WIDEST_CUDNN_HEAD}, and this network has heads of width {unfit[0]}: use 'xla'"
        )
    config = config.copy_and_resolve_references()
    model = config.model
    if model.attention is None:
        fits = model.dtype == "bfloat16" and not unfit
        model.attention = "cudnn" if has_cudnn and fits else "xla"
    if model.unroll is None:
        # With FSDP the loop remains, because it gathers the parameters of one block at a time.
        unrolled = platform in ("cpu", "gpu") and config.mesh.fsdp == 1
        depths = [value for name, value in model.items() if name.endswith("depth")]
        model.unroll = max(depths) if unrolled else 1
    if config.compiler_options is None:
        config.compiler_options = ConfigDict(compiler_options(platform))
    return config


def _unfit_heads(model: ConfigDict) -> list[int]:
    """Returns the head widths of a network that cuDNN's attention does not accept."""
    heads = [(model.width, model.num_heads)]
    if "decoder_width" in model:
        heads += [
            (model.decoder_width, model.decoder_num_heads),
            (model.width, model.rep_decoder_num_heads),
        ]
    widths = [width // number for width, number in heads]
    return [width for width in widths if width % 8 != 0 or width > WIDEST_CUDNN_HEAD]
