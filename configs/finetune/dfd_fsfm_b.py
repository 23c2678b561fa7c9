"""FSFM ViT-B against deepfakes (DfD): everything is trained, 10 epochs of FF++ c23.

    python -m fsvfm_jax.main --config=configs/finetune/dfd_fsfm_b.py \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

Hardware meant: One GPU with 24 GB.

Published video AUC: CDFv2 91.44, DFDC 83.47, DFDCP 89.71, WDF 86.96.
Of the checkpoint with the lowest validation loss ("validation"): configs/eval/dfd.py tests it.

`:smoke` after the file's name trains a tiny network on rendered faces instead.
"""

from ml_collections import ConfigDict

from configs import sets, transfer


def get_config(arg: str = "") -> ConfigDict:
    return transfer.get_config(
        "vit_base_patch16",
        arg,
        optimizer={"blr": 2.5e-4, "layer_decay": 0.65, "weight_decay": 0.05},
        data=sets.ffpp(),
    )
