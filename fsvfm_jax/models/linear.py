"""Linear layers, and the LayerNorms before them, in a form that needs few passes over the tokens.

A matrix product, its bias, the residual connection and the rounding to the compute dtype become
one kernel on GPUs if the bias is added in float32, before the rounding. docs/pods.md contains the
bytes that each of these forms saves.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from fsvfm_jax.devices.sharding import gather

LAYER_NORM_EPSILON = 1e-6
# The name of the outputs of linear layers, by which `jax.checkpoint` can keep them.
LINEAR_OUTPUT = "linear"
# Kernel and bias; and the scale and the bias of a LayerNorm before them.
Weights = tuple[Array, Array] | tuple[Array, Array, Array, Array]


class Normed(NamedTuple):
    """The output of a LayerNorm, before its scale and bias are applied.

    Attributes:
        tokens: Tokens with mean 0 and variance 1, [*B, D].
        scale: The scale, float32, [D].
        bias: The bias, float32, [D].
    """

    tokens: Float[Array, "*B D"]
    scale: Float[Array, " D"]
    bias: Float[Array, " D"]


class PreNorm(nn.Module):
    """LayerNorm before a `Dense` layer, which applies scale and bias.

    Attributes:
        epsilon: Added to the variance.
    """

    epsilon: float = LAYER_NORM_EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Normed:
        width = (x.shape[-1],)
        return Normed(
            standardize(x, self.epsilon),
            self.param("scale", nn.initializers.ones, width),
            self.param("bias", nn.initializers.zeros, width),
        )


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def standardize(x: Float[Array, "*B D"], epsilon: float) -> Float[Array, "*B D"]:
    """Subtracts the mean of each token and divides by its deviation, both in float32.

    The backward pass needs the result, which the next layer keeps too, and not x.

    Args:
        x: Tokens in the compute dtype, which is that of the result.
        epsilon: Added to the variance.
    """
    return _standardize_forward(x, epsilon)[0]


def _standardize_forward(x, epsilon):
    y = x.astype(jnp.float32)
    y -= y.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + epsilon)
    y = (y * inverse).astype(x.dtype)
    return y, (y, inverse)


def _standardize_backward(epsilon, kept, gradient):
    y, inverse = kept
    y, of_y = y.astype(jnp.float32), gradient.astype(jnp.float32)
    along_y = y * (of_y * y).mean(axis=-1, keepdims=True)
    of_x = inverse * (of_y - of_y.mean(axis=-1, keepdims=True) - along_y)
    return (of_x.astype(gradient.dtype),)


standardize.defvjp(_standardize_forward, _standardize_backward)


class Dense(nn.Module):
    """Linear layer.

    If the input comes from a `PreNorm`, its scale and bias are applied to the weights: (x * s + b)
    K + c is x (diag(s) K) + (b K + c). The gradients of s and b then follow from the gradients of
    the weights, without a pass over the tokens.

    Attributes:
        features: Channels of the output.
        dtype: Compute dtype; parameters are float32.
        use_bias: Whether there is a bias.
        biased: For equal parts of the channels, whether their bias has an effect. Where it has
            none, it gets no gradient and keeps its value.
        kernel_init: Initialises the weights.
        bias_init: Initialises the bias.
    """

    features: int
    dtype: str
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    biased: tuple[bool, ...] = (True,)

    def __call__(self, x: Float[Array, "*B D"] | Normed) -> Float[Array, "*B E"]:
        """Returns the output in the compute dtype."""
        return self.split(x, 1)[0]

    @nn.compact
    def split(self, x: Float[Array, "*B D"] | Normed, parts: int) -> tuple[Array, ...]:
        """Returns the output as equal parts of its channels, each made by a product of its own."""
        tokens = x.tokens if isinstance(x, Normed) else x
        kernel = self.param("kernel", self.kernel_init, (tokens.shape[-1], self.features))
        bias = jnp.zeros(self.features)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
        if not all(self.biased):
            bias *= np.repeat(np.float32(self.biased), self.features // len(self.biased))
        weights = (kernel, bias, x.scale, x.bias) if isinstance(x, Normed) else (kernel, bias)
        return linear(tokens.astype(self.dtype), jax.tree.map(jnp.asarray, weights), parts)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(x: Float[Array, "*B D"], weights: Weights, parts: int) -> tuple[Array, ...]:
    """Returns x @ kernel + bias as `parts` arrays of E / parts channels.

    The bias is added in float32. Derived automatically, the backward pass would multiply float32
    gradients. Here it multiplies gradients in the compute dtype, and the gradient of the kernel is
    rounded to that dtype once.

    Args:
        x: Input in the compute dtype, which is that of the result, [*B, D].
        weights: Kernel [D, E] and bias [E], and the scale [D] and the bias [D] of a LayerNorm if
            they are not applied to x yet; float32.
        parts: Number of arrays; divides E.
    """
    return _products(x, weights, parts)


def _linear_forward(x, weights, parts):
    return _products(x, weights, parts), (x, weights)


def _linear_backward(parts, kept, gradients):
    x, weights = kept
    # The sum of padded gradients is their concatenation. In this form XLA makes it, and the
    # gradient of the bias, in one pass.
    width = gradients[0].shape[-1]
    unchanged = [(0, 0)] * (x.ndim - 1)
    gradient = sum(
        jnp.pad(part, [*unchanged, (k * width, (parts - 1 - k) * width)])
        for k, part in enumerate(gradients)
    )
    batch = tuple(range(x.ndim - 1))
    to_kernel = jax.lax.platform_dependent(
        x, gradient, cpu=_sum_over_joined_tokens, default=_sum_over_tokens
    ).astype(jnp.float32)
    # The tokens of an image are added by the pass that makes the gradient, in its dtype. A sum over
    # the batch in bfloat16 would lose several per cent.
    to_bias = jax.lax.reduce_sum(gradient, batch[1:]).astype(jnp.float32).sum(axis=batch[:1])
    (kernel, _), to_weights = jax.vjp(apply_norm, *weights)
    to_x = jax.lax.dot_general(
        gradient,
        kernel.astype(x.dtype),
        (((x.ndim - 1,), (1,)), ((), ())),
        precision=precision(x.dtype.name),
    )
    return to_x, to_weights((to_kernel, to_bias))


def _sum_over_tokens(
    x: Float[Array, "*B D"], gradient: Float[Array, "*B E"]
) -> Float[Array, "D E"]:
    """Returns the sum over all tokens of the outer products of x and the gradient."""
    tokens = tuple(range(x.ndim - 1))
    return jax.lax.dot_general(
        x, gradient, ((tokens, tokens), ((), ())), precision=precision(x.dtype.name)
    )


def _sum_over_joined_tokens(
    x: Float[Array, "*B D"], gradient: Float[Array, "*B E"]
) -> Float[Array, "D E"]:
    """Returns the same for CPUs, where XLA transposes x by a copy if the tokens have two axes.

    That copy takes longer than the product. On TPUs, to join the axes takes a copy.
    """
    return _sum_over_tokens(x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1]))


linear.defvjp(_linear_forward, _linear_backward)


def _products(x, weights, parts):
    kernel, bias = apply_norm(*weights)
    kernel = kernel.astype(x.dtype)
    if parts > 1:
        # With FSDP a device holds some of the channels, and not an equal share of each part.
        kernel, bias = gather(kernel), gather(bias)
    kernels = jnp.split(kernel, parts, axis=1)
    # Without the barrier XLA joins the computation of a bias with its broadcast, and then adds the
    # bias in a kernel of its own.
    biases = jax.lax.optimization_barrier(jnp.split(bias, parts))
    outputs = []
    for part_kernel, part_bias in zip(kernels, biases, strict=True):
        product = jnp.matmul(
            x,
            part_kernel,
            precision=precision(x.dtype.name),
            preferred_element_type=jnp.float32,
        )
        y = product + part_bias.reshape((1,) * (x.ndim - 1) + (-1,))
        outputs.append(checkpoint_name(y.astype(x.dtype), LINEAR_OUTPUT))
    return tuple(outputs)


def apply_norm(
    kernel: Float[Array, "D E"],
    bias: Float[Array, " E"],
    scale: Float[Array, " D"] | None = None,
    shift: Float[Array, " D"] | None = None,
) -> tuple[Float[Array, "D E"], Float[Array, " E"]]:
    """Returns kernel and bias of the layer that also applies the LayerNorm's scale and shift."""
    if scale is None:
        return kernel, bias
    return kernel * scale[:, None], bias + jnp.matmul(shift, kernel, precision="highest")


def precision(dtype: str) -> str | None:
    """Returns the precision of matrix products for a compute dtype.

    By default, TPUs and GPUs multiply float32 values with fewer bits.
    """
    return "highest" if dtype == "float32" else None
