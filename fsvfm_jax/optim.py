"""The optimizer, the schedules, and the one place where epochs become steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict

NOT_DECAYED = ("bias", "scale")


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
        peak_learning_rate: blr * batch / 256.
        min_learning_rate: Where the cosine ends.
        teacher_momentum: Momentum at step 0; 1 for a frozen teacher.
    """

    steps_per_epoch: float
    total_steps: int
    schedule_epochs: float
    warmup_epochs: float
    peak_learning_rate: float
    min_learning_rate: float
    teacher_momentum: float

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
        progress = min(step / (self.schedule_epochs * self.steps_per_epoch), 1.0)
        return (1 - self.teacher_momentum) * (1 + math.cos(math.pi * progress)) / 2


def peak_learning_rate(config: ConfigDict) -> float:
    """blr * batch / 256."""
    return config.optimizer.blr * config.batch_size / 256


def make_schedule(config: ConfigDict, num_samples: int) -> Schedule:
    """Turns a resolved config's epochs, batch and blr into steps and learning rate.

    Args:
        config: The resolved config.
        num_samples: Images in the data set.
    """
    return Schedule(
        steps_per_epoch=num_samples / config.batch_size,
        total_steps=math.ceil(config.epochs * num_samples / config.batch_size),
        schedule_epochs=float(config.schedule_epochs),
        warmup_epochs=float(config.optimizer.warmup_epochs),
        peak_learning_rate=peak_learning_rate(config),
        min_learning_rate=config.optimizer.min_lr,
        teacher_momentum=1.0 if config.teacher.mode == "frozen" else config.teacher.momentum,
    )


def make_optimizer(
    *, betas: tuple[float, float], weight_decay: float, grad_clip: float
) -> optax.GradientTransformation:
    """AdamW less the learning rate, by which the caller multiplies the updates.

    Args:
        betas: Decay rates of the two moments.
        weight_decay: Decoupled; on all but biases and LayerNorm scales, tokens included.
        grad_clip: Greatest global norm of the gradient; 0 clips nothing.
    """
    clip = optax.clip_by_global_norm(grad_clip) if grad_clip else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(*betas),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.scale(-1.0),
    )


def decay_mask(params: PyTree) -> PyTree:
    """True where weight decay applies. By name: stacked biases and scales are 2-D."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)


def apply_updates(params: PyTree, updates: PyTree, *, learning_rate: jax.Array) -> PyTree:
    return jax.tree.map(lambda p, u: p + learning_rate * u, params, updates)


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
