"""FSFM ViT-B against diffusion forgeries (DiFF): 10 epochs of FF++ DeepFakes c23 alone.

    python -m fsvfm_jax.main --config=configs/finetune/diff_fsfm_b.py \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

Hardware meant: One GPU with 24 GB.

No published figure of FSFM on DiFF is known here.
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
        optimizer={"blr": 1e-4, "layer_decay": 0.9, "weight_decay": 0.03},
        data=sets.ffpp(methods=("Deepfakes",), real_frames=32),
    )
