"""The layers of all networks here: patches, positions, pre-norm transformer blocks."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fsvfm_jax.devices.sharding import constrain_batch
from fsvfm_jax.models.linear import (
    LAYER_NORM_EPSILON,
    LINEAR_OUTPUT,
    Dense,
    Normed,
    PreNorm,
    precision,
)

MLP_RATIO = 4

ATTENTIONS = ("xla", "cudnn")
# What a block keeps for the backward pass, which computes the rest again: everything, the outputs
# of its linear layers, or only its input.
REMATS = {
    "none": None,
    "dots": jax.checkpoint_policies.save_only_these_names(LINEAR_OUTPUT),
    "full": jax.checkpoint_policies.nothing_saveable,
}

dense_init = nn.initializers.xavier_uniform()
token_init = nn.initializers.normal(stddev=0.02)


def patchify(images: Float[Array, "B H W 3"], patch_size: int) -> Float[Array, "B N P"]:
    """Cuts images into N patches, row by row; a patch is in (row, column, channel) order."""
    b, h, w, c = images.shape
    p = patch_size
    x = images.reshape(b, h // p, p, w // p, p, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // p) * (w // p), p * p * c)


def unpatchify(patches: Float[Array, "B N P"], patch_size: int) -> Float[Array, "B H W 3"]:
    """Joins patches to square images: the inverse of `patchify`."""
    b, n, _ = patches.shape
    side, p = round(n**0.5), patch_size
    x = patches.reshape(b, side, side, p, p, 3)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, side * p, side * p, 3)


def sincos_positions(side: int, width: int) -> Float[np.ndarray, "1 tokens width"]:
    """Returns fixed 2-D sine-cosine positions of a class token and `side` x `side` patches.

    The position of the class token is zero. The first half of the channels encodes the column, the
    second the row; in each half, the sines of all frequencies precede the cosines.
    """
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    angles = np.arange(side)[:, None] * frequencies
    axis = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    columns = np.tile(axis, (side, 1))
    rows = np.repeat(axis, side, axis=0)
    patches = np.concatenate([columns, rows], axis=1)
    return np.concatenate([np.zeros((1, width)), patches])[None].astype(np.float32)


def layer_norm(dtype: str, *, epsilon: float = LAYER_NORM_EPSILON) -> nn.LayerNorm:
    """Returns a LayerNorm with float32 statistics, for every `dtype` of the result."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False)


def dense(width: int, dtype: str, **options: Any) -> Dense:
    """Returns a linear layer, Xavier-uniform unless `options` of `Dense` change that."""
    return Dense(width, dtype, **({"kernel_init": dense_init} | options))


def attend(
    q: Float[Array, "B L H D"],
    k: Float[Array, "B L H D"],
    v: Float[Array, "B L H D"],
    *,
    lengths: Int[Array, " B"] | None,
    implementation: str | None,
) -> Float[Array, "B L H D"]:
    """Returns scaled dot-product attention of every token to every token.

    Args:
        q: Queries of H heads.
        k: Keys.
        v: Values.
        lengths: Number of tokens that are not padding, which comes last; None for all.
        implementation: One of `ATTENTIONS`; None for "xla". cuDNN has gradients for even L only.
    """
    if implementation == "cudnn" or lengths is not None:
        with jax.default_matmul_precision(precision(q.dtype.name)):
            return jax.nn.dot_product_attention(
                q,
                k,
                v,
                query_seq_lengths=lengths,
                key_value_seq_lengths=lengths,
                implementation=implementation,
            )
    # With the heads before the tokens, the products need no other layout.
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    return attend_by_heads(q, k, v).swapaxes(1, 2)


@jax.custom_vjp
def attend_by_heads(
    q: Float[Array, "B H L D"], k: Float[Array, "B H L D"], v: Float[Array, "B H L D"]
) -> Float[Array, "B H L D"]:
    """Returns the attention of every token to every token, with the softmax in float32.

    The backward pass keeps one number per token and head and computes the weights again. Derived
    automatically, it would keep all weights. The sum of the weights divides the result, which is
    smaller than the weights.
    """
    return _attend_forward(q, k, v)[0]


