"""FS-Adapter, ViT-B, diffusion forgeries (DiFF): 50 epochs of FF++ DeepFakes c23, backbone frozen.

    python -m fsvfm_jax.main --config=configs/adapter/diff_b.py \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

Hardware meant: One GPU with 16 GB.

Published frame AUC: 75.3 on average over T2I, I2I, FS, FE (read off a figure).
Of the checkpoint with the lowest validation loss ("validation"): configs/eval/diff.py tests it.
What the papers do not say of the adapter is as in full fine-tuning: pooling, augmentation, mixing,
smoothing, warm-up, drop path (in the frozen backbone too).
The papers' number of real frames is not known here: 32, so that there are as many as of fakes.

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
        loss={"weight_anchor": 0.05},
        optimizer={"blr": 1e-2, "weight_decay": 0.0},
        data=sets.ffpp(methods=("Deepfakes",), real_frames=32),
    )
