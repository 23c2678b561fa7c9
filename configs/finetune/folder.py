"""One's own faces, real and fake, in a folder: everything is trained (docs/own-folder.md).

    python -m fsvfm_jax.main --config=configs/finetune/folder.py \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

The faces lie in DIR/train/{real,fake}/** and DIR/val/{real,fake}/**; the loss on `val` chooses the
checkpoint ("validation"). `:s`, `:b` (without a letter) and `:l` are ViT-S, B and L with the
papers' values for deepfakes, for 10 epochs; `:tiny` is a tiny network that a laptop trains.
configs/eval/folder.py tests it on DIR/test/{real,fake}/**.

Hardware meant: One GPU with 24 GB.

No published figure is of one's own faces.

`:smoke` after the file's name trains a tiny network on rendered faces instead.
"""

from ml_collections import ConfigDict

from configs import sets, transfer
from configs.transfer import face_set

# As in configs/finetune/dfd_{s,b,l}.py.
SIZES = {
    "s": ("vit_small_patch16", {"blr": 2e-4, "layer_decay": 0.65, "weight_decay": 0.03}),
    "b": ("vit_base_patch16", {"blr": 2e-4, "layer_decay": 0.6, "weight_decay": 0.03}),
    "l": ("vit_large_patch16", {"blr": 5e-5, "layer_decay": 0.9, "weight_decay": 0.01}),
}


def get_config(arg: str = "") -> ConfigDict:
    word = sets.one_word(arg, (*SIZES, "tiny", "smoke"))
    size, optimizer = SIZES.get(word, SIZES["b"])
    mine = {split: {"mine": face_set("folder", split=split)} for split in ("train", "val")}
    c = transfer.get_config(
        size, "smoke" if word == "smoke" else "", optimizer=optimizer, data=mine
    )
    if word == "tiny":
        transfer.make_tiny(c)
    return c
