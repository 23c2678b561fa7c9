"""Tests the settings for each kind of device, and where they are in the config."""

import re
from unittest import mock

import jax
import pytest
from ml_collections import ConfigDict

from configs import vit_b
from configs.finetune import dfd
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.devices.backends import compiler_options, has_cudnn_attention, settings_for
from fsvfm_jax.errors import ConfigError


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_a_backend_fills_what_is_none(platform):
    config = resolve(vit_b.get_config())
    assert config.model.attention is config.model.unroll is config.compiler_options is None
    settled = settings_for(config, platform)
    assert settled.model.attention == "xla"
    assert settled.model.unroll == (1 if platform == "tpu" else 12)
    assert settled.compiler_options.to_dict() == compiler_options(platform)
    assert config.model.attention is None  # the original is unchanged


def test_with_fsdp_the_loop_remains_on_cpus():
    config = vit_b.get_config()
    config.mesh.fsdp = 8
    assert settings_for(resolve(config), "cpu").model.unroll == 1


@pytest.mark.parametrize(
    ("changes", "attention", "unroll"),
    [
        ({}, "cudnn", 12),
        ({"model.dtype": "float32"}, "xla", 12),
        ({"model.decoder_num_heads": 128}, "xla", 12),  # heads of 4 channels
        ({"model.num_heads": 4}, "xla", 12),  # heads of 192 channels
        ({"model.decoder_depth": 16}, "cudnn", 16),
        ({"mesh.fsdp": 8}, "cudnn", 1),
    ],
)
def test_gpus_get_what_suits_the_network(changes, attention, unroll):
    config = vit_b.get_config()
    config.update_from_flattened_dict(changes)
    settled = settings_for(resolve(config), "gpu", has_cudnn=True)
    assert (settled.model.attention, settled.model.unroll) == (attention, unroll)


def test_a_detector_gets_its_settings():
    config = resolve(dfd.get_config("b,smoke"))
    settled = settings_for(config, "gpu", has_cudnn=True)
    assert settled.model.unroll == config.model.depth


def test_what_the_config_says_wins():
    config = vit_b.get_config()
    config.update_from_flattened_dict(
        {"model.attention": "cudnn", "model.unroll": 2, "compiler_options": ConfigDict()}
    )
    settled = settings_for(resolve(config), "gpu", has_cudnn=True)
    assert (settled.model.attention, settled.model.unroll) == ("cudnn", 2)
    assert settled.compiler_options.to_dict() == {}


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("8.0", True),
        ("9.0", True),
        ("10.0", True),
        ("7.5", False),
        ("gfx942", False),
        (None, False),
    ],
)
def test_cudnn_attention_needs_an_a100_or_newer(capability, expected):
    device = mock.Mock(spec=jax.Device, compute_capability=capability)
    assert has_cudnn_attention(device) is expected
    assert not has_cudnn_attention(jax.devices("cpu")[0])


def test_an_option_in_xla_flags_wins(monkeypatch):
    options = compiler_options("gpu")
    flags = "--xla_x=1 --xla_gpu_dot_merger_threshold_mb=32 --xla_gpu_enable_latency_hiding"
    monkeypatch.setenv("XLA_FLAGS", flags)
    del options["xla_gpu_dot_merger_threshold_mb"]
    assert compiler_options("gpu") == options
    settled = settings_for(resolve(vit_b.get_config()), "gpu")
    assert settled.compiler_options.to_dict() == options


def test_this_version_of_xla_knows_the_options_of_gpus():
    # Every build of XLA knows the options of GPUs; test_compilation.py compiles with those of TPUs.
    step = jax.jit(lambda x: x + 1).lower(1.0)
    step.compile(compiler_options=compiler_options("gpu"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        step.compile(compiler_options={"xla_gpu_enable_latency_hiding": True})


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ("cpu", "'cudnn' needs NVIDIA GPUs"),
        ("gpu", "A100 or newer"),
        ("metal", "of kind 'metal'"),
    ],
)
def test_what_the_devices_cannot_do_is_refused(platform, message):
    config = vit_b.get_config()
    config.model.attention = "cudnn"
    with pytest.raises(ConfigError, match=message):
        settings_for(resolve(config), platform)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.num_heads": 4},
            "a multiple of 8 up to 128, and this network has heads of width",
        ),
        ({"model.decoder_num_heads": 128}, "heads of width 4: use 'xla'"),
        ({"model.rep_decoder_num_heads": 4}, "heads of width 192: use 'xla'"),
    ],
)
def test_what_cudnn_cannot_do_is_refused(changes, message):
    config = vit_b.get_config()
    config.update_from_flattened_dict({"model.attention": "cudnn"} | changes)
    with pytest.raises(ConfigError, match=re.escape(message)):
        settings_for(resolve(config), "gpu", has_cudnn=True)
