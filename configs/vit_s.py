"""FS-VFM ViT-S/16: 600 epochs of VGGFace2 (2,973,696 faces), about 436,000 steps of 4096 images.

    python -m fsvfm_jax.main --config=configs/vit_s.py --config.data.paths="('DIR',)"

    hardware                             published
    one node of 8 GPUs, or a TPU v5e-16  none known here

`:smoke` trains a tiny network on synthetic faces instead.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    return common.get_config("vit_small_patch16", arg)
