"""FS-VFM ViT-L/16: 600 epochs of VGGFace2 (2,973,696 faces), about 436,000 steps of 4096 images.

    python -m fsvfm_jax.main --config=configs/vit_l.py --config.data.paths="('DIR',)"

    hardware                                             published
    one node of 8 GPUs with 80 GB each, or a TPU v5p-64  none known here

`:smoke` trains a tiny network on synthetic faces instead.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    return common.get_config("vit_large_patch16", arg)
