"""What each kind of device is given to train with: attention and XLA's options, in one place.

`config.model.attention` and `config.compiler_options` override it. Options go to the compilation of
the training step alone, so that `plan` compiles with them too; XLA_FLAGS and LIBTPU_INIT_ARGS still
hold for the whole process.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from fsvfm_jax.errors import ConfigError, nearest


class Backend(NamedTuple):
    """Settings of one kind of device.

    Attributes:
        attention: One of `models.layers.ATTENTIONS`.
        compiler_options: XLA's, by name.
    """

    attention: str
    compiler_options: dict[str, Any]


BACKENDS = {
    "cpu": Backend("xla", {}),
    # The scheduler that lets collectives overlap with computing, as NVIDIA's images of JAX set it;
    # on TPUs it is XLA's default. Whether "cudnn" is faster is for `benchmark step` to say.
    "gpu": Backend("xla", {"xla_gpu_enable_latency_hiding_scheduler": True}),
    "tpu": Backend("xla", {}),
}


def settings_for(config: ConfigDict, platform: str) -> ConfigDict:
    """A copy of the config in which the fields above are filled in where they were None.

    Args:
        config: The resolved config.
        platform: Of the devices that it is compiled for, such as "tpu".

    Raises:
        ConfigError: The devices cannot do what the config asks for.
    """
    if platform not in BACKENDS:
        raise ConfigError(
            f"no settings for devices of kind {platform!r}; {nearest(platform, BACKENDS)}"
        )
    if config.model.attention == "cudnn" and platform != "gpu":
        raise ConfigError(
            f"config.model.attention = 'cudnn' needs NVIDIA GPUs, and these devices are of kind"
            f" {platform!r}: use 'xla' (and to plan for GPUs that are not here)"
        )
    config = config.copy_and_resolve_references()
    backend = BACKENDS[platform]
    if config.model.attention is None:
        config.model.attention = backend.attention
    if config.compiler_options is None:
        config.compiler_options = ConfigDict(backend.compiler_options)
    return config
