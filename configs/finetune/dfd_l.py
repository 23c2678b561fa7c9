"""FS-VFM ViT-L against deepfakes (DfD): everything is trained, 10 epochs of FF++ c23.

    python -m fsvfm_jax.main --config=configs/finetune/dfd_l.py \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

Hardware meant: One GPU with 40 GB.

Published video AUC: CDFv2 95.17, DFD 97.17, DFDC 87.75, DFDCP 93.35;
91.8 on average over the paper's sets (read off a figure).
Of the checkpoint with the lowest validation loss ("validation"): configs/eval/dfd.py tests it.

`:smoke` after the file's name trains a tiny network on rendered faces instead.
"""

from ml_collections import ConfigDict

from configs import sets, transfer


def get_config(arg: str = "") -> ConfigDict:
    return transfer.get_config(
        "vit_large_patch16",
        arg,
        optimizer={"blr": 5e-5, "layer_decay": 0.9, "weight_decay": 0.01},
        data=sets.ffpp(),
    )
