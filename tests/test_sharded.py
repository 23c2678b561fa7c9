"""Tests networks in several safetensors files, as transformers writes them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import need
from random_weights import TINY, encoder_in, encoder_params, images
from vit_configs import vit_config

from fsvfm_jax.convert import huggingface, sharded
from fsvfm_jax.convert.foreign import read_weights
from fsvfm_jax.convert.safetensors import save_safetensors
from fsvfm_jax.convert.sharded import INDEX_FILE, load_sharded, read_index
from fsvfm_jax.errors import DataError
from fsvfm_jax.models.vit import ViT

HUGGINGFACE = huggingface.to_state_dict(encoder_params(TINY))
FILES = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def index(tmp_path):
    """Writes a network in two files, and returns the content of its index."""
    names = sorted(HUGGINGFACE)
    content = {"metadata": {"total_size": sum(x.nbytes for x in HUGGINGFACE.values())}}
    content["weight_map"] = {name: FILES[number % 2] for number, name in enumerate(names)}
    for file in FILES:
        arrays = {n: HUGGINGFACE[n] for n in names if content["weight_map"][n] == file}
        save_safetensors(tmp_path / file, arrays, metadata={})
    (tmp_path / INDEX_FILE).write_text(json.dumps(content))
    return content


def test_all_files_together_are_the_network(tmp_path, index):
    arrays = load_sharded(tmp_path / INDEX_FILE)
    assert arrays.keys() == HUGGINGFACE.keys()
    for name, array in HUGGINGFACE.items():
        np.testing.assert_array_equal(arrays[name], array)
    encoder = encoder_in(tmp_path / INDEX_FILE, num_heads=4)
    jax.tree.map(np.testing.assert_array_equal, encoder.params, encoder_params(TINY))
    assert read_index(tmp_path / INDEX_FILE)[0].keys() == set(FILES)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "architecture", ["ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling"]
)
def test_what_transformers_saves_in_shards_has_its_features(tmp_path, architecture):
    torch, transformers = need("torch"), need("transformers")
    torch.manual_seed(0)
    config = vit_config(TINY, encoder_stride=16)
    network = getattr(transformers, architecture)(config).eval()
    network.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    weights = read_weights(tmp_path)
    assert weights.format == "safetensors in shards" and len(weights.sha256) == 64
    encoder = encoder_in(tmp_path)
    ours = ViT(**encoder.model).apply(
        {"params": encoder.params}, jnp.asarray(images(64)), method="encode"
    )
    with torch.inference_mode():
        pixels = torch.from_numpy(images(64)).permute(0, 3, 1, 2)
        theirs = getattr(network, "vit", network)(pixels).last_hidden_state
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weight_map": {"a": "../x.safetensors"}}, "names the file '../x.safetensors'"),
        ({"weight_map": {"a": "/etc/x.safetensors"}}, "only plain names"),
        ({"weight_map": {"a": "sub/x.safetensors"}}, "only plain names"),
        ({"weight_map": {"a": "C:\\x.safetensors"}}, "only plain names"),
        ({"weight_map": {"a": ".hidden.safetensors"}}, "only plain names"),
        ({"weight_map": {"a": "x.bin"}}, "only plain names"),
        ({"weight_map": {"a": "x.safetensors\n"}}, "only plain names"),
        ({"weight_map": {"a": "missing.safetensors"}}, r"missing\.safetensors"),
        ({"weight_map": {}}, "names 0 files"),
        ({"weight_map": {str(n): f"{n}.safetensors" for n in range(1001)}}, "names 1001 files"),
        ({"weight_map": {"a": 1}}, "Expected `str`"),
        ({"weight_map": None}, "Expected `object`"),
        ({"metadata": {"total_size": 7}}, "promises arrays of 7 bytes"),
        ({"metadata": {"total_size": -1}}, ">= 0"),
        ({"weight_map": {"a": FILES[0]}}, "has other arrays than model.safetensors.index.json"),
    ],
)
def test_an_index_that_is_odd_is_refused(tmp_path, index, change, reason):
    (tmp_path / INDEX_FILE).write_text(json.dumps(index | change))
    with pytest.raises(DataError, match=reason):
        load_sharded(tmp_path / INDEX_FILE)


def test_headers_are_read_before_any_array(tmp_path, index, monkeypatch):
    monkeypatch.setattr(sharded, "load_safetensors", None)
    monkeypatch.setattr(sharded, "MAX_WEIGHTS_BYTES", index["metadata"]["total_size"] - 1)
    with pytest.raises(DataError, match=r"index\.json have more than .* bytes"):
        load_sharded(tmp_path / INDEX_FILE)
    monkeypatch.setattr(sharded, "MAX_WEIGHTS_BYTES", index["metadata"]["total_size"])
    (tmp_path / FILES[1]).write_bytes(b"")
    with pytest.raises(DataError, match="no whole safetensors file"):
        load_sharded(tmp_path / INDEX_FILE)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 10**5, '{"weight_map": {"a": NaN}}'])
def test_an_index_that_is_no_index_is_refused(tmp_path, text):
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(DataError, match="cannot be read as an index of safetensors"):
        load_sharded(tmp_path / INDEX_FILE)


def test_pickles_in_shards_are_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(DataError, match=r"several files of PyTorch .* save them again as safeten"):
        read_weights(tmp_path)
