"""The optimizer, the schedules, and the one place where epochs become steps."""

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
# In fine-tuning, where positions are trained too.
NOT_DECAYED_IN_DETECTORS = (*NOT_DECAYED, "cls_token", "pos_embed")


@dataclass(frozen=True)
class Schedule:
    """Steps of a run and what changes with them, computed in float64 on the host.

    Learning rate and teacher momentum run over `schedule_epochs`, training stops after
    `total_steps`: the released runs followed schedules of 800 epochs and stopped early.

    Attributes:
        steps_per_epoch: Steps per pass over the set, not rounded: batches cross the border.
        total_steps: ceil(epochs * samples / batch).
        schedule_epochs: Epochs after which learning rate and momentum reach their ends.
        warmup_epochs: Epochs of linear warm-up from 0.
        peak_learning_rate: After the warm-up.
        min_learning_rate: Where the cosine ends.
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
        """Linear warm-up, then half a cosine, per iteration; 0 for the very first update."""
        epoch = step / self.steps_per_epoch
        if epoch < self.warmup_epochs:
            return self.peak_learning_rate * epoch / self.warmup_epochs
        progress = (epoch - self.warmup_epochs) / (self.schedule_epochs - self.warmup_epochs)
        cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        return self.min_learning_rate + (self.peak_learning_rate - self.min_learning_rate) * cosine

    def teacher_rate(self, step: int) -> float:
        """1 - m_t, the teacher's step towards the student: m_t rises from its start to 1.

        The rate and not the momentum, which in float32 could not tell .9999999 from 1.
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
    """The config's lr, or else blr * batch / 256."""
    if config.optimizer.lr is not None:
        return config.optimizer.lr
    return config.optimizer.blr * config.batch_size / 256


def check_warmup(warmup_epochs: float | int, epochs: float | int, *, of: str) -> None:
    """Raises ConfigError unless the warm-up ends before these epochs do; `of` is what has them."""
    if warmup_epochs >= epochs:
        raise ConfigError(
            f"config.optimizer.warmup_epochs = {warmup_epochs} leaves nothing of {of}: set"
            " --config.optimizer.warmup_epochs below that, such as 0"
        )


def check_rates(min_lr: float | int, peak: float | int) -> None:
    """Raises ConfigError where the cosine would end above its beginning."""
    if min_lr > peak:
        raise ConfigError(
            f"config.optimizer.min_lr = {min_lr} is above the learning rate {peak:.3g} that the"
            " schedule starts from (optimizer.lr, or optimizer.blr * batch_size / 256): lower"
            " config.optimizer.min_lr, such as to 0"
        )


def make_schedule(config: ConfigDict, num_samples: int) -> Schedule:
    """Turns a resolved config's epochs, batch and blr into steps and learning rate.

    Args:
        config: The resolved config.
        num_samples: Images in the data set.

    Raises:
        ConfigError: The warm-up would not end.
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
    """AdamW less the learning rate, by which the caller multiplies the updates.

    Args:
        betas: Decay rates of the two moments.
        weight_decay: Decoupled.
        grad_clip: Greatest global norm of the gradient; 0 clips nothing.
        not_decayed: Names of the parameters that are left alone by `weight_decay`.
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
    """Adam with L2 in the gradient, on all parameters alike, less the learning rate."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.scale_by_adam(*betas), optax.scale(-1.0)
    )


def scale_by_layer(layer_decay: float, *, depth: int) -> optax.GradientTransformation:
    """Updates times `layer_factors`: the nearer to the image a layer is, the less it moves."""

    def update(updates: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        factors = layer_factors(params, layer_decay, depth=depth)
        return jax.tree.map(lambda update, factor: update * factor, updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def layer_factors(params: PyTree, layer_decay: float, *, depth: int) -> PyTree:
    """decay^(depth + 1 - id) of every parameter.

    The id is 0 for tokens, positions and patch embedding, i + 1 for block i, depth + 1 for all that
    comes after the blocks.

    Returns:
        A tree like `params` of arrays that multiply theirs; blocks have one factor each on axis 0.
    """

    def factor(
        path: tuple[Any, ...], x: jax.Array | jax.ShapeDtypeStruct
    ) -> np.ndarray | np.float32:
        if path[0].key in ("cls_token", "pos_embed", "patch_embed"):
            return np.float32(layer_decay ** (depth + 1))
        if path[0].key == "blocks":
            of_blocks = layer_decay ** np.arange(depth, 0, -1.0)
            return of_blocks.astype(np.float32).reshape(-1, *[1] * (x.ndim - 1))
        return np.float32(1)

    return jax.tree_util.tree_map_with_path(factor, params)


def decay_mask(params: PyTree, *, not_decayed: Collection[str] = NOT_DECAYED) -> PyTree:
    """True where weight decay applies. By name: stacked biases and scales are 2-D."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in not_decayed, params)


