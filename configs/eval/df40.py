"""A deepfake detector on each method of DF40, 32 frames of a video: a row for each, and the mean.

    python -m fsvfm_jax.main --config=configs/eval/df40.py:fs --config.init.params=WEIGHTS \\
        --config.data.paths="('DIR',)"

`:fs` face swaps, `:fr` reenactment, `:efs` synthesis of whole faces, `:unknown` the nine methods
that DF40 tests on only, or names such as `:simswap,blendface`; without any, all but the unknown.
`:fs,cdf` tests on forged Celeb-DF in place of FaceForensics++. The lists of DF40 lie in
DIR/DF40/<method>_ff.json, and their frames from there on; --config.data.test.simswap.strip_prefix
removes the beginning of the paths. `:smoke` tests rendered faces.

    hardware  published
    one GPU   none here
"""

from ml_collections import ConfigDict

from configs import arguments, evaluation, sets


def get_config(arg: str = "") -> ConfigDict:
    methods = [method for kind in sets.DF40.values() for method in kind]
    given = arguments.split(arg, (*sets.DF40, *methods, "cdf", "smoke"))
    c = evaluation.get_config()
    if "smoke" in given:
        c.data.test.update(sets.rendered(("swap-a", "swap-b"), "test"))
        c.data.num_workers = 0
    else:
        named = [method for word in given for method in sets.DF40.get(word, (word,))]
        chosen = [method for method in methods if method in named]
        domain = "cdf" if "cdf" in given else "ff"
        c.data.test.update(sets.df40(chosen or list(sets.forgeries())[4:], "test", domain=domain))
    c.lock()
    return c
