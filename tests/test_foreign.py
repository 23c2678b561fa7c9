"""Tests encoders of other libraries: the library, heads, epsilon and activation found."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import need
from random_weights import TINY, encoder_in, encoder_params, images

from fsvfm_jax.convert import foreign, huggingface
from fsvfm_jax.convert.folder import timm_names
from fsvfm_jax.convert.foreign import read_weights, to_encoder
from fsvfm_jax.convert.safetensors import save_safetensors
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.vit import SIZES, ViT

TANH = {"activation": "gelu_tanh"}
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
    with pytest.raises(ConfigError, match=r"says 4 attention heads, not 12 as given"):
        to_encoder(state_dict, config=config, num_heads=12)


def test_timms_names_say_how_many_heads():
    config = {"architecture": "vit_tiny_patch16_224.augreg_in21k"}
    assert to_encoder(TIMM, config=config).model["num_heads"] == 3


@pytest.mark.parametrize("config", [None, {}, {"architecture": "vit_odd_patch16_224"}])
def test_heads_are_never_guessed(config):
    with pytest.raises(ConfigError, match="num_heads must be given"):
        to_encoder(TIMM, config=config)


@pytest.mark.parametrize(
    ("state_dict", "config"),
    [
        (HUGGINGFACE, {"hidden_act": "relu"}),
        (TIMM, {"model_args": {"act_layer": "silu"}}),
    ],
)
def test_another_activation_is_refused(state_dict, config):
    with pytest.raises(
        DataError, match=r"activation is '(relu|silu)', not one of gelu, quick_gelu"
    ):
        to_encoder(state_dict, config=config, num_heads=4)


@pytest.mark.parametrize(
    ("state_dict", "config", "options"),
    [
        (
            HUGGINGFACE,
            {"hidden_act": "gelu_new", "layer_norm_eps": 1e-6},
            {"activation": "gelu_tanh"},
        ),
        (HUGGINGFACE, {"layer_norm_eps": 1e-5}, {"layer_norm_epsilon": 1e-5}),
        (HUGGINGFACE, {}, {"layer_norm_epsilon": 1e-12}),
        (HUGGINGFACE, {"layer_norm_eps": 1e-6}, {}),
        (HUGGINGFACE, None, {}),
        (TIMM, {"model_args": {"act_layer": "quick_gelu"}}, {"activation": "quick_gelu"}),
        (TIMM, {"architecture": "vit_odd_clip_quickgelu_224"}, {"activation": "quick_gelu"}),
    ],
)
def test_the_config_says_activation_and_epsilon(state_dict, config, options):
    model = to_encoder(state_dict, config=config, num_heads=4).model
    expected = {"layer_norm_epsilon": 1e-5} if "clip" in str(config) else {}
    assert model == TINY | expected | options


def test_a_file_and_a_folder_are_read(tmp_path):
    save_safetensors(tmp_path / "model.safetensors", TIMM, metadata={})
    assert encoder_in(tmp_path / "model.safetensors", num_heads=4).model == TINY
    with pytest.raises(DataError, match=r"config\.json cannot be read"):
        encoder_in(tmp_path, num_heads=4)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"none has no weights: it is no workdir with checkpoints"):
        encoder_in(tmp_path / "none", num_heads=4)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(DataError, match="is not that of timm or Hugging Face"):
        encoder_in(tmp_path, num_heads=4)
    (tmp_path / "config.json").write_text(json.dumps({"model_args": {"num_heads": 4}}))
    assert encoder_in(tmp_path).model == TINY
    with pytest.raises(ConfigError, match="says 4 attention heads, not 12"):
        encoder_in(tmp_path / "model.safetensors", num_heads=12)
    with pytest.raises(ConfigError, match="width is 48 by the arrays' shapes, not 1280"):
        encoder_in(tmp_path, **SIZES["vit_huge_patch14"] | {"num_heads": 4})


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
    encoder = encoder_in(tmp_path)
    ours = ViT(**encoder.model).apply(
        {"params": encoder.params}, jnp.asarray(images(64)), method="encode"
    )
    with torch.inference_mode():
        theirs = network.forward_features(torch.from_numpy(images(64)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


def wrap(network, kind):
    """Wraps a network as training programs do, which adds prefixes to its state dict."""
    torch = need("torch")
    if kind == "DataParallel":
        return torch.nn.DataParallel(network)
    if kind == "compile":
        return torch.compile(network)
    if kind == "compiled DataParallel":
        return torch.compile(torch.nn.DataParallel(network))
    if kind == "compiled blocks":
        network.blocks = torch.nn.Sequential(*map(torch.compile, network.blocks))
        return network
    return torch.nn.ModuleDict({"model": torch.nn.ModuleDict({kind: network})})


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        ("DataParallel", "model"),
        ("compile", "state_dict"),
        ("compiled DataParallel", "teacher"),
        ("compiled blocks", "net"),
        ("backbone", "model_state_dict"),
        ("encoder", "student"),
    ],
)
def test_networks_as_programs_of_pytorch_save_them(tmp_path, kind, entry):
    torch, timm = need("torch"), need("timm")
    sizes = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 0}
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", **sizes).eval()
    with torch.inference_mode():
        theirs = network.forward_features(torch.from_numpy(images(64)).permute(0, 3, 1, 2))
    plain = {key: x.numpy() for key, x in network.state_dict().items()}
    wanted = to_encoder(plain, num_heads=4)
    state_dict = wrap(network, kind).state_dict()
    assert "cls_token" not in state_dict or kind == "compiled blocks"
    torch.save({entry: state_dict, "epoch": 1}, tmp_path / "x.pt")
    (tmp_path / "config.json").write_text("{}")
    weights = read_weights(tmp_path / "x.pt")
    assert weights.network.entry == entry and weights.format == "zip archive of PyTorch"
    encoder = encoder_in(tmp_path / "x.pt", num_heads=4)
    jax.tree.map(np.testing.assert_array_equal, encoder.params, wanted.params)
    if kind == "DataParallel":  # the other kinds have the same arrays
        ours = ViT(**encoder.model).apply(
            {"params": encoder.params}, jnp.asarray(images(64)), method="encode"
        )
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


def test_a_folder_with_a_file_of_pytorch_is_read(tmp_path):
    torch = need("torch")
    arrays = {key: torch.from_numpy(x.copy()) for key, x in HUGGINGFACE.items()}
    torch.save(arrays, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    assert encoder_in(tmp_path).model == TINY | {"layer_norm_epsilon": 1e-12}
    torch.save(arrays, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"pytorch_model\.bin is in the format of PyTorch before"):
        encoder_in(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"num_attention_heads": "4"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 10**30},
        {"layer_norm_eps": "x"},
        {"hidden_act": ["gelu"]},
        {"architecture": 7},
        {"model_args": [1]},
        {"model_args": {"num_heads": 1.5}},
        {"model_args": {"act_layer": {}}},
    ],
)
def test_a_config_with_values_of_the_wrong_kind_is_refused(config):
    for state_dict in TIMM, HUGGINGFACE:
        with pytest.raises(DataError, match=r"config\.json beside the weights is odd"):
            to_encoder(state_dict, config=config, num_heads=4)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_another_network_is_refused_by_its_names_before_it_is_loaded(tmp_path, name, monkeypatch):
    arrays = {f"model.layers.{n}.a\0": np.zeros(1, np.float32) for n in range(100)}
    save_safetensors(tmp_path / "model.safetensors", arrays, metadata={})
    if name.endswith("json"):
        index = {"weight_map": dict.fromkeys(arrays, "model.safetensors")}
        (tmp_path / name).write_text(json.dumps(index))
    monkeypatch.setattr(foreign, "load_safetensors", pytest.fail)
    monkeypatch.setattr(foreign, "load_sharded", pytest.fail)
    with pytest.raises(DataError, match=r"no vision transformer .* and 80 more") as error:
        read_weights(tmp_path / name)
    assert len(str(error.value)) < 1000


def test_names_are_not_changed_by_the_search(tmp_path):
    arrays = {f"model.{key}": array for key, array in TIMM.items()}
    save_safetensors(
        tmp_path / "x.safetensors", arrays | {"a\0": arrays["model.cls_token"]}, metadata={}
    )
    network = read_weights(tmp_path / "x.safetensors").network
    assert network.prefix == "model." and network.left_out == ("a\0",)
    jax.tree.map(np.testing.assert_array_equal, network.state_dict, dict(TIMM))
