"""FS-Adapter, ViT-B, against spoofs, WCS leave-one-out: 4,000 steps of 96 faces.

    python -m fsvfm_jax.main --config=configs/fas/wcs_adapter_b.py:wmca \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

`:wmca`, `:cefa` or `:surf` leaves out and tests on WMCA, CeFA or CASIA-SURF; `:wmca,celeb` trains
on CelebA-Spoof too; `:smoke` trains a tiny network on rendered faces instead.

Hardware meant: One GPU with 16 GB. 20 checkpoints are kept: about 7 GB of disk.

Published HTER: 8.4 on average over the paper's domains (read off a figure), 3 seeds,
of "test-oracle": checkpoint and threshold of least error on the target itself. "Validation" chooses
on the test splits of the domains trained on, never the target: configs/spoofing.py.
configs/eval/fas.py:wmca prints both, and "last", beside each other.
"""

from ml_collections import ConfigDict

from configs import spoofing


def get_config(arg: str = "") -> ConfigDict:
    return spoofing.get_config(
        "vit_base_patch16",
        arg,
        protocol="WCS",
        mode="adapter",
        lr=5e-2,
        weight_decay=5e-5,
        weight_anchor=0.1,
    )
