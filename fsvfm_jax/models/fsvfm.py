"""Student and teacher of FS-VFM: one module, two parameter trees (paper, section 3).

images ─ encode(kept) ─┬─ decode ────────────────────── prediction of every patch
                       └─ represent ─ project ─ predict ─ q            (student)
images ─ encode(all) ───── represent ─ project ───────── z            (teacher)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fsvfm_jax.devices.sharding import constrain_batch
from fsvfm_jax.masking import Masks
from fsvfm_jax.models import layers
from fsvfm_jax.models.vit import ViT

Params = dict[str, Any]

# Fixed: no gradient, no decay, no optimizer state, not counted as trainable.
POSITION_TABLES = ("pos_embed", "decoder_pos_embed", "rep_decoder_pos_embed")
# What only the student has; everything else is the teacher's too.
STUDENT_ONLY = (
    "predictor",
    "decoder_embed",
    "decoder_pos_embed",
    "decoder_blocks",
    "decoder_norm",
    "decoder_pred",
)

# What student and teacher share with a plain ViT.
ENCODER = ("cls_token", "pos_embed", "patch_embed", "blocks", "norm")


class StudentOutput(NamedTuple):
    """What the student makes of a masked face.

    Attributes:
        prediction: Pixels of every patch, [B, N, patch_size**2 * 3].
        q: Predictor output, rows of unit length, [B, projection_dim].
        latent: Encoder output, class token first, [B, 1 + K, D].
    """

    prediction: Float[Array, "B N P"]
    q: Float[Array, "B E"]
    latent: Float[Array, "B L D"]


class FSVFM(ViT):
    """The encoder with its pixel decoder, representation decoder, projector and predictor.

    Attributes:
        decoder_width: Channels of the pixel decoder.
        decoder_depth: Blocks of the pixel decoder.
        decoder_num_heads: Heads of the pixel decoder.
        rep_decoder_depth: Blocks of the representation decoder, whose width is the encoder's.
        rep_decoder_num_heads: Heads of the representation decoder.
        projection_dim: Size of q and z.
        projection_hidden: Hidden size of projector and predictor.
        rep_pos: Positions of the representation decoder, "sincos" or "zeros" (as released).
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    rep_decoder_depth: int = 2
    rep_decoder_num_heads: int = 16
    projection_dim: int = 256
    projection_hidden: int = 4096
    rep_pos: str = "sincos"

    def setup(self) -> None:
        super().setup()
        self.mask_token = self.param("mask_token", layers.token_init, (1, 1, self.width))

        self.decoder_embed = layers.dense(self.decoder_width, self.dtype)
        self.decoder_blocks = self.stack(
            self.decoder_depth, self.decoder_width, self.decoder_num_heads
        )
        self.decoder_norm = layers.layer_norm(self.dtype)
        self.decoder_pred = layers.dense(self.patch_size**2 * 3, self.dtype)

        self.rep_decoder_embed = layers.dense(self.width, self.dtype)
        self.rep_decoder_blocks = self.stack(
            self.rep_decoder_depth, self.width, self.rep_decoder_num_heads
        )
        self.rep_decoder_norm = layers.layer_norm(self.dtype)
        self.rep_decoder_pred = layers.dense(self.width, self.dtype)

        head = (self.projection_hidden, self.projection_dim, self.dtype)
        self.projector = layers.ProjectionHead(*head)
        self.predictor = layers.ProjectionHead(*head)

    def student(self, images: Float[Array | np.ndarray, "B H W 3"], masks: Masks) -> StudentOutput:
        """Sees the kept patches, predicts all of them and the teacher's view of the whole face."""
        images, masks = jax.tree.map(jnp.asarray, (images, masks))
        latent = self.encode(images, masks.ids_keep)
        prediction = self.decode(latent, masks.ids_restore)
        q = self.predictor(self.projector(self.represent(latent, masks.ids_restore)))
        return StudentOutput(
            prediction.astype(jnp.float32), layers.normalize(q.astype(jnp.float32)), latent
        )

    def teacher(self, images: Float[Array | np.ndarray, "B H W 3"]) -> Float[Array, "B E"]:
        """Sees whole faces; returns z, rows of unit length, float32."""
        z = self.projector(self.represent(self.encode(jnp.asarray(images))))
        return layers.normalize(z.astype(jnp.float32))

    def decode(
        self, latent: Float[Array, "B L D"], ids_restore: Int[Array, "B N"]
    ) -> Float[Array, "B N P"]:
        """Pixel decoder: mask tokens join the encoder's output before the embed."""
        x = self.decoder_embed(self.insert_mask_tokens(latent, ids_restore))
        x = x + self.position_table("decoder_pos_embed")
        x, _ = self.decoder_blocks(x, None)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def represent(
        self, latent: Float[Array, "B L D"], ids_restore: Int[Array, "B N"] | None = None
    ) -> Float[Array, "B D"]:
        """Representation decoder: embed, then mask tokens, blocks, mean of all N + 1 tokens."""
        x = self.rep_decoder_embed(latent)
        if ids_restore is not None:
            x = self.insert_mask_tokens(x, ids_restore)
        x = x + self.position_table("rep_decoder_pos_embed")
        x, _ = self.rep_decoder_blocks(x, None)
        x = self.rep_decoder_pred(self.rep_decoder_norm(x))
        return constrain_batch(x.mean(axis=1))

    def insert_mask_tokens(
        self, tokens: Float[Array, "B L D"], ids_restore: Int[Array, "B N"]
    ) -> Float[Array, "B M D"]:
        """Puts the mask token where a patch was removed and all N patches back in image order."""
        batch, num_patches = ids_restore.shape
        num_removed = num_patches + 1 - tokens.shape[1]
        mask_token = self.mask_token.astype(self.dtype)
        removed = jnp.broadcast_to(mask_token, (batch, num_removed, self.width))
        patches = jnp.concatenate([tokens[:, 1:], removed], axis=1)
        patches = jnp.take_along_axis(patches, ids_restore[:, :, None], axis=1)
        return jnp.concatenate([tokens[:, :1], patches], axis=1)

    def init_params(self, key: PRNGKeyArray) -> Params:
        """Returns the student's parameters, float32, position tables included.

        `teacher_subset` of it is the teacher's tree, which starts as a copy.
        """
        side, n = self.image_size // self.patch_size, self.num_patches
        tables = {
            "pos_embed": layers.sincos_positions(side, self.width),
            "decoder_pos_embed": layers.sincos_positions(side, self.decoder_width),
            "rep_decoder_pos_embed": layers.sincos_positions(side, self.width),
        }
        if self.rep_pos == "zeros":
            tables["rep_decoder_pos_embed"] *= 0
        tables = jax.tree.map(jnp.asarray, tables)

        images = jnp.zeros((1, self.image_size, self.image_size, 3))
        everything = jnp.arange(n)[None]
        masks = Masks(jnp.zeros((1, n)), jnp.zeros((1, n)), everything, everything)
        # `apply` with mutable parameters fills in all that the tables leave missing.
        _, variables = self.apply(
            {"params": tables},
            images,
            masks,
            method="student",
            rngs={"params": key},
            mutable=["params"],
        )
        return variables["params"]


def teacher_subset(params: Params) -> Params:
    """The part of a student's tree that the teacher has, unused mask token included."""
    return {name: value for name, value in params.items() if name not in STUDENT_ONLY}


def encoder_subset(params: Params) -> Params:
    """The encoder of a student's or a teacher's tree."""
    return {name: value for name, value in params.items() if name in ENCODER}


def split_positions(params: Params) -> tuple[Params, Params]:
    """Splits a tree into what is trained and the fixed position tables."""
    trained = {name: value for name, value in params.items() if name not in POSITION_TABLES}
    positions = {name: value for name, value in params.items() if name in POSITION_TABLES}
    return trained, positions
