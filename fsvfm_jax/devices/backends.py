"""The training settings of each kind of device: attention kernel and XLA options.

`config.model.attention` and `config.compiler_options` override them. The options apply only to the
compilation of the training step, so `plan` compiles with them too; XLA_FLAGS and LIBTPU_INIT_ARGS
still apply to the whole process.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from fsvfm_jax.errors import ConfigError, nearest


class Backend(NamedTuple):
    """Settings of one kind of device.

    Attributes:
        attention: One of `models.layers.ATTENTIONS`.
        compiler_options: Options of XLA by name.
    """

    attention: str
    compiler_options: dict[str, Any]


BACKENDS = {
    "cpu": Backend("xla", {}),
    # This scheduler overlaps collectives with computation. NVIDIA's images of JAX set it; on TPUs
    # it is XLA's default. `benchmark step` measures whether "cudnn" is faster.
    "gpu": Backend("xla", {"xla_gpu_enable_latency_hiding_scheduler": True}),
    "tpu": Backend("xla", {}),
}


def settings_for(config: ConfigDict, platform: str) -> ConfigDict:
    """Returns a copy of the config in which `attention` and `compiler_options` are filled in.

    Args:
        config: The resolved config; the fields that are None are filled in.
        platform: Kind of the devices that the step is compiled for, such as "tpu".

    Raises:
        ConfigError: The devices do not support what the config asks for.
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
