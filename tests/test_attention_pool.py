"""Tests the attention pool, alone and as the pool of a detector."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import TINY, detector_params, images

from fsvfm_jax import optim
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.models import build_detector
from fsvfm_jax.models.attention_pool import AttentionPool
from fsvfm_jax.tuning import MODES, Tuning, split

WIDTH, HEADS = 48, 3
POOLED = TINY | {"pool": "attention", "pool_heads": HEADS}


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(jnp.asarray, detector_params(POOLED)["attn_pool"])


@jax.numpy_rank_promotion("allow")
def by_formula(p, x):
    """Returns what the pool returns, by its definition."""

    def apply(layer, x):
        return jnp.matmul(x, layer["kernel"], precision="highest") + layer["bias"]

    def by_head(x):
        return x.reshape(*x.shape[:-1], HEADS, WIDTH // HEADS)

    q = by_head(jnp.split(apply(p["qkv"], p["latent"][0, 0]), 3)[0])
    _, k, v = (by_head(y) for y in jnp.split(apply(p["qkv"], x), 3, axis=-1))
    scores = jnp.einsum("hd,blhd->bhl", q, k, precision="highest") / np.sqrt(WIDTH // HEADS)
    attended = jnp.einsum("bhl,blhd->bhd", jax.nn.softmax(scores), v, precision="highest")
    y = apply(p["proj"], attended.reshape(len(x), WIDTH))
    normed = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-6)
    hidden = apply(p["mlp"]["fc1"], normed * p["norm"]["scale"] + p["norm"]["bias"])
    return y + apply(p["mlp"]["fc2"], jax.nn.gelu(hidden, approximate=False))


def test_outputs_and_gradients_are_those_of_the_definition(params):
    x = jax.random.normal(jax.random.key(0), (2, 7, WIDTH))
    pool = AttentionPool(WIDTH, HEADS, "float32")

    def ours(params, x):
        return pool.apply({"params": params}, x)

    np.testing.assert_allclose(ours(params, x), by_formula(params, x), rtol=0, atol=1e-5)
    found, expected = (
        jax.grad(lambda *a, f=f: (f(*a) ** 2).mean(), argnums=(0, 1))(params, x)
        for f in (ours, by_formula)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-5), found, expected)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(found))


def test_half_precision_changes_little(params):
    x = jax.random.normal(jax.random.key(0), (2, 7, WIDTH))
    half = AttentionPool(WIDTH, HEADS, "bfloat16").apply({"params": params}, x)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(half), by_formula(params, x), rtol=0, atol=0.1)


def test_a_detector_uses_it_instead_of_the_mean():
    params = jax.tree.map(jnp.asarray, detector_params(POOLED))
    assert {*params} == {"cls_token", "pos_embed", "patch_embed", "blocks", "norm", "attn_pool"} | {
        "head"
    }
    model, faces = build_detector(POOLED), jnp.asarray(images(TINY["image_size"]))
    found = model.apply({"params": params}, faces).features
    tokens = model.apply({"params": params}, faces, method="encode")
    expected = by_formula(params["attn_pool"], tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    # With another pool the network has no such parameters.
    assert "attn_pool" not in detector_params(POOLED | {"pool": "mean"})


@pytest.mark.parametrize("mode", MODES)
def test_the_modes_train_it_as_a_layer_after_the_blocks(mode):
    params = detector_params(POOLED)
    trained, frozen = split(params, Tuning(mode))
    of_pool = {
        "full": {*params["attn_pool"]},
        "partial": {*params["attn_pool"]},
        "norms": {"norm"},
    }.get(mode, set())
    assert {*trained.get("attn_pool", {})} == of_pool
    assert {*frozen.get("attn_pool", {})} == {*params["attn_pool"]} - of_pool


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pool": "attention"}, "needs an encoder with an attention pool"),
        ({"pool_heads": 5}, "model.width = 48 is not divisible by model.pool_heads = 5"),
        ({"pool": "attention", "pool_heads": 4, "fas": True}, "has no anti-spoofing head"),
    ],
)
def test_what_has_no_pool_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        build_detector(TINY | given)


def test_its_query_is_not_decayed_and_its_rate_is_that_of_the_head():
    params = jax.tree.map(jnp.asarray, detector_params(POOLED))
    pool = optim.decay_mask(params, not_decayed=optim.NOT_DECAYED_IN_DETECTORS)["attn_pool"]
    assert not pool["latent"] and pool["qkv"] == {"kernel": True, "bias": False}
    factors = optim.layer_factors(params, 0.5, depth=TINY["depth"])
    assert {float(x) for x in jax.tree.leaves(factors["attn_pool"])} == {1.0}
