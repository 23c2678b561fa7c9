"""Compares bfloat16 and float32 over 500 steps with the same start, faces and masks.

It takes about 15 minutes on two CPU cores with XLA's usual flags; `-s` shows the numbers:

    XLA_FLAGS="--xla_backend_optimization_level=3 --xla_llvm_disable_expensive_passes=false" \
        python -m pytest -m slow -s tests/test_precision.py
"""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from configs import vit_s
from fsvfm_jax import optim, pretrain
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.elements import pretraining_element
from fsvfm_jax.data.pipeline import make_iterator
from fsvfm_jax.data.sources import SyntheticFaces
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import compilation, sharding
from fsvfm_jax.models.fsvfm import teacher_subset
from fsvfm_jax.train_state import StepValues

# In 20 epochs of 25 steps, the mean over the last epoch includes every face once.
FACES, BATCH, EPOCHS, LAST = 400, 16, 20, 25
CHANGES = {
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "model.width": 192,
    "model.num_heads": 6,
    "model.decoder_width": 96,
    "model.rep_decoder_num_heads": 6,
    "model.projection_dim": 64,
    "model.projection_hidden": 256,
    "optimizer.blr": 0.016,  # the smoke config's learning rate at half its batch size
    "teacher.momentum": 0.996,
    "data.mean": (0.5, 0.4, 0.4),
    "data.std": (0.2, 0.2, 0.2),
    "mesh.data": 1,
}


class Move(NamedTuple):
    """A step of the teacher, in norms over the whole tree.

    Attributes:
        rate: 1 - momentum.
        change: Norm of the teacher's change divided by the norm of the teacher.
        expected: rate * |student - teacher| / |teacher|.
    """

    rate: float
    change: float
    expected: float


def train(
    dtype: str, *, seed: int, faces: SyntheticFaces
) -> tuple[dict[str, np.ndarray], list[Move]]:
    """Returns the metrics of every step, and the moves at a momentum above .9999."""
    config = vit_s.get_config("smoke")
    config.update_from_flattened_dict(CHANGES | {"seed": seed, "model.dtype": dtype})
    config = resolve(config)
    schedule = optim.make_schedule(config, len(faces))
    task = pretrain.make_learner(config, stats=Stats(config.data.mean, config.data.std))
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    state = compilation.fresh_state(task, compilation.state_template(task, mesh), seed=seed)
    step = compilation.lower_step(task, mesh, batch_size=BATCH).compile()
    batches = make_iterator(
        faces,
        global_batch_size=BATCH,
        element=partial(pretraining_element, patch_size=8),
        seed=seed,
    )
    history, moves = [], []
    for i, batch in enumerate(itertools.islice(batches, schedule.total_steps)):
        rate = schedule.teacher_rate(i)
        before = flat(state.teacher_params) if rate < 1e-4 else None
        values = StepValues(np.float32(schedule.learning_rate(i)), np.float32(rate))
        state, metrics = step(state, sharding.put_batch(batch, mesh), values)
        history.append({name: float(value) for name, value in metrics.items()})
        if before is not None:
            change = distance(flat(state.teacher_params), before)
            expected = rate * distance(flat(teacher_subset(state.params)), before)
            moves.append(Move(rate, change, expected))
    batches.close()
    return {name: np.array([m[name] for m in history]) for name in history[0]}, moves


def flat(params) -> np.ndarray:
    """Returns all numbers of a tree in float64, for sums of squares."""
    return np.asarray(ravel_pytree(params)[0], np.float64)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bfloat16_learns_what_float32_learns(seed):
    faces = SyntheticFaces(FACES, image_size=64, seed=seed)
    runs = {dtype: train(dtype, seed=seed, faces=faces) for dtype in ("float32", "bfloat16")}
    (exact, _), (rounded, _) = runs.values()
    assert exact["loss_rec"].shape == (500,)
    assert exact["loss_rec"][0] != rounded["loss_rec"][0]  # the dtype has an effect
    means = {}
    for name in ("loss_rec", "loss_sim", "variance_z"):
        a, b = means[name] = [history[name][-LAST:].mean() for history in (exact, rounded)]
        print(f"\nseed {seed}, {name}: float32 {a:.5f}, bfloat16 {b:.5f}, {b / a - 1:+.2%}", end="")
    assert means["loss_rec"][0] < 0.6 * exact["loss_rec"][:LAST].mean()
    assert means["loss_rec"][1] == pytest.approx(means["loss_rec"][0], rel=0.01)
    for dtype, (_, moves) in runs.items():
        # Below this rate a step is closer to float32's rounding: 2 % off at 1e-6.
        errors = [abs(move.change / move.expected - 1) for move in moves if move.rate > 2e-6]
        print(
            f"\nseed {seed}, teacher of {dtype}: {len(errors)} steps, {max(errors):.2%} off", end=""
        )
        assert len(errors) > 40
        assert max(errors) < 0.01
