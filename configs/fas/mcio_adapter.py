"""Anti-spoofing (FAS), MCIO without M, C, I or O: trains FS-Adapter, 4,000 steps of 144 faces.

    python -m fsvfm_jax.main --config=configs/fas/mcio_adapter.py:b,M \\
        --config.init.params=WEIGHTS --config.data.paths="('DIR',)"

    argument      network           hardware            published HTER
    :s            FS-Adapter ViT-S  one GPU with 16 GB  11.0 on average, read off a figure
    :b (default)  FS-Adapter ViT-B  one GPU with 16 GB  8.4 on average, read off a figure
    :l            FS-Adapter ViT-L  one GPU with 24 GB  6.1 on average, read off a figure

The averages are over the paper's domains and 3 seeds.
The published checkpoint and threshold are those with the least error on the target itself
("test-oracle"). "validation" chooses on the test splits of the domains trained on, never on the
target: configs/spoofing.py. configs/eval/fas.py:M prints both, and "last", beside each other.
The run keeps 20 checkpoints: about 2 GB of disk (`:s`), 7 GB (`:b`) or 25 GB (`:l`).

`M`, `C`, `I` or `O` leaves MSU, CASIA, Replay or OULU out of training (default: `M`);
configs/eval/fas.py tests on it.
`celeb` trains on CelebA-Spoof too; `smoke` trains a tiny network on rendered faces instead. Commas
separate the arguments: `:l,C,celeb`.
"""

from ml_collections import ConfigDict

from configs import spoofing


def get_config(arg: str = "") -> ConfigDict:
    return spoofing.get_config(spoofing.ADAPTER, arg, protocol="MCIO", mode="adapter")