class GradientStep(NamedTuple):
    """An update that is computed but not yet accepted.

    Attributes:
        params: The trained parameters after the update.
        opt_state: The optimizer's state after the update.
        metrics: Scalars of the loss function, and `grad_norm` before clipping.
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
        loss_fn: Takes parameters and a micro-batch, returns the loss and metrics.
        trained: The parameters to differentiate by.
        batch: Arrays whose axis 0 is the batch.
        tx: The optimizer without its learning rate.
        opt_state: Its state.
        values: Learning rate and fault of this step; the fault multiplies the loss.
        accum_steps: Number of micro-batches, one after another; divides the batch.
    """

    def faulty_loss(trained: Params, micro: PyTree) -> tuple[jax.Array, Metrics]:
        total, metrics = loss_fn(trained, micro)
        total = total * values.fault
        return total, metrics | {"loss": total}

    grads, metrics = accumulate_gradients(faulty_loss, trained, batch, accum_steps=accum_steps)
    updates, opt_state = tx.update(grads, opt_state, trained)
    params = jax.tree.map(lambda p, u: p + values.learning_rate * u, trained, updates)
    return GradientStep(params, opt_state, metrics | {"grad_norm": optax.tree.norm(grads)})


def all_or_nothing(
    old: TrainState, new: TrainState, metrics: Metrics, *, trained: Callable[[Params], Params]
) -> tuple[TrainState, Metrics]:
    """Ends a step: returns the new state, or the old one where loss or gradient is not finite.

    Args:
        old: The state before the step.
        new: The state after the step.
        metrics: Scalars of the step, with `loss` and `grad_norm`.
        trained: Takes the parameters and returns those that the step changes.

    Returns:
        The state, with `step` increased in any case, and the metrics with `skipped`, which is 1
        where everything else is as before, bit for bit, and `param_norm` after the step.
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
    """Mean gradient and metrics of a batch, taken in `accum_steps` micro-batches one after another.

    Losses with a mean over all images are equal to those of the whole batch if every micro-batch
    weighs the same; InfoNCE compares within a micro-batch.

    Args:
        loss_fn: (params, micro-batch) -> (loss, metrics).
        params: What to differentiate by.
        batch: Arrays whose axis 0 is the batch.
        accum_steps: Number of micro-batches; divides the batch.
    """
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if accum_steps == 1:
        return grad_fn(params, batch)

    def split(x: jax.Array) -> jax.Array:
        # Micro-batch a holds rows a, a + accum_steps, ...: each device keeps the rows it has.
        return x.reshape(-1, accum_steps, *x.shape[1:]).swapaxes(0, 1)

    def add(total: PyTree, micro_batch: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, grad_fn(params, micro_batch)), None

    micro_batches = jax.tree.map(split, batch)
    shapes = jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: x[0], micro_batches))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, micro_batches)
    return jax.tree.map(lambda x: x / accum_steps, total)
