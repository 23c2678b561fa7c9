"""Tests the activations and their gradients against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsvfm_jax.models import activations


def test_gelu_and_its_gradient_are_exact():
    x = jnp.linspace(-12, 12, 4801)
    points = np.asarray(x, np.float64)
    cdf = np.array([0.5 * math.erfc(-p / math.sqrt(2)) for p in points])
    density = np.exp(-0.5 * points**2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(activations.gelu(x), points * cdf, atol=1e-6)
    slope = jax.vmap(jax.grad(lambda x: activations.gelu(x[None])[0]))(x)
    np.testing.assert_allclose(slope, cdf + points * density, atol=1e-6)


def test_gelu_keeps_only_its_input_and_computes_in_float32():
    x = jnp.linspace(-4, 4, 64, dtype=jnp.bfloat16)[None]
    y, pull_back = jax.vjp(activations.gelu, x)
    [kept] = jax.tree.leaves(pull_back)
    assert kept.shape == x.shape and kept.dtype == y.dtype == jnp.bfloat16
    exact = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("quick_gelu", lambda x: x / (1 + np.exp(-1.702 * x))),
        (
            "gelu_tanh",
            lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        ),
    ],
)
def test_other_activations_are_their_formulas_and_keep_their_dtype(name, formula):
    x = jnp.linspace(-8, 8, 801)
    activation = activations.ACTIVATIONS[name]
    np.testing.assert_allclose(activation(x), formula(np.asarray(x, np.float64)), atol=1e-6)
    slope = jax.vmap(jax.grad(lambda one: activation(one[None])[0]))(x)
    step = 1e-4
    points = np.asarray(x, np.float64)
    wanted = (formula(points + step) - formula(points - step)) / (2 * step)
    np.testing.assert_allclose(slope, wanted, atol=1e-3)
    assert activation(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
