"""The detection task: an encoder that has been pretrained learns to tell real faces from others.

Three modes: "full" trains everything; "adapter" an FS-Adapter and its head beside a frozen
backbone; "linear" the head alone.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict, FrozenConfigDict

from fsvfm_jax import losses, mixing, optim
from fsvfm_jax.data.labelled.faces import REAL
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.models import build_detector
from fsvfm_jax.models.adapter import Detector, unit_columns
from fsvfm_jax.pretrain import normalize_images
from fsvfm_jax.train_state import (
    Batch,
    Metrics,
    Params,
    Picture,
    StepValues,
    Task,
    TrainState,
    all_or_nothing,
)

# What is trained beside a frozen backbone. An anti-spoofing network with an adapter keeps the
# adapter's head and never uses it.
TRAINED = {
    ("adapter", False): ("adapter", "projector", "head"),
    ("adapter", True): ("adapter", "projector", "embedder", "classifier"),
    ("linear", False): ("head",),
    ("linear", True): ("embedder", "classifier"),
}


def make_task(config: ConfigDict | FrozenConfigDict, *, stats: Stats) -> Task:
    """Binds the resolved config's sections and the pixels' statistics to the functions below."""
    model = build_detector(config.model)
    tx = make_optimizer(config.optimizer, depth=model.depth)
    size = model.image_size
    augment = partial(augment_batch, augment=config.augment, smoothing=config.loss.smoothing)
    return Task(
        sample={
            "image": jax.ShapeDtypeStruct((size, size, 3), jnp.uint8),
            "label": jax.ShapeDtypeStruct((), jnp.int32),
        },
        init=partial(init_state, model, tx, mode=config.mode),
        train_step=partial(
            train_step,
            model,
            tx,
            mode=config.mode,
            augment=augment,
            stats=stats,
            loss=config.loss,
            seed=config.seed,
        ),
        trained=lambda params: split_trained(params, mode=config.mode, fas=model.fas)[0],
        picture=Picture(
            "batch",
            ("augmented", "erased and mixed"),
            "The network trains on faces like those on the right.",
        ),
        draw=partial(draw_batch, augment=augment, stats=stats),
    )


def make_optimizer(optimizer: ConfigDict, *, depth: int) -> optax.GradientTransformation:
    """AdamW with layer-wise decay, or Adam with coupled L2, less the learning rate."""
    if optimizer.name == "adam":
        return optim.make_coupled_adam(
            betas=tuple(optimizer.betas), weight_decay=optimizer.weight_decay
        )
    adamw = optim.make_optimizer(
        betas=tuple(optimizer.betas),
        weight_decay=optimizer.weight_decay,
        grad_clip=optimizer.grad_clip,
        not_decayed=optim.NOT_DECAYED_IN_DETECTORS,
    )
    if optimizer.layer_decay == 1:
        return adamw
    return optax.chain(adamw, optim.scale_by_layer(optimizer.layer_decay, depth=depth))


def init_state(
    model: Detector, tx: optax.GradientTransformation, key: PRNGKeyArray, *, mode: str
) -> TrainState:
    """The state at step 0, before the pretrained weights take their places."""
    params = model.init_params(key)
    trained, _ = split_trained(params, mode=mode, fas=model.fas)
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, teacher_params={}, opt_state=tx.init(trained)
    )


def split_trained(params: Params, *, mode: str, fas: bool) -> tuple[Params, Params]:
    """Splits a tree into what `mode` trains and what stays as it is."""
    names = params.keys() if mode == "full" else TRAINED[mode, fas]
    trained = {name: value for name, value in params.items() if name in names}
    return trained, {name: value for name, value in params.items() if name not in names}


def train_step(
    model: Detector,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    values: StepValues,
    *,
    mode: str,
    augment: Any,
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
        batch: `image` uint8 [B, H, W, 3] and `label` int32 [B], an index into `LABELS`.
        values: Learning rate and fault of this step.
        mode: "full", "adapter" or "linear".
        augment: `augment_batch` with the config's sections bound.
        stats: Mean and standard deviation that normalise the images.
        loss: The config's loss section.
        seed: The run's seed.
        accum_steps: Micro-batches one after another; the contrastive loss compares within one.

    Returns:
        The next state, and scalars: those of `detection_loss`, `grad_norm`, `param_norm` of what is
        trained, after the update, and `skipped`.
    """
    # 1. Erasing and mixing on the device: they depend on seed, step and row alone.
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    augment_key, drop_key = jax.random.split(key)
    mixed = augment(augment_key, normalize_images(batch["image"], stats), batch["label"])

    # 2. Forward and loss. Without a gradient for what is frozen, no backward pass goes there.
    trained, frozen = split_trained(state.params, mode=mode, fas=model.fas)
    if model.fas:
        # The update is one of the unit weights: of longer or shorter ones it would be another.
        classifier = trained["classifier"]
        unit = classifier | {"kernel": unit_columns(classifier["kernel"])}
        trained = trained | {"classifier": unit}

    def loss_fn(trained: Params, micro: Any) -> tuple[Array, Metrics]:
        mixed, labels, rows = micro
        path_key, feature_key = jax.random.split(jax.random.fold_in(drop_key, rows[0]))
        output = model.apply(
            {"params": {**trained, **frozen}},
            mixed.images,
            deterministic=False,
            rngs={"drop_path": path_key, "dropout": feature_key},
        )
        total, metrics = detection_loss(
            output.logits, output.projection, mixed.targets, labels, loss=loss
        )
        total = total * values.fault
        return total, metrics | {"loss": total}

    rows = jnp.arange(batch["label"].shape[0])
    grads, metrics = optim.accumulate_gradients(
        loss_fn, trained, (mixed, batch["label"], rows), accum_steps=accum_steps
    )

    # 3. Update, all of it or nothing of it where loss or gradient is not finite.
    updates, opt_state = tx.update(grads, state.opt_state, trained)
    trained = optim.apply_updates(trained, updates, learning_rate=values.learning_rate)
    updated = TrainState(state.step, trained | frozen, state.teacher_params, opt_state)
    state, norms = all_or_nothing(state, updated, loss=metrics["loss"], grads=grads)
    norms["param_norm"] = optax.tree.norm(split_trained(state.params, mode=mode, fas=model.fas)[0])
    return state, metrics | norms


