"""Tests ViTs of Google and big_vision against timm, which reads them too: equal features."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from golden_files import need
from google_names import HEADS, WIDTH, google_names
from random_weights import TINY, encoder_in, encoder_params, images

from fsvfm_jax.convert.google import to_timm
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.vit import ViT

VARIANTS = [
    ("google", False, ""),
    ("google", False, "opt/target/"),
    ("big_vision", False, "params/"),
    ("big_vision", True, "params/"),
    ("big_vision", False, "params/img/"),
]


@pytest.mark.parametrize(("kind", "stacked", "prefix"), VARIANTS)
def test_features_are_those_of_timm(tmp_path, kind, stacked, prefix, caplog):
    torch, timm = need("torch"), need("timm")
    others = {"params/t": np.ones(1, np.float32)} if "img" in prefix else {}
    np.savez_compressed(
        tmp_path / "vit.npz", **google_names(kind, stacked=stacked, prefix=prefix), **others
    )
    encoder = encoder_in(tmp_path / "vit.npz")
    assert encoder.model == TINY | {"activation": "gelu_tanh"}
    assert ("skipped: 'params.t'" in caplog.text) == bool(others)
    ours = ViT(**encoder.model).apply(
        {"params": encoder.params}, jnp.asarray(images(64)), method="encode"
    )
    sizes = {"img_size": 64, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS, "num_classes": 0}
    sizes["act_layer"] = "gelu_tanh"  # as in Google's programs; timm's default is the exact form
    if kind == "big_vision":
        sizes["no_embed_class"] = True
    theirs = timm.create_model("vit_tiny_patch16_224", **sizes).eval()
    theirs.load_pretrained(str(tmp_path / "vit.npz"))
    with torch.inference_mode():
        tokens = theirs.forward_features(torch.from_numpy(images(64)).permute(0, 3, 1, 2))
    assert np.std(ours) > 0.5
    np.testing.assert_allclose(ours, tokens.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "stacked", "prefix"), VARIANTS)
def test_every_array_comes_to_its_place(tmp_path, kind, stacked, prefix):
    np.savez(tmp_path / "vit.npz", **google_names(kind, stacked=stacked, prefix=prefix))
    wanted = encoder_params(TINY)
    if kind == "big_vision":  # it has no position for the class token
        wanted["pos_embed"] = wanted["pos_embed"] * np.r_[0, np.ones(16)][:, None]
    found = encoder_in(tmp_path / "vit.npz").params
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_bfloat16_is_read(tmp_path):
    halves = {name: x.astype(ml_dtypes.bfloat16) for name, x in google_names().items()}
    np.savez(tmp_path / "vit.npz", **halves)
    kernel = encoder_in(tmp_path / "vit.npz").params["cls_token"]
    np.testing.assert_array_equal(kernel, halves["cls"].astype(np.float32))


def test_the_heads_are_those_of_the_file(tmp_path):
    np.savez(tmp_path / "vit.npz", **google_names())
    with pytest.raises(ConfigError, match="the file says 4 attention heads, not 12 as given"):
        encoder_in(tmp_path / "vit.npz", num_heads=12)


BLOCK = "Transformer.encoderblock_1."
ATTENTION = f"{BLOCK}MultiHeadDotProductAttention_1."


@pytest.mark.parametrize(
    ("added", "removed", "message"),
    [
        ({"MAPHead_0.probe": (1, 1, 48)}, ("cls",), "pools with an attention head"),
        ({}, ("cls",), "has no class token"),
        ({}, (f"{BLOCK}LayerNorm_0.scale",), r"lack 'Transformer\.encoderblock_1\.LayerNorm_0\.sc"),
        ({}, ("Transformer.posembed_input.pos_embedding",), "lack 'Transformer.posembed_input"),
        ({f"{BLOCK}LayerNorm_9.scale": (48,)}, (), r"'.*LayerNorm_9\.scale' is no parameter of G"),
        ({"cls": (48,)}, (), r"'cls' has shape \[48\], not 3 dimensions"),
        ({"cls": (1, 1, 0)}, (), r"'cls' has shape \[1, 1, 0\]"),
        ({f"{ATTENTION}query.kernel": (48, 2, 24)}, (), "attention heads of 2 different shapes"),
        ({f"{BLOCK}MlpBlock_3.Dense_0.kernel": (48, 96)}, (), None),
        ({"Transformer.encoderblock.a": (10**9, 0)}, (), "stacks 1000000000 blocks"),
        ({"Transformer.encoderblock.a": ()}, (), "stacks 0 blocks"),
    ],
)
def test_other_networks_are_refused_by_name(added, removed, message):
    arrays = {name.replace("/", "."): x for name, x in google_names().items()}
    arrays |= {name: np.zeros(shape, np.float32) for name, shape in added.items()}
    for name in removed:
        del arrays[name]
    if message is None:  # timm's names show what is odd in them
        assert to_timm(arrays).state_dict["blocks.1.mlp.fc1.weight"].shape == (96, 48)
        return
    with pytest.raises(DataError, match=message):
        to_timm(arrays)
