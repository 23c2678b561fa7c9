"""Anti-spoofing (FAS), WCS leave-one-out, every weight trained: 4,000 steps of 48 faces.

    python -m fsvfm_jax.main --config=configs/fas/wcs.py:b,wmca \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

    argument      network       hardware                           published HTER
    :s            FS-VFM ViT-S  one GPU with 16 GB, 5 GB of disk   5.6 on average
    :b (default)  FS-VFM ViT-B  one GPU with 24 GB, 21 GB of disk  3.5 on average
    :l            FS-VFM ViT-L  one GPU with 40 GB, 73 GB of disk  2.3 on average

The averages are over the paper's domains and 5 seeds and are read off a figure.
The published checkpoint and threshold are those with the least error on the target itself
("test-oracle"). "validation" chooses on the test splits of the domains trained on, never on the
target: configs/spoofing.py. configs/eval/fas.py:wmca prints both, and "last", beside each other.

`wmca`, `cefa` or `surf` leaves out and tests on WMCA, CeFA or CASIA-SURF (default: `wmca`).
`celeb` trains on CelebA-Spoof too; `smoke` trains a tiny network on rendered faces instead. Commas
separate the arguments: `:l,cefa,celeb`.
"""

from ml_collections import ConfigDict

from configs import spoofing


def get_config(arg: str = "") -> ConfigDict:
    return spoofing.get_config(arg, spoofing.FULL, protocol="WCS")
