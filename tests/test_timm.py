"""Tests our ViT against timm's: names equal except for layout, equal numbers, no other arrays."""

import golden_numbers
import jax
import numpy as np
import pytest
from golden_files import need
from random_weights import TINY, describe, detector_params, encoder_params, images

from fsvfm_jax.convert import huggingface, reference
from fsvfm_jax.convert.card import timm_config
from fsvfm_jax.convert.folder import timm_names
from fsvfm_jax.convert.timm import to_encoder
from fsvfm_jax.errors import DataError
from fsvfm_jax.models import build_detector
from fsvfm_jax.models.vit import SIZES, ViT

slow = pytest.mark.slow
S, B, L, H = SIZES.values()


def timm_network(params, attributes, *, num_classes):
    """Returns timm's network with our weights; every key and shape must match."""
    torch, timm = need("torch"), need("timm")
    config = timm_config(params, describe(attributes), num_classes=num_classes)
    network = timm.create_model(
        config["architecture"], num_classes=num_classes, **config["model_args"]
    )
    arrays = {name: torch.from_numpy(np.array(x)) for name, x in timm_names(params).items()}
    network.load_state_dict(arrays, strict=True)
    return network.eval()


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("size", "image_size", "pool"),
    [
        (S, 224, "mean"),
        (S, 224, "token"),
        (S, 160, "token"),
        pytest.param(B, 224, "mean", marks=slow),
        pytest.param(B, 160, "token", marks=slow),
        pytest.param(L, 224, "mean", marks=slow),
        pytest.param(L, 288, "token", marks=slow),
        pytest.param(H, 224, "mean", marks=slow),
        pytest.param(H, 280, "token", marks=slow),
    ],
)
def test_features_and_logits_are_timms(size, image_size, pool):
    torch = need("torch")
    attributes = {**size, "image_size": image_size, "pool": pool}
    params = detector_params(attributes)
    ours = jax.jit(build_detector(attributes).apply)({"params": params}, images(image_size))
    theirs = timm_network(params, attributes, num_classes=2)
    with torch.inference_mode():
        tokens = theirs.forward_features(torch.from_numpy(images(image_size)).permute(0, 3, 1, 2))
        features, logits = theirs.forward_head(tokens, pre_logits=True), theirs.forward_head(tokens)
    assert np.std(ours.features) > 0.5 and np.std(ours.logits) > 0.1
    np.testing.assert_allclose(ours.features, features.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.logits, logits.numpy(), rtol=0, atol=1e-5)


