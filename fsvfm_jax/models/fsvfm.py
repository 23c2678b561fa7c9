"""The student and the teacher of FS-VFM: one Flax module with two parameter trees.

images ─ encode(kept) ─┬─ decode ────────────────────── prediction of every patch
                       └─ represent ─ project ─ predict ─ q            (student)
images ─ encode(all) ───── represent ─ project ───────── z            (teacher)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fsvfm_jax.devices.sharding import constrain_batch
from fsvfm_jax.masking import Masks
from fsvfm_jax.models import layers
from fsvfm_jax.models.linear import PreNorm
from fsvfm_jax.models.positions import sincos_positions
from fsvfm_jax.models.vit import ViT
from fsvfm_jax.train_state import Params

# The tables of positions are fixed: they have no gradient, no weight decay and no optimizer state,
# and are not counted as trainable parameters.
POSITION_TABLES = ("pos_embed", "decoder_pos_embed", "rep_decoder_pos_embed")
# Parameters that only the student has. Student and teacher both have all other parameters.
STUDENT_ONLY = (
    "predictor",
    "decoder_embed",
    "decoder_pos_embed",
    "decoder_blocks",
    "decoder_norm",
    "decoder_pred",
)

# Parameters of the encoder, which are those of a `ViT`.
ENCODER = (
    *("cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre", "blocks", "norm"),
    "attn_pool",
)


class StudentOutput(NamedTuple):
    """The outputs of the student for a batch of masked faces.

    Attributes:
        prediction: Predicted pixels of every patch, float32, [B, N, patch_size**2 * 3].
        q: Output of the predictor, scaled to rows of unit length, float32, [B, projection_dim].
        latent: Output of the encoder in the compute dtype: class token and kept patches, without
            registers, [B, 1 + K, D].
    """

    prediction: Float[Array, "B N P"]
    q: Float[Array, "B E"]
    latent: Float[Array, "B L D"]


class FSVFM(ViT):
    """The network of student and teacher: encoder, two decoders, projector and predictor.

    Attributes:
        decoder_width: Channels of the pixel decoder.
        decoder_depth: Number of blocks of the pixel decoder.
        decoder_num_heads: Attention heads of the pixel decoder.
        rep_decoder_depth: Number of blocks of the representation decoder. Its width is that of the
            encoder.
        rep_decoder_num_heads: Attention heads of the representation decoder.
        projection_dim: Size of q and z.
        projection_hidden: Hidden size of the projector and the predictor.
        rep_pos: Positions of the representation decoder: "sincos", or "zeros" as in the released
            weights.
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
        self.decoder_norm = PreNorm()
        self.decoder_pred = layers.dense(self.patch_size**2 * 3, self.dtype)

        self.rep_decoder_embed = layers.dense(self.width, self.dtype)
        self.rep_decoder_blocks = self.stack(
            self.rep_decoder_depth, self.width, self.rep_decoder_num_heads
        )
        self.rep_decoder_norm = PreNorm()
        self.rep_decoder_pred = layers.dense(self.width, self.dtype)

        head = (self.projection_hidden, self.projection_dim, self.dtype)
        self.projector = layers.ProjectionHead(*head)
        self.predictor = layers.ProjectionHead(*head)

    def student(self, images: Float[Array | np.ndarray, "B H W 3"], masks: Masks) -> StudentOutput:
        """Predicts, from the kept patches, all patches and the teacher's output for the whole face.

        Args:
            images: Normalised images.
            masks: The masks; `ids_keep` selects the patches that the encoder gets.
        """
        images, masks = jax.tree.map(jnp.asarray, (images, masks))
        latent = self.without_registers(self.encode(images, masks.ids_keep))
        prediction = self.decode(latent, masks)
        q = self.predictor(self.projector(self.represent(latent, masks)))
        return StudentOutput(
            prediction.astype(jnp.float32), layers.normalize(q.astype(jnp.float32)), latent
        )

    def teacher(self, images: Float[Array | np.ndarray, "B H W 3"]) -> Float[Array, "B E"]:
        """Returns z, the output for whole, normalised faces: rows of unit length, float32."""
        latent = self.without_registers(self.encode(jnp.asarray(images), has_gradient=False))
        z = self.projector(self.represent(latent))
        return layers.normalize(z.astype(jnp.float32))

    def without_registers(self, latent: Float[Array, "B L D"]) -> Float[Array, "B M D"]:
        """Returns the class token and the patches, which are all that the decoders get."""
        if not self.registers:
            return latent
        return jnp.concatenate([latent[:, :1], latent[:, self.num_prefix :]], axis=1)

    def decode(self, latent: Float[Array, "B L D"], masks: Masks) -> Float[Array, "B N P"]:
        """Predicts the pixels of every patch.

        The method inserts mask tokens before `decoder_embed`. A linear layer of a copied token is
        the copied result, so here `decoder_embed` gets the mask token once.
        """
        mask_token = self.decoder_embed(jnp.asarray(self.mask_token, self.dtype))
        x = insert_tokens(self.decoder_embed(latent), mask_token, masks)
        x = self.run(self.decoder_blocks, x + self.position_table("decoder_pos_embed"))
        return self.decoder_pred(self.decoder_norm(x[:, 1:]))

    def represent(
        self, latent: Float[Array, "B L D"], masks: Masks | None = None
    ) -> Float[Array, "B D"]:
        """Returns the mean of all N + 1 tokens after the representation decoder.

        Mask tokens are inserted after `rep_decoder_embed`. `masks` is None if no patch is removed,
        as in the teacher.
        """
        x = self.rep_decoder_embed(latent)
        if masks is not None:
            x = insert_tokens(x, jnp.asarray(self.mask_token, self.dtype), masks)
        x = self.run(
            self.rep_decoder_blocks,
            x + self.position_table("rep_decoder_pos_embed"),
            has_gradient=masks is not None,
        )
        # The method takes the mean after the linear layer. Both orders have the same result.
        normed = self.rep_decoder_norm(x)
        mean = constrain_batch(normed.tokens.mean(axis=1))
        return constrain_batch(self.rep_decoder_pred(normed._replace(tokens=mean)))

    def init_params(self, key: PRNGKeyArray) -> Params:
        """Returns new random parameters of the student, float32, and its position tables.

        `teacher_subset` of these parameters is the teacher's initial tree.
        """
        side, n = self.image_size // self.patch_size, self.num_patches
        tables = {
            "pos_embed": self.initial_positions(),
            "decoder_pos_embed": sincos_positions(side, self.decoder_width),
            "rep_decoder_pos_embed": sincos_positions(side, self.width),
        }
        if self.rep_pos == "zeros":
            tables["rep_decoder_pos_embed"] *= 0
        tables = {name: jnp.asarray(x) for name, x in tables.items() if x is not None}

        images = jnp.zeros((1, self.image_size, self.image_size, 3))
        everything = jnp.arange(n)[None]
        masks = Masks(jnp.zeros((1, n)), jnp.zeros((1, n)), everything, everything)
        # `apply` with mutable parameters initialises all parameters except the given tables.
        _, variables = self.apply(
            {"params": tables},
            images,
            masks,
            method="student",
            rngs={"params": key},
            mutable=["params"],
        )
        return variables["params"]


