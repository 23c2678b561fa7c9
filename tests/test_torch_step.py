"""Tests that the step in PyTorch is ours: the same losses from the same weights and batches."""

import jax
import numpy as np
import pytest
import tiny

from fsvfm_jax.benchmark.step_times import draw_batches
from fsvfm_jax.convert.reference import to_state_dict
from fsvfm_jax.learners import make_learner
from fsvfm_jax.plan.estimate import STATS
from fsvfm_jax.train_state import StepValues

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # On a busy machine, several threads wait for each other.
STEPS = 4
LOSSES = ("loss", "loss_rec", "loss_region", "loss_sim", "grad_norm")


@pytest.fixture(scope="module")
def config():
    # The gradient is clipped, and the schedules have values that show in a few steps.
    return tiny.tiny_config({"optimizer.grad_clip": 0.5})


@pytest.mark.e2e
def test_losses_and_weights_are_ours(config):
    from fsvfm_jax.benchmark.torch_speed import start
    from fsvfm_jax.benchmark.torch_step import TorchStep

    weights, batches = start(config, torch.device("cpu"), steps=STEPS)
    step = TorchStep(config, weights, stats=STATS, device=torch.device("cpu"))
    learner = make_learner(config, stats=STATS)
    state = jax.jit(learner.init)(jax.random.key(config.seed))
    ours = jax.jit(learner.train_step, static_argnames="accum_steps")
    drawn = draw_batches(config, learner.row_shapes, process=0, rows=config.batch_size)
    values = StepValues(np.float32(1e-3), np.float32(0.1))
    for number, batch in enumerate(batches):
        state, expected = ours(state, drawn[number], values, accum_steps=1)
        metrics = step(batch, values)
        for name in LOSSES:
            assert float(metrics[name]) == pytest.approx(float(expected[name]), rel=1e-5), name
    assert number == STEPS - 1
    for params, theirs in ((state.params, step.student), (state.teacher_params, step.teacher)):
        for name, array in to_state_dict(jax.device_get(params)).items():
            np.testing.assert_allclose(theirs[name].detach(), array, atol=1e-4, err_msg=name)
