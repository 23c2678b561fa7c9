"""What a training run is at a step (the checkpoint's schema), and what moves it to the next."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8


class TrainState(NamedTuple):
    """Everything that changes while training; all randomness hangs on the seed and `step`.

    Attributes:
        step: Optimizer updates done, int32.
        params: The student, float32, position tables included.
        teacher_params: The teacher, float32: the student's tree less what only the student has.
        opt_state: The optimizer's state for the trained part of `params`.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    teacher_params: dict[str, Any]
    opt_state: optax.OptState


class StepValues(NamedTuple):
    """What the schedules say for one step.

    Attributes:
        learning_rate: Of the update about to be made.
        teacher_rate: 1 - momentum of the teacher's move after it.
        fault: Factor of the loss: 1, or NaN where `faults.py` is asked for it.
    """

    learning_rate: float | Float[Array, ""]
    teacher_rate: float | Float[Array, ""]
    fault: float | np.float32 | Float[Array, ""] = np.float32(1)


Batch = dict[str, Array]
Metrics = dict[str, Array]


class Task(NamedTuple):
    """All that the loop knows of what is trained; pure functions, jitted by the loop.

    Attributes:
        sample: Shapes and dtypes of one sample of a batch, by name.
        init: Key to the state at step 0.
        train_step: One optimizer update, in `accum_steps` micro-batches (by keyword).
        picture: State and batch to columns of uint8 images [columns, rows, H, W, 3] to look at.
    """

    sample: dict[str, jax.ShapeDtypeStruct]
    init: Callable[[PRNGKeyArray], TrainState]
    train_step: Callable[..., tuple[TrainState, Metrics]]
    picture: Callable[[TrainState, Batch], UInt8[Array, "columns rows H W 3"]]
