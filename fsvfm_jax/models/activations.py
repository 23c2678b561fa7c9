"""The activations of an MLP. Each backward pass keeps the input only."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def gelu(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns the exact GELU, x times the normal distribution function of x, in float32.

    The backward pass keeps only x. Derived automatically, it would keep three arrays.
    """
    y = x.astype(jnp.float32)
    return (y * _normal_cdf(y)).astype(x.dtype)


def _gelu_forward(x: Float[Array, "*B D"]) -> tuple[Float[Array, "*B D"], Float[Array, "*B D"]]:
    return gelu(x), x


def _gelu_backward(
    x: Float[Array, "*B D"], gradient: Float[Array, "*B D"]
) -> tuple[Float[Array, "*B D"]]:
    # Without the barrier XLA would keep the error function of the forward pass for unrolled blocks,
    # and make it in a pass of its own. On a v6e the barrier costs a pass over x.
    kept = jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)
    y = kept.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(y)) / math.sqrt(2 * math.pi)
    slope = _normal_cdf(y) + y * density
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


def _normal_cdf(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


gelu.defvjp(_gelu_forward, _gelu_backward)


@jax.checkpoint
def quick_gelu(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns CLIP's approximation of the GELU, x * sigmoid(1.702 x), in float32."""
    y = x.astype(jnp.float32)
    return (y * jax.nn.sigmoid(1.702 * y)).astype(x.dtype)


@jax.checkpoint
def gelu_tanh(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns the GELU with tanh in place of the error function, in float32."""
    return nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu, "gelu_tanh": gelu_tanh}
