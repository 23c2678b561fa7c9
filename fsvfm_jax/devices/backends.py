"""What each kind of device is given to train with: attention and XLA's options, in one place.

`config.model.attention` and `config.compiler_options` override it. Options go to the compilation of
the training step alone, so that `plan` compiles with them too; XLA_FLAGS and LIBTPU_INIT_ARGS still
hold for the whole process.
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
    """A copy of the config in which the fields above are filled in where they were None.

    Args:
        config: The resolved config.
        platform: Of the devices that it is compiled for, such as "tpu".

    Raises:
        ConfigError: The devices cannot do what the config asks for.
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
