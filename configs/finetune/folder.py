"""One's own faces, real and fake, in a folder: trains every weight (docs/own-folder.md).

    python -m fsvfm_jax.main --config=configs/finetune/folder.py:b \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

    argument      network       hardware            published
    :tiny         a tiny one    a laptop            none
    :s            FS-VFM ViT-S  one GPU with 16 GB  none
    :b (default)  FS-VFM ViT-B  one GPU with 24 GB  none
    :l            FS-VFM ViT-L  one GPU with 40 GB  none
    :fsfm_b       FSFM ViT-B    one GPU with 24 GB  none

The faces lie in DIR/train/{real,fake}/** and DIR/val/{real,fake}/**; the loss on `val` chooses the
checkpoint ("validation"). The sizes have the papers' values for deepfakes, for 10 epochs; `:tiny`
is a network that a laptop trains from scratch. configs/eval/folder.py tests the detector on
DIR/test/{real,fake}/**.

`:smoke` trains a tiny network on rendered faces instead.
"""

from ml_collections import ConfigDict

from configs import arguments, transfer
from configs.finetune import dfd
from configs.transfer import face_set


def get_config(arg: str = "") -> ConfigDict:
    sizes = ("tiny", *dfd.SIZES)
    words = arguments.split(arg, (*sizes, "smoke"))
    size = arguments.pick(words, sizes, default="b", what="size")
    network, optimizer = dfd.SIZES["b" if size == "tiny" else size]
    mine = {split: {"mine": face_set("folder", split=split)} for split in ("train", "val")}
    c = transfer.get_config(network, smoke="smoke" in words, full=optimizer, data=mine)
    if size == "tiny":
        transfer.make_tiny(c)
    return c
