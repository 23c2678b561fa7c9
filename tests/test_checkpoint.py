"""Saving and restoring the state with the position in the data."""

import golden_numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from fsvfm_jax import optim, pretrain, sharding
from fsvfm_jax.checkpoint import Checkpoints
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.models import build

TX = optim.make_optimizer(betas=(0.9, 0.95), weight_decay=0.05, grad_clip=1.0)


def make_state(**changes):
    model = build(golden_numbers.MODEL | changes)
    return jax.jit(lambda key: pretrain.init_state(model, TX, key))(jax.random.key(3))


@pytest.fixture(scope="module")
def state():
    return make_state()


def template_of(state):
    return sharding.state_template(state, sharding.make_mesh({"data": -1, "fsdp": 1}))


def open_checkpoints(path, **options) -> Checkpoints:
    return Checkpoints(epath.Path(path), **({"keep": 3, "keep_every": 0} | options))


def test_a_state_comes_back_bit_for_bit(tmp_path, state):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore_newest(template_of(state)) is None
        checkpoints.save(state, step=7, samples_seen=448)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        restored, samples_seen = checkpoints.restore_newest(template_of(state))
    assert samples_seen == 448
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
        assert len(ours.sharding.device_set) == jax.device_count()


def test_the_newest_is_restored_and_the_policy_kept(tmp_path, state):
    with open_checkpoints(tmp_path / "c", keep=2, keep_every=4) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(state, step=step, samples_seen=step)
    assert sorted(int(p.name) for p in (tmp_path / "c").iterdir()) == [4, 6, 7]
    with open_checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore_newest(template_of(state)).samples_seen == 7


def test_whoever_only_reads_leaves_a_save_that_is_going_on_alone(tmp_path, state):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state, step=7, samples_seen=448)
    going_on = tmp_path / "c" / "8.orbax-checkpoint-tmp-1"
    going_on.mkdir()
    with open_checkpoints(tmp_path / "c", keep=1, read_only=True) as checkpoints:
        assert checkpoints.restore_newest(template_of(state)).samples_seen == 448
    assert going_on.exists()
    with open_checkpoints(tmp_path / "c"):
        pass
    assert not going_on.exists()  # of a run that is dead, to whoever trains


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 64}, r"float32\[2, 48\] there and float32\[2, 64\] in this config"),
        ({"depth": 3}, r"there and float32\[3, 48\] in this config"),
        ({"projection_hidden": 32}, r"fc1.* is float32\[64\] there and float32\[32\]"),
    ],
)
def test_a_checkpoint_of_another_size_is_refused(tmp_path, state, changes, message):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state, step=1, samples_seen=1)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        other = template_of(jax.eval_shape(lambda: make_state(**changes)))
        with pytest.raises(ConfigError, match=message):
            checkpoints.restore_newest(other)


def test_a_saved_state_is_not_the_donated_one(tmp_path, state):
    """Saving goes on in the background while the step overwrites the state's memory."""
    moving = jax.tree.map(jnp.copy, state)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(moving, step=1, samples_seen=1)
        moving = step(moving)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        restored, _ = checkpoints.restore_newest(template_of(state))
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
