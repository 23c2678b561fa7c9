"""The learner of each training task.

A task of `tasks.py` uses `convert`, which makes a learner to read a run: the learners are apart
from the tasks, so that no module imports itself through others.
"""

from ml_collections import ConfigDict, FrozenConfigDict

from fsvfm_jax import finetune, pretrain
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.train_state import Learner

LEARNERS = {"pretrain": pretrain.make_learner, "finetune": finetune.make_learner}


def make_learner(config: ConfigDict | FrozenConfigDict, *, stats: Stats) -> Learner:
    """Makes the learner of a resolved config.

    Args:
        config: The resolved config, with the field `task`.
        stats: Mean and standard deviation that normalise the images.
    """
    return LEARNERS[config.task](config, stats=stats)
