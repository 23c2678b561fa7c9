"""What a training run is at a step (the checkpoint's schema), and what a task tells the loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from fsvfm_jax.data.pipeline import Element
from fsvfm_jax.data.sources import FaceSet
from fsvfm_jax.data.stats import Stats


class TrainState(NamedTuple):
    """Everything that changes while training; all randomness hangs on the seed and `step`.

    Attributes:
        step: Optimizer updates done, int32.
        params: The network (in pretraining the student), float32, position tables included.
        teacher_params: The teacher, float32: the student's tree less what only the student has.
            Empty in fine-tuning.
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


Params = dict[str, Any]
Batch = dict[str, Array]
Metrics = dict[str, Array]


class Picture(NamedTuple):
    """What is drawn of a run now and then.

    Attributes:
        name: Of the files.
        columns: A title for each column.
        note: What a viewer must know about the columns, as a sentence; may be empty.
    """

    name: str
    columns: tuple[str, ...]
    note: str


class Task(NamedTuple):
    """All that the loop knows of what is trained; pure functions, jitted by the loop.

    Attributes:
        sample: Shapes and dtypes of one sample of a batch, by name.
        init: Key to the state at step 0.
        train_step: One optimizer update, in `accum_steps` micro-batches (by keyword).
        trained: Of `TrainState.params`, the part that the step changes.
        picture: What the picture that is written now and then shows.
        draw: State and batch to its columns, uint8 images [columns, rows, H, W, 3].
    """

    sample: dict[str, jax.ShapeDtypeStruct]
    init: Callable[[PRNGKeyArray], TrainState]
    train_step: Callable[..., tuple[TrainState, Metrics]]
    trained: Callable[[Params], Params]
    picture: Picture
    draw: Callable[[TrainState, Batch], UInt8[Array, "columns rows H W 3"]]


def all_or_nothing(
    old: TrainState, new: TrainState, *, loss: Array, grads: Params
) -> tuple[TrainState, Metrics]:
    """The end of every step: the new state, or the old one where loss or gradient is not finite.

    Returns:
        The state, its step counted in any case, bit for bit the old one otherwise; and `grad_norm`
        of the gradient as it is given, `skipped` 1 where nothing was taken.
    """
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    skipped = 1 - finite.astype(jnp.float32)
    return state._replace(step=old.step + 1), {"grad_norm": grad_norm, "skipped": skipped}


# From parameters, and what is called after every batch (and raises to end it), to their scores on
# faces that are not trained on, `val_loss` among them.
Validate = Callable[[Params, Callable[[], None]], dict[str, float]]


class Job(NamedTuple):
    """What the loop asks of a task before its network is built; each takes the resolved config.

    Attributes:
        open_source: The training faces.
        element: With `stats`, what makes a row of a batch of a face, in data workers.
        starting_stats: Mean and deviation that the starting weights were made with, if they tell.
        fingerprint: By name, all fields that decide what is done to which face.
        make_task: With `stats`, what is trained.
        load_weights: With a state at step 0, the same with the weights that `config.init` names,
            and their origin.
        open_validation: With the `source` and the mesh, opens the faces to validate on and returns
            what makes a `Validate` of `stats`; None without any faces.
    """

    open_source: Callable[[ConfigDict], FaceSet]
    element: Callable[..., Element]
    starting_stats: Callable[[ConfigDict], Stats | None]
    fingerprint: Callable[[ConfigDict], dict[str, Any]]
    make_task: Callable[..., Task]
    load_weights: Callable[[TrainState, ConfigDict], tuple[TrainState, dict[str, Any]]]
    open_validation: Callable[..., Callable[[Stats], Validate] | None]
