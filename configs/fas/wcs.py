"""Anti-spoofing (FAS), WCS without wmca, cefa or surf: every weight, 4,000 steps of 48 faces.

    python -m fsvfm_jax.main --config=configs/fas/wcs.py:b,wmca \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

    argument      network       hardware            published HTER
    :s            FS-VFM ViT-S  one GPU with 16 GB  5.6 on average, read off a figure
    :b (default)  FS-VFM ViT-B  one GPU with 24 GB  3.5 on average, read off a figure
    :l            FS-VFM ViT-L  one GPU with 40 GB  2.3 on average, read off a figure

The averages are over the paper's domains and 5 seeds.
The published checkpoint and threshold are those with the least error on the target itself
("test-oracle"). "validation" chooses on the test splits of the domains trained on, never on the
target: configs/spoofing.py. configs/eval/fas.py:wmca prints both, and "last", beside each other.
The run keeps 20 checkpoints: about 5 GB of disk (`:s`), 21 GB (`:b`) or 73 GB (`:l`).

`wmca`, `cefa` or `surf` leaves WMCA, CeFA or CASIA-SURF out of training (default: `wmca`);
configs/eval/fas.py tests on it.
`celeb` trains on CelebA-Spoof too; `smoke` trains a tiny network on rendered faces instead. Commas
separate the arguments: `:l,cefa,celeb`.
"""

from ml_collections import ConfigDict

from configs import spoofing


def get_config(arg: str = "") -> ConfigDict:
    return spoofing.get_config(spoofing.FULL, arg, protocol="WCS")