@pytest.mark.e2e
def test_an_encoders_tokens_are_timms():
    torch = need("torch")
    params = encoder_params(S)
    ours = jax.jit(lambda p, x: ViT(**S).apply({"params": p}, x, method="encode"))
    theirs = timm_network(params, {**S, "image_size": 224}, num_classes=0)
    with torch.inference_mode():
        tokens = theirs.forward_features(torch.from_numpy(images(224)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(ours(params, images(224)), tokens.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "size",
    [S, pytest.param(B, marks=slow), pytest.param(L, marks=slow), pytest.param(H, marks=slow)],
    ids=list(SIZES),
)
def test_there_and_back_changes_nothing(size):
    params = encoder_params(size)
    back = to_encoder(timm_names(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_a_pretraining_checkpoint_with_its_decoders_gives_its_encoder():
    state_dict = golden_numbers.state_dict("init")
    mae = {
        key: array
        for key, array in state_dict.items()
        if not key.startswith(("projector", "predictor", "rep_decoder"))
    }
    encoder = to_encoder(mae)
    assert encoder.keys() == {"cls_token", "pos_embed", "patch_embed", "blocks", "norm"}
    whole = reference.to_params(state_dict)
    jax.tree.map(np.testing.assert_array_equal, encoder, {name: whole[name] for name in encoder})


def tiny_state_dict():
    return timm_names(encoder_params(TINY))


def test_half_precision_becomes_float32():
    halves = {name: x.astype(np.float16) for name, x in tiny_state_dict().items()}
    assert {x.dtype for x in jax.tree.leaves(to_encoder(halves))} == {np.dtype(np.float32)}


BLOCK = "blocks.0."
OTHERS = {
    "distilled": ({"dist_token": (1, 1, 48)}, (), "a distillation token.*dist_token"),
    "LayerScale": ({f"{BLOCK}ls1.gamma": (48,)}, (), r"3 missing: blocks\.0\.ls2\.gamma"),
    "qk-norm": ({f"{BLOCK}attn.q_norm.weight": (12,)}, (), r"norms of queries.*\.q_norm\.weight"),
    "half a pre-norm": ({"norm_pre.weight": (48,)}, (), r"missing: norm_pre\.bias"),
    "registers of another width": (
        {"reg_token": (1, 4, 24)},
        (),
        r"register tokens have shape \[1, 4, 24\]",
    ),
    "positions of some registers": ({"pos_embed": (1, 18, 48)}, (), "of a square image"),
    "relative positions": ({f"{BLOCK}attn.rel_pos.mlp": (4,)}, (), r"attn\.rel_pos"),
    "SwiGLU": ({f"{BLOCK}mlp.fc1.weight": (256, 48)}, (), r"\(256, 48\) instead of \(192, 48\)"),
    "no class token": ({}, ("cls_token",), "needs a class token"),
    "no positions": ({}, ("pos_embed",), "needs a position table"),
    "one channel": ({"patch_embed.proj.weight": (48, 1, 16, 16)}, (), r"\(48, 1, 16, 16\) instead"),
    "video": ({"patch_embed.proj.weight": (48, 3, 2, 16, 16)}, (), "for videos: its patches are 2"),
    "no final norm": ({}, ("norm.weight", "norm.bias"), r"2 missing: norm\.bias, norm\.weight"),
    "no qkv bias": ({}, (f"{BLOCK}attn.qkv.bias",), r"1 missing: blocks\.0\.attn\.qkv\.bias"),
    "a block less": ({}, tuple(k for k in tiny_state_dict() if k.startswith(BLOCK)), "missing"),
    "no blocks": ({}, tuple(k for k in tiny_state_dict() if k.startswith("blocks")), "0 blocks"),
    "another width": ({"norm.weight": (64,)}, (), r"norm\.weight \(64,\) instead of \(48,\)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_refused_by_their_first_keys(name):
    added, removed, message = OTHERS[name]
    state_dict = tiny_state_dict() | {key: np.zeros(shape) for key, shape in added.items()}
    for key in removed:
        del state_dict[key]
    with pytest.raises(DataError, match=message):
        to_encoder(state_dict)


def test_a_residual_network_is_refused():
    arrays = {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,), "fc.weight": (1000, 512)}
    with pytest.raises(DataError, match="needs a class token of shape"):
        to_encoder({key: np.zeros(shape) for key, shape in arrays.items()})


@pytest.mark.parametrize("start", ["blocks", "vit.encoder.layer"])
def test_a_network_deeper_than_any_is_refused_before_it_is_built(start, monkeypatch):
    monkeypatch.setattr(jax, "eval_shape", None)
    arrays = {
        "cls_token": np.zeros((1, 1, 48), np.float32),
        "pos_embed": np.zeros((1, 17, 48), np.float32),
        "patch_embed.proj.weight": np.zeros((48, 3, 16, 16), np.float32),
    }
    arrays |= {"vit.embeddings.cls_token": arrays["cls_token"]} if start != "blocks" else {}
    arrays |= {f"{start}.{block}.a": np.zeros(1, np.float32) for block in range(1001)}
    read = to_encoder if start == "blocks" else huggingface.to_encoder
    for reader in read, reference.to_params if start == "blocks" else read:
        with pytest.raises(DataError, match=rf"'{start}\.' has 1001 blocks, and not 1000 at most"):
            reader(arrays)
