"""A deepfake detector (DfD) on the test sets of GenD, by GenD's own lists: frame and video AUC.

    python -m fsvfm_jax.main --config=configs/eval/gend.py --config.init.params=WEIGHTS \\
        --config.data.paths="('DIR',)"

DIR/GenD is a copy of GenD's repository, with the faces under DIR/GenD/datasets/ and the lists in
DIR/GenD/config/datasets/<set>/test/, one for each class. GenD counts YouTube-real as real, unlike
configs/eval/dfd.py. `:smoke` tests rendered sets.

    hardware  published
    one GPU   none of the papers' networks
"""

from ml_collections import ConfigDict

from configs import arguments, evaluation, sets
from configs.transfer import face_set

LABELS = (("real", "real"), *((method, "fake") for method in ("DF", "F2F", "FS", "NT")))


def get_config(arg: str = "") -> ConfigDict:
    c = evaluation.get_config()
    if arguments.split(arg, ("smoke",)):
        c.data.test.update(sets.rendered(("swap-a", "swap-b"), "test"))
        c.data.num_workers = 0
    else:
        for name, labels in (("CDFv2", ()), ("FF", LABELS)):
            folder = f"config/datasets/{name}/test"
            options = {"list_file": folder, "labels": labels, "videos": "folder"}
            c.data.test[name] = face_set("lists", "GenD", **options)
    c.lock()
    return c
