"""Computes the attention weights of every block, which the forward pass does not keep."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from fsvfm_jax.models import layers
from fsvfm_jax.models.linear import PreNorm
from fsvfm_jax.models.vit import ViT
from fsvfm_jax.train_state import Params


def attention_weights(
    model: ViT, params: Params, images: Float[Array, "B H W 3"]
) -> Float32[Array, "depth B heads L L"]:
    """Returns the attention weights of every block for whole faces, computed in float32.

    Args:
        model: The encoder; a detector is one, too.
        params: Its parameters.
        images: Normalised images.

    Returns:
        For each block and head a matrix whose rows sum to 1: the row is the token that attends, the
        column the one that is attended to. The class token is the first, then the registers.
    """
    model = model.clone(dtype="float32", attention=None, remat="none")
    options, rotation = model.block_options, model.rotation()
    block = layers.Block(model.width, model.num_heads, "float32", None, options)
    attention = layers.Attention(model.width, model.num_heads, "float32", None, options)

    def step(x: jax.Array, own: Params) -> tuple[jax.Array, jax.Array]:
        normed = PreNorm(options.epsilon).apply({"params": own["norm1"]}, x)
        of = {"params": own["attn"]}
        q, k, _ = attention.apply(of, normed, rotation, method="heads")
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision="highest")
        weights = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), axis=-1)
        return block.apply({"params": own}, x, None, None, rotation)[0], weights

    x = model.apply({"params": params}, images, method="embed")
    return jax.lax.scan(step, x, params["blocks"])[1]


def rollout(weights: Float[Array, "depth B heads L L"]) -> Float[Array, "B L L"]:
    """Returns the attention of the last block's tokens to the tokens of the picture.

    The mean over the heads of each block, averaged with the identity for the residual connection,
    is multiplied over the blocks (Abnar and Zuidema, 2020). The rows sum to 1.

    Args:
        weights: The result of `attention_weights`.
    """
    identity = jnp.eye(weights.shape[-1])[None]

    def step(rolled: jax.Array, of_block: jax.Array) -> tuple[jax.Array, None]:
        mixed = 0.5 * of_block.mean(axis=1) + 0.5 * identity
        return jnp.matmul(mixed, rolled, precision="highest"), None

    start = jnp.broadcast_to(identity, (weights.shape[1], *identity.shape[1:]))
    return jax.lax.scan(step, start, weights)[0]
