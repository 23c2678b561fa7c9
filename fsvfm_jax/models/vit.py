"""The encoder: a pre-norm vision transformer; the defaults are the papers' network."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fsvfm_jax.models import layers, positions
from fsvfm_jax.models.attention_pool import AttentionPool
from fsvfm_jax.models.linear import LAYER_NORM_EPSILON
from fsvfm_jax.models.positions import Rotation
from fsvfm_jax.train_state import Params

# `small` has 12 heads, unlike the ViT-S of other libraries: the shapes of the parameters agree, the
# outputs do not.
SIZES = {
    "vit_small_patch16": {"width": 384, "depth": 12, "num_heads": 12, "patch_size": 16},
    "vit_base_patch16": {"width": 768, "depth": 12, "num_heads": 12, "patch_size": 16},
    "vit_large_patch16": {"width": 1024, "depth": 24, "num_heads": 16, "patch_size": 16},
    "vit_huge_patch14": {"width": 1280, "depth": 32, "num_heads": 16, "patch_size": 14},
}


# The attributes of `ViT` that must be the same in the weights and in the config.
SIZE_FIELDS = ("image_size", "patch_size", "width", "depth", "num_heads")
# The attributes of `ViT` in which the encoders of other projects differ from the papers'.
OPTIONS = (
    *("class_token", "registers", "positions", "prefix_positions", "pre_norm", "layer_scale"),
    *("activation", "layer_norm_epsilon", "patch_bias", "key_bias", "pool_heads"),
)


class ViT(nn.Module):
    """Pre-norm ViT encoder.

    `pos_embed` is a leaf of the parameter tree that no initialiser of this module fills: the code
    that makes the parameters adds `initial_positions` (or an imported table) under that name. The
    prefix of the patch tokens is the class token and the registers.

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
        class_token: Whether there is a class token.
        registers: Number of register tokens, which come after the class token.
        positions: One of `positions.POSITIONS`.
        prefix_positions: Rows of the position table for the first tokens of the prefix; the rows of
            the patches come after them.
        pre_norm: Whether a norm comes before the blocks.
        layer_scale: Whether each channel of a branch is multiplied by a parameter.
        activation: One of `activations.ACTIVATIONS`.
        layer_norm_epsilon: Added to the variance by the norms of the encoder.
        patch_bias: Whether the patch embedding has a bias. Otherwise the tree has one that has no
            effect, so that all trees are alike.
        key_bias: Whether the keys have a bias; otherwise as for `patch_bias`.
        pool_heads: Attention heads of the attention pool; 0 for an encoder without one.
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
    class_token: bool = True
    registers: int = 0
    positions: str = "table"
    prefix_positions: int = 1
    pre_norm: bool = False
    layer_scale: bool = False
    activation: str = "gelu"
    layer_norm_epsilon: float = LAYER_NORM_EPSILON
    patch_bias: bool = True
    key_bias: bool = True
    pool_heads: int = 0

    @property
    def num_patches(self) -> int:
        """Returns the number N of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_prefix(self) -> int:
        """Returns the number of tokens before the patches: class token and registers."""
        return self.class_token + self.registers

    @property
    def block_options(self) -> layers.BlockOptions:
        """Returns the options of the encoder's blocks."""
        return layers.BlockOptions(
            activation=self.activation,
            epsilon=self.layer_norm_epsilon,
            layer_scale=self.layer_scale,
            key_bias=self.key_bias,
            interleaved=self.positions == "table_and_rope",
        )

    def setup(self) -> None:
        self.patch_embed = layers.dense(self.width, self.dtype, biased=(self.patch_bias,))
        if self.class_token:
            self.cls_token = self.param("cls_token", layers.token_init, (1, 1, self.width))
        if self.registers:
            shape = (1, self.registers, self.width)
            self.reg_token = self.param("reg_token", layers.token_init, shape)
        if self.pre_norm:
            self.norm_pre = layers.layer_norm(self.dtype, epsilon=self.layer_norm_epsilon)
        options = self.block_options
        self.blocks = self.stack(self.depth, self.width, self.num_heads, options=options)
        self.norm = layers.layer_norm(self.dtype, epsilon=self.layer_norm_epsilon)
        if self.pool_heads:
            self.attn_pool = AttentionPool(
                *(self.width, self.pool_heads, self.dtype),
                activation=self.activation,
                epsilon=self.layer_norm_epsilon,
            )

    def stack(
        self,
        depth: int,
        width: int,
        num_heads: int,
        *,
        options: layers.BlockOptions = layers.PLAIN,
    ) -> nn.Module:
        """Returns a scanned stack of blocks with this model's compute options."""
        return layers.block_stack(
            depth,
            width=width,
            num_heads=num_heads,
            dtype=self.dtype,
            attention=self.attention,
            remat=self.remat,
            unroll=self.unroll or 1,
            options=options,
        )

    def init_params(self, key: PRNGKeyArray) -> Params:
        """Returns new parameters, float32, with sines and cosines in the position table."""
        return self.new_params(key, method="encode_and_pool")

    def new_params(self, key: PRNGKeyArray, *, method: str) -> Params:
        """Returns new parameters of all layers that a method uses, which takes images."""
        table = self.initial_positions()
        tables = {} if table is None else {"pos_embed": jnp.asarray(table)}
        images = jnp.zeros((1, self.image_size, self.image_size, 3))
        # `apply` with mutable parameters initialises all parameters but the given table.
        _, variables = self.apply(
            {"params": tables}, images, method=method, rngs={"params": key}, mutable=["params"]
        )
        return variables["params"]

    def initial_positions(self) -> Float[np.ndarray, "1 tokens D"] | None:
        """Returns a position table of sines and cosines; None for an encoder without a table."""
        if self.positions == "rope":
            return None
        side = self.image_size // self.patch_size
        patches = positions.sincos_positions(side, self.width)[:, 1:]
        return np.pad(patches, ((0, 0), (self.prefix_positions, 0), (0, 0)))

    def rotation(self, ids_keep: Int[Array, "B K"] | None = None) -> Rotation | None:
        """Returns the rotations of the encoder's tokens; None without rotations; see `tokens`."""
        if self.positions == "table":
            return None
        side, channels = self.image_size // self.patch_size, self.width // self.num_heads
        whole = positions.rotation(self.positions, side, channels, prefix=self.num_prefix)
        if ids_keep is None:
            return whole
        prefix = jnp.arange(self.num_prefix)
        prefix = jnp.broadcast_to(prefix, (ids_keep.shape[0], self.num_prefix))
        rows = jnp.concatenate([prefix, self.num_prefix + ids_keep], axis=1)
        return Rotation(*(jnp.asarray(table)[rows] for table in whole))

    def position_table(self, name: str) -> Float[Array, "1 tokens D"]:
        """Returns a position table in the compute dtype."""
        return jnp.asarray(self.get_variable("params", name), self.dtype)

    def run(
        self,
        blocks: nn.Module,
        x: Float[Array, "B L D"],
        drop_rates: Float[Array, " depth"] | None = None,
        *,
        rotation: Rotation | None = None,
        has_gradient: bool = True,
    ) -> Float[Array, "B L D"]:
        """Returns the tokens after a stack of blocks.

        With cuDNN, which has gradients for even lengths only, a token is added to an odd number of
        tokens. No token attends to it, and the result does not contain it.

        Args:
            blocks: A stack that `stack` returned.
            x: The tokens.
            drop_rates: See `tokens`.
            rotation: The rotations of the tokens.
            has_gradient: False if the result is not differentiated, as in the teacher.
        """
        batch, length, _ = x.shape
        lengths = None
        if self.attention == "cudnn" and has_gradient and length % 2:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
            lengths = jnp.full(batch, length, jnp.int32)
            if rotation is not None:
                rotation = Rotation(*(_with_a_row(table) for table in rotation))
        x, _ = blocks(x, drop_rates, lengths, rotation)
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

    def encode_and_pool(self, images: Float[Array, "B H W 3"]) -> Float[Array, "..."]:
        """Returns the output of the attention pool [B, D], or without a pool the tokens [B, L, D].

        Both are in the compute dtype, and the tokens are after the final norm.
        """
        x = self.encode(images)
        return self.attn_pool(x) if self.pool_heads else x

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
            The prefix of `num_prefix` tokens, followed by the K (or N) patch tokens.
        """
        x = self.embed(images, ids_keep)
        rotation = self.rotation(ids_keep)
        return self.run(self.blocks, x, drop_rates, rotation=rotation, has_gradient=has_gradient)

    def embed(
        self, images: Float[Array, "B H W 3"], ids_keep: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B L D"]:
        """Returns the input of the first block: tokens with their positions; see `tokens`."""
        patches = layers.patchify(images, self.patch_size)
        of_prefix, of_patches = self.rows_of_positions()
        if ids_keep is not None:
            # Gathering before the embedding layer saves the embedding of removed patches.
            patches = jnp.take_along_axis(patches, ids_keep[:, :, None], axis=1)
            of_patches = None if of_patches is None else of_patches[0][ids_keep]
        x = self.patch_embed(patches)
        if of_patches is not None:
            x = x + of_patches
        if self.num_prefix:
            prefix = self.prefix(of_prefix)
            prefix = jnp.broadcast_to(prefix, (x.shape[0], *prefix.shape[1:]))
            x = jnp.concatenate([prefix, x], axis=1)
        return self.norm_pre(x) if self.pre_norm else x

    def rows_of_positions(
        self,
    ) -> tuple[Float[Array, "1 rows D"] | None, Float[Array, "1 N D"] | None]:
        """Returns the rows of the position table for the prefix and for the patches, or None."""
        if self.positions == "rope":
            return None, None
        table, rows = self.position_table("pos_embed"), self.prefix_positions
        return (table[:, :rows] if rows else None), table[:, rows:]

    def prefix(self, rows: Float[Array, "1 rows D"] | None) -> Float[Array, "1 prefix D"]:
        """Returns the class token and the registers; `rows` are the positions of the first ones."""
        names = ("cls_token",) * self.class_token + ("reg_token",) * bool(self.registers)
        tokens = [getattr(self, name).astype(self.dtype) for name in names]
        prefix = tokens[0] if len(tokens) == 1 else jnp.concatenate(tokens, axis=1)
        if rows is None:
            return prefix
        count = rows.shape[1]
        if count == self.num_prefix:
            return prefix + rows
        return jnp.concatenate([prefix[:, :count] + rows, prefix[:, count:]], axis=1)


def options_of(model: ViT) -> dict[str, Any]:
    """Returns the options of a network that are not the papers', by name."""
    values = {name: getattr(model, name) for name in OPTIONS}
    return {name: value for name, value in values.items() if value != getattr(ViT, name)}


def _with_a_row(table: Float[Array | np.ndarray, "*B L D"]) -> Float[Array, "*B M D"]:
    """Returns sines or cosines with a row of zeros for a token of padding."""
    return jnp.pad(jnp.asarray(table), [(0, 0)] * (table.ndim - 2) + [(0, 1), (0, 0)])
