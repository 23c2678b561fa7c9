"""Fine-tunes a pretrained encoder to detect faces that are not real.

`tuning.py` decides which parameters are trained: all, or a part beside a frozen backbone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from fsvfm_jax.models import build_detector, initial_params
from fsvfm_jax.models.adapter import Detector, DetectorOutput, unit_columns
from fsvfm_jax.pretrain import normalize_images, to_pixels
from fsvfm_jax.train_state import Batch, Metrics, Params, Picture, StepValues, TrainState
from fsvfm_jax.tuning import FACTORS, Tuning, count, init_factors, join, make_tuning, merge, split


def make_learner(config: ConfigDict | FrozenConfigDict, *, stats: Stats) -> "Detection":
    """Makes the learner of a config.

    Args:
        config: The resolved config of fine-tuning.
        stats: Mean and standard deviation of the pixels.
    """
    model = build_detector(config.model)
    return Detection(
        model=model,
        tx=make_optimizer(config.optimizer, depth=model.depth),
        augment=partial(augment_batch, augment=config.augment, smoothing=config.loss.smoothing),
        stats=stats,
        loss=config.loss,
        seed=config.seed,
        tuning=make_tuning(config),
    )


def count_trained(config: ConfigDict | FrozenConfigDict) -> int:
    """Returns the number of parameters that a resolved config of fine-tuning trains."""
    learner = make_learner(config, stats=Stats((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    state = jax.eval_shape(learner.init, jax.random.key(0))
    return count(jax.eval_shape(learner.trained, state.params))


@dataclass(frozen=True)
class Detection:
    """The learner of the detection task.

    Attributes:
        model: The network.
        tx: The optimizer, which returns updates that are not yet multiplied by the learning rate.
        augment: Takes a key, images and labels, and returns them after erasing and mixing.
        stats: Mean and standard deviation that normalise the images.
        loss: The config's loss section.
        seed: The run's seed.
        tuning: The way of training.
    """

    model: Detector
    tx: optax.GradientTransformation
    augment: Callable[..., mixing.Mixed]
    stats: Stats
    loss: Mapping[str, Any] | ConfigDict | FrozenConfigDict
    seed: int
    tuning: Tuning

    @property
    def row_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shape and dtype of one row of a batch, by name."""
        size = self.model.image_size
        return {
            "image": jax.ShapeDtypeStruct((size, size, 3), jnp.uint8),
            "label": jax.ShapeDtypeStruct((), jnp.int32),
        }

    @property
    def picture(self) -> Picture:
        """Describes the picture that `draw` makes."""
        note = "The network trains on faces like those on the right."
        return Picture("batch", ("augmented", "erased and mixed"), note)

    def init(self, key: PRNGKeyArray) -> TrainState:
        """Returns the state at step 0, without pretrained weights."""
        params = initial_params(self.model, key)
        if self.tuning.mode == "lora":
            key = jax.random.fold_in(key, 1)
            params = {**params, FACTORS: init_factors(key, params["blocks"], self.tuning)}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            teacher_params={},
            opt_state=self.tx.init(self.trained(params)),
        )

    def trained(self, params: Params) -> Params:
        """Returns the parameters that are trained."""
        return split(params, self.tuning)[0]

    def train_step(
        self, state: TrainState, batch: Batch, values: StepValues, *, accum_steps: int
    ) -> tuple[TrainState, Metrics]:
        """Makes one optimizer update on a global batch.

        Args:
            state: The state; the caller donates its arrays.
            batch: `image` uint8 [B, H, W, 3] and `label` int32 [B], an index into `LABELS`.
            values: The values of the schedules for this step.
            accum_steps: Number of micro-batches. The contrastive loss compares images within one
                micro-batch only.

        Returns:
            The next state, and the scalars of `detection_loss` and of `all_or_nothing`.
        """
        # 1. Erase and mix on the device; the result depends only on seed, step and row.
        step_key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        augment_key, drop_key = jax.random.split(step_key)
        labels = batch["label"]
        mixed = self.augment(augment_key, normalize_images(batch["image"], self.stats), labels)

        # 2. Forward pass, loss, gradient. Frozen parameters have no gradient and no backward pass.
        trained, frozen = split(state.params, self.tuning)
        if self.model.fas:
            trained = with_unit_classifier(trained)

        def loss_fn(trained: Params, micro: Any) -> tuple[Array, Metrics]:
            mixed, labels, rows = micro
            key = jax.random.fold_in(drop_key, rows[0])
            logits, projection = self.apply(trained, frozen, mixed.images, key)
            return detection_loss(logits, projection, mixed.targets, labels, loss=self.loss)

        update = optim.gradient_step(
            loss_fn,
            trained,
            (mixed, labels, jnp.arange(len(labels))),
            tx=self.tx,
            opt_state=state.opt_state,
            values=values,
            accum_steps=accum_steps,
        )

        # 3. Keep the update only if the loss and the gradient are finite.
        updated = state._replace(params=join(update.params, frozen), opt_state=update.opt_state)
        return optim.all_or_nothing(state, updated, update.metrics, trained=self.trained)

    def apply(
        self, trained: Params, frozen: Params, images: Float[Array, "B H W 3"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "B C"], Float[Array, "B A"] | None]:
        """Returns logits and projection in training mode; `key` decides what dropout removes."""
        path_key, feature_key = jax.random.split(key)
        rngs = {"drop_path": path_key, "dropout": feature_key}
        if self.tuning.mode == "partial":
            output = apply_in_two(self.model, trained, frozen, images, rngs=rngs)
        else:
            params = merge(join(trained, frozen), self.tuning)
            output = self.model.apply({"params": params}, images, deterministic=False, rngs=rngs)
        return output.logits, output.projection

    def draw(self, state: TrainState, batch: Batch) -> UInt8[Array, "columns rows H W 3"]:
        """Draws the faces as the data workers return them, and after erasing and mixing.

        The random key depends on the step, so that the pictures of a run differ.
        """
        key = jax.random.fold_in(jax.random.key(0), state.step)
        images = normalize_images(batch["image"], self.stats)
        mixed = self.augment(key, images, batch["label"])
        return to_pixels(jnp.stack([images, mixed.images]), self.stats)


