"""A reference run's files and our state to go on training from, both ways.

The reference's optimizer numbers its parameters instead of naming them: first those that are not
decayed (biases and other vectors), then the others, each in the order of the model's keys, the
fixed position tables left out.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsvfm_jax.convert import reference
from fsvfm_jax.convert.pth import Pth
from fsvfm_jax.errors import DataError
from fsvfm_jax.models.fsvfm import POSITION_TABLES, Params, split_positions
from fsvfm_jax.train_state import TrainState

# optax's names of the moments and PyTorch's.
MOMENTS = (("mu", "exp_avg"), ("nu", "exp_avg_sq"))
ADAM_EPSILON = 1e-8
# What goes wrong with whatever else is found in its place.
NOT_AN_OPTIMIZER = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


class ReferenceRun(NamedTuple):
    """What `pth.write` needs for a student's and a teacher's file.

    Attributes:
        student: The student's state dict.
        teacher: The teacher's.
        optimizer: The optimizer's state, which goes into both files under "optimizer".
    """

    student: dict[str, np.ndarray]
    teacher: dict[str, np.ndarray]
    optimizer: dict[str, Any]


def to_train_state(student: Pth, teacher: Pth, *, tx: optax.GradientTransformation) -> TrainState:
    """The state that a reference run stopped in, optimizer included.

    Args:
        student: Of `checkpoint-N.pth`.
        teacher: Of `checkpoint-te-N.pth`.
        tx: The optimizer that training goes on with, of `optim.make_optimizer`.

    Returns:
        The state, float32; its step is the number of updates that the optimizer has made.

    Raises:
        DataError: A file is of another network, or has no optimizer state that fits it.
    """
    params = _read_params(student.state_dict, "student")
    teacher_params = _read_params(teacher.state_dict, "teacher")
    moments, step = _read_optimizer(student)
    fresh = jax.eval_shape(tx.init, split_positions(params)[0])
    opt_state = optax.tree.set(fresh, count=step, **moments)
    return TrainState(step, params, teacher_params, opt_state)


def from_train_state(
    state: TrainState, *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> ReferenceRun:
    """The inverse of `to_train_state`; the optimizer's settings are those of the config.

    Args:
        state: The state.
        learning_rate: The peak; the reference sets its optimizer's anew at every step.
        betas: Decay rates of the two moments.
        weight_decay: Of the decayed group.
    """
    student = reference.to_state_dict(state.params)
    by_moment = {
        theirs: reference.to_state_dict(optax.tree.get(state.opt_state, ours))
        for ours, theirs in MOMENTS
    }
    groups = _groups(student)
    names = [name for group in groups for name in group]
    numbers = {name: number for number, name in enumerate(names)}
    step = np.float32(state.step)
    entries = {
        numbers[name]: {"step": step} | {key: moment[name] for key, moment in by_moment.items()}
        for name in names
    }
    param_groups = [
        {
            "weight_decay": decay,
            "lr": learning_rate,
            "betas": betas,
            "eps": ADAM_EPSILON,
            "params": [numbers[name] for name in group],
        }
        for decay, group in zip((0.0, weight_decay), groups, strict=True)
    ]
    teacher = reference.to_state_dict(state.teacher_params)
    return ReferenceRun(student, teacher, {"state": entries, "param_groups": param_groups})


def number_of_updates(file: Pth) -> int | None:
    """How many the optimizer in a file has made; None where there is none.

    Raises:
        DataError: It is no optimizer's state.
    """
    if "optimizer" not in file.extra:
        return None
    try:
        entries = file.extra["optimizer"]["state"].values()  # none, in some detectors' files
        return max((int(entry["step"]) for entry in entries), default=None)
    except NOT_AN_OPTIMIZER as error:
        raise DataError(f"the file's optimizer state makes no sense ({error!r})") from error


def _read_params(state_dict: Mapping[str, np.ndarray], wanted: str) -> Params:
    params = reference.to_params(state_dict)
    found = reference.kind(params)
    if found != wanted:
        raise DataError(f"the file given as the {wanted}'s holds a network of kind {found!r}")
    missing = [
        name
        for name in POSITION_TABLES
        if name not in params and (wanted == "student" or not name.startswith("decoder"))
    ]
    if missing:
        raise DataError(f"the {wanted}'s file lacks {missing[0]!r}")
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def _read_optimizer(student: Pth) -> tuple[dict[str, Params], jax.Array]:
    """The moments as trees of ours, and the number of updates."""
    groups = _groups(student.state_dict)
    names = [name for group in groups for name in group]
    try:
        optimizer = student.extra["optimizer"]
        entries = [optimizer["state"][number] for number in range(len(names))]
        sizes = [len(group["params"]) for group in optimizer["param_groups"]]
        steps = {int(entry["step"]) for entry in entries}
        flat = {
            ours: {
                name: np.asarray(entry[theirs], np.float32)
                for name, entry in zip(names, entries, strict=True)
            }
            for ours, theirs in MOMENTS
        }
    except NOT_AN_OPTIMIZER as error:
        raise DataError(
            f"the student's file has no optimizer state to go on from (missing: {error}): only its"
            " weights can be used"
        ) from error
    differing = [
        name
        for name in names
        for moments in flat.values()
        if moments[name].shape != student.state_dict[name].shape
    ]
    if sizes != [len(group) for group in groups] or differing or len(steps) != 1:
        raise DataError(
            "the optimizer state of the student's file is not that of its model: its groups have"
            f" {sizes} parameters and it has made {sorted(steps)} updates; shapes differ at"
            f" {differing[:3]}"
        )
    moments = {name: jax.tree.map(jnp.asarray, reference.to_params(flat[name])) for name in flat}
    return moments, jnp.asarray(steps.pop(), jnp.int32)


def _groups(state_dict: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """Names in the optimizer's order: not decayed, decayed."""
    trained = [name for name in state_dict if name not in POSITION_TABLES]
    vectors = [name for name in trained if state_dict[name].ndim == 1]
    return vectors, [name for name in trained if state_dict[name].ndim > 1]
