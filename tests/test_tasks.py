"""Tests that each task has all that the loop needs, and a fingerprint that becomes JSON."""

import json

import jax
import numpy as np
import pytest

from configs import transfer, vit_s
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.learners import make_learner
from fsvfm_jax.tasks import TASKS

STATS = Stats((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
CONFIGS = {
    "pretrain": lambda: vit_s.get_config("smoke"),
    "finetune": lambda: transfer.get_config("vit_small_patch16", smoke=True),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_element_is_what_the_task_says_a_sample_is(name):
    config = resolve(CONFIGS[name]())
    assert config.task == name
    task, learner = TASKS[name], make_learner(config, stats=STATS)
    source = task.open_source(config)
    found = task.element(config, stats=STATS)(source[0], (0, 0))
    assert {key: (np.shape(x), x.dtype) for key, x in found.items()} == {
        key: (x.shape, x.dtype) for key, x in learner.row_shapes.items()
    }
    json.dumps(task.fingerprint(config))
    assert task.starting_stats(config) is None
    jax.eval_shape(learner.init, jax.random.key(0))


def test_options_that_are_not_given_are_no_part_of_the_fingerprint():
    def fingerprint(**options):
        config = CONFIGS["finetune"]()
        with config.data.unlocked():
            config.data.paths = ("DIR",)
            config.data.train = {"x": transfer.face_set("folder", split="train", **options)}
        return TASKS["finetune"].fingerprint(resolve(config))["data.train.x"]

    common = {"labels", "exclude", "frames", "real_frames"}
    assert fingerprint().keys() == {"layout", "path", "split", *common}
    assert fingerprint(videos="folder")["videos"] == "folder"
