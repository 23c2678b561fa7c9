"""The training settings of each kind of device: attention kernel and XLA options.

`config.model.attention` and `config.compiler_options` override them. The options apply only to the
compilation of the training step, so `plan` compiles with them too; XLA_FLAGS and LIBTPU_INIT_ARGS
still apply to the whole process.
"""

from typing import Any

from ml_collections import ConfigDict

from fsvfm_jax.errors import ConfigError, nearest

PLATFORMS = ("cpu", "gpu", "tpu")
# One of `models.layers.ATTENTIONS`. `benchmark step` measures whether "cudnn" is faster on a GPU.
ATTENTION = "xla"


def compiler_options(platform: str) -> dict[str, Any]:
    """Returns XLA's options for a kind of device, such as "gpu", by name."""
    if platform != "gpu":
        return {}
    # The scheduler that lets collectives overlap with computing, as NVIDIA's images of JAX set it;
    # on TPUs it is XLA's default.
    return {"xla_gpu_enable_latency_hiding_scheduler": True}


def settings_for(config: ConfigDict, platform: str) -> ConfigDict:
    """Returns a copy of the config in which `attention` and `compiler_options` are filled in.

    Args:
        config: The resolved config; the fields that are None are filled in.
        platform: Kind of the devices that the step is compiled for, such as "tpu".

    Raises:
        ConfigError: The devices do not support what the config asks for.
    """
    if platform not in PLATFORMS:
        raise ConfigError(
            f"no settings for devices of kind {platform!r}; {nearest(platform, PLATFORMS)}"
        )
    if config.model.attention == "cudnn" and platform != "gpu":
        raise ConfigError(
            f"config.model.attention = 'cudnn' needs NVIDIA GPUs, and these devices are of kind"
            f" {platform!r}: use 'xla' (and to plan for GPUs that are not here)"
        )
    config = config.copy_and_resolve_references()
    if config.model.attention is None:
        config.model.attention = ATTENTION
    if config.compiler_options is None:
        config.compiler_options = ConfigDict(compiler_options(platform))
    return config
