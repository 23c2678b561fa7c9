"""The pretraining task (3C): a student gets masked faces, and a teacher gets whole faces."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from ml_collections import ConfigDict, FrozenConfigDict

from fsvfm_jax import losses
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.masking import Masks, sample_masks
from fsvfm_jax.models import build, initial_params
from fsvfm_jax.models.fsvfm import FSVFM, split_positions, teacher_subset
from fsvfm_jax.models.layers import patchify, unpatchify
from fsvfm_jax.optim import all_or_nothing, gradient_step, make_optimizer
from fsvfm_jax.train_state import Batch, Metrics, Params, Picture, StepValues, TrainState

NORM_PIX_NOTE = (
    "The colours and the contrast of a reconstructed patch come from the true patch (norm_pix)."
)


def make_learner(config: ConfigDict | FrozenConfigDict, *, stats: Stats) -> "Pretraining":
    """Makes the learner of a config.

    Args:
        config: The resolved config.
        stats: Mean and standard deviation of the pixels.
    """
    optimizer = config.optimizer
    return Pretraining(
        model=build(config.model),
        tx=make_optimizer(
            betas=tuple(optimizer.betas),
            weight_decay=optimizer.weight_decay,
            grad_clip=optimizer.grad_clip,
        ),
        sample=partial(sample_masks, **config.mask),
        stats=stats,
        loss=config.loss,
        seed=config.seed,
    )


@dataclass(frozen=True)
class Pretraining:
    """The learner of the pretraining task.

    Attributes:
        model: The network.
        tx: The optimizer, which returns updates that are not yet multiplied by the learning rate.
        sample: Draws the masks: takes a random key and the classes of the patches [B, N].
        stats: Mean and standard deviation that normalise the images.
        loss: The config's loss section.
        seed: The run's seed.
    """

    model: FSVFM
    tx: optax.GradientTransformation
    sample: Callable[..., Masks]
    stats: Stats
    loss: Mapping[str, Any] | ConfigDict | FrozenConfigDict
    seed: int

    @property
    def row_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of one row of a batch, by name."""
        size = self.model.image_size
        return {
            "image": jax.ShapeDtypeStruct((size, size, 3), jnp.uint8),
            "classes": jax.ShapeDtypeStruct((self.model.num_patches,), jnp.uint16),
        }

    @property
    def picture(self) -> Picture:
        """Describes the picture that `draw` makes."""
        note = NORM_PIX_NOTE if self.loss["norm_pix"] else ""
        return Picture("reconstruction", ("face", "masked", "reconstruction"), note)

    def init(self, key: PRNGKeyArray) -> TrainState:
        """Returns the state at step 0: the teacher is a copy of the student's initial weights."""
        params = initial_params(self.model, key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            # A copy, not an alias: both trees are donated to the step.
            teacher_params=jax.tree.map(jnp.copy, teacher_subset(params)),
            opt_state=self.tx.init(self.trained(params)),
        )

    def trained(self, params: Params) -> Params:
        """Returns the parameters that a step changes: all of the student except the positions."""
        return split_positions(params)[0]

    def train_step(
        self, state: TrainState, batch: Batch, values: StepValues, *, accum_steps: int
    ) -> tuple[TrainState, Metrics]:
        """Makes one optimizer update on a global batch.

        Args:
            state: The state before the update. Its memory is donated to the new state.
            batch: `image` uint8 [B, H, W, 3] and `classes` uint16 [B, N].
            values: The values of the schedules for this step.
            accum_steps: Number of micro-batches, which are processed one after another.

        Returns:
            The next state, and scalars: of `three_c_loss`, `all_or_nothing` and `teacher_change`.
        """
        # 1. Draw the masks of the whole batch. They depend only on the seed, the step and the row.
        key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        masks = self.sample(key, batch["classes"])

        # 2. Teacher, student and losses, in micro-batches; then the update of the student.
        trained, positions = split_positions(state.params)

        def loss_fn(trained: Params, micro: tuple[Array, Masks]) -> tuple[Array, Metrics]:
            params, teacher = {**trained, **positions}, state.teacher_params
            images, masks = normalize_images(micro[0], self.stats), micro[1]
            return three_c_loss(self.model, params, teacher, images, masks, loss=self.loss)

        update = gradient_step(
            loss_fn,
            trained,
            (batch["image"], masks),
            tx=self.tx,
            opt_state=state.opt_state,
            values=values,
            accum_steps=accum_steps,
        )
        params = update.params | positions

        # 3. The teacher follows, once per optimizer update.
        teacher_params = move_teacher(state.teacher_params, params, rate=values.teacher_rate)
        change = teacher_change(state.teacher_params, teacher_params)

        # 4. The update is applied only if loss and gradient are finite.
        updated = TrainState(state.step, params, teacher_params, update.opt_state)
        metrics = update.metrics | {"teacher_change": change}
        return all_or_nothing(state, updated, metrics, trained=self.trained)

    def draw(self, state: TrainState, batch: Batch) -> UInt8[Array, "columns rows H W 3"]:
        """Draws the faces, the masked faces (removed patches grey), and the reconstructed faces.

        With `norm_pix` a predicted patch gets the mean and the variance of the true patch. The
        masks are always drawn with key 0, so that the pictures of a run can be compared.
        """
        images = normalize_images(batch["image"], self.stats)
        masks = self.sample(jax.random.key(0), batch["classes"])
        student = self.model.apply({"params": state.params}, images, masks, method="student")
        prediction = student.prediction
        if self.loss["norm_pix"]:
            mean, deviation = losses.patch_moments(patchify(images, self.model.patch_size))
            prediction = prediction * deviation + mean
        return draw_reconstructions(images, masks, prediction[None], stats=self.stats)


