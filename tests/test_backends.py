"""Tests the settings for each kind of device, and where they are in the config."""

import jax
import pytest
from ml_collections import ConfigDict

from configs import vit_b
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.devices.backends import ATTENTION, compiler_options, settings_for
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.models.layers import ATTENTIONS


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_a_backend_fills_what_is_none(platform):
    config = resolve(vit_b.get_config())
    assert config.model.attention is None and config.compiler_options is None
    settled = settings_for(config, platform)
    assert settled.model.attention == ATTENTION in ATTENTIONS
    assert settled.compiler_options.to_dict() == compiler_options(platform)
    assert config.model.attention is None  # the original is unchanged


def test_what_the_config_says_wins():
    config = vit_b.get_config()
    config.update_from_flattened_dict(
        {"model.attention": "cudnn", "compiler_options": ConfigDict()}
    )
    settled = settings_for(resolve(config), "gpu")
    assert settled.model.attention == "cudnn"
    assert settled.compiler_options.to_dict() == {}


def test_this_version_of_xla_knows_the_options_of_gpus():
    # Every build of XLA knows the options of GPUs; test_compilation.py compiles with those of TPUs.
    step = jax.jit(lambda x: x + 1).lower(1.0)
    step.compile(compiler_options=compiler_options("gpu"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        step.compile(compiler_options={"xla_gpu_enable_latency_hiding": True})


@pytest.mark.parametrize(
    ("platform", "message"), [("cpu", "'cudnn' needs NVIDIA GPUs"), ("metal", "of kind 'metal'")]
)
def test_what_the_devices_cannot_do_is_refused(platform, message):
    config = vit_b.get_config()
    config.model.attention = "cudnn"
    with pytest.raises(ConfigError, match=message):
        settings_for(resolve(config), platform)
