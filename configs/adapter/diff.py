"""Diffusion forgeries (DiFF): trains FS-Adapter on a frozen backbone, on FF++ DeepFakes c23 alone.

    python -m fsvfm_jax.main --config=configs/adapter/diff.py:b \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

    argument      network           hardware            published frame AUC
    :s            FS-Adapter ViT-S  one GPU with 16 GB  62 on average, read off a figure
    :b (default)  FS-Adapter ViT-B  one GPU with 16 GB  75.3 on average, read off a figure
    :l            FS-Adapter ViT-L  one GPU with 24 GB  85.3 on average, read off a figure

The averages are over T2I, I2I, FS and FE. The published checkpoint is the one with the lowest
validation loss ("validation"); configs/eval/diff.py tests it. ViT-S trains for 60 epochs, the
others for 50. What the papers do not state for the adapter is as in configs/adapter/dfd.py.
The papers do not state the number of real frames: 32, so that there are as many as fake ones.

`:smoke` or `:l,smoke` trains a tiny network on rendered faces instead.
"""

from ml_collections import ConfigDict

from configs import arguments, sets, transfer

# The network, epochs, batch size, blr and weight of the contrastive loss of each size.
SIZES = {
    "s": ("vit_small_patch16", 60, 256, 1e-2, 0.01),
    "b": ("vit_base_patch16", 50, 256, 1e-2, 0.05),
    "l": ("vit_large_patch16", 50, 1024, 5e-3, 0.1),
}


def get_config(arg: str = "") -> ConfigDict:
    recipe, smoke = arguments.size_and_smoke(arg, SIZES)
    network, epochs, batch_size, blr, weight_anchor = recipe
    return transfer.get_config(
        network,
        smoke=smoke,
        mode="adapter",
        epochs=epochs,
        batch_size=batch_size,
        loss={"weight_anchor": weight_anchor},
        optimizer={"blr": blr, "weight_decay": 0.0},
        data=sets.ffpp(methods=("Deepfakes",), real_frames=32),
    )
