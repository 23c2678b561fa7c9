"""A deepfake detector (DfD) on seven unseen sets, 32 frames of a video: frame and video AUC.

    python -m fsvfm_jax.main --config=configs/eval/dfd.py --config.init.params=WEIGHTS \\
        --config.compare="FS-VFM ViT-B" --config.data.paths="('DIR',)"

`:CDFv2,DFDC` tests these alone, of CDFv2, DFD, DFDC, DFDCP, WDF, CDFpp, FFIW; `:smoke` tests
rendered sets. The faces of the first four are listed in DeepfakeBench's JSON files, such as
DIR/DeepfakeBench/Celeb-DF-v2.json, which lie beside its frames. The faces of the others lie in
DIR/{WildDeepfake,Celeb-DF++,FFIW}/test/{real,fake}. `:folder` reads such folders for all sets,
`:list` reads lists such as DIR/DFDC/test.txt, and `:public` reads the folders that the authors of
each set publish (configs/sets.py). Of Celeb-DF only Celeb-real counts as real: where CDFv2 or CDFpp
has no folder YouTube-real, give --config.data.test.CDFpp.exclude="()".

    network       hardware  published video AUC, checkpoint "validation"
    FS-VFM ViT-L  one GPU   CDFv2 95.17, DFD 97.17, DFDC 87.75, DFDCP 93.35
    FSFM ViT-B    one GPU   CDFv2 91.44, DFDC 83.47, DFDCP 89.71, WDF 86.96
"""

from ml_collections import ConfigDict

from configs import arguments, evaluation, sets


def get_config(arg: str = "") -> ConfigDict:
    given = arguments.split(arg, (*sets.DEEPFAKES, "folder", "list", "public", "smoke"))
    c = evaluation.get_config()
    if "smoke" in given:
        c.data.test.update(sets.rendered(("swap-a", "swap-b"), "test"))
        c.data.num_workers = 0
    else:
        names = [name for name in sets.DEEPFAKES if name in given] or sets.DEEPFAKES
        layout = next((word for word in given if word in ("folder", "list", "public")), "")
        c.data.test.update(sets.deepfakes(names, layout=layout))
    c.lock()
    return c
