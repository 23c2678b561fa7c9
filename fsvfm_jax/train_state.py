"""Defines the state of a training run, which its checkpoints contain, and the learner protocol."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

Params = dict[str, Any]
Batch = dict[str, Array]
Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """Everything that changes during training. All randomness depends on the seed and `step`.

    Attributes:
        step: Number of optimizer updates done, int32.
        params: Parameters of the network (in pretraining the student), float32, with the position
            tables, and in fine-tuning with the factors of LoRA if there are any.
        teacher_params: Parameters of the teacher, float32: the student's tree without the parts
            that only the student has. The tree is empty in fine-tuning.
        opt_state: The optimizer's state for the trained part of `params`.
    """

    step: Int[Array, ""]
    params: Params
    teacher_params: Params
    opt_state: optax.OptState


class StepValues(NamedTuple):
    """The values of the schedules for one step.

    Attributes:
        learning_rate: Learning rate of this update.
        teacher_rate: 1 - momentum of the teacher's move after this update.
        fault: Factor of the loss: 1, or NaN if `run/faults.py` injects a fault.
    """

    learning_rate: float | Float[Array, ""]
    teacher_rate: float | Float[Array, ""]
    fault: float | np.float32 | Float[Array, ""] = np.float32(1)


class Picture(NamedTuple):
    """The picture that a run writes every few steps.

    Attributes:
        name: Name of the files, without the step.
        columns: The title of each column.
        note: A sentence that explains the columns; may be empty.
    """

    name: str
    columns: tuple[str, ...]
    note: str


@runtime_checkable
class Learner(Protocol):
    """The interface of a network in training. The methods are pure functions.

    `pretrain.Pretraining` and `finetune.Detection` are the two learners.
    """

    @property
    def row_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shape and dtype of one row of a batch, by name."""

    @property
    def picture(self) -> Picture:
        """Describes the picture that `draw` makes."""

    def init(self, key: PRNGKeyArray) -> TrainState:
        """Returns the state at step 0."""

    def trained(self, params: Params) -> Params:
        """Returns the part of `TrainState.params` that a step changes, which may have slices."""

    def train_step(
        self, state: TrainState, batch: Batch, values: StepValues, *, accum_steps: int
    ) -> tuple[TrainState, Metrics]:
        """Makes one optimizer update, in `accum_steps` micro-batches."""

    def draw(self, state: TrainState, batch: Batch) -> UInt8[Array, "columns rows H W 3"]:
        """Returns the columns of the picture."""


# A Validate takes parameters and a function, which it calls after every batch and which stops the
# validation by raising an error. It returns the scores on the validation faces by name, with
# `val_loss` among them.
Validate = Callable[[Params, Callable[[], None]], dict[str, float]]
# A Probe takes the state, which it does not change, and the step. It starts the computation and
# returns a function that waits for it and returns numbers by name. All processes must call the
# probe at the same steps.
Probe = Callable[[TrainState, int], Callable[[], dict[str, float]]]