def make_optimizer(optimizer: ConfigDict, *, depth: int) -> optax.GradientTransformation:
    """Returns AdamW with layer-wise decay or Adam with coupled L2, without the learning rate."""
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


def apply_in_two(
    model: Detector,
    trained: Params,
    frozen: Params,
    images: Float[Array, "B H W 3"],
    *,
    rngs: dict[str, PRNGKeyArray],
) -> DetectorOutput:
    """Applies a network with frozen first blocks, which have no backward pass, in training mode.

    One loop over all blocks would have a backward pass through all of them.

    Args:
        model: The network.
        trained: The trained parameters, with the last blocks.
        frozen: The frozen parameters, with the other blocks.
        images: Normalised images.
        rngs: Keys of the random streams "drop_path" and "dropout".
    """
    first = len(frozen["blocks"]["norm1"]["scale"])
    lower, upper = model.clone(depth=first), model.clone(depth=model.depth - first)
    rates, below, above = model.drop_rates(), None, None
    if rates is not None:
        below, above = rates[:first], rates[first:]
    lower_key, upper_key = jax.random.split(rngs["drop_path"])
    tokens = lower.apply(
        {"params": frozen},
        images,
        drop_rates=below,
        has_gradient=False,
        rngs={"drop_path": lower_key},
        method="tokens",
    )
    return upper.apply(
        {"params": frozen | trained},
        tokens,
        drop_rates=above,
        rngs=rngs | {"drop_path": upper_key},
        method="continue_from",
    )


def with_unit_classifier(trained: Params) -> Params:
    """Scales the columns of the anti-spoofing classifier to length 1.

    The step updates the scaled weights, since an update of longer or shorter ones would differ.
    """
    classifier = trained["classifier"]
    unit = classifier | {"kernel": unit_columns(classifier["kernel"])}
    return trained | {"classifier": unit}


def detection_loss(
    logits: Float[Array, "B C"],
    projection: Float[Array, "B A"] | None,
    targets: Float[Array, "B C"],
    labels: Int[Array, " B"],
    *,
    loss: Mapping[str, Any] | ConfigDict,
) -> tuple[Float[Array, ""], Metrics]:
    """Returns L = CE + weight_anchor * L_RAC (METHOD: FS-Adapter), or only CE without an adapter.

    Args:
        logits: Logits of the augmented images.
        projection: The projections z, rows of unit length; None without an adapter.
        targets: Probabilities of the classes after mixing and smoothing the labels.
        labels: Indices into `LABELS`, before mixing.
        loss: The config's loss section: `weight_anchor`, `temperature`, and `anchors`, which is
            "real", or "all" for the usual supervised contrastive loss.

    Returns:
        The total loss and the scalars `loss`, `loss_ce` and, with an adapter, `loss_anchor`.
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
    """Applies random erasing to images, and then mixup or cutmix.

    Args:
        key: Key of the random numbers.
        images: Normalised images, float32.
        labels: Indices into `LABELS`.
        augment: The config's augment section.
        smoothing: Share of every target that is spread over all classes.
    """
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
    """Returns the logits in evaluation mode, float32, for the classes of `LABELS`."""
    return model.apply({"params": params}, normalize_images(images, stats)).logits
