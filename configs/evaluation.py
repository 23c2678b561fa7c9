"""The values of every field of an evaluation: one detector, many test sets.

What each field means and which values it takes: fsvfm_jax/config/downstream_fields.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Nothing is named yet: a config adds the sets to `data.test`."""
    c = ConfigDict()
    c.task = "evaluate"
    c.batch_size = 64
    c.dtype = "float32"
    c.report = "detection"
    c.select = ("validation", "last")
    c.compare = ""

    c.init = ConfigDict()
    c.init.params = ""
    c.init.step = placeholder(int)
    c.init.entry = ""
    c.init.encoder = ""
    c.init.num_heads = placeholder(int)
    c.init.labels = ()
    c.init.seed = placeholder(int)

    c.data = ConfigDict()
    c.data.paths = ()
    c.data.test = ConfigDict()
    c.data.val = ConfigDict()
    c.data.view = "resize"
    c.data.mean = placeholder(tuple)
    c.data.std = placeholder(tuple)
    c.data.stats_file = placeholder(str)
    c.data.num_workers = 8

    c.groups = ConfigDict()
    c.groups.file = ""
    c.groups.column = ""

    c.mesh = ConfigDict()
    c.mesh.data = -1
    c.mesh.fsdp = 1
    return c