def move_teacher(
    teacher_params: Params, params: Params, *, rate: float | Float[Array, ""]
) -> Params:
    """Returns the teacher after one step of the moving average: t + (1 - m) * (s - t).

    Args:
        teacher_params: The teacher's tree.
        params: The student's tree.
        rate: 1 - m, where m is the momentum.
    """
    return jax.tree.map(
        lambda teacher, student: teacher + rate * (student - teacher),
        teacher_params,
        teacher_subset(params),
    )


def teacher_change(before: Params, after: Params) -> Float[Array, ""]:
    """Returns the norm of the change of the teacher's patch embedding in a step.

    All parameters of the teacher move in the same way; to read these few costs next to nothing.
    """
    return optax.tree.norm(optax.tree.sub(after["patch_embed"], before["patch_embed"]))


def three_c_loss(
    model: FSVFM,
    params: Params,
    teacher_params: Params,
    images: Float[Array | np.ndarray, "B H W 3"],
    masks: Masks,
    *,
    loss: Mapping[str, Any] | ConfigDict,
) -> tuple[Float[Array, ""], Metrics]:
    """Returns L = L_rec + weight_region * L_region + weight_sim * L_sim (the papers' 3C loss).

    Args:
        model: The network.
        params: The student's tree.
        teacher_params: The teacher's tree; no gradient flows into it.
        images: Normalised images, float32.
        masks: The masks that `sample_masks` returns.
        loss: The fields `norm_pix`, `weight_region`, `weight_sim` and `similarity`.

    Returns:
        The total loss, and scalar metrics: `loss`, `loss_rec` (consistency), `loss_region`
        (coherency), `loss_sim` (correspondence), `loss_sim_constant` (the lowest similarity loss if
        q is the same for all images), `variance_q` and `variance_z` (variance of q and z over the
        batch, mean over the dimensions), and `masked_fraction`.
    """
    images, masks = jax.tree.map(jnp.asarray, (images, masks))
    z = model.apply({"params": teacher_params}, images, method="teacher")
    z = jax.lax.stop_gradient(z)
    student = model.apply({"params": params}, images, masks, method="student")

    target = losses.patch_targets(images, model.patch_size, norm_pix=loss["norm_pix"])
    errors = losses.patch_errors(student.prediction, target)
    similarity = losses.SIMILARITIES[loss["similarity"]]
    loss_rec = losses.masked_mean(errors, masks.mask)
    loss_region = losses.masked_mean(errors, masks.region_mask)
    loss_sim = similarity.loss(student.q, z)
    total = loss_rec + loss["weight_region"] * loss_region + loss["weight_sim"] * loss_sim
    return total, {
        "loss": total,
        "loss_rec": loss_rec,
        "loss_region": loss_region,
        "loss_sim": loss_sim,
        "loss_sim_constant": similarity.constant(z),
        "variance_q": losses.batch_variance(student.q),
        "variance_z": losses.batch_variance(z),
        "masked_fraction": masks.mask.astype(jnp.float32).mean(),
    }


def draw_reconstructions(
    images: Float[Array, "B H W 3"],
    masks: Masks,
    predictions: Float[Array, "K B N P"],
    *,
    stats: Stats,
) -> UInt8[Array, "columns B H W 3"]:
    """Draws the faces, the masked faces (removed patches grey), and each prediction's faces.

    Args:
        images: Normalised images.
        masks: The masks of the images.
        predictions: K predictions of all patches, as normalised pixels; of each the removed patches
            are shown.
        stats: Mean and standard deviation that normalise the images.
    """
    size = images.shape[1] // round(predictions.shape[2] ** 0.5)
    removed = masks.mask[:, :, None].astype(bool)
    mean, std = _per_channel(stats, images.ndim)
    grey = patchify(jnp.broadcast_to((0.5 - mean) / std, images.shape), size)
    patches = patchify(images, size)
    filled = [jnp.where(removed, fill, patches) for fill in (grey, *predictions)]
    columns = jnp.stack([patches, *filled])
    return to_pixels(jax.vmap(partial(unpatchify, patch_size=size))(columns), stats)


def normalize_images(images: UInt8[Array, "B H W 3"], stats: Stats) -> Float[Array, "B H W 3"]:
    """Converts uint8 pixels to float32: subtracts the data set's mean, divides by its deviation."""
    mean, std = _per_channel(stats, images.ndim)
    return (images.astype(jnp.float32) / 255 - mean) / std


def to_pixels(images: Float[Array, "*batch H W 3"], stats: Stats) -> UInt8[Array, "*batch H W 3"]:
    """Reverses `normalize_images`: returns uint8 pixels, clipped to 0 and 255."""
    mean, std = _per_channel(stats, images.ndim)
    return (jnp.clip(images * std + mean, 0, 1) * 255).round().astype(jnp.uint8)


def _per_channel(
    stats: Stats, ndim: int
) -> tuple[Float[Array, "*ones 3"], Float[Array, "*ones 3"]]:
    """Returns mean and standard deviation for images with `ndim` axes, the channels last."""
    shape = (1,) * (ndim - 1) + (3,)
    return jnp.reshape(jnp.asarray(stats.mean), shape), jnp.reshape(jnp.asarray(stats.std), shape)
