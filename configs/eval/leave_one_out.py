"""A detector on the manipulation or generator that its training left out, 32 frames of a video.

    python -m fsvfm_jax.main --config=configs/eval/leave_one_out.py:Deepfakes \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

The argument is that of configs/finetune/leave_one_out.py; the real faces are those of the same test
split. Tables of several runs become one with `python -m fsvfm_jax.report summary`. `:smoke` tests
rendered faces.

    hardware  published
    one GPU   none
"""

from ml_collections import ConfigDict

from configs import arguments, evaluation, sets


def get_config(arg: str = "") -> ConfigDict:
    words = arguments.split(arg, (*sets.forgeries(), "smoke"))
    left_out = arguments.pick(words, sets.forgeries(), default="Deepfakes", what="forgery")
    c = evaluation.get_config()
    if "smoke" in words:
        c.data.test.update(sets.rendered(("warp-c",), "test"))
        c.data.num_workers = 0
    else:
        c.data.test.update(sets.only(left_out))
    c.lock()
    return c
