"""The attention pool of SigLIP and Perception Encoder, which makes one feature of all tokens."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsvfm_jax.devices.sharding import constrain_batch
from fsvfm_jax.models import layers
from fsvfm_jax.models.linear import LAYER_NORM_EPSILON, PreNorm


class AttentionPool(nn.Module):
    """Attention of a learnt query to the tokens, followed by an MLP with a residual connection.

    Attributes:
        width: Channels D of a token.
        num_heads: Attention heads; divides `width`.
        dtype: Compute dtype.
        activation: One of `activations.ACTIVATIONS`.
        epsilon: Added to the variance by the norm before the MLP.
    """

    width: int
    num_heads: int
    dtype: str
    activation: str = "gelu"
    epsilon: float = LAYER_NORM_EPSILON

    def setup(self) -> None:
        self.latent = self.param("latent", layers.token_init, (1, 1, self.width))
        self.qkv = layers.dense(3 * self.width, self.dtype)
        self.proj = layers.dense(self.width, self.dtype)
        self.norm = PreNorm(self.epsilon)
        self.mlp = layers.Mlp(self.width, self.dtype, self.activation)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B D"]:
        """Returns the feature of each image, in the compute dtype.

        Args:
            x: The tokens after the final norm: prefix and patches.
        """
        # The compiler removes the products of the forward pass that nothing uses.
        (query, _, _), (_, keys, values) = (self._heads(tokens) for tokens in (self.latent, x))
        query = jnp.broadcast_to(query, (len(x), *query.shape[1:]))
        attended = layers.attend(query, keys, values, lengths=None, implementation=None)
        x = self.proj(constrain_batch(attended).reshape(len(x), 1, self.width))
        return constrain_batch(x + self.mlp(self.norm(x)))[:, 0]

    def _heads(self, tokens: Float[Array, "B L D"]) -> list[Float[Array, "B L H E"]]:
        """Returns queries, keys and values of the tokens by heads."""
        shape = (*tokens.shape[:2], self.num_heads, self.width // self.num_heads)
        return [constrain_batch(y).reshape(shape) for y in self.qkv.split(tokens, 3)]
