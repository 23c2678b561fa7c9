"""Tests that the compiled programs compute what the blocks of the network compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import STATS, TINY, detector_params, encoder_params

from fsvfm_jax.convert.measures import network
from fsvfm_jax.models.layers import Block
from fsvfm_jax.predict import programs
from fsvfm_jax.pretrain import normalize_images

IMAGES = np.random.default_rng(0).integers(256, size=(4, 64, 64, 3), dtype=np.uint8)
KINDS = {"encoder": encoder_params, "detector": detector_params}


def compute(params, *, block, pool):
    model = network(params, num_heads=TINY["num_heads"])
    return programs.features(params, IMAGES, model=model, stats=STATS, block=block, pool=pool)


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_continues_where_the_one_before_ends(kind):
    params = jax.device_put(KINDS[kind](TINY))

    def tokens(block):
        token, patches = (compute(params, block=block, pool=pool) for pool in ("token", "patches"))
        return jnp.concatenate([token[:, None], patches], axis=1)

    second = jax.tree.map(lambda x: x[1], params["blocks"])
    block = Block(TINY["width"], TINY["num_heads"], "float32", None)
    expected, _ = block.apply({"params": second}, tokens(1), None, None, None)
    np.testing.assert_allclose(tokens(2), expected, rtol=0, atol=2e-5)
    assert np.abs(tokens(1) - tokens(2)).max() > 0.1
    mean = compute(params, block=2, pool="mean")
    np.testing.assert_allclose(mean, tokens(2)[:, 1:].mean(axis=1), rtol=0, atol=2e-5)

    # The last block without a number is followed by the norm that the network has.
    model = network(params, num_heads=TINY["num_heads"])
    if kind == "encoder":
        norm = model.apply({"params": params}, tokens(2), method=lambda model, x: model.norm(x))
        expected = norm[:, 1:].mean(axis=1)
    else:
        expected = model.apply({"params": params}, mean, method=lambda model, x: model.fc_norm(x))
    found = compute(params, block=None, pool="mean")
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_margin_is_the_logit_of_fake_minus_that_of_real():
    params = jax.device_put(detector_params(TINY))
    model = network(params, num_heads=TINY["num_heads"])
    logits = model.apply({"params": params}, normalize_images(jnp.asarray(IMAGES), STATS)).logits
    margins = programs.margins(params, IMAGES, model=model, stats=STATS)
    np.testing.assert_allclose(margins, logits[:, 0] - logits[:, 1], rtol=0, atol=2e-5)
