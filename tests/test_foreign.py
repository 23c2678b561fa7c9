"""Encoders from elsewhere: which library, how many heads, which epsilon and activation."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import need
from random_weights import TINY, encoder_params, images

from fsvfm_jax.convert import huggingface
from fsvfm_jax.convert.folder import timm_names
from fsvfm_jax.convert.foreign import read_encoder, to_encoder
from fsvfm_jax.convert.safetensors import save_safetensors
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.vit import SIZES, ViT

PARAMS = encoder_params(TINY)
TIMM = timm_names(PARAMS)
HUGGINGFACE = huggingface.to_state_dict(PARAMS)


@pytest.mark.parametrize("state_dict", [TIMM, HUGGINGFACE], ids=["timm", "huggingface"])
def test_the_keys_say_which_library(state_dict):
    encoder = to_encoder(state_dict, num_heads=4)
    assert encoder.model == TINY
    np.testing.assert_array_equal(encoder.params["norm"]["scale"], PARAMS["norm"]["scale"])


@pytest.mark.parametrize(
    ("state_dict", "config"),
    [
        (TIMM, {"architecture": "vit_base_patch16_224", "model_args": {"num_heads": 4}}),
        (TIMM, {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 4}}),
        (HUGGINGFACE, {"num_attention_heads": 4, "hidden_act": "gelu"}),
    ],
)
def test_the_config_says_how_many_heads(state_dict, config):
    assert to_encoder(state_dict, config=config).model["num_heads"] == 4
    with pytest.raises(ConfigError, match=r"says 4 attention heads, not 12 as told"):
        to_encoder(state_dict, config=config, num_heads=12)


def test_timms_names_say_how_many_heads():
    config = {"architecture": "vit_tiny_patch16_224.augreg_in21k"}
    assert to_encoder(TIMM, config=config).model["num_heads"] == 3


@pytest.mark.parametrize("config", [None, {}, {"architecture": "vit_odd_patch16_224"}])
def test_heads_are_never_guessed(config):
    with pytest.raises(ConfigError, match="num_heads must be told"):
        to_encoder(TIMM, config=config)


@pytest.mark.parametrize(
    ("state_dict", "config"),
    [
        (HUGGINGFACE, {"hidden_act": "gelu_new"}),
        (TIMM, {"architecture": "vit_base_patch16_clip_quickgelu_224"}),
        (TIMM, {"model_args": {"act_layer": "silu"}}),
    ],
)
def test_another_activation_is_refused(state_dict, config):
    with pytest.raises(DataError, match="ours the exact GELU"):
        to_encoder(state_dict, config=config, num_heads=4)


def test_another_epsilon_is_warned_of(caplog):
    config = {"num_attention_heads": 4, "layer_norm_eps": 1e-12}
    with caplog.at_level("WARNING", "fsvfm_jax"):
        to_encoder(HUGGINGFACE, config=config)
    assert "layer_norm_eps 1e-12; our encoder adds 1e-06" in caplog.text
    caplog.clear()
    to_encoder(HUGGINGFACE, config=config | {"layer_norm_eps": 1e-6})
    to_encoder(HUGGINGFACE, num_heads=4)
    assert not caplog.text
    to_encoder(HUGGINGFACE, config={"num_attention_heads": 4})
    assert "layer_norm_eps 1e-12" in caplog.text


def test_a_file_and_a_folder_are_read(tmp_path):
    save_safetensors(tmp_path / "model.safetensors", TIMM, metadata={})
    assert read_encoder(tmp_path / "model.safetensors", num_heads=4).model == TINY
    with pytest.raises(DataError, match=r"config\.json cannot be read"):
        read_encoder(tmp_path, num_heads=4)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(DataError, match="is not that of timm or Hugging Face"):
        read_encoder(tmp_path, num_heads=4)
    (tmp_path / "config.json").write_text(json.dumps({"model_args": {"num_heads": 4}}))
    assert read_encoder(tmp_path).model == TINY
    with pytest.raises(ConfigError, match="says 4 attention heads, not 12"):
        read_encoder(tmp_path / "model.safetensors", num_heads=12)
    with pytest.raises(ConfigError, match="width is 48 by the arrays' shapes, not 1280"):
        read_encoder(tmp_path, **SIZES["vit_huge_patch14"] | {"num_heads": 4})


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_what_timm_saves_becomes_an_encoder(tmp_path, pool):
    torch, timm = need("torch"), need("timm")
    sizes = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 3}
    torch.manual_seed(0)
    options = {"global_pool": pool, "fc_norm": False}
    network = timm.create_model("vit_tiny_patch16_224", **sizes, **options).eval()
    timm.models.save_for_hf(
        network, tmp_path, model_args={**sizes, **options}, safe_serialization=True
    )
    encoder = read_encoder(tmp_path)
    ours = ViT(**encoder.model).apply(
        {"params": encoder.params}, jnp.asarray(images(64)), method="encode"
    )
    with torch.inference_mode():
        theirs = network.forward_features(torch.from_numpy(images(64)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)