def detection_loss(
    logits: Float[Array, "B C"],
    projection: Float[Array, "B A"] | None,
    targets: Float[Array, "B C"],
    labels: Int[Array, " B"],
    *,
    loss: Mapping[str, Any] | ConfigDict,
) -> tuple[Float[Array, ""], Metrics]:
    """L = CE + weight_anchor * L_RAC (METHOD: FS-Adapter); without an adapter CE alone.

    Args:
        logits: Of the augmented images.
        projection: z, rows of unit length; None without an adapter.
        targets: What mixing and smoothing made of the labels.
        labels: Indices into `LABELS`, before mixing.
        loss: `weight_anchor`, `temperature`, `anchors` ("real", or "all": plain supervised
            contrastive).

    Returns:
        The total and scalars: `loss`, `loss_ce`, and with an adapter `loss_anchor`.
    """
    cross_entropy = losses.soft_cross_entropy(logits, targets)
    if projection is None:
        return cross_entropy, {"loss": cross_entropy, "loss_ce": cross_entropy}
    anchors = (labels == REAL) | (loss["anchors"] == "all")
    anchored = losses.anchored_contrast(
        projection, labels, anchors, temperature=loss["temperature"]
    )
    total = cross_entropy + loss["weight_anchor"] * anchored
    return total, {"loss": total, "loss_ce": cross_entropy, "loss_anchor": anchored}


def augment_batch(
    key: PRNGKeyArray,
    images: Float[Array, "B H W 3"],
    labels: Int[Array, " B"],
    *,
    augment: Mapping[str, Any] | ConfigDict,
    smoothing: float,
) -> mixing.Mixed:
    """Random erasing, then mixup or cutmix; `augment` is the config's section."""
    erase_key, mix_key = jax.random.split(key)
    if augment["erase"]:
        images = mixing.erase(erase_key, images, probability=augment["erase"])
    return mixing.mix(
        mix_key,
        images,
        labels,
        mixup=augment["mixup"],
        cutmix=augment["cutmix"],
        smoothing=smoothing,
    )


def classify(
    model: Detector, params: Params, images: UInt8[Array, "B H W 3"], *, stats: Stats
) -> Float[Array, "B C"]:
    """Logits in evaluation mode, float32, of the classes of `LABELS`."""
    return model.apply({"params": params}, normalize_images(images, stats)).logits


def draw_batch(
    state: TrainState, batch: Batch, *, augment: Any, stats: Stats
) -> UInt8[Array, "columns rows H W 3"]:
    """Two columns: faces as they leave the data workers, and what erasing and mixing make of them.

    Drawn by the step, so that pictures of one run differ.
    """
    mean, std = jnp.asarray(stats.mean), jnp.asarray(stats.std)
    images = normalize_images(batch["image"], stats)
    mixed = augment(jax.random.fold_in(jax.random.key(0), state.step), images, batch["label"])
    pixels = jnp.stack([images, mixed.images]) * std + mean
    return (jnp.clip(pixels, 0, 1) * 255).round().astype(jnp.uint8)
