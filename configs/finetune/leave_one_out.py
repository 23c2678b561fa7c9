"""Leaves one manipulation or generator out of training: does a detector find what it never saw?

    python -m fsvfm_jax.main --config=configs/finetune/leave_one_out.py:b,Deepfakes \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

    argument      network       hardware            published
    :s            FS-VFM ViT-S  one GPU with 16 GB  none
    :b (default)  FS-VFM ViT-B  one GPU with 24 GB  none
    :l            FS-VFM ViT-L  one GPU with 40 GB  none
    :fsfm_b       FSFM ViT-B    one GPU with 24 GB  none

`Deepfakes` (default), `Face2Face`, `FaceSwap` or `NeuralTextures` trains on the three others of
FaceForensics++; a method of DF40 such as `simswap` or `StyleGAN2` trains on the others of its kind
(configs/sets.py), a set for each. The sets that choose the checkpoint ("validation") leave it out
too. configs/eval/leave_one_out.py tests on what was left out.

`:smoke` trains a tiny network on rendered faces instead.
"""

from ml_collections import ConfigDict

from configs import arguments, sets, transfer
from configs.finetune import dfd


def get_config(arg: str = "") -> ConfigDict:
    words = arguments.split(arg, (*dfd.SIZES, *sets.forgeries(), "smoke"))
    size = arguments.pick(words, dfd.SIZES, default="b", what="size")
    left_out = arguments.pick(words, sets.forgeries(), default="Deepfakes", what="forgery")
    network, optimizer = dfd.SIZES[size]
    data = sets.without(left_out)
    return transfer.get_config(network, smoke="smoke" in words, full=optimizer, data=data)
