"""A detector on diffusion forgeries (DiFF): T2I, I2I, FS, FE; a video is one image.

    python -m fsvfm_jax.main --config=configs/eval/diff.py --config.init.params=WEIGHTS \\
        --config.data.paths="('DIR',)"

The sets lie in DIR/DiFF/test_subsets/{T2I,I2I,FS,FE}/test/{real,fake}; `:smoke` tests rendered
ones.

    network             hardware  published frame AUC, checkpoint "validation"
    FS-VFM ViT-S, B, L  one GPU   76, 89.1, 93.7 on average (read off a figure)
    FS-Adapter S, B, L  one GPU   62, 75.3, 85.3 on average (read off a figure)
"""

from ml_collections import ConfigDict

from configs import arguments, evaluation, sets
from configs.transfer import face_set


def get_config(arg: str = "") -> ConfigDict:
    c = evaluation.get_config()
    if arguments.split(arg, ("smoke",)):
        c.data.test.update(sets.rendered(("texture-d", "upsample-e"), "test"))
        c.data.num_workers = 0
    else:
        for name in sets.DIFF:
            c.data.test[name] = face_set("diff", "DiFF", split="test", subset=name)
    c.lock()
    return c
