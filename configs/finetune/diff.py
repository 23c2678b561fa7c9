"""Diffusion forgeries (DiFF): trains all weights for 10 epochs on FF++ DeepFakes c23 alone.

    python -m fsvfm_jax.main --config=configs/finetune/diff.py:b \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

    argument      network       hardware            published frame AUC
    :s            FS-VFM ViT-S  one GPU with 16 GB  76 on average, read off a figure
    :b (default)  FS-VFM ViT-B  one GPU with 24 GB  89.1 on average, read off a figure
    :l            FS-VFM ViT-L  one GPU with 40 GB  93.7 on average, read off a figure
    :fsfm_b       FSFM ViT-B    one GPU with 24 GB  none known here

The averages are over T2I, I2I, FS and FE. The published checkpoint is the one with the lowest
validation loss ("validation"); configs/eval/diff.py tests it.
The papers do not state the number of real frames: 32, so that there are as many as fake ones.

`:smoke` or `:l,smoke` trains a tiny network on rendered faces instead.
"""

from ml_collections import ConfigDict

from configs import arguments, sets, transfer

# The network and the optimizer's values of each size.
SIZES = {
    "s": ("vit_small_patch16", {"blr": 5e-5, "layer_decay": 0.95, "weight_decay": 0.05}),
    "b": ("vit_base_patch16", {"blr": 5e-5, "layer_decay": 0.9, "weight_decay": 0.03}),
    "l": ("vit_large_patch16", {"blr": 5e-5, "layer_decay": 0.9, "weight_decay": 0.05}),
    "fsfm_b": ("vit_base_patch16", {"blr": 1e-4, "layer_decay": 0.9, "weight_decay": 0.03}),
}


def get_config(arg: str = "") -> ConfigDict:
    recipe, smoke = arguments.size_and_smoke(arg, SIZES)
    network, optimizer = recipe
    return transfer.get_config(
        network,
        smoke=smoke,
        full=optimizer,
        data=sets.ffpp(methods=("Deepfakes",), real_frames=32),
    )
