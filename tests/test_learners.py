"""Tests that each learner implements the protocol, and which tasks have a learner."""

import jax
import pytest

from configs import vit_s
from configs.finetune import dfd
from fsvfm_jax.config.fields import TASK_NAMES
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.learners import LEARNERS, make_learner
from fsvfm_jax.models.fsvfm import FSVFM
from fsvfm_jax.train_state import Learner

CONFIGS = {
    "pretrain": lambda: vit_s.get_config("smoke"),
    "finetune": lambda: dfd.get_config("s,smoke"),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_config_task_names_the_learner(name):
    config = resolve(CONFIGS[name]())
    learner = make_learner(config, stats=Stats((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    assert isinstance(learner, Learner) and learner.seed == config.seed
    assert learner.row_shapes["image"].shape == (config.model.image_size,) * 2 + (3,)
    assert len(learner.picture.columns) >= 2


def test_equal_networks_are_traced_once_and_others_each_by_itself(monkeypatch):
    traced = []
    init_params = FSVFM.init_params

    def counted(self, key):
        traced.append(self.width)
        return init_params(self, key)

    monkeypatch.setattr(FSVFM, "init_params", counted)
    for width in (24, 24, 36):
        config = CONFIGS["pretrain"]()
        # No other test has a network with this epsilon.
        config.model.update(width=width, layer_norm_epsilon=3e-5)
        learner = make_learner(resolve(config), stats=Stats((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
        params = jax.eval_shape(learner.init, jax.random.key(0)).params
        assert params["pos_embed"].shape[-1] == width
    assert traced == [24, 36]


def test_every_task_but_evaluation_has_a_learner():
    assert set(LEARNERS) == set(TASK_NAMES) - {"evaluate"}
