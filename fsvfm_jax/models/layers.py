"""The layers of all networks here: patches and pre-norm transformer blocks."""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fsvfm_jax.devices.sharding import constrain_batch
from fsvfm_jax.models.activations import ACTIVATIONS
from fsvfm_jax.models.linear import (
    LAYER_NORM_EPSILON,
    LINEAR_OUTPUT,
    Dense,
    Normed,
    PreNorm,
    precision,
)
from fsvfm_jax.models.positions import Rotation, rotate

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


def layer_norm(dtype: str, *, epsilon: float = LAYER_NORM_EPSILON) -> nn.LayerNorm:
    """Returns a LayerNorm with float32 statistics, for every `dtype` of the result."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False)


def dense(width: int, dtype: str, **options: Any) -> Dense:
    """Returns a linear layer, Xavier-uniform unless `options` of `Dense` change that."""
    return Dense(width, dtype, **({"kernel_init": dense_init} | options))


def attend(
    q: Float[Array, "B Q H D"],
    k: Float[Array, "B L H D"],
    v: Float[Array, "B L H D"],
    *,
    lengths: Int[Array, " B"] | None,
    implementation: str | None,
) -> Float[Array, "B Q H D"]:
    """Returns scaled dot-product attention of every query to every token.

    Args:
        q: Queries of H heads.
        k: Keys.
        v: Values.
        lengths: Number of tokens that are not padding, which comes last; None for all.
        implementation: One of `ATTENTIONS`; None for "xla". cuDNN has gradients for even Q and L
            only.
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
    q: Float[Array, "B H Q D"], k: Float[Array, "B H L D"], v: Float[Array, "B H L D"]
) -> Float[Array, "B H Q D"]:
    """Returns the attention of every query to every token, with the softmax in float32.

    The backward pass keeps one number per query and head and computes the weights again. Derived
    automatically, it would keep all weights. The sum of the weights divides the result, which is
    smaller than the weights.
    """
    return _attend_forward(q, k, v)[0]


def _attend_forward(q, k, v):
    scale = 1 / math.sqrt(q.shape[-1])
    scores = _product("bhqd,bhkd->bhqk", q, k)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scale * (scores - largest))
    total = weights.sum(axis=-1, keepdims=True)
    out = (_product("bhqk,bhkd->bhqd", weights.astype(v.dtype), v) / total).astype(v.dtype)
    return out, (q, k, v, out, scale * largest + jnp.log(total))


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


class BlockOptions(NamedTuple):
    """What differs between the blocks of encoders.

    Attributes:
        activation: One of `ACTIVATIONS`.
        epsilon: Added to the variance by the norms.
        layer_scale: Whether each channel of a branch is multiplied by a parameter.
        key_bias: Whether the keys have a bias; otherwise it stays as it is and has no effect.
        interleaved: Which channels a rotation pairs, as for `positions.rotate`.
    """

    activation: str = "gelu"
    epsilon: float = LAYER_NORM_EPSILON
    layer_scale: bool = False
    key_bias: bool = True
    interleaved: bool = False


PLAIN = BlockOptions()


class Attention(nn.Module):
    """Multi-head self-attention, with the softmax in float32."""

    width: int
    num_heads: int
    dtype: str
    attention: str | None
    options: BlockOptions = PLAIN

    def setup(self) -> None:
        biased = (True,) if self.options.key_bias else (True, False, True)
        self.qkv = dense(3 * self.width, self.dtype, biased=biased)
        self.proj = dense(self.width, self.dtype)

    def __call__(
        self, x: Normed, lengths: Int[Array, " B"] | None, rotation: Rotation | None
    ) -> Float[Array, "B L D"]:
        batch, length, _ = x.tokens.shape
        q, k, v = self.heads(x, rotation)
        x = constrain_batch(attend(q, k, v, lengths=lengths, implementation=self.attention))
        return self.proj(x.reshape(batch, length, self.width))

    def heads(self, x: Normed, rotation: Rotation | None) -> tuple[Array, Array, Array]:
        """Returns queries, keys and values, [B, L, H, D / H]; queries and keys are rotated."""
        shape = (*x.tokens.shape[:2], self.num_heads, self.width // self.num_heads)
        q, k, v = (constrain_batch(y).reshape(shape) for y in self.qkv.split(x, 3))
        if rotation is not None:
            turn = partial(rotate, by=rotation, interleaved=self.options.interleaved)
            q, k = turn(q), turn(k)
        return q, k, v


class Mlp(nn.Module):
    """Two linear layers with an activation between them, one of `ACTIVATIONS`."""

    width: int
    dtype: str
    activation: str = "gelu"

    def setup(self) -> None:
        self.fc1 = dense(MLP_RATIO * self.width, self.dtype)
        self.fc2 = dense(self.width, self.dtype)

    def __call__(self, x: Normed) -> Float[Array, "B L D"]:
        return self.fc2(ACTIVATIONS[self.activation](constrain_batch(self.fc1(x))))


class LayerScale(nn.Module):
    """Multiplies each channel by a parameter; `enabled` False returns the input."""

    enabled: bool
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        if not self.enabled:
            return x
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        return x * scale.astype(x.dtype)[None, None]


class Block(nn.Module):
    """Pre-norm transformer block, with the (carry, output) signature that `nn.scan` requires.

    With a `drop_rate`, each branch of each image is dropped with that probability (stochastic
    depth), with the random stream "drop_path".
    """

    width: int
    num_heads: int
    dtype: str
    attention: str | None
    options: BlockOptions = PLAIN

    def setup(self) -> None:
        options = self.options
        self.norm1 = PreNorm(options.epsilon)
        self.attn = Attention(self.width, self.num_heads, self.dtype, self.attention, options)
        self.ls1 = LayerScale(options.layer_scale, self.width)
        self.norm2 = PreNorm(options.epsilon)
        self.mlp = Mlp(self.width, self.dtype, options.activation)
        self.ls2 = LayerScale(options.layer_scale, self.width)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        drop_rate: Float[Array, ""] | None,
        lengths: Int[Array, " B"] | None,
        rotation: Rotation | None,
    ) -> tuple[Float[Array, "B L D"], None]:
        branch = self.ls1(self.attn(self.norm1(x), lengths, rotation))
        x = constrain_batch(x + self.drop_path(branch, drop_rate))
        branch = self.ls2(self.mlp(self.norm2(x)))
        return constrain_batch(x + self.drop_path(branch, drop_rate)), None

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
    options: BlockOptions = PLAIN,
) -> nn.Module:
    """Returns `depth` blocks as one scan, with their parameters stacked on axis 0.

    With one block in an iteration, the size of the compiled program does not depend on the depth.

    Args:
        depth: Number of blocks.
        width: Channels of the tokens.
        num_heads: Attention heads; divides `width`.
        dtype: Compute dtype.
        attention: One of `ATTENTIONS`; None for "xla".
        remat: One of `REMATS`.
        unroll: Blocks per iteration of the compiled loop.
        options: What differs between the blocks of encoders.

    Returns:
        A module that takes the tokens, the drop rates of the blocks [depth] or None, the lengths of
        `attend`, and the rotations of the tokens or None, and returns `(tokens, None)`.
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
        in_axes=(0, nn.broadcast, nn.broadcast),
        length=depth,
        unroll=unroll,
    )
    return stack(width, num_heads, dtype, attention, options)


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
