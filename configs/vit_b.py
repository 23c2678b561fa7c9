"""FS-VFM ViT-B/16: 600 epochs of VGGFace2 (2,973,696 faces), about 436,000 steps of 4096 images.
The FSFM weights: `--config.epochs=400 --config.recipe=released`.

    python -m fsvfm_jax.main --config=configs/vit_b.py --config.data.paths="('DIR',)"

    hardware                             published L_rec, released recipe
    one node of 8 GPUs, or a TPU v5e-32  0.832, 0.247, 0.213 in epochs 0, 39, 399

`:smoke` trains a tiny network on synthetic faces instead.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    return common.get_config("vit_base_patch16", arg)
