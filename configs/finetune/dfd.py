"""Deepfake detection (DfD): trains all weights for 10 epochs on FaceForensics++ (FF++) c23.

    python -m fsvfm_jax.main --config=configs/finetune/dfd.py:b \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

    argument      network       hardware            published video AUC
    :s            FS-VFM ViT-S  one GPU with 16 GB  86.6 on average, read off a figure
    :b (default)  FS-VFM ViT-B  one GPU with 24 GB  89.6 on average, read off a figure
    :l            FS-VFM ViT-L  one GPU with 40 GB  91.8 on average, read off a figure
                                                    CDFv2 95.17, DFD 97.17, DFDC 87.75, DFDCP 93.35
    :fsfm_b       FSFM ViT-B    one GPU with 24 GB  CDFv2 91.44, DFDC 83.47, DFDCP 89.71, WDF 86.96

The averages are over the paper's test sets. The published values are for the checkpoint with the
lowest validation loss ("validation"). configs/eval/dfd.py tests this checkpoint of your run.

`:smoke` or `:l,smoke` trains a tiny network on rendered faces instead.
"""

from ml_collections import ConfigDict

from configs import arguments, sets, transfer

# For each size, the name of the network and the optimizer's values.
SIZES = {
    "s": ("vit_small_patch16", {"blr": 2e-4, "layer_decay": 0.65, "weight_decay": 0.03}),
    "b": ("vit_base_patch16", {"blr": 2e-4, "layer_decay": 0.6, "weight_decay": 0.03}),
    "l": ("vit_large_patch16", {"blr": 5e-5, "layer_decay": 0.9, "weight_decay": 0.01}),
    "fsfm_b": ("vit_base_patch16", {"blr": 2.5e-4, "layer_decay": 0.65, "weight_decay": 0.05}),
}


def get_config(arg: str = "") -> ConfigDict:
    recipe, smoke = arguments.size_and_smoke(arg, SIZES)
    network, optimizer = recipe
    return transfer.get_config(network, smoke=smoke, full=optimizer, data=sets.ffpp())
