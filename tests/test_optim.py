"""Tests schedules, the decay mask and gradient accumulation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from fsvfm_jax import optim
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.models import build
from fsvfm_jax.models.fsvfm import split_positions


def make_schedule(**changes) -> optim.Schedule:
    fields = {
        "steps_per_epoch": 10.0,
        "total_steps": 200,
        "schedule_epochs": 20.0,
        "warmup_epochs": 4.0,
        "peak_learning_rate": 2e-3,
        "min_learning_rate": 1e-5,
        "teacher_momentum": 0.996,
    }
    return optim.Schedule(**(fields | changes))


def test_learning_rate_warms_up_and_decays_per_iteration():
    schedule = make_schedule()
    assert schedule.learning_rate(0) == 0
    assert schedule.learning_rate(20) == pytest.approx(1e-3, rel=1e-12)
    assert schedule.learning_rate(40) == pytest.approx(2e-3, rel=1e-12)
    assert schedule.learning_rate(120) == pytest.approx((2e-3 + 1e-5) / 2, rel=1e-12)
    assert schedule.learning_rate(200) == pytest.approx(1e-5, rel=1e-12)


def test_no_warmup_starts_at_the_peak():
    assert make_schedule(warmup_epochs=0.0).learning_rate(0) == 2e-3


def test_momentum_is_the_papers_cosine():
    schedule = make_schedule()
    for t in (0, 1, 77, 199, 200):
        expected = 1 - (1 - 0.996) * (1 + math.cos(math.pi * t / 200)) / 2
        assert 1 - schedule.teacher_rate(t) == pytest.approx(expected, abs=1e-12)


def test_a_frozen_teacher_never_moves():
    assert {make_schedule(teacher_momentum=1.0).teacher_rate(t) for t in range(200)} == {0.0}


def test_epochs_become_steps():
    config = ConfigDict(
        {
            "epochs": 3,
            "schedule_epochs": 5,
            "batch_size": 512,
            "optimizer": {"blr": 1.5e-4, "lr": None, "min_lr": 0.0, "warmup_epochs": 1},
            "teacher": {"mode": "ema", "momentum": 0.996},
        }
    )
    schedule = optim.make_schedule(config, 1000)
    assert schedule.total_steps == 6  # ceil(3 * 1000 / 512)
    assert schedule.steps_per_epoch == 1000 / 512
    assert schedule.peak_learning_rate == pytest.approx(3e-4)
    config.teacher.mode = "frozen"
    assert optim.make_schedule(config, 1000).teacher_rate(0) == 0
    config.total_steps = 1
    with pytest.raises(ConfigError, match=r"leaves nothing of config\.total_steps = 1, .* 0\.512"):
        optim.make_schedule(config, 1000)


def test_decay_follows_names_not_dimensions():
    model = build(
        {"image_size": 32, "width": 16, "depth": 2, "num_heads": 2, "decoder_width": 16}
        | {"decoder_depth": 1, "decoder_num_heads": 2, "rep_decoder_num_heads": 2}
    )
    trained, _ = split_positions(jax.eval_shape(model.init_params, jax.random.key(0)))
    mask = optim.decay_mask(trained)
    assert mask["cls_token"] and mask["mask_token"]
    assert mask["blocks"]["attn"]["qkv"] == {"kernel": True, "bias": False}
    assert mask["blocks"]["norm1"] == {"scale": False, "bias": False}
    assert mask["projector"]["norm"] == {"scale": False, "bias": False}
    kernels = [p for p, d in jax.tree_util.tree_leaves_with_path(mask) if d]
    assert all(p[-1].key in ("kernel", "cls_token", "mask_token") for p in kernels)


def test_clipping_is_off_at_zero():
    grads = {"w": {"kernel": jnp.full((2, 2), 100.0)}}
    moments = []
    for grad_clip in (0.0, 1.0):
        tx = optim.make_optimizer(betas=(0.9, 0.95), weight_decay=0.0, grad_clip=grad_clip)
        _, state = tx.update(grads, tx.init(grads), grads)
        adam = next(s for s in state if hasattr(s, "mu"))
        moments.append(float(jnp.linalg.norm(adam.mu["w"]["kernel"])) / (1 - 0.9))
    assert moments == pytest.approx([200.0, 1.0], rel=1e-5)


@pytest.mark.parametrize("accum_steps", [1, 2, 4])
def test_accumulation_gives_the_mean_gradient(accum_steps):
    x = jax.random.normal(jax.random.key(0), (8, 3))
    params = {"w": jnp.ones(3)}

    def loss_fn(params, batch):
        loss = jnp.mean(jnp.square(batch["x"] @ params["w"] - 1))
        return loss, {"loss": loss}

    grads, metrics = optim.accumulate_gradients(loss_fn, params, {"x": x}, accum_steps=accum_steps)
    expected, wanted = jax.grad(loss_fn, has_aux=True)(params, {"x": x})
    np.testing.assert_allclose(grads["w"], expected["w"], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], wanted["loss"], rtol=1e-6)


def test_a_schedule_goes_down():
    optim.check_rates(1e-4, 1e-4)
    with pytest.raises(ConfigError, match=r"min_lr = 0\.001 is above the learning rate 0\.0001"):
        optim.check_rates(1e-3, 1e-4)
