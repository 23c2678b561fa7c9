"""Tests patches, positions and blocks."""

from functools import partial

import golden_numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsvfm_jax.models import layers, positions


def test_patchify_is_row_column_channel():
    images = jnp.arange(2 * 4 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 4, 3)
    patches = layers.patchify(images, 2)
    assert patches.shape == (2, 4, 12)
    np.testing.assert_array_equal(patches[0, 1], images[0, :2, 2:].reshape(-1))
    np.testing.assert_array_equal(layers.unpatchify(patches, 2), images)


def test_positions_equal_the_reference():
    for width, name in ((48, "pos_embed"), (32, "decoder_pos_embed")):
        golden = golden_numbers.load()[f"init/{name}"]
        np.testing.assert_allclose(positions.sincos_positions(4, width), golden, atol=1e-6)


def test_normalize_keeps_zero_rows_and_their_gradient_finite():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(layers.normalize(x), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: layers.normalize(x).sum())(x)).all()


def test_layer_norm_takes_its_statistics_in_float32():
    # In bfloat16, 1000 + noise of 1 has at most 8 values; the deviation must not be rounded too.
    x = (1000 + jax.random.normal(jax.random.key(0), (4, 256))).astype(jnp.bfloat16)
    norm = layers.layer_norm("bfloat16")
    params = norm.init(jax.random.key(0), x)
    expected = np.asarray(x, np.float64)
    expected = (expected - expected.mean(-1, keepdims=True)) / expected.std(-1, keepdims=True)
    result = norm.apply(params, x)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(result, np.float64), expected, atol=0.02)


@pytest.mark.parametrize("length", [pytest.param(4, marks=pytest.mark.slow), 5])
def test_tokens_that_pad_a_sequence_change_nothing(length):
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, weights = (jax.random.normal(key, (2, length, 3, 16)) for key in keys)

    def total(q, k, v, *, padded):
        lengths = None
        if padded:
            q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
            lengths = jnp.full(2, length, jnp.int32)
        x = layers.attend(q, k, v, lengths=lengths, implementation="xla")[:, :length]
        return (x * weights).sum(), x

    grads, x = jax.grad(partial(total, padded=True), argnums=(0, 1, 2), has_aux=True)(q, k, v)
    expected = jax.grad(partial(total, padded=False), argnums=(0, 1, 2), has_aux=True)(q, k, v)
    np.testing.assert_allclose(x, expected[1], atol=1e-6)
    for grad, expected_grad in zip(grads, expected[0], strict=True):
        np.testing.assert_allclose(grad, expected_grad, atol=2e-5)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs an NVIDIA GPU")
@pytest.mark.parametrize("length", [50, 65, 197, 257])
def test_gradients_of_cudnn_are_finite_and_those_of_xla(length):
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (8, length, 12, 64)
    q, k, v, weights = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)

    def grads(implementation):
        def total(q, k, v):
            even = length % 2 if implementation == "cudnn" else 0
            q, k, v = (jnp.pad(x, ((0, 0), (0, even), (0, 0), (0, 0))) for x in (q, k, v))
            lengths = jnp.full(8, length, jnp.int32) if even else None
            x = layers.attend(q, k, v, lengths=lengths, implementation=implementation)
            return (x[:, :length] * weights).astype(jnp.float32).sum()

        return jax.jit(jax.grad(total, (0, 1, 2)))(q, k, v)

    for ours, expected in zip(grads("cudnn"), grads("xla"), strict=True):
        ours, expected = np.asarray(ours, np.float32), np.asarray(expected, np.float32)
        assert np.isfinite(ours).all()
        assert golden_numbers.relative_difference(ours, expected) < 0.02


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float32_is_multiplied_in_float32_everywhere(dtype):
    block = layers.block_stack(
        2, width=32, num_heads=4, dtype=dtype, attention="xla", remat="none", unroll=1
    )
    x = jnp.zeros((2, 5, 32))
    params = jax.eval_shape(block.init, jax.random.key(0), x, None, None, None)
    text = str(jax.make_jaxpr(block.apply)(params, x, None, None, None))
    # The biases of the two norms; q, k, v, two products of the attention, proj, fc1, fc2.
    in_float32 = 10 if dtype == "float32" else 2
    assert text.count("dot_general") == 10
    assert text.count("Precision.HIGHEST, Precision.HIGHEST") == in_float32


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.015)])
def test_attention_and_its_gradients_are_those_of_jax(dtype, tolerance):
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (jax.random.normal(key, (2, 197, 4, 16)).astype(dtype) for key in keys[:3])
    direction = jax.random.normal(keys[3], (2, 197, 4, 16))

    def total(attend, q, k, v):
        out = attend(q, k, v)
        return (out.astype(jnp.float32) * direction).sum(), out

    grad = jax.grad(total, argnums=(1, 2, 3), has_aux=True)
    ours = grad(partial(layers.attend, lengths=None, implementation="xla"), q, k, v)
    in_float32 = (x.astype(jnp.float32) for x in (q, k, v))
    expected = grad(jax.nn.dot_product_attention, *in_float32)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.dtype(dtype)
        assert golden_numbers.relative_difference(a.astype(jnp.float32), b) < tolerance
