"""The authors' released FS-VFM ViT-L detector on real data: nothing is trained.

    python -m fsvfm_jax.main --config=configs/eval/released_vit_l.py:CDFv2 \\
        --config.init.params=FILE.pth --config.data.paths="('DIR',)"

Without names all sets of configs/eval/dfd.py are tested; `:smoke` tests rendered ones. A list, such
as DIR/Celeb-DF-v2/test.txt, has lines of `path label`, with fake or real as the label and paths
relative to the set's folder. 32 frames of a video count. Where the list of CDFv2 or CDFpp names
nothing in YouTube-real, give --config.data.test.CDFv2.exclude="()".

    network       hardware  published video AUC of the same file ("given")
    FS-VFM ViT-L  one GPU   CDFv2 95.17, DFD 97.17, DFDC 87.75, DFDCP 93.35

A row has our figure, the published one and the difference. The weights stay under the authors'
licence.
"""

from ml_collections import ConfigDict

from configs import arguments, evaluation, sets


def get_config(arg: str = "") -> ConfigDict:
    given = arguments.split(arg, (*sets.DEEPFAKES, "smoke"))
    c = evaluation.get_config()
    c.select = ("given",)
    c.compare = "FS-VFM ViT-L"
    c.init.labels = ("fake", "real")
    # Of VGGFace2, on which the encoder was pretrained.
    c.data.update(mean=(0.54822, 0.42341, 0.36547), std=(0.27892, 0.24385, 0.23494))
    if "smoke" in given:
        c.data.test.update(sets.rendered(("swap-a", "swap-b"), "test"))
        c.data.num_workers = 0
    else:
        c.init.num_heads = 16
        c.data.test.update(sets.deepfakes(given or sets.DEEPFAKES, layout="list"))
    c.lock()
    return c
