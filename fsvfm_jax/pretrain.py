"""The 3C task: a student learns from masked faces, its teacher sees them whole."""

from collections.abc import Callable, Mapping
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
from fsvfm_jax.models import build
from fsvfm_jax.models.fsvfm import FSVFM, Params, split_positions, teacher_subset
from fsvfm_jax.models.layers import patchify, unpatchify
from fsvfm_jax.optim import accumulate_gradients, apply_updates, make_optimizer
from fsvfm_jax.train_state import (
    Batch,
    Metrics,
    Picture,
    StepValues,
    Task,
    TrainState,
    all_or_nothing,
)

NORM_PIX_NOTE = (
    "The colours and the contrast of a reconstructed patch come from the true patch (norm_pix)."
)


def make_task(config: ConfigDict | FrozenConfigDict, *, stats: Stats) -> Task:
    """Binds the resolved config's sections and the data set's statistics to the functions below."""
    model = build(config.model)
    tx = make_optimizer(
        betas=tuple(config.optimizer.betas),
        weight_decay=config.optimizer.weight_decay,
        grad_clip=config.optimizer.grad_clip,
    )
    sample = partial(sample_masks, **config.mask)
    size = model.image_size
    return Task(
        sample={
            "image": jax.ShapeDtypeStruct((size, size, 3), jnp.uint8),
            "classes": jax.ShapeDtypeStruct((model.num_patches,), jnp.uint16),
        },
        init=partial(init_state, model, tx),
        train_step=partial(
            train_step,
            model,
            tx,
            sample=sample,
            stats=stats,
            loss=config.loss,
            seed=config.seed,
        ),
        trained=lambda params: split_positions(params)[0],
        picture=Picture(
            "reconstruction",
            ("face", "masked", "reconstruction"),
            NORM_PIX_NOTE if config.loss.norm_pix else "",
        ),
        draw=partial(
            draw_reconstruction, model, sample=sample, stats=stats, norm_pix=config.loss.norm_pix
        ),
    )


def init_state(model: FSVFM, tx: optax.GradientTransformation, key: PRNGKeyArray) -> TrainState:
    """The state at step 0: the teacher is a copy of the student's initial weights."""
    params = model.init_params(key)
    trained, _ = split_positions(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # A copy, not an alias: both trees are donated to the step.
        teacher_params=jax.tree.map(jnp.copy, teacher_subset(params)),
        opt_state=tx.init(trained),
    )


def train_step(
    model: FSVFM,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    values: StepValues,
    *,
    sample: Callable[..., Masks],
    stats: Stats,
    loss: Mapping[str, Any] | ConfigDict,
    seed: int,
    accum_steps: int,
) -> tuple[TrainState, Metrics]:
    """One optimizer update on a global batch.

    Args:
        model: The network.
        tx: The optimizer less its learning rate.
        state: The state, to be donated.
        batch: `image` uint8 [B, H, W, 3] and `classes` uint16 [B, N].
        values: Learning rate, teacher rate and fault of this step.
        sample: `sample_masks` with the config's mask section bound.
        stats: Mean and standard deviation that normalise the images.
        loss: The config's loss section.
        seed: The run's seed.
        accum_steps: Micro-batches one after another.

    Returns:
        The next state, and scalars: those of `three_c_loss`, `grad_norm` before clipping,
        `param_norm` after the update, and `skipped`: 1 where loss or gradient was not finite and
        everything but the number of the step is as it was, bit for bit.
    """
    # 1. Masks of the whole batch: they depend on seed, step and row alone, not on devices.
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    masks = sample(key, batch["classes"])

    # 2-4. Teacher, student and losses, in micro-batches.
    trained, positions = split_positions(state.params)

    def loss_fn(trained: Params, micro: tuple[Array, Masks]) -> tuple[Array, Metrics]:
        images, masks = micro
        total, metrics = three_c_loss(
            model,
            {**trained, **positions},
            state.teacher_params,
            normalize_images(images, stats),
            masks,
            loss=loss,
        )
        total = total * values.fault
        return total, metrics | {"loss": total}

    grads, metrics = accumulate_gradients(
        loss_fn, trained, (batch["image"], masks), accum_steps=accum_steps
    )

    # 5. Update of the student.
    updates, opt_state = tx.update(grads, state.opt_state, trained)
    params = apply_updates(trained, updates, learning_rate=values.learning_rate) | positions

    # 6. The teacher follows, once per optimizer update.
    teacher_params = jax.tree.map(
        lambda teacher, student: teacher + values.teacher_rate * (student - teacher),
        state.teacher_params,
        teacher_subset(params),
    )

    # 7. All of it, or nothing of it where loss or gradient is not finite.
    updated = TrainState(state.step, params, teacher_params, opt_state)
    state, norms = all_or_nothing(state, updated, loss=metrics["loss"], grads=grads)
    norms["param_norm"] = optax.tree.norm(split_positions(state.params)[0])
    return state, metrics | norms


