"""Tests of the linear layers against those of Flax."""

import re
from functools import partial

import flax.linen as nn
import golden_numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsvfm_jax.models import layers, linear

WIDTH, FEATURES = 24, 36
EPSILON = 1e-6


@pytest.fixture(scope="module")
def weights() -> dict[str, jax.Array]:
    """Returns random weights of a norm and of the linear layer after it."""
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "kernel": jax.random.normal(keys[0], (WIDTH, FEATURES)),
        "bias": jax.random.normal(keys[1], (FEATURES,)),
        "scale": 1 + jax.random.normal(keys[2], (WIDTH,)),
        "shift": jax.random.normal(keys[3], (WIDTH,)),
    }


@pytest.fixture(scope="module")
def tokens() -> jax.Array:
    return 3 + jax.random.normal(jax.random.key(1), (2, 5, WIDTH))


def ours(weights: dict[str, jax.Array], x: jax.Array, *, dtype: str, parts: int) -> jax.Array:
    """Returns a LayerNorm and a linear layer by `PreNorm` and `Dense`."""
    norm = {"scale": weights["scale"], "bias": weights["shift"]}
    normed = linear.PreNorm(EPSILON).apply({"params": norm}, x)
    layer = {"kernel": weights["kernel"], "bias": weights["bias"]}
    dense = linear.Dense(FEATURES, dtype)
    outputs = dense.apply({"params": layer}, normed, parts, method="split")
    return jnp.concatenate(outputs, axis=-1)


def of_flax(weights: dict[str, jax.Array], x: jax.Array, *, dtype: str) -> jax.Array:
    norm = {"scale": weights["scale"], "bias": weights["shift"]}
    x = layers.layer_norm(dtype).apply({"params": norm}, x)
    layer = {"kernel": weights["kernel"], "bias": weights["bias"]}
    dense = nn.Dense(FEATURES, dtype=dtype, precision=linear.precision(dtype))
    return dense.apply({"params": layer}, x)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_norm_and_a_linear_layer_are_those_of_flax(weights, tokens, parts):
    def total(function, weights, x):
        return jnp.square(function(weights, x)).sum()

    float32 = partial(ours, dtype="float32", parts=parts)
    expected = partial(of_flax, dtype="float32")
    np.testing.assert_allclose(
        float32(weights, tokens), expected(weights, tokens), rtol=1e-5, atol=1e-5
    )

    grad = jax.grad(total, argnums=(1, 2))
    for a, b in zip(
        jax.tree.leaves(grad(float32, weights, tokens)),
        jax.tree.leaves(grad(expected, weights, tokens)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_bfloat16_is_rounded_once(weights, tokens):
    x, kernel = (a.astype(jnp.bfloat16) for a in (tokens, weights["kernel"]))
    [result] = linear.linear(x, (weights["kernel"], weights["bias"]), 1)
    product = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    expected = jnp.asarray(product + np.asarray(weights["bias"], np.float64), jnp.bfloat16)
    assert result.dtype == jnp.bfloat16
    wrong = np.asarray(result != expected)
    assert wrong.mean() < 0.01  # A sum in float32 may lie on the other side of a rounding border.


def test_bfloat16_is_near_float32(weights, tokens):
    expected = np.asarray(of_flax(weights, tokens, dtype="float32"))
    result = ours(weights, tokens.astype(jnp.bfloat16), dtype="bfloat16", parts=3)
    assert np.abs(result - expected).max() < 0.02 * np.abs(expected).max()


def test_gradients_in_bfloat16_are_near_those_in_float32(weights):
    keys = jax.random.split(jax.random.key(2), 2)
    x = (3 + jax.random.normal(keys[0], (16, 197, WIDTH))).astype(jnp.bfloat16)
    direction = jax.random.normal(keys[1], (16, 197, FEATURES))

    def total(function, weights, x):
        return (function(weights, x).astype(jnp.float32) * direction).sum()

    grad = jax.grad(total, argnums=(1, 2))
    found = grad(partial(ours, dtype="bfloat16", parts=3), weights, x)
    expected = grad(partial(of_flax, dtype="float32"), weights, x.astype(jnp.float32))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert golden_numbers.relative_difference(a.astype(jnp.float32), b) < 0.015


def test_a_layer_without_bias(tokens):
    dense = linear.Dense(FEATURES, "float32", use_bias=False)
    params = dense.init(jax.random.key(0), tokens)["params"]
    assert list(params) == ["kernel"]
    np.testing.assert_allclose(
        dense.apply({"params": params}, tokens), tokens @ params["kernel"], rtol=1e-5, atol=1e-5
    )


def test_remat_of_dots_keeps_the_outputs_in_the_compute_dtype():
    def products(remat: str) -> int:
        stack = layers.block_stack(
            1, width=32, num_heads=4, dtype="bfloat16", attention="xla", remat=remat, unroll=1
        )
        x = jnp.zeros((2, 5, 32), jnp.bfloat16)
        params = stack.init(jax.random.key(0), x, None, None, None)

        def total(params):
            return stack.apply(params, x, None, None, None)[0].astype(jnp.float32).sum()

        text = jax.jit(jax.grad(total)).lower(params).as_text()
        return text.count("dot_general")

    # Only the two products of the attention are computed again.
    assert products("dots") == products("none") + 2
    assert products("full") > products("dots")


@pytest.mark.parametrize("shape", [(6,), (2, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_of_a_kernel_is_the_same_in_both_forms(shape, dtype):
    keys = jax.random.split(jax.random.key(0))
    x, gradient = (
        jax.random.normal(key, (*shape, width), dtype)
        for key, width in zip(keys, (3, 4), strict=True)
    )
    expected = np.einsum(
        "td,te->de", *(np.float64(y).reshape(-1, y.shape[-1]) for y in (x, gradient))
    )
    for form in (linear._sum_over_tokens, linear._sum_over_joined_tokens):
        found = np.float64(form(x, gradient))
        np.testing.assert_allclose(
            found,
            expected,
            rtol=1e-5 if dtype == "float32" else 0.02,
            atol=0.05 if dtype == "bfloat16" else 1e-5,
        )


@pytest.mark.parametrize(("platform", "axes"), [("cpu", 1), ("tpu", 2), ("cuda", 2)])
def test_each_platform_gets_its_form_of_the_gradient(platform, axes):
    def loss(weights, x):
        return linear.linear(x, weights, 1)[0].sum()

    weights, x = (jnp.ones((3, 4)), jnp.ones(4)), jnp.ones((2, 5, 3))
    traced = jax.jit(jax.grad(loss)).trace(weights, x)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    contracted = re.findall(r"contracting_dims = \[([\d, ]+)\] x", text)
    assert max(len(dims.split(",")) for dims in contracted) == axes
