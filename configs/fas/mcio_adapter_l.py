"""FS-Adapter, ViT-L, against spoofs, MCIO leave-one-out: 4,000 steps of 144 faces.

    python -m fsvfm_jax.main --config=configs/fas/mcio_adapter_l.py:M \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

`:M`, `:C`, `:I` or `:O` leaves out and tests on MSU, CASIA, Replay or OULU; `:M,celeb` trains on
CelebA-Spoof too; `:smoke` trains a tiny network on rendered faces instead.

Hardware meant: One GPU with 24 GB. 20 checkpoints are kept: about 25 GB of disk.

Published HTER: 6.1 on average over the paper's domains (read off a figure), 3 seeds,
of "test-oracle": checkpoint and threshold of least error on the target itself. "Validation" chooses
on the test splits of the domains trained on, never the target: configs/spoofing.py.
configs/eval/fas.py:M prints both, and "last", beside each other.
"""

from ml_collections import ConfigDict

from configs import spoofing


def get_config(arg: str = "") -> ConfigDict:
    return spoofing.get_config(
        "vit_large_patch16",
        arg,
        protocol="MCIO",
        mode="adapter",
        lr=1e-3,
        weight_decay=1e-7,
        weight_anchor=0.2,
    )
