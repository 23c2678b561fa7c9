"""FS-VFM ViT-B against deepfakes (DfD): everything is trained, 10 epochs of FF++ c23.

    python -m fsvfm_jax.main --config=configs/finetune/dfd_b.py \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

Hardware meant: One GPU with 24 GB.

Published video AUC: 89.6 on average over the paper's sets (read off a figure).
Of the checkpoint with the lowest validation loss ("validation"): configs/eval/dfd.py tests it.

`:smoke` after the file's name trains a tiny network on rendered faces instead.
"""

from ml_collections import ConfigDict

from configs import sets, transfer


def get_config(arg: str = "") -> ConfigDict:
    return transfer.get_config(
        "vit_base_patch16",
        arg,
        optimizer={"blr": 2e-4, "layer_decay": 0.6, "weight_decay": 0.03},
        data=sets.ffpp(),
    )
