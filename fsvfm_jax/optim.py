"""Makes the optimizers and the schedules, and converts epochs to steps."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.train_state import Metrics, Params, StepValues, TrainState

NOT_DECAYED = ("bias", "scale")
# The parameters below the first block.
FIRST_LAYER = ("cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre")
# Fine-tuning also trains the positions, and the query of an attention pool.
NOT_DECAYED_IN_DETECTORS = (*NOT_DECAYED, "cls_token", "reg_token", "pos_embed", "latent")


@dataclass(frozen=True)
class Schedule:
    """The number of steps of a run and the values that depend on the step, in float64 on the host.

    Learning rate and teacher momentum change over `schedule_epochs`, while training stops after
    `total_steps`: the released runs followed schedules of 800 epochs and stopped early.

    Attributes:
        steps_per_epoch: Steps per pass over the set. It is not rounded, since a batch may contain
            the end of one epoch and the start of the next.
        total_steps: `config.total_steps`, or else ceil(epochs * samples / batch).
        schedule_epochs: Epochs after which learning rate and momentum reach their last values.
        warmup_epochs: Epochs of linear warm-up from 0.
        peak_learning_rate: Learning rate at the end of the warm-up.
        min_learning_rate: Learning rate at the end of the cosine.
        teacher_momentum: Momentum at step 0; 1 for a frozen teacher, None without a teacher.
    """

    steps_per_epoch: float
    total_steps: int
    schedule_epochs: float
    warmup_epochs: float
    peak_learning_rate: float
    min_learning_rate: float
    teacher_momentum: float | None

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate after `step` updates: a linear warm-up, then half a cosine.

        It changes with every step, and is 0 at step 0 if there is a warm-up.
        """
        epoch = step / self.steps_per_epoch
        if epoch < self.warmup_epochs:
            return self.peak_learning_rate * epoch / self.warmup_epochs
        progress = (epoch - self.warmup_epochs) / (self.schedule_epochs - self.warmup_epochs)
        cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        return self.min_learning_rate + (self.peak_learning_rate - self.min_learning_rate) * cosine

    def teacher_rate(self, step: int) -> float:
        """Returns 1 - m_t, the teacher's rate towards the student; the momentum m_t rises to 1.

        The rate is used because float32 would round a momentum close to 1, such as .99999999, to 1.
        """
        if self.teacher_momentum is None:
            return 0.0
        progress = min(step / (self.schedule_epochs * self.steps_per_epoch), 1.0)
        return (1 - self.teacher_momentum) * (1 + math.cos(math.pi * progress)) / 2

    def values(self, step: int) -> StepValues:
        """Returns the values of a step, counted from 1, in float32."""
        rates = self.learning_rate(step - 1), self.teacher_rate(step - 1)
        return StepValues(*map(np.float32, rates))


def peak_learning_rate(config: ConfigDict) -> float:
    """Returns the config's lr if it is set, or else blr * batch / 256."""
    if config.optimizer.lr is not None:
        return config.optimizer.lr
    return config.optimizer.blr * config.batch_size / 256


def check_warmup(warmup_epochs: float | int, epochs: float | int, *, of: str) -> None:
    """Raises ConfigError unless the warm-up is shorter than `epochs`, which the field `of` sets."""
    if warmup_epochs >= epochs:
        raise ConfigError(
            f"config.optimizer.warmup_epochs = {warmup_epochs} leaves nothing of {of}: set"
            " --config.optimizer.warmup_epochs below that, such as 0"
        )


def check_rates(min_lr: float | int, peak: float | int) -> None:
    """Raises ConfigError if the learning rate at the end of the cosine is above the peak."""
    if min_lr > peak:
        raise ConfigError(
            f"config.optimizer.min_lr = {min_lr} is above the learning rate {peak:.3g} that the"
            " schedule starts from (optimizer.lr, or optimizer.blr * batch_size / 256): lower"
            " config.optimizer.min_lr, such as to 0"
        )


