"""The losses of pretraining and fine-tuning, and values that show a collapse, in float32.

All functions are pure. Under a global `jit` a mean over the batch is a mean over the global batch,
so no function of this module calls an all-reduce.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from fsvfm_jax.models.layers import patchify

INFO_NCE_TEMPERATURE = 0.1


def patch_targets(
    images: Float[Array, "B H W 3"], patch_size: int, *, norm_pix: bool
) -> Float[Array, "B N P"]:
    """Returns the pixels of every patch, which are the targets of the reconstruction.

    Args:
        images: Normalised images.
        patch_size: Side of a square patch in pixels.
        norm_pix: Whether to normalise every patch by its own mean and unbiased variance.
    """
    patches = patchify(images, patch_size)
    if not norm_pix:
        return patches
    mean, deviation = patch_moments(patches)
    return (patches - mean) / deviation


def patch_moments(
    patches: Float[Array, "B N P"],
) -> tuple[Float[Array, "B N 1"], Float[Array, "B N 1"]]:
    """Returns mean and standard deviation of every patch.

    The standard deviation is the square root of the unbiased variance plus 1e-6.
    """
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return patches.mean(axis=-1, keepdims=True), jnp.sqrt(variance + 1e-6)


def patch_errors(
    prediction: Float[Array, "B N P"], target: Float[Array, "B N P"]
) -> Float[Array, "B N"]:
    """Returns the mean squared error of every patch over its P pixel values."""
    return jnp.square(prediction - target).mean(axis=-1)


def masked_mean(errors: Float[Array, "B N"], mask: Shaped[Array, "B N"]) -> Float[Array, ""]:
    """Returns the mean of the errors over all patches of the batch where the mask is 1.

    Args:
        errors: Error of every patch.
        mask: `Masks.mask` for L_rec, `Masks.region_mask` for L_region; any dtype.

    Returns:
        The mean, or 0 if the mask has no 1, for example because no image of the batch shows the
        region.
    """
    mask = mask.astype(errors.dtype)
    return (errors * mask).sum() / jnp.maximum(mask.sum(), 1.0)


def simsiam(q: Float[Array, "B E"], z: Float[Array, "B E"]) -> Float[Array, ""]:
    """Returns -0.5 mean cos(q, z), for predictions q and targets z with rows of unit length."""
    return -0.5 * (q * z).sum(axis=-1).mean()


def byol(q: Float[Array, "B E"], z: Float[Array, "B E"]) -> Float[Array, ""]:
    """Returns 2 - 2 mean cos(q, z), for predictions q and targets z with rows of unit length."""
    return 2.0 - 2.0 * (q * z).sum(axis=-1).mean()


def info_nce(q: Float[Array, "B E"], z: Float[Array, "B E"]) -> Float[Array, ""]:
    """Returns 2 t times the mean cross-entropy of the logits q z^T / t.

    The rows of q and z have unit length. The target of a row of q is the same row of z, and the
    other rows of z are the negatives. The temperature t is INFO_NCE_TEMPERATURE.
    """
    logits = q @ z.T / INFO_NCE_TEMPERATURE
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    return -2.0 * INFO_NCE_TEMPERATURE * jnp.diagonal(log_probabilities).mean()


def soft_cross_entropy(
    logits: Float[Array, "B C"], targets: Float[Array, "B C"]
) -> Float[Array, ""]:
    """Returns the mean cross-entropy of the batch.

    Args:
        logits: Scores of the C classes.
        targets: Share of each class; every row sums to 1.
    """
    return -(targets * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1).mean()


def anchored_contrast(
    z: Float[Array, "B A"],
    labels: Int[Array, " B"],
    anchors: Bool[Array, " B"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """Returns a supervised contrastive loss, such as FS-Adapter's real-anchor loss L_RAC.

    For L_RAC the anchors are the real images. An anchor i adds the mean, over the other images p
    with the label of i, of log(exp(z_i z_p / t) / (sum over all other images a of exp(z_i z_a / t)
    + 1e-6)). The loss is -1/B times the sum over the anchors.

    Args:
        z: Projections of unit length.
        labels: Class of each image.
        anchors: True for each image that is an anchor. An anchor that is the only image of its
            label adds 0.
        temperature: The temperature t.

    Returns:
        The loss, or 1e-6 if no image is an anchor.
    """
    logits = z @ z.T / temperature
    logits -= jax.lax.stop_gradient(logits.max(axis=1, keepdims=True))
    others = 1 - jnp.eye(z.shape[0], dtype=z.dtype)
    positives = (labels[:, None] == labels[None]) * others
    denominator = (jnp.exp(logits) * others).sum(axis=1, keepdims=True) + 1e-6
    log_probabilities = logits - jnp.log(denominator)
    means = (positives * log_probabilities).sum(axis=1) / jnp.maximum(positives.sum(axis=1), 1)
    return jnp.where(anchors.any(), -(means * anchors).mean(), 1e-6)


class Similarity(NamedTuple):
    """A similarity loss (L_sim, correspondence) and its value for a constant prediction.

    Attributes:
        loss: Returns the loss for q and z, which have rows of unit length.
        constant: Returns, for z, the lowest loss that is possible if q is the same for all images.
    """

    loss: Callable[[Float[Array, "B E"], Float[Array, "B E"]], Float[Array, ""]]
    constant: Callable[[Float[Array, "B E"]], Float[Array, ""]]


def _mean_length(z: Float[Array, "B E"]) -> Float[Array, ""]:
    return jnp.linalg.norm(z.mean(axis=0))


def _info_nce_constant(z: Float[Array, "B E"]) -> Float[Array, ""]:
    # By Jensen's inequality, the loss of a constant q is lowest if all logits are equal. Then the
    # cross-entropy is log B.
    return jnp.float32(2.0 * INFO_NCE_TEMPERATURE) * jnp.log(jnp.float32(z.shape[0]))


_INFO_NCE = Similarity(info_nce, _info_nce_constant)
SIMILARITIES = {
    "simsiam": Similarity(simsiam, lambda z: -0.5 * _mean_length(z)),
    "byol": Similarity(byol, lambda z: 2.0 - 2.0 * _mean_length(z)),
    "infonce": _INFO_NCE,
    # MoCo v3 normalises q and z once more, which does not change rows of unit length. Therefore it
    # has the same entry as InfoNCE.
    "mocov3": _INFO_NCE,
}


def batch_variance(x: Float[Array, "B E"]) -> Float[Array, ""]:
    """Returns the variance over the batch, averaged over the dimensions.

    In a collapse, when all images get the same representation, the variance approaches 0.
    """
    return x.var(axis=0).mean()
