"""Tests losses against plain implementations of their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsvfm_jax import losses
from fsvfm_jax.models.layers import normalize


@pytest.fixture
def unit_rows():
    q, z = jax.random.normal(jax.random.key(0), (2, 6, 5))
    return normalize(q), normalize(z)


def test_targets_use_the_unbiased_variance():
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    patch = np.asarray(images[1, 4:, :4], np.float64).reshape(-1)
    expected = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
    target = losses.patch_targets(images, 4, norm_pix=True)
    np.testing.assert_allclose(target[1, 2], expected, atol=1e-5)
    raw = losses.patch_targets(images, 4, norm_pix=False)
    np.testing.assert_allclose(raw[1, 2], patch, rtol=1e-6)


def test_masked_mean_sums_over_the_whole_batch():
    errors = jnp.array([[1.0, 2.0], [3.0, 10.0]])
    for dtype in (np.uint8, bool, np.float32):
        mask = jnp.array([[1, 0], [1, 1]], dtype)
        np.testing.assert_allclose(losses.masked_mean(errors, mask), 14 / 3, rtol=1e-6)


def test_a_region_nobody_shows_costs_nothing():
    value, gradient = jax.value_and_grad(losses.masked_mean)(jnp.ones((2, 2)), jnp.zeros((2, 2)))
    assert value == 0 and np.all(gradient == 0)


def test_similarities(unit_rows):
    q, z = (np.asarray(x, np.float64) for x in unit_rows)
    cosines = (q * z).sum(-1)
    logits = q @ z.T / 0.1
    cross_entropy = np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    expected = {
        "simsiam": -0.5 * cosines.mean(),
        "byol": (2 - 2 * cosines).mean(),
        "infonce": 2 * 0.1 * cross_entropy,
        "mocov3": 2 * 0.1 * cross_entropy,
    }
    assert losses.SIMILARITIES.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(losses.SIMILARITIES[name].loss(*unit_rows), value, rtol=1e-5)


@pytest.mark.parametrize("name", losses.SIMILARITIES)
def test_no_constant_predictor_beats_the_best_constant(unit_rows, name):
    _, z = unit_rows
    similarity = losses.SIMILARITIES[name]
    best = similarity.constant(z)
    candidates = normalize(jax.random.normal(jax.random.key(1), (500, z.shape[1])))
    candidates = jnp.concatenate([candidates, normalize(z.mean(0, keepdims=True))])
    values = jax.vmap(lambda c: similarity.loss(jnp.broadcast_to(c, z.shape), z))(candidates)
    assert values.min() >= best - 1e-6
    if name in ("simsiam", "byol"):
        np.testing.assert_allclose(values[-1], best, rtol=1e-5)


def test_equal_logits_reach_the_constant_of_info_nce():
    z = jnp.eye(6)[:4]
    constant = jnp.broadcast_to(jnp.eye(6)[5], z.shape)
    similarity = losses.SIMILARITIES["infonce"]
    np.testing.assert_allclose(similarity.loss(constant, z), similarity.constant(z), rtol=1e-6)


def test_batch_variance_is_zero_when_collapsed():
    assert losses.batch_variance(jnp.ones((4, 3))) == 0
    np.testing.assert_allclose(losses.batch_variance(jnp.eye(4)), 3 / 16, rtol=1e-6)