def make_schedule(config: ConfigDict, num_samples: int) -> Schedule:
    """Converts epochs, batch size and blr of a config to steps and learning rate.

    Args:
        config: The resolved config.
        num_samples: Images in the data set.

    Raises:
        ConfigError: The warm-up takes all steps of `config.total_steps`.
    """
    teacher = config.get("teacher")
    momentum = None
    if teacher is not None:
        momentum = 1.0 if teacher.mode == "frozen" else teacher.momentum
    total_steps = config.get("total_steps")
    epochs = config.epochs
    if total_steps is not None:
        epochs = total_steps * config.batch_size / num_samples
        of = f"config.total_steps = {total_steps}, which are {epochs:.3g} epochs"
        check_warmup(config.optimizer.warmup_epochs, epochs, of=of)
    return Schedule(
        steps_per_epoch=num_samples / config.batch_size,
        total_steps=total_steps or math.ceil(epochs * num_samples / config.batch_size),
        schedule_epochs=float(config.get("schedule_epochs", epochs)),
        warmup_epochs=float(config.optimizer.warmup_epochs),
        peak_learning_rate=peak_learning_rate(config),
        min_learning_rate=config.optimizer.min_lr,
        teacher_momentum=momentum,
    )


def make_optimizer(
    *,
    betas: tuple[float, float],
    weight_decay: float,
    grad_clip: float,
    not_decayed: Collection[str] = NOT_DECAYED,
) -> optax.GradientTransformation:
    """Returns AdamW without the learning rate, by which the caller multiplies the updates.

    Args:
        betas: Decay rates of the two moments.
        weight_decay: Factor of the decoupled weight decay.
        grad_clip: Greatest global norm of the gradient; 0 clips nothing.
        not_decayed: Names of the parameters to which `weight_decay` does not apply.
    """
    clip = optax.clip_by_global_norm(grad_clip) if grad_clip else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(*betas),
        optax.add_decayed_weights(weight_decay, mask=partial(decay_mask, not_decayed=not_decayed)),
        optax.scale(-1.0),
    )


def make_coupled_adam(
    *, betas: tuple[float, float], weight_decay: float
) -> optax.GradientTransformation:
    """Returns Adam without the learning rate; L2 of all parameters is added to the gradient."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.scale_by_adam(*betas), optax.scale(-1.0)
    )


def scale_by_layer(layer_decay: float, *, depth: int) -> optax.GradientTransformation:
    """Multiplies updates by `layer_factors`: layers nearer to the image change less."""

    def update(updates: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        factors = layer_factors(params, layer_decay, depth=depth)
        return jax.tree.map(lambda update, factor: update * factor, updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def layer_factors(params: PyTree, layer_decay: float, *, depth: int) -> PyTree:
    """Returns layer_decay^(depth + 1 - id) for every parameter.

    The id is 0 for tokens, positions, patch embedding and the norm after them, i + 1 for block i,
    and depth + 1 for all layers after the blocks.

    Args:
        params: The trained parameters, with those of all blocks, or of the last ones, stacked on
            axis 0.
        layer_decay: Factor from one layer to the layer below.
        depth: Number of blocks.

    Returns:
        A tree like `params` of float32 arrays that broadcast to the parameters. An array for the
        blocks has one factor per block on axis 0.
    """

    def factor(
        path: tuple[Any, ...], x: jax.Array | jax.ShapeDtypeStruct
    ) -> np.ndarray | np.float32:
        if path[0].key in FIRST_LAYER:
            return np.float32(layer_decay ** (depth + 1))
        if path[0].key.endswith("blocks"):
            # The last of the stacked blocks is block depth - 1, also if some blocks are frozen.
            of_blocks = layer_decay ** np.arange(x.shape[0], 0, -1.0)
            return of_blocks.astype(np.float32).reshape(-1, *[1] * (x.ndim - 1))
        return np.float32(1)

    return jax.tree_util.tree_map_with_path(factor, params)


def decay_mask(params: PyTree, *, not_decayed: Collection[str] = NOT_DECAYED) -> PyTree:
    """Returns a tree like `params` that is True for parameters to which weight decay applies.

    It depends on names and not on the number of axes, because stacked biases and scales are 2-D.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in not_decayed, params)


