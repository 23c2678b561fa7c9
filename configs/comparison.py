"""The fields of a comparison of encoders and of ways to tune them.

fsvfm_jax/benchmark/comparison.py reads them, and docs/compare.md explains them.
"""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# The encoders of the papers' comparison, and newer ones; docs/compare.md says what they are.
ENCODERS = (
    *("fsvfm", "fsfm", "mae", "mae_faces", "supervised", "dino", "dinov2", "dinov3", "mocov3"),
    *("clip", "farl", "siglip", "pe"),
)
# The peak learning rates that every encoder has to choose from, by mode.
RATES = {
    "full": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    "partial": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    "norms": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "lora": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "adapter": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "linear": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
}


def get_config(
    train: Mapping[str, ConfigDict], test: ConfigDict, *, encoders: Sequence[str]
) -> ConfigDict:
    """Returns a comparison in which no encoder has its weights yet.

    Args:
        train: A config of fine-tuning for each mode.
        test: The config of the evaluation.
        encoders: Names of the encoders.
    """
    c = ConfigDict()
    c.task = "compare"
    c.encoders = ConfigDict({name: encoder() for name in encoders})
    c.modes = tuple(train)
    c.seeds = (0, 1, 2)
    c.rates = ConfigDict(RATES)
    # The seed of the search, which is not among the seeds that are compared.
    c.tuning_seed = 100
    # The folders that contain the sets of `train` and `test`.
    c.paths = ()
    c.train = ConfigDict(dict(train))
    c.test = test
    c.test.select = ("validation",)
    return c


def encoder(params: str | None = None) -> ConfigDict:
    """Returns the fields of one encoder.

    Args:
        params: Its weights: a workdir, a folder or a file; "" for random weights. None leaves the
            encoder out.
    """
    c = ConfigDict()
    c.params = placeholder(str)
    c.params = params
    c.entry = ""
    c.branch = "student"
    c.pool = placeholder(str)
    c.num_heads = placeholder(int)
    c.activation = placeholder(str)
    c.mean = placeholder(tuple)
    c.std = placeholder(tuple)
    # The model of the papers whose results stand below the encoder's row, by mode.
    c.published = ConfigDict(dict.fromkeys(RATES, ""))
    return c