def _attend_forward(q, k, v):
    scores = _product("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    out = (_product("bhqk,bhkd->bhqd", weights.astype(v.dtype), v) / total).astype(v.dtype)
    return out, (q, k, v, out, largest + jnp.log(total))


def _attend_backward(kept, gradient):
    q, k, v, out, logarithm = kept
    scale = 1 / math.sqrt(q.shape[-1])
    weights = jnp.exp(scale * _product("bhqd,bhkd->bhqk", q, k) - logarithm)
    of_v = _product("bhqk,bhqd->bhkd", weights.astype(v.dtype), gradient)
    of_weights = _product("bhqd,bhkd->bhqk", gradient, v)
    products = gradient.astype(jnp.float32) * out.astype(jnp.float32)
    of_scores = scale * weights * (of_weights - products.sum(axis=-1, keepdims=True))
    of_scores = of_scores.astype(q.dtype)
    of_q = _product("bhqk,bhkd->bhqd", of_scores, k)
    of_k = _product("bhqk,bhqd->bhkd", of_scores, q)
    return tuple(x.astype(q.dtype) for x in (of_q, of_k, of_v))


def _product(subscripts: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Array:
    """Returns a product of matrices in float32."""
    return jnp.einsum(
        subscripts, a, b, precision=precision(a.dtype.name), preferred_element_type=jnp.float32
    )


attend_by_heads.defvjp(_attend_forward, _attend_backward)


class Attention(nn.Module):
    """Multi-head self-attention, with the softmax in float32."""

    width: int
    num_heads: int
    dtype: str
    attention: str | None

    def setup(self) -> None:
        self.qkv = dense(3 * self.width, self.dtype)
        self.proj = dense(self.width, self.dtype)

    def __call__(self, x: Normed, lengths: Int[Array, " B"] | None) -> Float[Array, "B L D"]:
        batch, length, _ = x.tokens.shape
        heads = (batch, length, self.num_heads, self.width // self.num_heads)
        q, k, v = (constrain_batch(y).reshape(heads) for y in self.qkv.split(x, 3))
        x = constrain_batch(attend(q, k, v, lengths=lengths, implementation=self.attention))
        return self.proj(x.reshape(batch, length, self.width))


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
    y = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(y)) / math.sqrt(2 * math.pi)
    slope = _normal_cdf(y) + y * density
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


def _normal_cdf(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


gelu.defvjp(_gelu_forward, _gelu_backward)


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between them."""

    width: int
    dtype: str

    def setup(self) -> None:
        self.fc1 = dense(MLP_RATIO * self.width, self.dtype)
        self.fc2 = dense(self.width, self.dtype)

    def __call__(self, x: Normed) -> Float[Array, "B L D"]:
        return self.fc2(gelu(constrain_batch(self.fc1(x))))


class Block(nn.Module):
    """Pre-norm transformer block, with the (carry, output) signature that `nn.scan` requires.

    With a `drop_rate`, each branch of each image is dropped with that probability (stochastic
    depth), with the random stream "drop_path".
    """

    width: int
    num_heads: int
    dtype: str
    attention: str | None

    def setup(self) -> None:
        self.norm1 = PreNorm()
        self.attn = Attention(self.width, self.num_heads, self.dtype, self.attention)
        self.norm2 = PreNorm()
        self.mlp = Mlp(self.width, self.dtype)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        drop_rate: Float[Array, ""] | None,
        lengths: Int[Array, " B"] | None,
    ) -> tuple[Float[Array, "B L D"], None]:
        x = constrain_batch(x + self.drop_path(self.attn(self.norm1(x), lengths), drop_rate))
        x = constrain_batch(x + self.drop_path(self.mlp(self.norm2(x)), drop_rate))
        return x, None

    def drop_path(
        self, branch: Float[Array, "B L D"], drop_rate: Float[Array, ""] | None
    ) -> Float[Array, "B L D"]:
        """Drops the branch of each image with probability `drop_rate`, and rescales the others."""
        if drop_rate is None:
            return branch
        shape = (branch.shape[0], 1, 1)
        kept = jax.random.bernoulli(self.make_rng("drop_path"), 1 - drop_rate, shape)
        return branch * (kept / (1 - drop_rate)).astype(branch.dtype)


def block_stack(
    depth: int,
    *,
    width: int,
    num_heads: int,
    dtype: str,
    attention: str | None,
    remat: str,
    unroll: int,
) -> nn.Module:
    """Returns `depth` blocks as one scan, with their parameters stacked on axis 0.

    The size of the compiled program does not depend on the depth.

    Args:
        depth: Number of blocks.
        width: Channels of the tokens.
        num_heads: Attention heads; divides `width`.
        dtype: Compute dtype.
        attention: One of `ATTENTIONS`; None for "xla".
        remat: One of `REMATS`.
        unroll: Blocks per iteration of the compiled loop.

    Returns:
        A module that takes the tokens, the drop rates of the blocks [depth] or None, and the
        lengths of `attend`, and returns `(tokens, None)`.
    """
    # With several blocks per iteration, the compiler could merge the recomputation with the first
    # computation (CSE), which would undo the remat. With one block it cannot.
    block = Block
    if policy := REMATS[remat]:
        block = nn.remat(Block, policy=policy, prevent_cse=unroll > 1)
    stack = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "drop_path": True},
        in_axes=(0, nn.broadcast),
        length=depth,
        unroll=unroll,
    )
    return stack(width, num_heads, dtype, attention)


class ProjectionHead(nn.Module):
    """Projector or predictor: linear, LayerNorm (with epsilon 1e-5 only here), ReLU, linear."""

    hidden: int
    output: int
    dtype: str

    def setup(self) -> None:
        self.fc1 = dense(self.hidden, self.dtype)
        self.norm = layer_norm(self.dtype, epsilon=1e-5)
        self.fc2 = dense(self.output, self.dtype)

    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        x = constrain_batch(self.fc1(x))
        return constrain_batch(self.fc2(nn.relu(self.norm(x))))


def normalize(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """Scales rows to unit length; a row of zeros stays zero and has a finite gradient."""
    squares = jnp.square(x).sum(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
