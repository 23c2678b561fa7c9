"""FS-VFM ViT-H/14: the recipe of ViT-L; the papers train none of this size.

    python -m fsvfm_jax.main --config=configs/vit_h.py --config.data.paths="('DIR',)"

    hardware                                                   published
    several nodes of 8 GPUs with 80 GB each, or a TPU v5p-128  none

`:smoke` trains a tiny network on synthetic faces instead.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    return common.get_config("vit_huge_patch14", arg)
