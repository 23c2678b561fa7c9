"""The encoder: a plain vision transformer with a class token and fixed sine-cosine positions."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fsvfm_jax.models import layers

# `small` has 12 heads, unlike the ViT-S of other libraries: the shapes of the parameters agree, the
# outputs do not.
SIZES = {
    "vit_small_patch16": {"width": 384, "depth": 12, "num_heads": 12, "patch_size": 16},
    "vit_base_patch16": {"width": 768, "depth": 12, "num_heads": 12, "patch_size": 16},
    "vit_large_patch16": {"width": 1024, "depth": 24, "num_heads": 16, "patch_size": 16},
    "vit_huge_patch14": {"width": 1280, "depth": 32, "num_heads": 16, "patch_size": 14},
}


class ViT(nn.Module):
    """Pre-norm ViT encoder.

    `pos_embed` is a leaf of the parameter tree that no initialiser of this module fills: the code
    that makes the parameters adds `layers.sincos_positions` (or an imported table) under that name.

    Attributes:
        image_size: Side of the square images in pixels; a multiple of `patch_size`.
        patch_size: Side of a patch in pixels.
        width: Channels D of a token.
        depth: Number of blocks.
        num_heads: Attention heads.
        dtype: Compute dtype, "float32" or "bfloat16"; parameters are always float32.
        attention: One of `layers.ATTENTIONS`; None for "xla".
        remat: What is computed again in the backward pass, one of `layers.REMATS`.
        unroll: Blocks per iteration of the compiled loop over the depth; None for 1.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    dtype: str = "float32"
    attention: str | None = None
    remat: str = "none"
    unroll: int | None = None

    @property
    def num_patches(self) -> int:
        """Returns the number N of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    def setup(self) -> None:
        self.patch_embed = layers.dense(self.width, self.dtype)
        self.cls_token = self.param("cls_token", layers.token_init, (1, 1, self.width))
        self.blocks = self.stack(self.depth, self.width, self.num_heads)
        self.norm = layers.layer_norm(self.dtype)

    def stack(self, depth: int, width: int, num_heads: int) -> nn.Module:
        """Returns a scanned stack of blocks with this model's compute options."""
        return layers.block_stack(
            depth,
            width=width,
            num_heads=num_heads,
            dtype=self.dtype,
            attention=self.attention,
            remat=self.remat,
            unroll=self.unroll or 1,
        )

    def position_table(self, name: str) -> Float[Array, "1 tokens D"]:
        """Returns a position table in the compute dtype."""
        return jnp.asarray(self.get_variable("params", name), self.dtype)

    def run(
        self,
        blocks: nn.Module,
        x: Float[Array, "B L D"],
        drop_rates: Float[Array, " depth"] | None = None,
        *,
        has_gradient: bool = True,
    ) -> Float[Array, "B L D"]:
        """Returns the tokens after a stack of blocks.

        With cuDNN, which has gradients for even lengths only, a token is added to an odd number of
        tokens. No token attends to it, and the result does not contain it.

        Args:
            blocks: A stack that `stack` returned.
            x: The tokens.
            drop_rates: See `tokens`.
            has_gradient: False if the result is not differentiated, as in the teacher.
        """
        batch, length, _ = x.shape
        lengths = None
        if self.attention == "cudnn" and has_gradient and length % 2:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
            lengths = jnp.full(batch, length, jnp.int32)
        x, _ = blocks(x, drop_rates, lengths)
        return x[:, :length]

    def encode(
        self,
        images: Float[Array, "B H W 3"],
        ids_keep: Int[Array, "B K"] | None = None,
        *,
        has_gradient: bool = True,
    ) -> Float[Array, "B L D"]:
        """Encodes the kept patches, or all of them, and applies the final norm; see `tokens`."""
        return self.norm(self.tokens(images, ids_keep, has_gradient=has_gradient))

    def tokens(
        self,
        images: Float[Array, "B H W 3"],
        ids_keep: Int[Array, "B K"] | None = None,
        drop_rates: Float[Array, " depth"] | None = None,
        *,
        has_gradient: bool = True,
    ) -> Float[Array, "B L D"]:
        """Returns the output of the last block for the kept patches, before the final norm.

        Args:
            images: Normalised images.
            ids_keep: Indices of the patches to encode, in any order; None for all N.
            drop_rates: Probability of dropping a branch, for each block; None to drop nothing.
            has_gradient: See `run`.

        Returns:
            The class token followed by the K (or N) patch tokens: L = K + 1.
        """
        x = self.embed(images, ids_keep)
        return self.run(self.blocks, x, drop_rates, has_gradient=has_gradient)

    def embed(
        self, images: Float[Array, "B H W 3"], ids_keep: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B L D"]:
        """Returns the input of the first block: tokens with their positions; see `tokens`."""
        patches = layers.patchify(images, self.patch_size)
        positions = self.position_table("pos_embed")
        cls_position, patch_positions = positions[:, :1], positions[:, 1:]
        if ids_keep is not None:
            # Gathering before the embedding layer saves the embedding of removed patches.
            patches = jnp.take_along_axis(patches, ids_keep[:, :, None], axis=1)
            patch_positions = patch_positions[0][ids_keep]
        x = self.patch_embed(patches) + patch_positions
        cls_token = self.cls_token.astype(self.dtype) + cls_position
        cls_tokens = jnp.broadcast_to(cls_token, (x.shape[0], 1, self.width))
        return jnp.concatenate([cls_tokens, x], axis=1)
