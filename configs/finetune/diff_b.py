"""FS-VFM ViT-B against diffusion forgeries (DiFF): 10 epochs of FF++ DeepFakes c23 alone.

    python -m fsvfm_jax.main --config=configs/finetune/diff_b.py \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

Hardware meant: One GPU with 24 GB.

Published frame AUC: 89.1 on average over T2I, I2I, FS, FE (read off a figure).
Of the checkpoint with the lowest validation loss ("validation"): configs/eval/diff.py tests it.
The papers' number of real frames is not known here: 32, so that there are as many as of fakes.

`:smoke` after the file's name trains a tiny network on rendered faces instead.
"""

from ml_collections import ConfigDict

from configs import sets, transfer


def get_config(arg: str = "") -> ConfigDict:
    return transfer.get_config(
        "vit_base_patch16",
        arg,
        optimizer={"blr": 5e-5, "layer_decay": 0.9, "weight_decay": 0.03},
        data=sets.ffpp(methods=("Deepfakes",), real_frames=32),
    )
