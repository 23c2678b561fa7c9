"""FS-Adapter, ViT-S, against spoofs, MCIO leave-one-out: 4,000 steps of 144 faces.

    python -m fsvfm_jax.main --config=configs/fas/mcio_adapter_s.py:M \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

`:M`, `:C`, `:I` or `:O` leaves out and tests on MSU, CASIA, Replay or OULU; `:M,celeb` trains on
CelebA-Spoof too; `:smoke` trains a tiny network on rendered faces instead.

Hardware meant: One GPU with 16 GB. 20 checkpoints are kept: about 2 GB of disk.

Published HTER: 11.0 on average over the paper's domains (read off a figure), 3 seeds,
of "test-oracle": checkpoint and threshold of least error on the target itself. "Validation" chooses
on the test splits of the domains trained on, never the target: configs/spoofing.py.
configs/eval/fas.py:M prints both, and "last", beside each other.
"""

from ml_collections import ConfigDict

from configs import spoofing


def get_config(arg: str = "") -> ConfigDict:
    return spoofing.get_config(
        "vit_small_patch16",
        arg,
        protocol="MCIO",
        mode="adapter",
        lr=5e-2,
        weight_decay=1e-6,
        weight_anchor=0.1,
    )