class GradientStep(NamedTuple):
    """An update that is computed but not yet accepted.

    Attributes:
        params: The trained parameters after the update.
        opt_state: The optimizer's state after the update.
        metrics: Scalars of the loss function, and `grad_norm`, the norm before clipping.
    """

    params: Params
    opt_state: optax.OptState
    metrics: Metrics


def gradient_step(
    loss_fn: Callable[[Params, PyTree], tuple[jax.Array, Metrics]],
    trained: Params,
    batch: PyTree,
    *,
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
    values: StepValues,
    accum_steps: int,
) -> GradientStep:
    """Computes the gradient of a batch and the update of the trained parameters.

    Args:
        loss_fn: Takes parameters and a micro-batch, and returns the loss and metrics.
        trained: The parameters to differentiate by.
        batch: Arrays whose axis 0 is the batch.
        tx: The optimizer without its learning rate.
        opt_state: The optimizer's state.
        values: Learning rate and fault of this step; the fault multiplies the loss.
        accum_steps: Number of micro-batches, computed one after another; it divides the batch.
    """

    def faulty_loss(trained: Params, micro: PyTree) -> tuple[jax.Array, Metrics]:
        total, metrics = loss_fn(trained, micro)
        total = total * values.fault
        return total, metrics | {"loss": total}

    grads, metrics = accumulate_gradients(faulty_loss, trained, batch, accum_steps=accum_steps)
    # The gradients of unrolled blocks are stacked first. Without the barrier XLA would stack all
    # arrays that are computed from them, each in a pass of its own.
    grads = jax.lax.optimization_barrier(grads)
    updates, opt_state = tx.update(grads, opt_state, trained)
    params = jax.tree.map(lambda p, u: p + values.learning_rate * u, trained, updates)
    return GradientStep(params, opt_state, metrics | {"grad_norm": optax.tree.norm(grads)})


def all_or_nothing(
    old: TrainState, new: TrainState, metrics: Metrics, *, trained: Callable[[Params], Params]
) -> tuple[TrainState, Metrics]:
    """Ends a step: returns the new state, or the old one if loss or gradient is not finite.

    Args:
        old: The state before the step.
        new: The state after the step.
        metrics: Scalars of the step, with `loss` and `grad_norm`.
        trained: Takes the parameters and returns those that the step changes.

    Returns:
        The state, whose `step` increases in both cases, and the metrics with two more: `skipped`,
        which is 1 if everything else in the state is unchanged, bit for bit, and `param_norm`, the
        norm of the trained parameters after the step.
    """
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    skipped = 1 - finite.astype(jnp.float32)
    param_norm = optax.tree.norm(trained(state.params))
    return (
        state._replace(step=old.step + 1),
        metrics | {"skipped": skipped, "param_norm": param_norm},
    )


def accumulate_gradients(
    loss_fn: Callable[[PyTree, PyTree], tuple[jax.Array, dict[str, jax.Array]]],
    params: PyTree,
    batch: PyTree,
    *,
    accum_steps: int,
) -> tuple[PyTree, dict[str, jax.Array]]:
    """Returns the mean gradient and metrics of a batch, computed in micro-batches one by one.

    A loss that is a mean over all images equals the loss of the whole batch if all micro-batches
    have the same weight. InfoNCE compares images within a micro-batch only.

    Args:
        loss_fn: Takes parameters and a micro-batch, and returns the loss and metrics.
        params: The parameters to differentiate by.
        batch: Arrays whose axis 0 is the batch.
        accum_steps: Number of micro-batches; it divides the batch.
    """
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if accum_steps == 1:
        return grad_fn(params, batch)

    def split(x: jax.Array) -> jax.Array:
        # Micro-batch a has the rows a, a + accum_steps, ..., so that no row changes its device.
        return x.reshape(-1, accum_steps, *x.shape[1:]).swapaxes(0, 1)

    def add(total: PyTree, micro_batch: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, grad_fn(params, micro_batch)), None

    micro_batches = jax.tree.map(split, batch)
    shapes = jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: x[0], micro_batches))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, micro_batches)
    return jax.tree.map(lambda x: x / accum_steps, total)
