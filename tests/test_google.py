"""Google's and big_vision's ViT: timm, which reads them too, computes the same features."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from golden_files import need
from random_weights import TINY, encoder_params, images

from fsvfm_jax.convert.folder import timm_names
from fsvfm_jax.convert.foreign import read_encoder
from fsvfm_jax.convert.google import to_timm
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.vit import ViT

TIMM = timm_names(encoder_params(TINY))
HEADS, WIDTH = TINY["num_heads"], TINY["width"]
NAMES = {
    "google": ("LayerNorm_2", "MlpBlock_3", "MultiHeadDotProductAttention_1"),
    "big_vision": ("LayerNorm_1", "MlpBlock_0", "MultiHeadDotProductAttention_0"),
}


def google_names(kind="google", *, stacked=False, prefix=""):
    """The arrays of TIMM as Google's programs name them and lay them out."""
    arrays = {
        "cls": TIMM["cls_token"],
        "embedding/kernel": TIMM["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": TIMM["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": TIMM["norm.weight"],
        "Transformer/encoder_norm/bias": TIMM["norm.bias"],
        "head/kernel": np.zeros((WIDTH, 5), np.float32),
        "head/bias": np.zeros(5, np.float32),
    }
    if kind == "google":
        arrays["Transformer/posembed_input/pos_embedding"] = TIMM["pos_embed"]
    else:
        arrays["pos_embedding"] = TIMM["pos_embed"][:, 1:]
    blocks = [_block(number, *NAMES[kind]) for number in range(TINY["depth"])]
    if stacked:
        for name in blocks[0]:
            arrays[f"Transformer/encoderblock/{name}"] = np.stack([b[name] for b in blocks])
    else:
        for number, block in enumerate(blocks):
            for name, array in block.items():
                arrays[f"Transformer/encoderblock_{number}/{name}"] = array
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def _block(number, norm2, mlp, attention):
    def of(name):
        return TIMM[f"blocks.{number}.{name}"]

    block = {}
    for theirs, ours in (("LayerNorm_0", "norm1"), (norm2, "norm2")):
        block |= {f"{theirs}/scale": of(f"{ours}.weight"), f"{theirs}/bias": of(f"{ours}.bias")}
    for layer in (0, 1):
        block[f"{mlp}/Dense_{layer}/kernel"] = of(f"mlp.fc{layer + 1}.weight").T
        block[f"{mlp}/Dense_{layer}/bias"] = of(f"mlp.fc{layer + 1}.bias")
    weights = np.split(of("attn.qkv.weight"), 3)
    biases = np.split(of("attn.qkv.bias"), 3)
    for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        block[f"{attention}/{part}/kernel"] = weight.T.reshape(WIDTH, HEADS, -1)
        block[f"{attention}/{part}/bias"] = bias.reshape(HEADS, -1)
    block[f"{attention}/out/kernel"] = of("attn.proj.weight").T.reshape(HEADS, -1, WIDTH)
    block[f"{attention}/out/bias"] = of("attn.proj.bias")
    return block


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
    encoder = read_encoder(tmp_path / "vit.npz")
    assert encoder.model == TINY
    assert "tanh form of GELU" in caplog.text
    assert ("left out: 'params.t'" in caplog.text) == bool(others)
    ours = ViT(**encoder.model).apply(
        {"params": encoder.params}, jnp.asarray(images(64)), method="encode"
    )
    sizes = {"img_size": 64, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS, "num_classes": 0}
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
    if kind == "big_vision":  # has no position for the class token
        wanted["pos_embed"] = wanted["pos_embed"] * np.r_[0, np.ones(16)][:, None]
    found = read_encoder(tmp_path / "vit.npz").params
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_bfloat16_is_read(tmp_path):
    halves = {name: x.astype(ml_dtypes.bfloat16) for name, x in google_names().items()}
    np.savez(tmp_path / "vit.npz", **halves)
    kernel = read_encoder(tmp_path / "vit.npz").params["cls_token"]
    np.testing.assert_array_equal(kernel, halves["cls"].astype(np.float32))


def test_the_heads_are_those_of_the_file(tmp_path):
    np.savez(tmp_path / "vit.npz", **google_names())
    with pytest.raises(ConfigError, match="the file says 4 attention heads, not 12 as told"):
        read_encoder(tmp_path / "vit.npz", num_heads=12)


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
    if message is None:  # of these timm's names say what is odd
        assert to_timm(arrays).state_dict["blocks.1.mlp.fc1.weight"].shape == (96, 48)
        return
    with pytest.raises(DataError, match=message):
        to_timm(arrays)