def insert_tokens(
    tokens: Float[Array, "B L D"], mask_token: Float[Array, "1 1 D"], masks: Masks
) -> Float[Array, "B M D"]:
    """Inserts the mask token for every removed patch and puts the patches in image order.

    Args:
        tokens: The class token and the tokens of the kept patches.
        mask_token: The token of every removed patch.
        masks: The masks.
    """
    is_kept = masks.ids_restore < masks.ids_keep.shape[1]
    patches = restore(tokens[:, 1:], masks.ids_keep, masks.ids_restore)
    patches = jnp.where(is_kept[:, :, None], patches, mask_token)
    return jnp.concatenate([tokens[:, :1], patches], axis=1)


@jax.custom_vjp
def restore(
    kept: Float[Array, "B K D"], ids_keep: Int[Array, "B K"], ids_restore: Int[Array, "B N"]
) -> Float[Array, "B N D"]:
    """Puts the tokens of the kept patches in image order, with any tokens between them.

    The gradient is gathered too. Derived automatically, it would be a sum of scattered tokens. The
    gradient of the tokens in between must be zero.
    """
    return jnp.take_along_axis(kept, ids_restore[:, :, None], axis=1, mode="clip")


def _restore_forward(kept, ids_keep, ids_restore):
    return restore(kept, ids_keep, ids_restore), ids_keep


def _restore_backward(ids_keep, gradient):
    return jnp.take_along_axis(gradient, ids_keep[:, :, None], axis=1), None, None


restore.defvjp(_restore_forward, _restore_backward)


def teacher_subset(params: Params) -> Params:
    """Returns the part of a student's tree that the teacher has.

    This part includes the mask token, although the teacher does not use it.
    """
    return {name: value for name, value in params.items() if name not in STUDENT_ONLY}


def encoder_subset(params: Params) -> Params:
    """Returns the parameters of the encoder from a student's or a teacher's tree."""
    return {name: value for name, value in params.items() if name in ENCODER}


def split_positions(params: Params) -> tuple[Params, Params]:
    """Splits a tree into the trained parameters and the fixed position tables."""
    trained = {name: value for name, value in params.items() if name not in POSITION_TABLES}
    positions = {name: value for name, value in params.items() if name in POSITION_TABLES}
    return trained, positions
