"""A detector on one's own faces, real and fake, in a folder (docs/own-folder.md).

    python -m fsvfm_jax.main --config=configs/eval/folder.py --config.init.params=WEIGHTS \\
        --config.data.paths="('DIR',)"

The faces lie in DIR/test/{real,fake}/**. A row is the checkpoint with the lowest loss on the faces
that chose it ("validation"), another the last one; for an exported folder or a file, which has one
alone, give --config.select="('given',)". `:smoke` tests rendered ones.

    hardware             published
    one GPU or a laptop  none
"""

from ml_collections import ConfigDict

from configs import arguments, evaluation, sets
from configs.transfer import face_set


def get_config(arg: str = "") -> ConfigDict:
    c = evaluation.get_config()
    if arguments.split(arg, ("smoke",)):
        c.data.test.update(sets.rendered(("cam-o",), "test"))
        c.data.num_workers = 0
    else:
        c.data.test.mine = face_set("folder", split="test")
    c.lock()
    return c
