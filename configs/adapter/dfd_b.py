"""FS-Adapter, ViT-B, deepfakes (DfD): 50 epochs of FF++ c23, backbone frozen.

    python -m fsvfm_jax.main --config=configs/adapter/dfd_b.py \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

Hardware meant: One GPU with 16 GB.

Published video AUC: 84.1 on average over the paper's sets (read off a figure).
Of the checkpoint with the lowest validation loss ("validation"): configs/eval/dfd.py tests it.
What the papers do not say of the adapter is as in full fine-tuning: pooling, augmentation, mixing,
smoothing, warm-up, drop path (in the frozen backbone too).

`:smoke` after the file's name trains a tiny network on rendered faces instead.
"""

from ml_collections import ConfigDict

from configs import sets, transfer


def get_config(arg: str = "") -> ConfigDict:
    return transfer.get_config(
        "vit_base_patch16",
        arg,
        mode="adapter",
        epochs=50,
        batch_size=256,
        loss={"weight_anchor": 0.01},
        optimizer={"blr": 5e-3, "weight_decay": 0.0},
        data=sets.ffpp(),
    )
