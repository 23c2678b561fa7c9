"""Converts between a reference run's files and our training state.

The reference's optimizer numbers its parameters: first those that are not decayed (biases and other
vectors), then the others, each group in the order of the model's keys, without the fixed position
tables.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from fsvfm_jax.convert import reference
from fsvfm_jax.convert.pth import Pth
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.fsvfm import POSITION_TABLES, split_positions
from fsvfm_jax.models.vit import OPTIONS, ViT
from fsvfm_jax.train_state import Params, TrainState

# Names of the moments in optax and in PyTorch.
MOMENTS = (("mu", "exp_avg"), ("nu", "exp_avg_sq"))
ADAM_EPSILON = 1e-8
# The errors that a value which is not an optimizer's state can cause.
NOT_AN_OPTIMIZER = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


class ReferenceRun(NamedTuple):
    """The content of a student's and a teacher's file, for `pth.write`.

    Attributes:
        student: The student's state dict.
        teacher: The teacher's state dict.
        optimizer: The optimizer's state, which both files contain under "optimizer".
    """

    student: dict[str, np.ndarray]
    teacher: dict[str, np.ndarray]
    optimizer: dict[str, Any]


def to_train_state(student: Pth, teacher: Pth, *, tx: optax.GradientTransformation) -> TrainState:
    """Returns the state in which a reference run stopped, with its optimizer state.

    Args:
        student: Content of `checkpoint-N.pth`.
        teacher: Content of `checkpoint-te-N.pth`.
        tx: The optimizer that continues the training, from `optim.make_optimizer`.

    Returns:
        The state, float32; its step is the number of updates that the optimizer has made.

    Raises:
        DataError: A file contains another network, or no optimizer state that fits the network.
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
    """Converts our state to a reference run: the inverse of `to_train_state`.

    Args:
        state: The state.
        learning_rate: The peak; the reference's training sets the rate anew at every step.
        betas: Decay rates of the two moments.
        weight_decay: Weight decay of the decayed group.
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


def check_reference(src: Path, model: Mapping[str, Any] | ConfigDict) -> None:
    """Raises ConfigError if the reference has no network with this encoder.

    Args:
        src: Path of the weights, for the message.
        model: Measures and options, or the model section of a config.
    """
    options = [x for x in OPTIONS if model.get(x) is not None and model[x] != getattr(ViT, x)]
    if options:
        raise ConfigError(
            f"{src} has {', '.join(options)}, which the reference's network has not: use `convert"
            " to folder`"
        )


def number_of_updates(file: Pth) -> int | None:
    """Returns how many updates the optimizer in a file has made; None without an optimizer.

    Raises:
        DataError: The entry is not an optimizer's state.
    """
    if "optimizer" not in file.extra:
        return None
    try:
        entries = file.extra["optimizer"]["state"].values()  # Some detectors' files have none.
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
    """Returns the moments as trees of ours, and the number of updates."""
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
    """Returns the names in the optimizer's order: those not decayed, then those decayed."""
    trained = [name for name in state_dict if name not in POSITION_TABLES]
    vectors = [name for name in trained if state_dict[name].ndim == 1]
    return vectors, [name for name in trained if state_dict[name].ndim > 1]
