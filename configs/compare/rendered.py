"""Compares encoders and ways to tune them on rendered deepfakes, which need no download.

    python -m fsvfm_jax.benchmark compare --config=configs/compare/rendered.py --output=DIR \\
        --config.encoders.mine.params=WEIGHTS --config.encoders.other.params=WEIGHTS

`random` has random weights. It proves nothing about real deepfakes. `:smoke` has one seed, one
learning rate for each mode and few faces.

    hardware  published
    a laptop  none
"""

from ml_collections import ConfigDict

from configs import arguments, comparison, evaluation, sets, transfer

MODES = ("full", "norms", "lora", "partial", "adapter", "linear")


def get_config(arg: str = "") -> ConfigDict:
    smoke = "smoke" in arguments.split(arg, ("smoke",))
    videos = 16 if smoke else 200
    names = sets.RENDERED_DEEPFAKES[: 2 if smoke else None]
    test = evaluation.get_config()
    test.data.test.update(sets.rendered(names, "test", videos=videos))
    test.data.num_workers = 0
    train = {mode: _train(mode, videos=videos) for mode in MODES}
    c = comparison.get_config(
        train, test, encoders=("random", "mine", "other", *comparison.ENCODERS)
    )
    c.encoders.random.params = ""
    if smoke:
        c.seeds = (0,)
        c.rates.update({mode: (3e-3,) for mode in MODES})
    c.lock()
    return c


def _train(mode: str, *, videos: int) -> ConfigDict:
    c = transfer.get_config("vit_small_patch16", smoke=True, mode=mode)
    with c.data.unlocked():
        c.data.train = sets.rendered(("swap-a",), "train", videos=2 * videos)
        c.data.val = sets.rendered(("swap-a",), "val", videos=max(8, videos // 2))
    c.augment.update(crop=0.7, rand_magnitude=0, erase=0.0, mixup=0.0, cutmix=0.0)
    return c
