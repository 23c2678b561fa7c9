"""Rendered sets: unseen forgeries, cameras and compressions; no file is needed.

    python -m fsvfm_jax.main --config=configs/eval/rendered.py --config.init.params=WEIGHTS

`:smoke` tests what a detector's `:smoke` trains on, with new faces, and by another camera.

    hardware  published
    a laptop  none
"""

from ml_collections import ConfigDict

from configs import arguments, evaluation, sets


def get_config(arg: str = "") -> ConfigDict:
    c = evaluation.get_config()
    if arguments.split(arg, ("smoke",)):
        c.data.test.update(sets.rendered(("cam-o", "cam-m"), "test"))
    else:
        c.data.test.update(sets.rendered(sets.RENDERED_DEEPFAKES, "test", videos=200))
    c.data.num_workers = 0
    c.lock()
    return c