def three_c_loss(
    model: FSVFM,
    params: Params,
    teacher_params: Params,
    images: Float[Array | np.ndarray, "B H W 3"],
    masks: Masks,
    *,
    loss: Mapping[str, Any] | ConfigDict,
) -> tuple[Float[Array, ""], Metrics]:
    """L = L_rec + weight_region * L_region + weight_sim * L_sim (paper, eq. 3C).

    Args:
        model: The network.
        params: The student's tree.
        teacher_params: The teacher's tree; gets no gradient.
        images: Normalised, float32.
        masks: Of `sample_masks`.
        loss: `norm_pix`, `weight_region`, `weight_sim`, `similarity`.

    Returns:
        The total and scalars: `loss`, `loss_rec` (consistency), `loss_region` (coherency),
        `loss_sim` (correspondence), `loss_sim_constant` (what the best constant q would get),
        `variance_q` and `variance_z` (over the batch, mean over dimensions, of unit rows),
        `masked_fraction`.
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


def normalize_images(images: UInt8[Array, "B H W 3"], stats: Stats) -> Float[Array, "B H W 3"]:
    """uint8 pixels to float32 of the data set's zero mean and unit deviation."""
    mean, std = jnp.asarray(stats.mean), jnp.asarray(stats.std)
    return (images.astype(jnp.float32) / 255 - mean) / std


def draw_reconstruction(
    model: FSVFM,
    state: TrainState,
    batch: Batch,
    *,
    sample: Callable[..., Masks],
    stats: Stats,
    norm_pix: bool,
) -> UInt8[Array, "columns rows H W 3"]:
    """Three columns: faces, what the student sees (removed patches grey), its reconstruction.

    With `norm_pix` a predicted patch is given back the mean and variance of the true one. The
    masks are those of key 0, so that pictures of one run can be compared.
    """
    images = normalize_images(batch["image"], stats)
    masks = sample(jax.random.key(0), batch["classes"])
    prediction = model.apply({"params": state.params}, images, masks, method="student").prediction
    patches = patchify(images, model.patch_size)
    if norm_pix:
        patch_mean, patch_deviation = losses.patch_moments(patches)
        prediction = prediction * patch_deviation + patch_mean

    mean, std = jnp.asarray(stats.mean), jnp.asarray(stats.std)
    removed = masks.mask[:, :, None].astype(bool)
    grey = patchify(jnp.broadcast_to((0.5 - mean) / std, images.shape), model.patch_size)
    columns = jnp.stack(
        [patches, jnp.where(removed, grey, patches), jnp.where(removed, prediction, patches)]
    )
    pixels = jax.vmap(partial(unpatchify, patch_size=model.patch_size))(columns) * std + mean
    return (jnp.clip(pixels, 0, 1) * 255).round().astype(jnp.uint8)
