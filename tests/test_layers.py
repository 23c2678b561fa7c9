"""Patches, positions and blocks."""

import golden_numbers
import jax
import jax.numpy as jnp
import numpy as np

from fsvfm_jax.models import layers


def test_patchify_is_row_column_channel():
    images = jnp.arange(2 * 4 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 4, 3)
    patches = layers.patchify(images, 2)
    assert patches.shape == (2, 4, 12)
    np.testing.assert_array_equal(patches[0, 1], images[0, :2, 2:].reshape(-1))
    np.testing.assert_array_equal(layers.unpatchify(patches, 2), images)


def test_positions_equal_the_reference():
    for width, name in ((48, "pos_embed"), (32, "decoder_pos_embed")):
        golden = golden_numbers.load()[f"init/{name}"]
        np.testing.assert_allclose(layers.sincos_positions(4, width), golden, atol=1e-6)


def test_normalize_keeps_zero_rows_and_their_gradient_finite():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(layers.normalize(x), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: layers.normalize(x).sum())(x)).all()


def test_layer_norm_takes_its_statistics_in_float32():
    # In bfloat16 1000 + noise of 1 has 8 values at most; the deviation must not see that twice.
    x = (1000 + jax.random.normal(jax.random.key(0), (4, 256))).astype(jnp.bfloat16)
    norm = layers.layer_norm("bfloat16")
    params = norm.init(jax.random.key(0), x)
    expected = np.asarray(x, np.float64)
    expected = (expected - expected.mean(-1, keepdims=True)) / expected.std(-1, keepdims=True)
    result = norm.apply(params, x)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(result, np.float64), expected, atol=0.02)
